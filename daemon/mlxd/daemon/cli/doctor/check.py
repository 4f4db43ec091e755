"""What a check gets to see, and what it reports."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mlxd.daemon.config import Config
from mlxd.launchd.service import Outcome, Service, run_command
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.paths import Paths

Verdict = Literal["ok", "warn", "fail"]
SEVERITY: dict[Verdict, int] = {"ok": 0, "warn": 1, "fail": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `next_step` is empty if there is nothing to do."""

    check: str
    verdict: Verdict
    detail: str
    next_step: str = ""
    summary: str = ""
    """What the single line says when every check passes."""

    def to_map(self) -> dict[str, Any]:
        """Return the finding for --json."""
        return {key: value for key, value in asdict(self).items() if key != "summary"}


@dataclass(frozen=True, slots=True)
class Machine:
    """What the checks examine. Tests replace the functions, which access the system."""

    paths: Paths
    config: Config
    config_error: MlxdError | None
    service: Service
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    platform: str = sys.platform
    uid: int = field(default_factory=os.getuid)
    run: Callable[[Sequence[str], Mapping[str, str]], Outcome] = run_command
    file_limits: Callable[[], tuple[int, int]] = field(
        default=lambda: resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    """The soft and the hard limit of open files."""
    free_bytes: Callable[[Path], int] = field(default=lambda path: shutil.disk_usage(path).free)
    total_memory_bytes: Callable[[], int] = field(
        default=lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )


Check = Callable[[Machine], Finding]
