"""What the slash commands of `mlx chat` do."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mlxd.client.cli.terminal import tell
from mlxd.client.fast.mlx_options import LOCAL, OPTIONS, PRESETS
from mlxd.protocol.errors import InvalidParams
from mlxd.protocol.methods import METHODS

if TYPE_CHECKING:
    from mlxd.client.cli.chat import Chat

CLIPBOARDS = (["pbcopy"], ["wl-copy"], ["xclip", "-selection", "clipboard"], ["xsel", "-bi"])


class Leave(Exception):
    """The user wants to go."""


def run_command(chat: Chat, line: str) -> None:
    """Do what a line that begins with a command says."""
    name, _, rest = line.partition(" ")
    COMMANDS[name][1](chat, rest.strip())


def help_text() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name.ljust(width)}  {text}" for name, (text, _) in COMMANDS.items()]
    return "\n".join([*lines, "  clear, quit, exit and q work without the slash as well."])


def _help(chat: Chat, rest: str) -> None:
    tell(help_text())


def _leave(chat: Chat, rest: str) -> None:
    raise Leave


def _clear(chat: Chat, rest: str) -> None:
    chat.conversation.clear()
    tell("The conversation is cleared.")


def _model(chat: Chat, rest: str) -> None:
    if not rest:
        found = chat.conversation.request("models.list")
        wanted = chat.conversation.model or found["default"]
        for record in found["models"]:
            tell(("* " if record["name"] == wanted else "  ") + record["name"])
        return
    # Asked first: a typo must not end in an error at the next question.
    record = chat.conversation.request("models.show", model=rest)
    chat.conversation.model = record["name"]
    tell(f"{record['name']} answers from now on.")


def _system(chat: Chat, rest: str) -> None:
    if rest:
        chat.conversation.system = None if rest == "-" else rest
    tell(f"System prompt: {chat.conversation.system or '(none)'}")


def _set(chat: Chat, rest: str) -> None:
    params = chat.conversation.params
    name, _, value = rest.partition(" ")
    name = name.replace("-", "_")
    if name in ALIASES:
        name = ALIASES[name]
    if not name:
        for key in sorted(params.keys() & SETTABLE.keys()):
            tell(f"{key} {params[key]}")
    elif name == "preset" and value in PRESETS:
        params["temperature"], params["top_p"] = PRESETS[value]
        tell(f"temperature {params['temperature']}, top_p {params['top_p']}")
    elif name not in SETTABLE:
        known = ", ".join(sorted(SETTABLE))
        raise InvalidParams("/set", f"there is no setting {name!r}", hint=f"Known: preset, {known}")
    elif not value:
        params.pop(name, None)
        tell(f"{name} is as the daemon has it.")
    else:
        params[name] = _checked(name, value)
        tell(f"{name} {params[name]}")


def _checked(name: str, text: str) -> object:
    kinds: dict[str, Callable[[str], object]] = {"int": int, "float": float, "str": str}
    try:
        value = kinds[SETTABLE[name]](text)
    except ValueError as exc:
        raise InvalidParams("/set", f"{name}: {text!r} is no {SETTABLE[name]}") from exc
    return METHODS["chat"].param(name).check(value)


def _undo(chat: Chat, rest: str) -> None:
    question = chat.conversation.undo()
    tell(f"Forgotten: {question}" if question else "There is nothing to undo.")


def _retry(chat: Chat, rest: str) -> None:
    question = chat.conversation.undo()
    if question is None:
        tell("There is nothing to ask again.")
    else:
        chat.say(question)


def _save(chat: Chat, rest: str) -> None:
    if not rest:
        raise InvalidParams("/save", "needs a file name", hint="/save talk.json, or talk.md")
    path = Path(rest).expanduser()
    try:
        chat.conversation.save(path)
    except OSError as exc:
        raise InvalidParams("/save", f"{path}: {exc.strerror}", hint="Name another file.") from exc
    tell(f"Saved as {path}.")


def _load(chat: Chat, rest: str) -> None:
    if not rest:
        raise InvalidParams("/load", "needs a file or an id", hint="See ids: mlx log list")
    path = Path(rest).expanduser()
    if path.exists():
        chat.conversation.load(path)
    else:
        chat.conversation.open(rest)
    tell(f"{chat.conversation.answers} answers so far.")


def _copy(chat: Chat, rest: str) -> None:
    if not chat.last_answer:
        tell("There is no answer to copy yet.")
        return
    for command in CLIPBOARDS:
        if shutil.which(command[0]):
            done = subprocess.run(command, input=chat.last_answer.encode(), check=False)
            if done.returncode == 0:
                tell("Copied.")
                return
    # OSC 52: the terminal itself has the clipboard, also over SSH.
    coded = base64.b64encode(chat.last_answer.encode()).decode()
    sys.stderr.write(f"\x1b]52;c;{coded}\a")
    tell("Copied, if this terminal allows it.")


def _tokens(chat: Chat, rest: str) -> None:
    record = chat.conversation.request("models.show", model=chat.conversation.model)
    tell(f"{chat.conversation.tokens()} of {record['context_tokens']} tokens")


COMMANDS: dict[str, tuple[str, Callable[[Chat, str], None]]] = {
    "/help": ("show this", _help),
    "/model": ("[NAME] see or change the model", _model),
    "/system": ("[TEXT] see or change the system prompt; - removes it", _system),
    "/set": ("[NAME [VALUE]] see, set or unset sampling, such as /set temperature 0.2", _set),
    "/undo": ("forget the last question and its answer", _undo),
    "/retry": ("ask the last question again", _retry),
    "/save": ("FILE write the conversation, as .json or .md", _save),
    "/load": ("FILE|ID go on with a saved or stored conversation", _load),
    "/copy": ("put the last answer on the clipboard", _copy),
    "/tokens": ("count the conversation's tokens", _tokens),
    "/clear": ("forget everything and start over", _clear),
    "/quit": ("leave", _leave),
}
SETTABLE: dict[str, str] = {
    name: kind.rstrip("*")
    for name, _, kind, _ in OPTIONS
    if kind.rstrip("*") in ("int", "float", "str")
    and name not in LOCAL
    and name not in ("model", "conversation", "schema", "grammar", "logit_bias", "n")
}
ALIASES = {"temp": "temperature", "timeout": "deadline_s", "keep_alive": "keep_alive_s"}
