"""The checks of `mlxd doctor`, in the order of `mlxd doctor --all`."""

from __future__ import annotations

from mlxd.daemon.cli.doctor import places, running, software
from mlxd.daemon.cli.doctor.check import Check

CHECKS: dict[str, Check] = {
    "packages": software.packages,
    "backend": software.backend,
    "memory": software.memory,
    "configuration": places.configuration,
    "socket": places.socket_folder,
    "open files": running.open_files,
    "daemon": running.daemon,
    "service": running.service,
    "default model": places.default_model,
    "models": places.models,
    "other tools": places.other_tools,
    "conversations": places.conversations,
    "disk": places.disk,
    "crashes": places.crashes,
}
"""Each check by the name of its finding."""
