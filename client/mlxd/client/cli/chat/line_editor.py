"""Reads lines for `mlx chat`: with prompt_toolkit on a terminal, plain lines otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxd.client.cli.chat.conversation import Conversation
from mlxd.client.cli.chat.settings import setting_names
from mlxd.client.cli.terminal import tell
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.paths import resolve_paths

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

QUOTES = '"""'


def read_lines(conversation: Conversation, commands: list[str]) -> Iterator[str]:
    """Yield the lines that the user types, until the end of input.

    A terminal has history and completion.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        yield from _piped(sys.stdin)
        return
    session = _session(conversation, commands)
    while True:
        try:
            line = session.prompt("> ", prompt_continuation="  ")
        except KeyboardInterrupt:
            continue  # drop the typed text and continue the chat
        except (EOFError, OSError):  # the terminal was closed
            return
        yield line


def open_quotes(text: str) -> bool:
    """Return whether a message that begins with three quotes has not ended yet."""
    begun = text.lstrip()
    ended = len(begun) >= 2 * len(QUOTES) and begun.rstrip().endswith(QUOTES)
    return begun.startswith(QUOTES) and not ended


def _piped(lines: Iterable[str]) -> Iterator[str]:
    message = ""
    for line in lines:
        message += line
        if not open_quotes(message):
            yield message
            message = ""
    if message:
        yield message


def _session(conversation: Conversation, commands: list[str]) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
    from prompt_toolkit.output import create_output

    return PromptSession(
        history=_history(),
        completer=_completer(conversation, commands),
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
        key_bindings=_keys(),
        enable_open_in_editor=True,
        enable_suspend=True,
        # Prompts go to stderr, so that stdout has only answers.
        output=create_output(stdout=sys.stderr),
    )


def _history() -> Any:
    """Return history across sessions, in a file that only the user can read."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path: Path = resolve_paths(os.environ).state_dir / "chat-history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError as exc:
        tell(f"mlx: history is not saved: {path}: {exc.strerror}")
        return InMemoryHistory()
    return FileHistory(str(path))


def _completer(conversation: Conversation, commands: list[str]) -> Any:
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    settings = setting_names()

    class CommandCompleter(Completer):
        """Completes commands, the models of /model, the settings of /set, and file names."""

        def get_completions(self, document: Document, complete_event: Any) -> Iterator[Completion]:
            text = document.text_before_cursor
            command, blank, rest = text.partition(" ")
            if not blank and text.startswith("/"):
                yield from (Completion(c, -len(text)) for c in commands if c.startswith(text))
            elif command == "/model":
                names = _model_names(conversation)
                yield from (Completion(n, -len(rest)) for n in names if rest in n)
            elif command == "/set" and " " not in rest:
                yield from (Completion(n, -len(rest)) for n in settings if n.startswith(rest))
            elif command in ("/save", "/load", "/file", "/attach"):
                inner = Document(rest, len(rest))
                yield from PathCompleter(expanduser=True).get_completions(inner, complete_event)

    return CommandCompleter()


def _model_names(conversation: Conversation) -> list[str]:
    try:
        found = conversation.request("models.list")
    except MlxdError:
        return []
    return [record["name"] for record in found["models"]]


def _keys() -> Any:
    """Return the key bindings.

    Enter sends. Alt-Enter, or a backslash before Enter, inserts a newline.

    Between three quotes, Enter inserts a newline too.
    """
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.char_before_cursor == "\\":
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif open_quotes(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    return keys
