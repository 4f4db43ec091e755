"""`mlx chat`: a conversation. clear · quit, exit, q · an empty line is ignored."""

from __future__ import annotations

import sys
from typing import Any

import click

from mlxd.client.cli.daemon import connect
from mlxd.client.cli.options import given, params_of, shared_options
from mlxd.client.cli.terminal import decorated, tell, write
from mlxd.client.fast.mlx_fast_text import introduce, statistics
from mlxd.client.sync import Client
from mlxd.protocol.errors import DaemonUnreachable, EngineDied, MlxdError

LEAVE = frozenset({"quit", "exit", "q"})


@click.command(epilog="\b\nInside: clear (forget everything), quit, exit or q (leave).\n")
@shared_options
def chat(**values: Any) -> int:
    """Talk with a model. It remembers until you clear or leave."""
    found = given(values)
    Conversation(found).run()
    return 0


class Conversation:
    """The messages so far, kept on this side: a daemon that restarts loses none of them."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self._params = params_of("ask", values, "")
        self._system = [m for m in self._params.pop("messages") if m["role"] == "system"]
        self._messages: list[dict[str, Any]] = list(self._system)
        self._client: Client | None = None
        self._introduced = False

    def run(self) -> None:
        """Read lines until the end."""
        if sys.stdin.isatty():
            tell("Type a message. clear: start over. quit, exit, q or Ctrl-D: leave.")
        while True:
            try:
                line = self._read()
            except (EOFError, KeyboardInterrupt):
                tell("")
                return
            word = line.strip()
            if word.lower() in LEAVE:
                return
            if word.lower() == "clear":
                self._messages = list(self._system)
                tell("The conversation is cleared.")
            elif word:
                self._say(word)

    def _read(self) -> str:
        if sys.stdin.isatty():
            return input("> ")
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line

    def _say(self, text: str) -> None:
        """Ask, print the answer, remember both. A failure leaves the conversation as it was."""
        question = {"role": "user", "content": text}
        try:
            result = self._answer([*self._messages, question])
        except KeyboardInterrupt:
            self._hang_up()
            tell("\n(stopped)")
            return
        except MlxdError as error:
            self._hang_up()
            tell(f"mlx: {error.message}\n     {error.hint}")
            return
        choice = result["choices"][0]
        self._messages += [question, {"role": "assistant", "content": choice["text"]}]
        if self._values.get("verbose"):
            tell(statistics(result))
        if result["applied"]["model"] == "pocket" and not self._introduced:
            self._introduced = True
            introduce()

    def _answer(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        try:
            return self._stream(messages)
        except (DaemonUnreachable, EngineDied):
            # The daemon may have been restarted between two questions: once more, then it is news.
            self._hang_up()
            return self._stream(messages)

    def _stream(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        if self._client is None:
            self._client = connect()
        last = "\n"
        with self._client.stream("chat", messages=messages, **self._params) as stream:
            for event in stream:
                if event["type"] != "delta":
                    continue
                if event["channel"] == "answer":
                    write(event["text"])
                    last = event["text"] or last
                elif decorated() and self._params.get("thinking"):
                    click.echo(click.style(event["text"], dim=True), nl=False, err=True)
            result: dict[str, Any] = stream.result
        if not last.endswith("\n"):
            write("\n")
        return result

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
