"""What a person sees: stdout for the answer, stderr for the rest, decoration for terminals only."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mlxd.client.fast import text as fast_text

if TYPE_CHECKING:
    from mlxd.client.cli.markdown import MarkdownStream

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
FRAME_S = 0.08


def visible(text: str) -> str:
    """Return text whose control characters can be seen, and do nothing to a terminal."""
    return str(fast_text.visible(text))


def decorated() -> bool:
    """Whether stderr is a terminal that wants decoration."""
    return sys.stderr.isatty() and coloured()


def coloured() -> bool:
    """Whether the environment wants colours (no-color.org)."""
    return bool(fast_text.coloured())


def tell(text: str) -> None:
    """Say something beside the answer."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    text = json.dumps(value, ensure_ascii=False)
    print(visible(text) if sys.stdout.isatty() else text, flush=True)


def write(text: str) -> None:
    """Print a part of the answer at once."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


class Answer:
    """An answer on stdout as it comes: Markdown on a terminal that wants it, else plain."""

    def __init__(self, *, plain: bool = False) -> None:
        self._last = ""
        self._rendered: MarkdownStream | None = None
        if not plain and sys.stdout.isatty() and coloured():
            from mlxd.client.cli.markdown import MarkdownStream

            self._rendered = MarkdownStream()

    def write(self, text: str) -> None:
        """Print a part."""
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
    """Show that something goes on, while the block runs."""
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
