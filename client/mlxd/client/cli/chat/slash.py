"""The slash commands of `mlx chat`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from mlxd.client.cli.chat.session import Session
from mlxd.client.cli.chat.settings import change
from mlxd.client.cli.clipboard import copy
from mlxd.client.cli.failures import Misuse
from mlxd.client.cli.groups import did_you_mean
from mlxd.client.cli.inputs import fenced
from mlxd.client.cli.options import absolute
from mlxd.client.cli.terminal import tell, visible
from mlxd.protocol.errors import InvalidParams

GIST_CHARACTERS = 60


class Leave(Exception):
    """The user leaves the chat."""


def run_command(session: Session, line: str) -> None:
    """Run a line that starts with a slash command."""
    name, _, rest = line.partition(" ")
    COMMANDS[name][2](session, rest.strip())


def unknown_command(line: str) -> str:
    """Return an error for a line that begins with a slash, or "" if it is a message."""
    name, *rest = line.split()
    near = did_you_mean(name, COMMANDS)
    if rest and not near:
        return ""
    return f"There is no command {name}.{near or ' See: /help'}"


def help_text() -> str:
    left = {f"{name} {rest}": text for name, (rest, text, _) in COMMANDS.items()}
    width = max(map(len, left))
    lines = [f"  {name.ljust(width)}  {text}" for name, text in left.items()]
    return "\n".join([*lines, *MORE_HELP])


def _help(session: Session, rest: str) -> None:
    tell(help_text())


def _leave(session: Session, rest: str) -> None:
    raise Leave


def _clear(session: Session, rest: str) -> None:
    session.conversation.clear()
    session.files = []
    tell("The conversation is cleared.")


def _model(session: Session, rest: str) -> None:
    if not rest:
        found = session.conversation.request("models.list")
        current = session.conversation.model or found["default"]
        for record in found["models"]:
            tell(("* " if record["name"] == current else "  ") + record["name"])
        return
    # Check the name now, so that a typo does not fail at the next question.
    record = session.conversation.request("models.show", model=absolute(rest))
    session.conversation.model = record["name"]
    tell(f"{record['name']} answers from now on.")


def _system(session: Session, rest: str) -> None:
    if rest:
        session.conversation.system = None if rest == "-" else rest
    tell(f"System prompt: {session.conversation.system or '(none)'}")


def _set(session: Session, rest: str) -> None:
    for line in change(session.conversation.params, rest):
        tell(line)


def _file(session: Session, rest: str) -> None:
    if not rest:
        raise InvalidParams("/file", "needs a file name", hint="/file main.py")
    session.files.append(fenced(str(Path(os.path.expanduser(rest)))))
    tell("Attached to your next message.")


def _undo(session: Session, rest: str) -> None:
    attached, session.files = session.files, []
    if attached and session.conversation.unanswered is None:
        tell("The file is detached." if len(attached) == 1 else "The files are detached.")
        return
    question = session.conversation.undo()
    tell(f"Forgotten: {_gist(question)}" if question else "Nothing to undo.")


def _gist(text: str) -> str:
    """Return the first characters of a text in one line."""
    line = " ".join(visible(text).split())
    return line if len(line) <= GIST_CHARACTERS else line[:GIST_CHARACTERS] + "…"


def _retry(session: Session, rest: str) -> None:
    question = session.conversation.undo()
    if question is None:
        tell("No question to retry.")
    else:
        session.files = []  # the question already contains them
        session.say(question)


def _save(session: Session, rest: str) -> None:
    if not rest:
        raise InvalidParams("/save", "needs a file name", hint="/save talk.json, or talk.md")
    path = Path(os.path.expanduser(rest))
    if path != session.saved and path.exists() and not _may_overwrite(path):
        tell("Not saved.")
        return
    try:
        session.conversation.save(path)
        session.saved = path
    except OSError as exc:
        raise InvalidParams(
            "/save", f"{path}: {exc.strerror}", hint="Choose another file."
        ) from exc
    tell(f"Saved as {path}.")


def _may_overwrite(path: Path) -> bool:
    if not sys.stdin.isatty():
        raise Misuse(f"{path} exists.", hint="Choose another file.")
    try:
        return click.confirm(f"Overwrite {path}?", err=True)
    except click.Abort:
        return False


def _load(session: Session, rest: str) -> None:
    if not rest:
        raise InvalidParams("/load", "needs a file or an id", hint="List the ids: mlx log list")
    path = Path(os.path.expanduser(rest))
    if path.exists():
        session.conversation.load(path)
    else:
        session.conversation.open(rest)
    tell(f"{session.conversation.summary()}.")


def _copy(session: Session, rest: str) -> None:
    if not session.last_answer:
        tell("No answer to copy yet.")
        return
    tell(copy(session.last_answer) or "No clipboard program was found.")


def _tokens(session: Session, rest: str) -> None:
    record = session.conversation.request("models.show", model=session.conversation.model)
    tell(f"{session.conversation.tokens()} of {record['context_tokens']} tokens")


COMMANDS: dict[str, tuple[str, str, Callable[[Session, str], None]]] = {
    "/help": ("", "show this", _help),
    "/model": ("[NAME]", "show or change the model", _model),
    "/system": ("[TEXT]", "show or change the system prompt; - removes it", _system),
    "/set": ("[NAME [VALUE]]", "show, set or unset an option: /set top_k 20", _set),
    "/file": ("FILE", "attach a file to your next message", _file),
    "/attach": ("FILE", "same as /file", _file),
    "/undo": ("", "detach files, or forget the last question", _undo),
    "/retry": ("", "ask the last question again", _retry),
    "/save": ("FILE", "write the conversation, as .json or .md", _save),
    "/load": ("FILE|ID", "continue a saved or stored conversation", _load),
    "/copy": ("", "copy the last answer to the clipboard", _copy),
    "/tokens": ("", "count the conversation's tokens", _tokens),
    "/clear": ("", "start a new conversation", _clear),
    "/quit": ("", "leave; also /exit and /bye", _leave),
}
"""Maps a command to (arguments, help text, function)."""
MORE_HELP = (
    "  clear, quit, exit and q also work without the slash.",
    "  For several lines: Alt-Enter, a backslash before Enter, or three quotes.",
)
