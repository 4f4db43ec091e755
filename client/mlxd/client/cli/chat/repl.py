"""The loop of `mlx chat`: each line is a question, or a command that starts with a slash."""

from __future__ import annotations

import sys

import click

from mlxd.client.cli.chat.line_editor import QUOTES, read_lines
from mlxd.client.cli.chat.session import Session
from mlxd.client.cli.chat.slash import COMMANDS, Leave, run_command, unknown_command
from mlxd.client.cli.failures import message_and_hint
from mlxd.client.cli.terminal import tell
from mlxd.protocol.errors import MlxdError

WITHOUT_SLASH = {
    "clear": "/clear", "quit": "/quit", "exit": "/quit", "q": "/quit", "/exit": "/quit",
    "/bye": "/quit",
}  # fmt: skip
"""Other spellings of commands. They apply only if they are the whole line."""


class Repl:
    """Reads lines until the user leaves. Sends each as a question or runs it as a command."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def run(self) -> None:
        """Read lines until the end of stdin, or a command that leaves.

        Raises:
            ModelNotFound: the model does not exist.
        """
        session = self._session
        opening = session.opening()
        if sys.stdin.isatty() and not session.values.get("quiet"):
            tell(opening)
        if session.conversation.answers:
            tell(f"({session.conversation.summary()})")
        for line in read_lines(session.conversation, sorted(COMMANDS)):
            text = line.strip()
            text = WITHOUT_SLASH.get(text.lower(), text)
            if not text:
                continue
            try:
                self._run_line(text)
            except Leave:
                return

    def _run_line(self, text: str) -> None:
        try:
            if text.startswith(QUOTES):
                self._session.say(text.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n"))
            elif text.startswith("/") and text.split()[0] in COMMANDS:
                run_command(self._session, text)
            elif text.startswith("/") and (problem := unknown_command(text)):
                tell(problem)
            else:
                self._session.say(text)
        except (MlxdError, click.ClickException) as exc:
            tell("mlx: {}\n     {}".format(*message_and_hint(exc, "chat")).rstrip())
            if isinstance(exc, MlxdError) and exc.retryable:
                tell("     Ask again with /retry.")
