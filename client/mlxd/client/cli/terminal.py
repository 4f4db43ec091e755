"""What a person sees: stdout for the answer, stderr for the rest, decoration for terminals only."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
from collections.abc import Iterator

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
FRAME_S = 0.08
_VISIBLE = {code: 0x2400 + code for code in range(32) if code not in (9, 10)}
_VISIBLE[127] = 0x2421
_VISIBLE.update(dict.fromkeys(range(128, 160), 0xFFFD))


def visible(text: str) -> str:
    """Return text whose control characters can be seen, and do nothing to a terminal."""
    return text.translate(_VISIBLE)


def decorated() -> bool:
    """Whether stderr is a terminal that wants decoration."""
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def tell(text: str) -> None:
    """Say something beside the answer."""
    print(text, file=sys.stderr, flush=True)


def write(text: str) -> None:
    """Print a part of the answer at once."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


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
