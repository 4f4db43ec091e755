"""`mlx chat`: a conversation. clear · quit, exit, q · an empty line is ignored · /help."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mlxd.client.cli.ask import print_whole, show
from mlxd.client.cli.chat_commands import COMMANDS, Leave, run_command, unknown_command
from mlxd.client.cli.conversation import Conversation
from mlxd.client.cli.failures import words_of
from mlxd.client.cli.inputs import fenced
from mlxd.client.cli.options import given, shared_options
from mlxd.client.cli.prompt import QUOTES, read_lines
from mlxd.client.cli.sections import Sectioned
from mlxd.client.cli.terminal import Answer, print_json, tell
from mlxd.client.fast.options import long_flags
from mlxd.client.fast.text import VERSION, Aside, introduce, remarks, skew
from mlxd.protocol.errors import MlxdError

WORDS = {"clear": "/clear", "quit": "/quit", "exit": "/quit", "q": "/quit", "/exit": "/quit",
         "/bye": "/quit"}  # fmt: skip
"""What the words without a slash mean."""
NOT_HERE = ("template", "param", "edit", "events", "n", "logprobs", "copy")


@click.command(
    cls=Sectioned,
    without=NOT_HERE,
    epilog="\b\nExamples:\n"
    "  mlx chat\n"
    "  mlx chat -c                          Continue the last conversation\n"
    '  mlx chat -s "You are terse." -f main.py\n\n'
    "Inside: /help shows the commands. Ctrl-C stops an answer, Ctrl-D leaves.\n",
)
@shared_options
def chat(**values: Any) -> int:
    """Chat with a model. The conversation lasts until you clear it or leave."""
    found = given(values)
    check_options(found)
    Chat(found).run()
    return 0


def check_options(found: dict[str, Any]) -> None:
    """Refuse options without a meaning in a chat."""
    for name in NOT_HERE:
        if name in found:
            raise click.UsageError(
                f"{long_flags()[name]} has no meaning in a chat. "
                "Use it with mlx ask, then continue: mlx chat -c"
            )
    if "-" in found.get("file", []):
        raise click.UsageError("-f - has no meaning in a chat: stdin is what you type.")


class Chat:
    """Reads lines, and sends each as a question or runs it as a command."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.conversation = Conversation(values)
        self.last_answer = ""
        self.files: list[str] = [fenced(name) for name in values.get("file", [])]
        self.saved: Path | None = None
        self._introduced = False
        self._advice = ""

    def run(self) -> None:
        """Read lines until the end."""
        opening = self.opening()
        if sys.stdin.isatty() and not self.values.get("quiet"):
            tell(opening)
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

    def opening(self) -> str:
        """Return the first lines.

        Raises:
            ModelNotFound: there is no such model.
        """
        record = self.conversation.request("models.show", model=self.conversation.model)
        context = record.get("context_tokens")
        size = f", context {context} tokens" if context else ""
        return f"{record.get('name', 'mlx')}{size}\n/help shows the commands, Ctrl-D leaves."

    def _do(self, word: str) -> None:
        try:
            if word.startswith(QUOTES):
                self.say(word.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n"))
            elif word.startswith("/") and word.split()[0] in COMMANDS:
                run_command(self, word)
            elif word.startswith("/") and (problem := unknown_command(word)):
                tell(problem)
            else:
                self.say(word)
        except (MlxdError, click.ClickException) as exc:
            tell("mlx: {}\n     {}".format(*words_of(exc, "chat")).rstrip())
            if isinstance(exc, MlxdError) and exc.retryable:
                tell("     Ask again with /retry.")

    def say(self, text: str) -> None:
        """Ask, and print the answer as it comes. Ctrl-C stops the answer and keeps the chat."""
        silent = any(self.values.get(name) for name in ("json", "no_stream", "extract"))
        answer = Answer(plain=bool(self.values.get("plain")))
        aside = Aside(self.conversation.params.get("thinking"))
        whole = "\n\n".join([*self.files, text])
        try:
            result = self.conversation.say(
                whole, lambda event: show(event, answer, aside, silent=silent)
            )
        except KeyboardInterrupt:
            result = None
        finally:
            aside.settle()
            answer.close()
            if self.conversation.unanswered is None:
                self.files = []
        if result is None:
            tell("(stopped)")
            return
        self._told(result, silent=silent)

    def _told(self, result: dict[str, Any], *, silent: bool) -> None:
        self.last_answer = result["choices"][0]["text"]
        if self.values.get("json"):
            print_json(result)
        elif silent:
            print_whole(result, self.values)
        for line in remarks(result, self.values, "/set max_tokens"):
            if line != self._advice:
                tell(line)
        self._advice = skew(result["applied"].get("version", VERSION))
        if result["applied"]["model"] == "pocket" and not self._introduced:
            self._introduced = True
            introduce()
