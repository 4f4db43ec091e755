"""The launchd agent: loads, starts and removes it through `launchctl`.

The exit statuses below are those of launchctl's `bootstrap`, `bootout` and `kickstart`. The output
of `launchctl print` is not a stable interface, so only its exit status is used. `docs/macos.md` has
the sources.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path

from mlxd.launchd import LABEL
from mlxd.launchd.plist import agent_bytes, moved
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

RETRY_S = 0.5
GIVE_UP_S = 30.0
"""Longest wait for a job that was booted out. Longer than its ExitTimeOut."""

INPUT_OUTPUT_GIVE_UP_S = 5.0
"""Longest wait while `bootstrap` answers 5, which may also be there to stay."""

GONE = 3
INPUT_OUTPUT = 5
"""No reason given: the old job is leaving, the label is disabled, or the session is another."""
STILL_LEAVING = frozenset({INPUT_OUTPUT, 36, 37})
ALREADY_RUNNING = 37
NOT_REGISTERED = 113
DISABLED = 119
NO_DOMAIN = 125

NO_DOMAIN_HINT = (
    "launchd has no session for your user. Log in at the desktop or by ssh, not with su. "
    "To run without a service: mlxd start"
)

LOGIN_ITEMS_HINT = (
    "mlxd may be disabled. Allow it in System Settings, General, Login Items, "
    "and look for its name in: launchctl print-disabled {domain}"
)

_NOT_THERE = frozenset({GONE, NOT_REGISTERED})
_DISABLED_LINE = re.compile(rf'"{re.escape(LABEL)}" => (disabled|true)')


def domains_of(uid: int) -> tuple[str, str]:
    """Return the domain of a user's desktop session, and that of the user."""
    return f"gui/{uid}", f"user/{uid}"


def session_domain(run: Runner, uid: int) -> str:
    """Return the domain of the desktop session, or of the user if there is none (ssh).

    launchctl has several exit statuses for a domain that is not there.
    """
    gui, user = domains_of(uid)
    if run(("launchctl", "print", gui)).status == 0:
        return gui
    return user if run(("launchctl", "print", user)).status == 0 else gui


