"""The stderr files of processes: limited in size, private, and without prompts."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from pathlib import Path
from traceback import extract_tb
from types import TracebackType


def open_for_append(path: Path, max_bytes: int) -> int:
    """Return a descriptor that appends to `path` and can be read.

    A file that is too long is emptied first.

    If the file cannot be opened (the folder is read-only or belongs to another user), return an
    anonymous file, so that the process starts. Its text is lost when the process ends.
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


def error_summary(exc: BaseException) -> str:
    """Return the type and location of an exception, without its message, which may quote a
    prompt."""
    kind = type(exc).__name__
    number = getattr(exc, "errno", None)
    if isinstance(exc, OSError) and number is not None:
        kind += f" {number}"
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in extract_tb(exc.__traceback__)]
    return f"{kind} in {', '.join(reversed(places))}" if places else kind


def report(*parts: object) -> None:
    """Print a line to stderr. Never raises.

    stderr is usually a file. If the disk is full, the line is lost, and the process continues.
    """
    with contextlib.suppress(OSError, ValueError):
        print(*parts, file=sys.stderr, flush=True)


def hide_error_messages() -> None:
    """Report uncaught exceptions of this process by type and location only."""

    def hook(_: object, exc: BaseException | None, __: TracebackType | None = None) -> None:
        report("Unexpected:", error_summary(exc) if exc else "")

    sys.excepthook = hook
    threading.excepthook = lambda args: hook(None, args.exc_value)
    sys.unraisablehook = lambda args: hook(None, args.exc_value)


def disable_core_dumps() -> None:
    """Disable core dumps, also for child processes, because a dump would contain prompts."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
