"""Finds the commands, options, variables, files and advice named in pages, help and messages."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click

from mlxd.client.cli import cli as mlx
from mlxd.daemon.cli import cli as mlxd

ROOT = Path(__file__).parents[2]
PACKAGES = ("protocol", "client", "daemon", "launchd")
PROGRAMS: dict[str, click.Command] = {"mlx": mlx, "mlxd": mlxd}

CODE = re.compile(r"```[a-z]*\n(.*?)```|`([^`]+)`", re.DOTALL)
_FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
_COMMAND = re.compile(r"(\A|^ *|[(`|:;&·,>] *)(mlxd?)((?: +(?!mlxd?\b)[^\s|;&()`·]+)+)", re.M)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*|(?<![\w-])-[a-zA-Z](?![\w-])")
_QUOTED = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'")


@cache
def tracked() -> frozenset[str]:
    """Return every file of the repository, and every folder with a trailing slash."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [name for name in done.stdout.splitlines() if (ROOT / name).exists()]
    folders = {f"{parent}/" for name in files for parent in Path(name).parents}
    return frozenset({*files, *folders})


def pages() -> list[str]:
    return sorted(name for name in tracked() if name.endswith(".md"))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code(text: str) -> Iterator[str]:
    """Yield the code spans of a page, and each line of its code blocks without its comment."""
    for block, span in CODE.findall(text):
        if span:
            yield " ".join(span.split())
        for line in block.replace("\\\n", " ").splitlines():
            yield line.partition(" #")[0].strip()


def toml_blocks(text: str) -> list[str]:
    return [block for language, block in _FENCE.findall(text) if language == "toml"]


def unknown_parts(text: str, *, prose: bool = False) -> Iterator[str]:
    """Yield each command line in `text` whose command or option does not exist.

    Prose may begin with the name of a program. Its first words are then not checked.
    """
    for match in _COMMAND.finditer(_QUOTED.sub("X", text)):
        program, words = match[2], match[3].split()
        if prose and match.start() == 0:
            continue
        if not re.fullmatch(r"-{0,2}[a-z][a-z-]*[:.,]?", words[0]):
            continue
        command, rest, found = _called(PROGRAMS[program], words)
        if not found:
            yield " ".join([program, *words[: len(words) - len(rest) + 1]])
            continue
        known = _options(command) | {"--help", "-h", "--version"}
        for option in _OPTION.findall(" ".join(rest)):
            if option not in known:
                yield f"{match[0].strip()}: {option}"


def _called(command: click.Command, words: list[str]) -> tuple[click.Command, list[str], bool]:
    """Return the command that `words` call, the words after it, and whether it exists."""
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest[0].rstrip(".,:")
        if not re.fullmatch(r"[a-z][a-z-]*", name):
            break  # a placeholder such as COMMAND
        inner = command.get_command(click.Context(command), name)
        if inner is None:
            return command, rest, False
        command, rest = inner, rest[1:]
    return command, rest, True


@cache
def _options(command: click.Command) -> frozenset[str]:
    parameters = command.get_params(click.Context(command))
    return frozenset(name for one in parameters for name in (*one.opts, *one.secondary_opts))


def all_options(command: click.Command) -> Iterator[str]:
    """Yield every option of a command and its subcommands."""
    yield from _options(command)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from all_options(inner)


def messages() -> Iterator[tuple[str, str]]:
    """Yield (place, text) of every string in the programs except docstrings.

    In formatted strings, X replaces the expressions.
    """
    for package in PACKAGES:
        for file in sorted((ROOT / package / "mlxd").rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            place = str(file.relative_to(ROOT))
            skipped = _docstrings(tree)
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    skipped.update(map(id, node.values))
                    yield f"{place}:{node.lineno}", "".join(map(_piece, node.values))
            for node in ast.walk(tree):
                if not isinstance(node, ast.Constant) or id(node) in skipped:
                    continue
                if isinstance(node.value, str):
                    yield f"{place}:{node.lineno}", node.value


def _piece(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else "X"


def _docstrings(tree: ast.Module) -> set[int]:
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


FORBIDDEN: dict[str, str] = {
    r"chmod\s+(-R\s+)?[0-7]*[2367]\b|chmod\s+(-R\s+)?(a|o|go|ugo)?\+\w*w": "opens files to others",
    r"chmod\s+\S+\s+(/tmp|/var|/usr|/etc|~|\$HOME)/?(?![\w/])": "changes a shared folder",
    r"chown\s+-R|sudo\s+(chown|chmod)": "changes the owner of files",
    r"rm\s+-(rf|fr|r)\b|sudo\s+rm": "deletes folders",
    r"sudo\s+pip|--break-system-packages": "replaces packages of the system",
    r"csrutil|spctl|xattr\s+-|setenforce|apparmor_parser|ptrace_scope": "disables a protection",
    r"(curl|wget)\b.*\|\s*(sudo\s+)?(ba|z)?sh\b": "runs what was downloaded",
    r"umask\s+0+\b|ulimit\s+-c\s+[^0]": "makes files or memory readable",
    r"verify\s*=\s*False|--insecure\b|curl\s+-k|SSL_NO_VERIFY|TLS_REJECT": "trusts anybody",
    r"kill\s+-9|killall|pkill": "kills by force or by name",
}
"""Patterns of unsafe advice, and why it is unsafe."""


def weakens(text: str) -> list[str]:
    """Return why advice would weaken or damage a system, or an empty list."""
    return [why for pattern, why in FORBIDDEN.items() if re.search(pattern, text)]
