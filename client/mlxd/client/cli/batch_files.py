"""The lines of a batch: what is asked, what was answered already, what is written."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mlxd.protocol.errors import InvalidParams, MlxdError


@dataclass(frozen=True, slots=True)
class Item:
    """One line: its number from 1, its `id` if it has one, and the request; or what is wrong."""

    line: int
    id: Any
    method: str
    params: dict[str, Any]
    error: MlxdError | None = None


def read_items(source: str, defaults: dict[str, Any], system: list[dict[str, Any]]) -> list[Item]:
    """Return the requests of a file (`-`: stdin). What a line says wins over `defaults`."""
    raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as exc:
        raise click.BadParameter(f"{source} is not UTF-8 text", param_hint="IN.jsonl") from exc
    return [
        _item(number, line, defaults, system)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _item(number: int, line: str, defaults: dict[str, Any], system: list[dict[str, Any]]) -> Item:
    try:
        found = json.loads(line)
    except ValueError as exc:
        error = InvalidParams("", f"line {number} is not JSON: {exc}")
        return Item(number, None, "", {}, error)
    if isinstance(found, str):
        found = {"prompt": found}
    if not isinstance(found, dict):
        error = InvalidParams("", f"line {number} is neither an object nor a string")
        return Item(number, None, "", {}, error)
    name = found.pop("id", None)
    method = found.pop("method", None)
    params = {**defaults, **found}
    if method is None:
        method = "fill" if "prefix" in params else "chat"
    if method == "fill":
        params.pop("log", None)
    if method == "chat" and "prompt" in params:
        params["messages"] = [*system, {"role": "user", "content": params.pop("prompt")}]
    return Item(number, name, method, params)


def record(item: Item, *, result: Any = None, error: MlxdError | None = None) -> str:
    """Return the line of output for an item."""
    out: dict[str, Any] = {"line": item.line}
    if item.id is not None:
        out["id"] = item.id
    if error is None:
        out["text"] = result["choices"][0]["text"]
        out["result"] = result
    else:
        out["error"] = error.to_map()
    return json.dumps(out, ensure_ascii=False)


def finished_lines(output: Path, items: list[Item]) -> set[int]:
    """Return which lines `output` answers; drops from it what failed or broke off.

    Raises:
        click.UsageError: it belongs to another input.
    """
    if not output.exists():
        return set()
    by_line = {item.line: item for item in items}
    kept, done = [], set()
    for text in output.read_text(encoding="utf-8").split("\n"):
        try:
            found = json.loads(text)
            line = found["line"]
        except (ValueError, KeyError, TypeError):
            if text.strip() and not text.startswith('{"line": '):
                raise click.UsageError(f"{output} is no output of mlx batch.") from None
            continue  # the end of a run that was killed
        if line not in by_line or by_line[line].id != found.get("id"):
            raise click.UsageError(f"{output} belongs to another input; choose another -o.")
        if "result" in found:
            kept.append(text)
            done.add(line)
    _replace(output, "".join(text + "\n" for text in kept))
    return done


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.chmod(path.stat().st_mode & 0o777)
    beside.replace(path)
