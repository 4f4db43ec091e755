"""What both service managers share: the interface, errors, files and commands."""

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
from mlxd.safesocket.folder import prepare_folder

COMMAND_TIMEOUT_S = 60.0


class ServiceError(MlxdError):
    """The service manager failed or does not exist. `data.exit_status` is its exit status."""

    code = "service_failed"
    default_hint = "mlxd also runs without a service: mlxd start"


class ManagerUnreachable(ServiceError):
    """The service manager cannot be reached from this session."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Exit status and output of a command."""

    status: int
    output: str = ""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """State of the service. `current`: its files are those that this version would write."""

    manager: str
    installed: bool
    loaded: bool = False
    at_login: bool = False
    current: bool = True


Runner = Callable[[Sequence[str]], Outcome]


class Service(Protocol):
    """A service manager."""

    @property
    def manager(self) -> str:
        """`launchd` or `systemd`."""
        ...

    def state(self) -> ServiceState:
        """Return the state of the service without changing it."""
        ...

    def check(self) -> None:
        """Check that the manager answers. Raises ManagerUnreachable."""
        ...

    def install(self) -> bool:
        """Write and load the files. Return False if nothing changed. Raises ServiceError."""
        ...

    def uninstall(self) -> bool:
        """Stop it and remove its files. Return False if there were none. Raises ServiceError."""
        ...

    def start(self) -> None:
        """Start the installed service. Raises ServiceError."""
        ...

    def stop(self) -> None:
        """Stop the process, but keep the installation. Raises ServiceError."""
        ...


def run_command(command: Sequence[str], environ: Mapping[str, str] | None = None) -> Outcome:
    """Run a command and return its exit status and output.

    `environ` is its environment. None means that of this process.

    Raises:
        ManagerUnreachable: the program does not exist.
        ServiceError: it does not end in time.
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
        raise ManagerUnreachable(f"{command[0]} does not exist on this machine.") from exc
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
    """Return the error for a command that failed, with its output."""
    output = f": {outcome.output}" if outcome.output else ""
    return kind(
        f"`{' '.join(command)}` failed with status {outcome.status}{output}",
        hint=hint,
        data={"exit_status": outcome.status},
    )


def write_file(path: Path, content: bytes, mode: int) -> bool:
    """Write a file atomically. Return False if it has this content and mode already."""
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
    """Create the folders and the launcher. Return False if the launcher existed.

    launchd creates neither the socket's folder nor the log's.

    Raises what `prepare_folder` raises.
    """
    prepare_folder(spec.paths)
    for folder in (spec.launcher.parent.parent, spec.paths.log_dir):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return write_file(spec.launcher, spec.launcher_text().encode(), 0o755)


def has_content(path: Path, content: bytes) -> bool:
    """Return whether the file at `path` exists with exactly this content."""
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def remove(paths: Sequence[Path]) -> bool:
    """Delete the files that exist. Return whether there were any."""
    removed = False
    for path in paths:
        if path.exists() or path.is_symlink():
            path.unlink()
            removed = True
    return removed


def remove_common(spec: ServiceSpec) -> bool:
    """Remove launcher, socket, lock and crash log, which every installation has."""
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
