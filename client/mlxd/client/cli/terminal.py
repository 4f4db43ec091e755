"""Output: the answer on stdout, everything else on stderr, decoration on terminals only."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from mlxd.client.fast import text as fast_text
from mlxd.protocol.wrapping import folded

if TYPE_CHECKING:
    from mlxd.client.cli.markdown import MarkdownStream

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
FRAME_S = 0.08


def visible(text: str) -> str:
    """Return text with visible symbols instead of control characters, for a terminal."""
    return str(fast_text.visible(text))


def decorated() -> bool:
    """Return whether stderr is a terminal and may be decorated."""
    return sys.stderr.isatty() and coloured()


def coloured() -> bool:
    """Return whether the environment allows colours (no-color.org)."""
    return bool(fast_text.coloured())


def tell(text: str) -> None:
    """Print a message to stderr, wrapped between words on a terminal."""
    print(fitted(text, sys.stderr), file=sys.stderr, flush=True)


def fitted(text: str, stream: IO[str]) -> str:
    """Return a message, wrapped between words if `stream` is a terminal that is narrower."""
    columns = width_of(stream)
    return text if columns is None else folded(text, columns)


def width_of(stream: IO[str]) -> int | None:
    """Return the columns of a terminal; None: the stream is none, or its size is unknown."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    text = json.dumps(value, ensure_ascii=False)
    print(visible(text) if sys.stdout.isatty() else text, flush=True)


def write(text: str) -> None:
    """Print a piece of the answer at once."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


class Answer:
    """Prints an answer to stdout as it arrives: as Markdown on a terminal that supports it, else
    plain."""

    def __init__(self, *, plain: bool = False) -> None:
        self._last = ""
        self._rendered: MarkdownStream | None = None
        if not plain and sys.stdout.isatty() and coloured():
            from mlxd.client.cli.markdown import MarkdownStream

            self._rendered = MarkdownStream()

    def write(self, text: str) -> None:
        """Print a piece."""
        self._last = text[-1:] or self._last
        if self._rendered is not None:
            self._rendered.write(visible(text))
        else:
            write(text)

    def close(self) -> None:
        """End the line."""
        if self._rendered is not None:
            self._rendered.close()
        elif self._last not in ("", "\n"):
            write("\n")


@contextlib.contextmanager
def spinner(label: str) -> Iterator[None]:
    """Show a status line while the block runs."""
    if not decorated():
        yield
        return
    done = threading.Event()

    def spin() -> None:
        for frame in itertools.cycle(FRAMES):
            sys.stderr.write(f"\r{frame} {label} ")
            sys.stderr.flush()
            if done.wait(FRAME_S):
                break
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
