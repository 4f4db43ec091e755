"""The files of a batch: requests, existing answers, and output."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from mlxd.client.cli.failures import Misuse
from mlxd.client.cli.inputs import as_text, read_file, read_stdin
from mlxd.client.cli.options import resolve_folders
from mlxd.client.fast.text import is_cut, verdict
from mlxd.protocol.errors import InvalidParams, MlxdError
from mlxd.protocol.privacy import privacy_hint

METHODS = ("chat", "generate", "fill")
HASH_DIGITS = 16
WITHOUT_EFFECT = frozenset(
    ("priority", "deadline_s", "keep_alive_s", "log", "trust_remote_code", "draft")
)
"""Options that affect when an answer arrives but not its text."""
DESCRIPTOR = re.compile(r"/dev/fd/(\d+)|/proc/self/fd/(\d+)")
STANDARD = {"-": 1, "/dev/stdout": 1, "/dev/stderr": 2}


@dataclass(frozen=True, slots=True)
class Item:
    """One line: its number from 1, its `id` if it has one, and its request or an error.

    `hash` identifies the line's content, independent of its place, white space and key order.
    `options` identifies the options of the command line that change answers.
    """

    line: int
    id: Any
    hash: str
    method: str
    params: dict[str, Any]
    options: str
    error: MlxdError | None = None


def read_items(source: str, defaults: dict[str, Any], system: list[dict[str, Any]]) -> list[Item]:
    """Return the requests of a file (`-`: stdin). Parameters of a line override `defaults`."""
    text = as_text(read_stdin() if source == "-" else read_file(source), source)
    options = options_of(defaults, system)
    return [
        replace(_item(number, line, defaults, system), options=options)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]


def options_of(defaults: dict[str, Any], system: list[dict[str, Any]]) -> str:
    """Return a hash of the options that change answers."""
    relevant = {name: value for name, value in defaults.items() if name not in WITHOUT_EFFECT}
    return _hash([relevant, system])


def _item(number: int, line: str, defaults: dict[str, Any], system: list[dict[str, Any]]) -> Item:
    def wrong(problem: str) -> Item:
        error = InvalidParams("", f"Line {number} {problem}.")
        return Item(number, None, _hash(line.strip()), "", {}, "", error)

    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as exc:
        return wrong(f"is not JSON: {exc}")
    name = _hash(found)
    if isinstance(found, str):
        found = {"prompt": found}
    if not isinstance(found, dict):
        return wrong("is neither an object nor a string")
    label = found.pop("id", None)
    method = found.pop("method", None)
    params = {**defaults, **found}
    resolve_folders(params)
    if method is None:
        method = "fill" if "prefix" in params else "chat"
    if method not in METHODS:
        return wrong(f"has a method other than {', '.join(METHODS)}")
    if method == "fill":
        params.pop("log", None)
    if method == "chat" and "prompt" in params:
        params["messages"] = [*system, {"role": "user", "content": params.pop("prompt")}]
    return Item(number, label, name, method, params, "")


def _hash(value: Any) -> str:
    whole = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:HASH_DIGITS]


def record(item: Item, *, result: Any = None, error: MlxdError | None = None) -> str:
    """Return the line of output for an item.

    A truncated constrained answer gets an error beside its result, so that it is retried.
    """
    out: dict[str, Any] = {"line": item.line, "hash": item.hash, "options": item.options}
    if item.id is not None:
        out["id"] = item.id
    if error is not None:
        out["error"] = error.to_map()
    if result is not None:
        out["text"] = result["choices"][0]["text"]
        if is_cut(result):
            out["truncated"] = True
        out["result"] = result
    return json.dumps(out, ensure_ascii=False)


class Truncated(MlxdError):
    """A constrained answer that reached max_tokens. Raised by clients only."""

    code = "truncated"
    exit_code = 8
    default_hint = "Raise the limit: --max-tokens N"


def truncation(result: Any) -> Truncated | None:
    """Return the error of a truncated constrained answer."""
    if not verdict(result):
        return None
    return Truncated("The answer was truncated at max_tokens, so it does not match its constraint.")


@dataclass(frozen=True, slots=True)
class Output:
    """The destination of answers: a regular file, which can be resumed, or a descriptor."""

    path: Path | None
    descriptor: int | None = None

    @property
    def resumable(self) -> bool:
        return self.descriptor is None

    @contextlib.contextmanager
    def opened(self) -> Iterator[IO[str]]:
        """Open the file for appending."""
        if self.descriptor == 1 and self.path is None:
            yield sys.stdout
            return
        with open(self._open(), "w", encoding="utf-8") as file:
            yield file

    def _open(self) -> int:
        if self.descriptor is not None:
            return os.dup(self.descriptor)
        assert self.path is not None
        # Answers are private.
        try:
            return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as exc:
            raise _unwritable(str(self.path), exc) from exc


def output_of(name: str | None) -> Output:
    """Return the output for `-o NAME`, or stdout for None. Links are followed.

    A device, a FIFO or `>(command)` is written in place, and cannot be resumed.

    Raises:
        Misuse: the file cannot be written.
    """
    if name is None or STANDARD.get(name) == 1:
        return Output(None, 1)
    match = DESCRIPTOR.fullmatch(name)
    try:
        if name in STANDARD or match:
            number = STANDARD[name] if match is None else int(match[1] or match[2])
            os.fstat(number)
            return Output(Path(name), number)
        path = Path(os.path.realpath(name))
        if path.is_symlink():  # realpath returns a link only if links form a loop
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if not path.exists():
            _check_folder(path.parent)
        elif path.is_dir():
            raise Misuse(f"{name} is a folder.", hint="Give a file: -o answers.jsonl")
        elif not stat.S_ISREG(path.stat().st_mode):
            return Output(path, os.open(path, os.O_WRONLY))
        elif not os.access(path, os.W_OK):
            raise PermissionError(13, "Permission denied")
        return Output(path)
    except (OSError, ValueError, OverflowError) as exc:
        raise _unwritable(name, exc) from exc


def _unwritable(name: str, exc: Exception) -> Misuse:
    problem = exc.strerror if isinstance(exc, OSError) else str(exc)
    hint = privacy_hint(exc, "Choose another -o.")
    return Misuse(f"{name} cannot be written: {problem}.", hint=hint)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise Misuse(f"There is no folder {folder}.", hint=f"Create it: mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, "Permission denied")


@dataclass(frozen=True, slots=True)
class Resumed:
    """The existing answers of an output file, by line."""

    lines: frozenset[int] = frozenset()
    removed: int = 0
    other_options: int = 0

    def remarks(self, total: int) -> list[str]:
        """Return the messages to print before the run continues."""
        said = []
        if self.lines:
            said.append(f"{len(self.lines)} of {total} lines are already answered.")
        if self.removed:
            said.append(
                f"mlx: Removed {_answers(self.removed)} whose line is no longer in the input."
            )
        if self.other_options:
            said.append(
                f"mlx: Kept {_answers(self.other_options)} computed with other options. "
                "To compute them again, use another -o."
            )
        return said


def _answers(count: int) -> str:
    return f"{count} answer{'' if count == 1 else 's'}"


def finished_lines(output: Path, items: list[Item]) -> Resumed:
    """Return the lines that `output` answers. Removes failed, partial and orphaned answers from it.

    Answers and lines are matched by the hash of the line's content, so lines may have moved.

    Raises:
        Misuse: the output belongs to another input, or an older mlx wrote it.
    """
    if not output.exists():
        return Resumed()
    waiting: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        waiting[item.hash].append(item)
    found = _records(output)
    kept = [moved for one in found if (moved := _claim(one, waiting)) is not None]
    answered = [one for one in found if "error" not in one]
    if any("hash" not in one for one in answered):
        raise Misuse(
            f"{output} was written by an older mlx, which did not store the lines that it answers.",
            hint="Choose another -o to answer every line again.",
        )
    if answered and not kept:
        raise Misuse(f"{output} belongs to another input.", hint="Choose another -o.")
    _replace(output, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in kept))
    options = items[0].options if items else ""
    return Resumed(
        frozenset(one["line"] for one in kept),
        len(answered) - len(kept),
        sum(one.get("options", options) != options for one in kept),
    )


def _claim(one: dict[str, Any], waiting: dict[str, list[Item]]) -> dict[str, Any] | None:
    """Return an answer with the current number of its line, or None if the line was removed."""
    lines = waiting.get(one.get("hash", ""), [])
    if "error" in one or "result" not in one or not lines:
        return None
    # Among equal lines, prefer the one with the old number.
    lines.sort(key=lambda item: item.line != one["line"])
    return {**one, "line": lines.pop(0).line}


def _records(output: Path) -> list[dict[str, Any]]:
    """Return the answers in an output file.

    If a run was killed, its last line may be incomplete.
    """
    found = []
    for text in as_text(read_file(str(output)), str(output)).split("\n"):
        try:
            one = json.loads(text)
            if not isinstance(one["line"], int) or not isinstance(one.get("hash", ""), str):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            if text.strip() and not text.startswith('{"line": '):
                raise Misuse(
                    f"{output} is not an output file of mlx batch.", hint="Choose another -o."
                ) from None
            continue
        found.append(one)
    return found


def _replace(path: Path, text: str) -> None:
    """Write a file atomically."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        beside.chmod(path.stat().st_mode & 0o777)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