class LaunchdService:
    """The agent of one user. Tests replace `sleep` and `now`."""

    manager = "launchd"

    def __init__(
        self,
        spec: ServiceSpec,
        agents_dir: Path,
        uid: int,
        runner: Runner,
        *,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._plist = agents_dir / f"{LABEL}.plist"
        self._uid = uid
        self._run = runner
        self._sleep = sleep
        self._now = now

    @property
    def plist_path(self) -> Path:
        """Path of the property list."""
        return self._plist

    def state(self) -> ServiceState:
        """Return the state of the agent."""
        installed = self._plist.exists()
        if not installed:
            return ServiceState(self.manager, installed)
        at_login = b"RunAtLoad" in self._plist.read_bytes()
        loaded = self._domain_with_job() is not None
        return ServiceState(self.manager, installed, loaded, at_login, self._is_current(at_login))

    def _is_current(self, at_login: bool) -> bool:
        spec = dataclasses.replace(self._spec, at_login=at_login)
        return any(
            has_content(self._plist, agent_bytes(spec, domain)) for domain in self._domains()
        ) and has_content(spec.launcher, spec.launcher_text().encode())

    def check(self) -> None:
        """Check that launchd has a domain for this user. Raises ManagerUnreachable."""
        command = ("print", self._domain())
        outcome = self._launchctl(*command)
        if outcome.status != 0:
            raise refused(("launchctl", *command), outcome, NO_DOMAIN_HINT, kind=ManagerUnreachable)

    def install(self) -> bool:
        """Write the files and load the agent. Return False if nothing had to change."""
        before = self._plist.read_bytes() if self._plist.exists() else None
        domain = self._domain()
        new_launcher = prepare(self._spec)
        new_plist = write_file(self._plist, agent_bytes(self._spec, domain), 0o644)
        if not (new_launcher or new_plist) and self._domain_with_job() is not None:
            return False
        try:
            self._reload(domain)
        except ServiceError:
            self._restore(before)
            raise
        return True

    def _restore(self, before: bytes | None) -> None:
        """Restore the files after a failed installation."""
        if before is None:
            remove([self._plist])
            remove_common(self._spec)
        else:
            write_file(self._plist, before, 0o644)

    def _reload(self, domain: str) -> None:
        self._bootout()
        self._launchctl("enable", f"{domain}/{LABEL}")
        self._bootstrap(domain)

    def uninstall(self) -> bool:
        """Boot the agent out, wait until it has ended, and remove its files."""
        was_loaded = self._bootout()
        had_plist = remove([self._plist])
        had_files = remove_common(self._spec)
        return was_loaded or had_plist or had_files

    def start(self) -> None:
        """Start the agent, after loading it if necessary."""
        command, outcome = self._kickstart(self._domain_with_job() or self._loaded())
        if outcome.status == NOT_REGISTERED:  # it was booted out in the meantime
            command, outcome = self._kickstart(self._loaded())
        if outcome.status not in (0, ALREADY_RUNNING):
            raise self._refused(command, outcome)

    def _kickstart(self, domain: str) -> tuple[tuple[str, str], Outcome]:
        command = ("kickstart", f"{domain}/{LABEL}")
        return command, self._launchctl(*command)

    def _loaded(self) -> str:
        domain = self._domain()
        if self._plist.exists():
            write_file(self._plist, moved(self._plist.read_bytes(), domain), 0o644)
        return self._bootstrap(domain)

    def stop(self) -> None:
        """Send SIGTERM to the running agent. It stays loaded and starts on demand."""
        domain = self._domain_with_job()
        if domain is None:
            return
        command = ("kill", "SIGTERM", f"{domain}/{LABEL}")
        outcome = self._launchctl(*command)
        if outcome.status != 0 and outcome.status not in _NOT_THERE:
            raise self._refused(command, outcome)

    def _bootstrap(self, domain: str) -> str:
        """Load the agent. Returns the domain that has it."""
        command = ("bootstrap", domain, str(self._plist))
        began = self._now()
        while (outcome := self._launchctl(*command)).status in STILL_LEAVING:
            unclear = outcome.status == INPUT_OUTPUT
            if self._now() >= began + (INPUT_OUTPUT_GIVE_UP_S if unclear else GIVE_UP_S):
                break
            self._sleep(RETRY_S)
        if outcome.status == INPUT_OUTPUT and (found := self._load(domain)) is not None:
            return found
        if outcome.status != 0:
            raise self._refused(command, outcome)
        return domain

    def _load(self, domain: str) -> str | None:
        """Load the agent with `launchctl load`, which works on some Macs where `bootstrap` fails.

        It takes no domain but uses the caller's, and its exit status says nothing. An agent that
        the user disabled is left alone, since `-w` would enable it.
        """
        if self._is_disabled(domain):
            return None
        self._launchctl("load", "-w", str(self._plist))
        return self._domain_with_job()

    def _is_disabled(self, domain: str) -> bool:
        return _DISABLED_LINE.search(self._launchctl("print-disabled", domain).output) is not None

    def _bootout(self) -> bool:
        """Boot the agent out of every domain and wait, because `bootout` returns early."""
        found = False
        while (domain := self._domain_with_job()) is not None:
            found = True
            command = ("bootout", f"{domain}/{LABEL}")
            outcome = self._launchctl(*command)
            if outcome.status not in {0, *_NOT_THERE, *STILL_LEAVING}:
                raise self._refused(command, outcome)
            self._wait_until_gone(domain, outcome)
        return found

    def _wait_until_gone(self, domain: str, outcome: Outcome) -> None:
        give_up = self._now() + GIVE_UP_S
        while self._has_job(domain):
            if self._now() >= give_up:
                raise self._refused(("bootout", f"{domain}/{LABEL}"), outcome)
            self._sleep(RETRY_S)

    def _domain(self) -> str:
        return session_domain(self._run, self._uid)

    def _domains(self) -> tuple[str, str]:
        return domains_of(self._uid)

    def _domain_with_job(self) -> str | None:
        return next((domain for domain in self._domains() if self._has_job(domain)), None)

    def _has_job(self, domain: str) -> bool:
        return self._launchctl("print", f"{domain}/{LABEL}").status == 0

    def _launchctl(self, *arguments: str) -> Outcome:
        return self._run(("launchctl", *arguments))

    def _refused(self, command: tuple[str, ...], outcome: Outcome) -> ServiceError:
        hint, kind = "", ServiceError
        if outcome.status == NO_DOMAIN:
            hint, kind = NO_DOMAIN_HINT, ManagerUnreachable
        elif outcome.status == DISABLED:
            hint = "mlxd is disabled. Allow it in System Settings, General, Login Items."
        elif outcome.status == INPUT_OUTPUT and command[0] == "bootstrap":
            hint = LOGIN_ITEMS_HINT.format(domain=command[1])
        elif outcome.status in STILL_LEAVING:
            hint = "The old process is still ending. Try again in a minute."
        return refused(("launchctl", *command), outcome, hint, kind)
