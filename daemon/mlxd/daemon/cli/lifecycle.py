"""`mlxd start`, `stop` and `restart`."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import click

from mlxd.daemon import control, home, lock, starter
from mlxd.daemon.cli.failures import more, say
from mlxd.daemon.cli.options import as_flags, setting_options
from mlxd.daemon.cli.places import current_service
from mlxd.daemon.config import Config, load_config
from mlxd.launchd.service import ManagerUnreachable, ServiceError
from mlxd.protocol.errors import DaemonUnreachable, InvalidParams, MlxdError, ShuttingDown
from mlxd.protocol.paths import Paths, resolve_paths

EXIT_MARGIN_S = 10.0
"""Time that the daemon gets after draining, while the engine writes its prefix cache."""

KILL_WAIT_S = 5.0


class StillRunning(MlxdError):
    """The daemon did not stop in time."""

    code = "still_running"
    exit_code = 7
    default_hint = "Wait and try again, or kill it: mlxd stop --force"


@click.command()
@setting_options
def start(**overrides: Any) -> None:
    """Start the daemon in the background, and wait until it answers.

    Does nothing if it is running. An installed service is started by its service manager, and
    takes its settings from config.toml only.
    """
    paths = resolve_paths()
    load_config(paths, overrides=overrides)  # report mistakes here, not in the log
    flags = as_flags(overrides)
    if _start(paths, flags):
        click.echo(f"mlxd is running at {paths.socket}", err=True)
    else:
        click.echo(f"mlxd is already running at {paths.socket}", err=True)
        if flags:
            more("It keeps its settings. Change them in config.toml, then: mlxd restart")


def _start(paths: Paths, flags: list[str]) -> bool:
    """Start the daemon, by the service manager if installed. Return False if it was running."""
    service = current_service(paths)
    if not service.state().installed:
        return starter.start(paths, starter.run_in_foreground(flags), os.environ).fresh
    if flags:
        raise click.UsageError(
            f"mlxd is a {service.manager} service and takes its settings from "
            f"{paths.config_file}, not from options."
        )
    if lock.is_held(paths.lock_file) and starter.answers(paths):
        return False
    try:
        service.start()
    except ManagerUnreachable as error:
        say(error.message, "Starting without the service.")
        # If the manager listens on the socket nevertheless, the first request starts the daemon.
        return starter.start(paths, starter.run_in_foreground(), os.environ).fresh
    if not starter.wait_until_answering(paths, control.ANSWER_TIMEOUT_S):
        raise starter.StartFailed(f"{service.manager} started mlxd, but it does not answer.")
    return True


@click.command()
@click.option("--force", is_flag=True, help="Kill it if it does not stop in time.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=None,
    metavar="SECONDS",
    help="Longest wait for running requests, in seconds.",
)
def stop(force: bool, timeout_s: float | None) -> None:
    """Stop the daemon after its running requests.

    New requests are refused meanwhile. Exits with 3 if no daemon is running.
    """
    paths = resolve_paths()
    drain_s = _config(paths).drain_s if timeout_s is None else timeout_s
    if not lock.is_held(paths.lock_file):
        raise home.elsewhere(paths) or DaemonUnreachable(f"No daemon is running at {paths.socket}.")
    stop_daemon(paths, drain_s, force=force)
    click.echo("mlxd has stopped.", err=True)
    service = current_service(paths)
    if service.state().loaded:
        more(f"{service.manager} starts it again for the next request.")
        more("To remove the service: mlxd uninstall")


def _config(paths: Paths) -> Config:
    """Return the configuration, or the default one, because the daemon can always be stopped."""
    try:
        return load_config(paths)
    except MlxdError:
        return Config()


def stop_daemon(
    paths: Paths,
    drain_s: float,
    *,
    force: bool,
    resume: bool = False,
    margin_s: float = EXIT_MARGIN_S,
) -> None:
    """Ask the daemon to stop, and wait until it has stopped. With `force`, kill it otherwise.

    With `resume`, the next daemon loads the models that are loaded now.

    Raises:
        StillRunning: it did not stop within `drain_s` and `margin_s`.
        DaemonUnreachable: nothing listens at its socket, and `force` is off.
    """
    try:
        # Daemons of earlier versions refuse the parameter `resume`.
        control.request(paths.socket, "shutdown", {"drain_s": drain_s, **_resume(resume)})
    except ShuttingDown:
        pass  # it is already stopping
    except DaemonUnreachable:
        if not force and lock.is_held(paths.lock_file):
            raise
    if lock.wait_released(paths.lock_file, drain_s + margin_s):
        return
    if not force:
        raise StillRunning(f"The daemon is still running after {drain_s + margin_s:.0f} s.")
    _stop_service(paths)
    kill(paths)


def _stop_service(paths: Paths) -> None:
    """Stop the service first, because its manager would restart a killed process."""
    service = current_service(paths)
    if service.state().loaded:
        with contextlib.suppress(ServiceError):
            service.stop()


def _resume(wanted: bool) -> dict[str, bool]:
    return {"resume": True} if wanted else {}


def stop_gently(paths: Paths, *, resume: bool = False, force: bool = False) -> None:
    """Stop the running daemon as `mlxd stop` does.

    With `resume`, the next daemon loads the models that are in memory now, unless the running one
    is of a version without that parameter.
    """
    drain_s = _config(paths).drain_s
    if resume:
        try:
            stop_daemon(paths, drain_s, force=force, resume=True)
            return
        except InvalidParams:
            pass
    stop_daemon(paths, drain_s, force=force)


def kill(paths: Paths) -> None:
    """Kill the process that holds the daemon's lock."""
    pid = lock.holder(paths.lock_file)
    if pid is None:
        if lock.is_held(paths.lock_file):
            raise StillRunning("The lock file does not name the daemon's process.")
        return
    os.kill(pid, signal.SIGKILL)
    if not lock.wait_released(paths.lock_file, KILL_WAIT_S):
        raise StillRunning(f"Process {pid} was killed but has not ended.")


@click.command()
@click.option("--force", is_flag=True, help="Kill it if it does not stop in time.")
def restart(force: bool) -> None:
    """Restart the daemon with the same models in memory.

    Running requests finish first.
    """
    paths = resolve_paths()
    load_config(paths)  # report mistakes before the running daemon is stopped
    if lock.is_held(paths.lock_file):
        stop_gently(paths, resume=True, force=force)
    _start(paths, [])
    click.echo(f"mlxd is running at {paths.socket}", err=True)
