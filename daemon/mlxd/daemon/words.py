"""What processes say outside of the log: bounded, private, without anybody's prompts."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from pathlib import Path
from traceback import extract_tb
from types import TracebackType


def append_to(path: Path, max_bytes: int) -> int:
    """Return a descriptor that appends to `path` and can be read, emptied first if too long.

    Where the file cannot be opened (a folder that is read-only, or of somebody else) it is one
    without a name: the words are lost with the process then, and it starts all the same.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, flags, 0o600)
    except OSError:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    if os.fstat(descriptor).st_size > max_bytes:
        os.ftruncate(descriptor, 0)
    return descriptor


def outline(exc: BaseException) -> str:
    """Return what failed where, without what was said: messages of errors quote their input."""
    kind = type(exc).__name__
    number = getattr(exc, "errno", None)
    if isinstance(exc, OSError) and number is not None:
        kind += f" {number}"
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in extract_tb(exc.__traceback__)]
    return f"{kind} in {', '.join(reversed(places))}" if places else kind


def keep_quiet() -> None:
    """From here on this process has prompts: what it fails of is said in outline."""

    def say(_: object, exc: BaseException | None, __: TracebackType | None = None) -> None:
        print("Unexpected:", outline(exc) if exc else "", file=sys.stderr, flush=True)

    sys.excepthook = say
    threading.excepthook = lambda args: say(None, args.exc_value)
    sys.unraisablehook = lambda args: say(None, args.exc_value)


def leave_no_core() -> None:
    """A core dump would hold the prompts in memory. What this process starts leaves none either."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
