"""The log: one JSON object per line, rotated, readable only by its owner, without user text."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROTATE_BYTES = 10 * 2**20
KEPT_FILES = 3

Log = Callable[..., None]


class PrivateRotatingFile(logging.handlers.RotatingFileHandler):
    """A rotating file with mode 0600. On a full disk lines are lost and the daemon continues."""

    def _open(self) -> Any:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")

    def reopen(self) -> None:
        """Open the file again. A program that rotates logs has moved it."""
        self.close()
        self.stream = self._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Drop the line, because there is no other place to report the error."""


def open_log(path: Path, level: str) -> logging.Logger:
    """Return a logger that writes to `path`, or discards lines if it cannot be written."""
    logger = logging.getLogger("mlxd")
    logger.setLevel(level.upper())
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handler = PrivateRotatingFile(path, maxBytes=ROTATE_BYTES, backupCount=KEPT_FILES)
    except OSError:
        logger.addHandler(logging.NullHandler())
        return logger
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    return logger


def writer(logger: logging.Logger) -> Log:
    """Return `log(event, level="info", **fields)`."""

    def log(event: str, level: str = "info", **fields: Any) -> None:
        number = logging.getLevelName(level.upper())
        if logger.isEnabledFor(number):
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
            line = {"time": stamp, "level": level, "event": event, **fields}
            logger.log(number, json.dumps(line, ensure_ascii=False, default=str))

    return log


def reopen(logger: logging.Logger) -> None:
    """Open the file again after another program moved it (SIGHUP)."""
    for handler in logger.handlers:
        if isinstance(handler, PrivateRotatingFile):
            handler.reopen()
