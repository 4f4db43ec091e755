"""What both service managers have in common: verbs, outcomes, files, commands."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mlxd.launchd.spec import ServiceSpec
from mlxd.protocol.errors import MlxdError

COMMAND_TIMEOUT_S = 60.0


class ServiceError(MlxdError):
    """The service manager refused, or is not there. `data.exit_status` has its answer."""

    code = "service_failed"
    default_hint = "mlxd works without a service, too: mlxd start"


class ManagerUnreachable(ServiceError):
    """From here the service manager cannot be asked; it may well run for another session."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command of the service manager answered."""

    status: int
    output: str = ""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """Where the service stands. `current`: its files are what this installation would write."""

    manager: str
    installed: bool
    loaded: bool = False
    at_login: bool = False
    current: bool = True


Runner = Callable[[Sequence[str]], Outcome]


class Service(Protocol):
    """One service manager's way to keep mlxd."""

    @property
    def manager(self) -> str:
        """launchd or systemd."""
        ...

    def state(self) -> ServiceState:
        """Return where the service stands; changes nothing."""
        ...

    def check(self) -> None:
        """Ask the manager for a sign of life; changes nothing. Raises ManagerUnreachable."""
        ...

    def install(self) -> bool:
        """Write the files and load them; False where all was in place. Raises ServiceError."""
        ...

    def uninstall(self) -> bool:
        """Stop it and remove every file; False where there was nothing. Raises ServiceError."""
        ...

    def start(self) -> None:
        """Start the installed service. Raises ServiceError."""
        ...

    def stop(self) -> None:
        """Stop the process; the installation stays. Raises ServiceError."""
        ...


def run_command(command: Sequence[str], environ: Mapping[str, str] | None = None) -> Outcome:
    """Run a command and return its exit status and everything it said.

    `environ` is its environment; None: this process's own.

    Raises:
        ManagerUnreachable: there is no such program.
        ServiceError: it does not come to an end.
    """
    try:
        done = subprocess.run(
            [*command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            env=environ,
        )
    except FileNotFoundError as exc:
        raise ManagerUnreachable(f"There is no {command[0]} on this machine.") from exc
    except subprocess.TimeoutExpired as exc:
        raise ServiceError(
            f"`{' '.join(command)}` did not answer within {COMMAND_TIMEOUT_S:.0f} s."
        ) from exc
    return Outcome(done.returncode, done.stdout.decode(errors="replace").strip())


def refused(
    command: Sequence[str],
    outcome: Outcome,
    hint: str = "",
    kind: type[ServiceError] = ServiceError,
) -> ServiceError:
    """Return the error for a command that failed, with the words that it said."""
    words = f": {outcome.output}" if outcome.output else ""
    return kind(
        f"`{' '.join(command)}` failed with status {outcome.status}{words}",
        hint=hint,
        data={"exit_status": outcome.status},
    )


def write_file(path: Path, content: bytes, mode: int) -> bool:
    """Write a file whole or not at all; False where it has this content and mode already."""
    try:
        if path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
            return False
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return True


def prepare(spec: ServiceSpec) -> bool:
    """Make the folders and the launcher; False where the launcher was in place.

    launchd does not make a socket's folder, and would leave the log's to chance.
    """
    private = (spec.paths.socket.parent, spec.launcher.parent.parent, spec.paths.log_dir)
    for folder in private:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return write_file(spec.launcher, spec.launcher_text().encode(), 0o755)


def has_content(path: Path, content: bytes) -> bool:
    """Return whether the file at `path` is there with exactly this content."""
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def remove(paths: Sequence[Path]) -> bool:
    """Delete files that are there; returns whether any was."""
    removed = False
    for path in paths:
        if path.exists() or path.is_symlink():
            path.unlink()
            removed = True
    return removed


def remove_common(spec: ServiceSpec) -> bool:
    """Remove what every installation leaves beside its unit: launcher, socket, locks, crash log."""
    removed = remove(
        [
            spec.launcher,
            spec.paths.socket,
            spec.paths.lock_file,
            spec.crash_log,
        ]
    )
    for folder in (spec.launcher.parent, spec.paths.socket.parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return removed
