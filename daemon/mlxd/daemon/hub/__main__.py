"""The worker process: reads a job as one line of JSON from stdin, and writes messages to stdout.

Messages are MessagePack notifications: `progress` any number of times, then one `result` or
`error`. The worker exits at the end of stdin, because the daemon has ended then.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from mlxd.daemon import lifeline
from mlxd.daemon.stderr import error_summary, report
from mlxd.protocol.codec import Encoding, encode
from mlxd.protocol.errors import Internal, MlxdError
from mlxd.protocol.hub_environment import without_secrets
from mlxd.protocol.messages import Notification


def main() -> None:
    """Do the job on stdin for the daemon whose process id is the first argument."""
    lifeline.end_with(int(sys.argv[1]))
    job = json.loads(sys.stdin.buffer.readline())
    # huggingface_hub reads them when it is imported.
    environment: dict[str, str] = job.pop("environment", {})
    os.environ.update(environment)
    threading.Thread(target=_end_with_the_daemon, daemon=True).start()
    # Libraries may print, but stdout is for messages.
    out = os.dup(1)
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(method: str, params: dict[str, Any]) -> None:
        data = encode(Notification(method, params), Encoding.MSGPACK)
        with lock:
            while data:
                data = data[os.write(out, data) :]

    try:
        send("result", _run(job, lambda event: send("progress", event)))
    except MlxdError as error:
        send("error", _safe(error.to_map(), environment))
    except Exception as exc:
        send("error", _safe(Internal(f"{type(exc).__name__}: {exc}").to_map(), environment))
        report("Unexpected:", error_summary(exc))


def _safe(error: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Return an error without the caller's tokens and passwords."""
    texts = {key: error[key] for key in ("message", "hint")}
    return {**error, **{key: without_secrets(text, environment) for key, text in texts.items()}}


def _run(job: dict[str, Any], progress: Any) -> dict[str, Any]:
    if job["task"] == "convert":
        from mlxd.daemon.engine.models.convert import convert

        return convert(job, progress)
    if job["task"] == "remove":
        from mlxd.daemon.hub.remove import remove

        return remove(job)
    if job["task"] == "search":
        from mlxd.daemon.hub.search import search

        return search(job)
    from mlxd.daemon.hub.pull import pull

    return pull(job, progress)


def _end_with_the_daemon() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


main()
