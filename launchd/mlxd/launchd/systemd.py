"""The systemd user units: loads, starts and removes them through `systemctl --user`."""

from __future__ import annotations

from pathlib import Path

from mlxd.launchd.service import (
    ManagerUnreachable,
    Outcome,
    Runner,
    ServiceError,
    ServiceState,
    has_content,
    prepare,
    refused,
    remove,
    remove_common,
    write_file,
)
from mlxd.launchd.spec import ServiceSpec
from mlxd.launchd.units import SERVICE_UNIT, SOCKET_UNIT, service_unit, socket_unit

NO_BUS_HINT = (
    "systemd has no session for your user. Log in, not with su, or keep a session alive: "
    "loginctl enable-linger. To run without a service: mlxd start"
)


class SystemdService:
    """The units of one user."""

    manager = "systemd"

    def __init__(self, spec: ServiceSpec, units_dir: Path, runner: Runner) -> None:
        self._spec = spec
        self._units_dir = units_dir
        self._run = runner

    @property
    def unit_paths(self) -> tuple[Path, Path]:
        """Paths of the socket unit and the service unit."""
        return self._units_dir / SOCKET_UNIT, self._units_dir / SERVICE_UNIT

    def state(self) -> ServiceState:
        """Return the state of the units."""
        installed = all(path.exists() for path in self.unit_paths)
        if not installed:
            return ServiceState(self.manager, installed)
        return ServiceState(
            self.manager,
            installed,
            loaded=self._ask("is-active", "--quiet", SOCKET_UNIT),
            at_login=self._ask("is-enabled", "--quiet", SERVICE_UNIT),
            current=all(has_content(path, content) for path, content in self._contents())
            and has_content(self._spec.launcher, self._spec.launcher_text().encode()),
        )

    def check(self) -> None:
        """Check that systemd answers. Raises ManagerUnreachable."""
        self._systemctl("show-environment")

    def install(self) -> bool:
        """Write the files and listen. Return False if nothing had to change."""
        before = {path: path.read_bytes() for path in self.unit_paths if path.exists()}
        new_launcher = prepare(self._spec)
        new_units = [write_file(path, text, 0o644) for path, text in self._contents()]
        if not (new_launcher or any(new_units)) and self._is_as_wanted():
            return False
        try:
            self._load(listens_elsewhere=bool(before) and any(new_units))
        except ServiceError:
            self._restore(before)
            raise
        return True

    def _load(self, *, listens_elsewhere: bool) -> None:
        self._systemctl("daemon-reload")
        if listens_elsewhere:
            # An active socket unit keeps its old address, and cannot be restarted while a service
            # uses it.
            self._systemctl("stop", SOCKET_UNIT, SERVICE_UNIT)
        self._systemctl("enable", "--now", SOCKET_UNIT)
        if self._spec.at_login:
            self._systemctl("enable", "--now", SERVICE_UNIT)
        else:
            self._systemctl("disable", SERVICE_UNIT)

    def _contents(self) -> list[tuple[Path, bytes]]:
        socket_path, service_path = self.unit_paths
        return [
            (socket_path, socket_unit(self._spec).encode()),
            (service_path, service_unit(self._spec).encode()),
        ]

    def _is_as_wanted(self) -> bool:
        state = self.state()
        return state.loaded and state.at_login == self._spec.at_login

    def _restore(self, before: dict[Path, bytes]) -> None:
        """Restore the files after a failed installation."""
        if not before:
            remove([*self.unit_paths, *self._links()])
            remove_common(self._spec)
        for path, content in before.items():
            write_file(path, content, 0o644)

    def uninstall(self) -> bool:
        """Stop and disable the units, and remove their files."""
        had_units = any(path.exists() for path in self.unit_paths)
        if had_units:
            # One call, so that the socket cannot start the service again in between. It fails
            # without a session, but then nothing runs.
            self._run(("systemctl", "--user", "disable", "--now", SOCKET_UNIT, SERVICE_UNIT))
        removed = remove([*self.unit_paths, *self._links()])
        if had_units:
            self._run(("systemctl", "--user", "daemon-reload"))
        return remove_common(self._spec) or removed

    def _links(self) -> tuple[Path, Path]:
        """Return the links that `enable` creates. `disable` needs a session to remove them."""
        return (
            self._units_dir / "sockets.target.wants" / SOCKET_UNIT,
            self._units_dir / "default.target.wants" / SERVICE_UNIT,
        )

    def start(self) -> None:
        """Start the socket and the service, and wait until the service is ready."""
        self._systemctl("start", SOCKET_UNIT, SERVICE_UNIT)

    def stop(self) -> None:
        """Stop the service. The socket keeps listening."""
        self._systemctl("stop", SERVICE_UNIT)

    def _ask(self, *arguments: str) -> bool:
        return self._run(("systemctl", "--user", *arguments)).status == 0

    def _systemctl(self, *arguments: str) -> Outcome:
        command = ("systemctl", "--user", *arguments)
        outcome = self._run(command)
        if outcome.status != 0:
            if "bus" in outcome.output.lower():
                raise refused(command, outcome, NO_BUS_HINT, ManagerUnreachable)
            raise refused(command, outcome)
        return outcome
