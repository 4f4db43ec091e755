"""The engine's end of the socket to the front. A thread reads it. Any thread may write."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

from mlxd.daemon.engine.progress import Progress
from mlxd.daemon.stderr import error_summary, report
from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.messages import Message, Notification, Request, Response

READ_BYTES = 1 << 18
EXIT_GRACE_S = 3.0
"""Time for the compute thread to finish its step after the front has disconnected."""
DEAF = 70
"""Exit status of an engine that can no longer read its link (EX_SOFTWARE of sysexits.h)."""


@dataclass(frozen=True, slots=True)
class FrontClosed:
    """Put into the inbox when the front has closed the link."""


Inbox = queue.SimpleQueue[Any]


class Link:
    """Messages from the front go into `inbox`; `send` writes one message back."""

    def __init__(self, sock: socket.socket, inbox: Inbox, progress: Progress) -> None:
        self._sock = sock
        self._inbox = inbox
        self._lock = threading.Lock()
        self._progress = progress

    def start(self) -> None:
        """Start the thread that reads."""
        threading.Thread(target=self._serve, name="link", daemon=True).start()

    def send(self, message: Message) -> None:
        """Write one message. If the front has disconnected, the inbox gets `FrontClosed`."""
        data = encode(message, Encoding.MSGPACK)
        try:
            with self._lock:
                self._sock.sendall(data)
        except OSError:
            self._inbox.put(FrontClosed())

    def notify(self, method: str, params: dict[str, Any]) -> None:
        self.send(Notification(method, params))

    def answer(self, call_id: Any, result: Any) -> None:
        self.send(Response(call_id, None, result))

    def refuse(self, call_id: Any, error: MlxdError) -> None:
        self.send(Response(call_id, error.to_map(), None))

    def _serve(self) -> None:
        """Read until the front disconnects. End the process if the compute thread does not."""
        try:
            self._read()
        # For example out of memory; the front must start another engine.
        except BaseException as exc:
            report("The link failed:", error_summary(exc))
            os._exit(DEAF)
        self._inbox.put(FrontClosed())
        # On this thread, because no other can be started if memory is short.
        time.sleep(EXIT_GRACE_S)
        os._exit(0)

    def _read(self) -> None:
        decoder = Decoder(trusted=True)
        while True:
            try:
                data = self._sock.recv(READ_BYTES)
            except OSError:
                data = b""
            if not data:
                break
            decoder.feed(data)
            for message in decoder:
                if isinstance(message, Request) and message.method == "ping":
                    # Answered on this thread, because a ping tests the process and not its
                    # progress.
                    self.answer(message.id, {"pong": True})
                else:
                    if isinstance(message, Notification) and message.method == "cancel":
                        self._answer_cancel(message.params)
                    self._inbox.put(message)

    def _answer_cancel(self, params: dict[str, Any]) -> None:
        """Answer a cancelled request at once.

        The compute thread handles the cancel after its step or chunk, then reports the request's
        end.
        """
        request_id = params["rid"]
        error = self._progress.stopped(request_id, params.get("code", "cancelled"))
        if error is not None:
            self.notify("step", {"events": [[request_id, "stopping", error.to_map()]]})
