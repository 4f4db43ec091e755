"""`mlx chat`: a conversation. clear · quit, exit, q · an empty line is ignored · /help."""

from __future__ import annotations

import sys
from typing import Any

import click

from mlxd.client.cli.chat_commands import COMMANDS, Leave, help_text, run_command
from mlxd.client.cli.conversation import Conversation
from mlxd.client.cli.options import given, shared_options
from mlxd.client.cli.prompt import read_lines
from mlxd.client.cli.terminal import Answer, decorated, tell, visible
from mlxd.client.fast.mlx_fast_text import introduce, skew, statistics
from mlxd.protocol.errors import MlxdError

WORDS = {"clear": "/clear", "quit": "/quit", "exit": "/quit", "q": "/quit"}
"""What the words without a slash mean."""
NOT_HERE = ("file", "template", "param", "edit", "json", "events", "extract", "n")


@click.command(
    epilog="\b\nInside: /help shows the commands. Ctrl-C stops an answer, Ctrl-D leaves.\n"
)
@shared_options
def chat(**values: Any) -> int:
    """Talk with a model. It remembers until you clear or leave."""
    found = given(values)
    for name in NOT_HERE:
        if name in found:
            flag = f"--{name}" if name != "events" else "--stream"
            raise click.UsageError(f"{flag} has no meaning in a chat; use mlx ask.")
    Chat(found).run()
    return 0


class Chat:
    """Reads lines, answers them, and does what the commands say."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.conversation = Conversation(values)
        self.last_answer = ""
        self._introduced = False
        self._advice = ""

    def run(self) -> None:
        """Read lines until the end."""
        if sys.stdin.isatty():
            tell("Type a message; /help shows the commands, Ctrl-D leaves.")
        if turns := self.conversation.answers:
            tell(f"({turns} {'answer' if turns == 1 else 'answers'} so far)")
        for line in read_lines(self.conversation, sorted(COMMANDS)):
            word = line.strip()
            word = WORDS.get(word.lower(), word)
            if not word:
                continue
            try:
                self._do(word)
            except Leave:
                return

    def _do(self, word: str) -> None:
        try:
            if word.startswith("/") and word.split()[0] in COMMANDS:
                run_command(self, word)
            elif word.startswith("/") and len(word.split()) == 1:
                tell(f"There is no command {word}.\n{help_text()}")
            else:
                self.say(word)
        except MlxdError as error:
            tell(f"mlx: {error.message}\n     {error.hint}")

    def say(self, text: str) -> None:
        """Ask, and print the answer as it comes. Ctrl-C stops the answer and keeps the chat."""
        answer = Answer(plain=bool(self.values.get("plain")))
        try:
            result = self.conversation.say(text, lambda event: self._show(event, answer))
        except KeyboardInterrupt:
            answer.close()
            tell("(stopped)")
            return
        except BaseException:
            answer.close()
            raise
        answer.close()
        self._told(result)

    def _show(self, event: dict[str, Any], answer: Answer) -> None:
        if event["type"] != "delta":
            return
        if event["channel"] == "answer":
            answer.write(event["text"])
        elif decorated() and self.conversation.params.get("thinking"):
            click.echo(click.style(visible(event["text"]), dim=True), nl=False, err=True)

    def _told(self, result: dict[str, Any]) -> None:
        self.last_answer = result["choices"][0]["text"]
        for note in result["applied"]["notes"]:
            tell(f"mlx: {note}")
        if self.values.get("verbose"):
            tell(statistics(result))
        advice = skew(result)
        if advice and advice != self._advice:
            self._advice = advice
            tell(advice)
        if result["applied"]["model"] == "pocket" and not self._introduced:
            self._introduced = True
            introduce()
