"""The slash commands of `mlx chat`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlxd.client.cli.clipboard import copy
from mlxd.client.cli.failures import Misuse
from mlxd.client.cli.groups import did_you_mean
from mlxd.client.cli.inputs import fenced
from mlxd.client.cli.options import absolute, schema
from mlxd.client.cli.terminal import tell, visible
from mlxd.client.fast.options import LOCAL, OPTIONS, PRESETS
from mlxd.client.fast.text import FOLDERS
from mlxd.protocol.durations import seconds
from mlxd.protocol.errors import InvalidParams
from mlxd.protocol.methods import METHODS

if TYPE_CHECKING:
    from mlxd.client.cli.chat import Chat

GIST_CHARACTERS = 60


class Leave(Exception):
    """The user leaves the chat."""


def run_command(chat: Chat, line: str) -> None:
    """Run a line that starts with a slash command."""
    name, _, rest = line.partition(" ")
    COMMANDS[name][2](chat, rest.strip())


def unknown_command(line: str) -> str:
    """Return what is wrong with a line that begins with a slash; "": it is a message."""
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


def _help(chat: Chat, rest: str) -> None:
    tell(help_text())


def _leave(chat: Chat, rest: str) -> None:
    raise Leave


def _clear(chat: Chat, rest: str) -> None:
    chat.conversation.clear()
    chat.files = []
    tell("The conversation is cleared.")


def _model(chat: Chat, rest: str) -> None:
    if not rest:
        found = chat.conversation.request("models.list")
        wanted = chat.conversation.model or found["default"]
        for record in found["models"]:
            tell(("* " if record["name"] == wanted else "  ") + record["name"])
        return
    # Check the name now: a typo should not fail at the next question.
    record = chat.conversation.request("models.show", model=absolute(rest))
    chat.conversation.model = record["name"]
    tell(f"{record['name']} answers from here on.")


def _system(chat: Chat, rest: str) -> None:
    if rest:
        chat.conversation.system = None if rest == "-" else rest
    tell(f"System prompt: {chat.conversation.system or '(none)'}")


def setting_names() -> list[str]:
    """Return what /set knows."""
    return sorted([*SETTABLE, "preset"])


def _set(chat: Chat, rest: str) -> None:
    params = chat.conversation.params
    name, _, value = rest.partition(" ")
    name, value = name.replace("-", "_"), value.strip()
    name = ALIASES.get(name, name)
    if not name:
        for key in sorted(params.keys() & SETTABLE.keys()):
            tell(f"{key} {params[key]}")
    elif name == "preset" and value in PRESETS:
        params["temperature"], params["top_p"] = PRESETS[value]
        tell(f"temperature {params['temperature']}, top_p {params['top_p']}")
    elif name not in SETTABLE:
        near = did_you_mean(name, setting_names()).strip()
        hint = near or "Known: " + ", ".join(setting_names())
        raise InvalidParams("/set", f"there is no setting {name!r}", hint=hint)
    elif not value:
        params.pop(name, None)
        tell(f"{name}: daemon default")
    else:
        params[name] = _checked(name, value)
        tell(f"{name} {params[name]}")


def _checked(name: str, text: str) -> object:
    kind = SETTABLE[name]
    try:
        value = KINDS[kind](text)
    except (ValueError, KeyError) as exc:
        hint = f"Such as: /set {name} {EXAMPLES[kind]}"
        raise InvalidParams("/set", f"{name} cannot be {text!r}", hint=hint) from exc
    if name in FOLDERS and isinstance(value, str):
        value = absolute(value, name)
    return METHODS["chat"].param(name).check(value)


def _file(chat: Chat, rest: str) -> None:
    if not rest:
        raise InvalidParams("/file", "needs a file name", hint="/file main.py")
    chat.files.append(fenced(str(Path(os.path.expanduser(rest)))))
    tell("Attached to your next message.")


def _undo(chat: Chat, rest: str) -> None:
    attached, chat.files = chat.files, []
    if attached and chat.conversation.unanswered is None:
        tell("The file is detached." if len(attached) == 1 else "The files are detached.")
        return
    question = chat.conversation.undo()
    tell(f"Forgotten: {_gist(question)}" if question else "Nothing to undo.")


def _gist(text: str) -> str:
    """Return the beginning of a text in one line."""
    line = " ".join(visible(text).split())
    return line if len(line) <= GIST_CHARACTERS else line[:GIST_CHARACTERS] + "…"


def _retry(chat: Chat, rest: str) -> None:
    question = chat.conversation.undo()
    if question is None:
        tell("No question to retry.")
    else:
        chat.files = []  # the question has them
        chat.say(question)


def _save(chat: Chat, rest: str) -> None:
    if not rest:
        raise InvalidParams("/save", "needs a file name", hint="/save talk.json, or talk.md")
    path = Path(os.path.expanduser(rest))
    if path != chat.saved and path.exists() and not _may_overwrite(path):
        tell("Not saved.")
        return
    try:
        chat.conversation.save(path)
        chat.saved = path
    except OSError as exc:
        raise InvalidParams("/save", f"{path}: {exc.strerror}", hint="Name another file.") from exc
    tell(f"Saved as {path}.")


def _may_overwrite(path: Path) -> bool:
    if not sys.stdin.isatty():
        raise Misuse(f"{path} exists.", hint="Name another file.")
    try:
        return click.confirm(f"Overwrite {path}?", err=True)
    except click.Abort:
        return False


def _load(chat: Chat, rest: str) -> None:
    if not rest:
        raise InvalidParams("/load", "needs a file or an id", hint="See ids: mlx log list")
    path = Path(os.path.expanduser(rest))
    if path.exists():
        chat.conversation.load(path)
    else:
        chat.conversation.open(rest)
    tell(f"{chat.conversation.answers} answers so far.")


def _copy(chat: Chat, rest: str) -> None:
    if not chat.last_answer:
        tell("No answer to copy yet.")
        return
    tell(copy(chat.last_answer) or "No clipboard program was found.")


def _tokens(chat: Chat, rest: str) -> None:
    record = chat.conversation.request("models.show", model=chat.conversation.model)
    tell(f"{chat.conversation.tokens()} of {record['context_tokens']} tokens")


COMMANDS: dict[str, tuple[str, str, Callable[[Chat, str], None]]] = {
    "/help": ("", "show this", _help),
    "/model": ("[NAME]", "see or change the model", _model),
    "/system": ("[TEXT]", "see or change the system prompt; - removes it", _system),
    "/set": ("[NAME [VALUE]]", "see, set or unset an option: /set top_k 20", _set),
    "/file": ("FILE", "attach a file to your next message", _file),
    "/attach": ("FILE", "same as /file", _file),
    "/undo": ("", "detach files, or forget the last question", _undo),
    "/retry": ("", "ask the last question again", _retry),
    "/save": ("FILE", "write the conversation, as .json or .md", _save),
    "/load": ("FILE|ID", "continue a saved or stored conversation", _load),
    "/copy": ("", "put the last answer on the clipboard", _copy),
    "/tokens": ("", "count the conversation's tokens", _tokens),
    "/clear": ("", "start a new conversation", _clear),
    "/quit": ("", "leave; also /exit and /bye", _leave),
}
"""Command to (arguments, help text, function)."""
MORE_HELP = (
    "  clear, quit, exit and q also work without the slash.",
    "  For several lines: Alt-Enter, a backslash before Enter, or three quotes.",
)
SWITCH = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
KINDS: dict[str, Callable[[str], object]] = {
    "int": int, "float": float, "str": str, "span": seconds, "schema": schema,
    "each": lambda text: [text], "true": SWITCH.__getitem__, "false": SWITCH.__getitem__,
}  # fmt: skip
EXAMPLES = {"int": "20", "float": "0.5", "span": "30m", "true": "on", "false": "on"}
SETTABLE: dict[str, str] = {
    name: kind.rstrip("*")
    for name, _, kind, _ in OPTIONS
    if kind.rstrip("*") in KINDS
    and name not in LOCAL
    and name not in ("model", "conversation", "grammar", "logit_bias", "n", "logprobs", "log",
                     "trust_remote_code")
}  # fmt: skip
SETTABLE["schema"] = "schema"
ALIASES = {
    "temp": "temperature", "timeout": "deadline_s", "keep_alive": "keep_alive_s",
    "think": "thinking",
}  # fmt: skip
