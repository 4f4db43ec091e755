"""`mlxd start`, `stop` and `restart`."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import click

from mlxd.daemon import control, home, lock, starter
from mlxd.daemon.cli.options import as_flags, setting_options
from mlxd.daemon.cli.places import current_service
from mlxd.daemon.config import Config, load_config
from mlxd.launchd.service import ManagerUnreachable, ServiceError
from mlxd.protocol.errors import DaemonUnreachable, InvalidParams, MlxdError, ShuttingDown
from mlxd.protocol.paths import Paths, resolve_paths

EXIT_MARGIN_S = 10.0
"""What a daemon may take beyond draining: the engine writes its prefix cache."""

KILL_WAIT_S = 5.0


class StillRunning(MlxdError):
    """The daemon did not stop in time."""

    code = "still_running"
    exit_code = 7
    default_hint = "Wait and try again, or end it at once: mlxd stop --force"


@click.command()
@setting_options
def start(**overrides: Any) -> None:
    """Start the daemon in the background and wait until it answers.

    Does nothing where one runs. An installed service is started through its manager; then settings
    belong into config.toml.
    """
    paths = resolve_paths()
    load_config(paths, overrides=overrides)  # a mistake is better told here than in a log
    flags = as_flags(overrides)
    if _start(paths, flags):
        click.echo(f"mlxd is running at {paths.socket}", err=True)
    else:
        click.echo(f"mlxd was running already at {paths.socket}", err=True)
        if flags:
            click.echo("      Its settings are as before: mlxd restart", err=True)


def _start(paths: Paths, flags: list[str]) -> bool:
    """Start by the service manager where the service is installed; False: it ran already."""
    service = current_service(paths)
    if not service.state().installed:
        return starter.start(paths, starter.run_in_foreground(flags), os.environ).fresh
    if flags:
        raise click.UsageError(
            f"mlxd is installed as a {service.manager} service, which takes its settings from "
            f"{paths.config_file}, not from flags."
        )
    if lock.is_held(paths.lock_file) and starter.answers(paths):
        return False
    try:
        service.start()
    except ManagerUnreachable as error:
        click.echo(f"mlxd: {error.message}\n      Starting without the service.", err=True)
        # Where the manager listens on the socket after all, asking there is enough.
        return starter.start(paths, starter.run_in_foreground(), os.environ).fresh
    if not starter.wait_until_answering(paths, control.ANSWER_TIMEOUT_S):
        raise starter.StartFailed(f"{service.manager} started mlxd, and it does not answer.")
    return True


@click.command()
@click.option("--force", is_flag=True, help="Kill it where it does not stop in time.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=None,
    metavar="SECONDS",
    help="How long running requests may take.",
)
def stop(force: bool, timeout_s: float | None) -> None:
    """Stop the daemon once running requests are finished.

    New ones are refused meanwhile.

    Exits with 3 where no daemon runs.
    """
    paths = resolve_paths()
    drain_s = _config(paths).drain_s if timeout_s is None else timeout_s
    if not lock.is_held(paths.lock_file):
        raise home.elsewhere(paths) or DaemonUnreachable(f"No daemon is running at {paths.socket}.")
    stop_daemon(paths, drain_s, force=force)
    click.echo("mlxd has stopped.", err=True)
    service = current_service(paths)
    if service.state().loaded:
        click.echo(
            f"      The {service.manager} service starts it again for the next request; "
            "to end that: mlxd uninstall",
            err=True,
        )


def _config(paths: Paths) -> Config:
    """A damaged file must not keep anybody from stopping the daemon."""
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
    """Ask the daemon to stop, wait until it has; kill it after that if `force`.

    With `resume` the next one loads the models that are in memory now.

    Raises:
        StillRunning: it did not stop in `drain_s` and `margin_s`.
        DaemonUnreachable: it does not listen to anybody, and `force` is off.
    """
    try:
        # A daemon of an earlier version knows no `resume`, so it is named only where it is wanted.
        control.request(paths.socket, "shutdown", {"drain_s": drain_s, **_resume(resume)})
    except ShuttingDown:
        pass  # somebody else asked first
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
    """A process that is merely killed is a crash to its manager, which starts it again."""
    service = current_service(paths)
    if service.state().loaded:
        with contextlib.suppress(ServiceError):
            service.stop()


def _resume(wanted: bool) -> dict[str, bool]:
    return {"resume": True} if wanted else {}


def stop_gently(paths: Paths, *, resume: bool = False, force: bool = False) -> None:
    """Stop the running daemon as `mlxd stop` does.

    With `resume` the next one loads what is in memory now, if this one is not too old to know how.
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
    """Kill the process that holds the daemon's lock, and only that one."""
    pid = lock.holder(paths.lock_file)
    if pid is None:
        if lock.is_held(paths.lock_file):
            raise StillRunning("The daemon's lock does not say which process it is.")
        return
    os.kill(pid, signal.SIGKILL)
    if not lock.wait_released(paths.lock_file, KILL_WAIT_S):
        raise StillRunning(f"Process {pid} was killed and is still there.")


@click.command()
@click.option("--force", is_flag=True, help="Kill it where it does not stop in time.")
def restart(force: bool) -> None:
    """Start the daemon anew, with the same models in memory.

    Running requests are finished first.
    """
    paths = resolve_paths()
    load_config(paths)  # a mistake is told before the daemon is stopped that runs without it
    if lock.is_held(paths.lock_file):
        stop_gently(paths, resume=True, force=force)
    _start(paths, [])
    click.echo(f"mlxd is running at {paths.socket}", err=True)
