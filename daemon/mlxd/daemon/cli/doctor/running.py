"""Checks of the daemon and its service."""

from __future__ import annotations

from typing import Any

from mlxd.daemon import control, limits, lock
from mlxd.daemon.cli.doctor.check import Finding, Machine
from mlxd.daemon.version import version

_FEW_FILES = 512


def daemon(machine: Machine) -> Finding:
    """Is the daemon running, and of this version?"""
    if not lock.is_held(machine.paths.lock_file):
        if machine.service.state().loaded:
            return Finding("daemon", "ok", "The service starts it for the first request")
        return Finding("daemon", "warn", "Not running", "Start it: mlxd start")
    about: dict[str, Any] = control.request(
        machine.paths.socket, "hello", {"client": "mlxd doctor", "version": version()}
    )
    theirs = str(about.get("version"))
    if theirs != version():
        detail = f"Version {theirs} is running, {version()} is installed"
        return Finding("daemon", "warn", detail, "Restart it: mlxd restart")
    return Finding("daemon", "ok", f"Version {theirs} is running at {machine.paths.socket}")


def service(machine: Machine) -> Finding:
    """Is the service installed and loaded?"""
    state = machine.service.state()
    name = f"{state.manager} service"
    if not state.installed:
        return Finding("service", "ok", f"Not installed as a {name}. Install it: mlxd install")
    if not state.loaded:
        return Finding("service", "warn", f"The {name} is not loaded", "Load it: mlxd install")
    if not state.current:
        detail = f"The {name} was installed by another version or another Python"
        return Finding("service", "warn", detail, "Update it: mlxd install")
    when = "at login" if state.at_login else "for the first request"
    return Finding("service", "ok", f"The {name} starts mlxd {when}")


def open_files(machine: Machine) -> Finding:
    """Can the daemon open enough files? It raises its own limit, so the shell's does not count."""
    limit = limits.reachable(*machine.file_limits())
    if limit >= _FEW_FILES:
        return Finding("open files", "ok", f"The daemon can open {limit}")
    more = "sudo launchctl limit maxfiles 8192 65536"
    if machine.platform != "darwin":
        more = "Raise the hard limit (nofile) in /etc/security/limits.conf, then log in again"
    return Finding("open files", "warn", f"The daemon can open {limit}, which is few", more)
