"""`mlxd install` and `uninstall`: a launchd agent on macOS, systemd user units on Linux."""

from __future__ import annotations

import os

import click

from mlxd.daemon import control, lock, starter
from mlxd.daemon.cli.lifecycle import stop_gently
from mlxd.daemon.cli.places import current_service
from mlxd.daemon.config import load_config
from mlxd.daemon.config_edit import capture_environment
from mlxd.daemon.version import version
from mlxd.launchd.service import Service, ServiceError, remove
from mlxd.protocol.paths import Paths, resolve_paths


@click.command()
@click.option(
    "--at-login/--on-demand",
    "at_login",
    default=None,
    help="Start at login, or for the first request. [default: as installed before; on demand]",
)
def install(at_login: bool | None) -> None:
    """Install mlxd as a service of this user.

    Proxies, HF_HOME and HF_ENDPOINT are copied from this shell into config.toml, unless it sets
    them already: a service sees no shell. Installing again is harmless, and is how to upgrade.
    """
    paths = resolve_paths()
    load_config(paths)
    service = current_service(paths)
    service.check()
    captured = capture_environment(paths.config_file, os.environ)
    if captured:
        click.echo(f"Written into {paths.config_file}: {', '.join(captured)}", err=True)
    before = service.state()
    wanted = before.at_login if at_login is None else at_login
    made_room = not before.loaded and _make_room(paths)
    service = current_service(paths, at_login=wanted)
    try:
        changed = service.install()
    except ServiceError:
        if made_room:
            click.echo("The daemon that was stopped is started again.", err=True)
            starter.start(paths, starter.run_in_foreground(), os.environ)
        raise
    when = "at login" if wanted else "for the first request"
    verb = "is installed" if changed else "was installed already"
    click.echo(f"mlxd {verb} as a {service.manager} service and starts {when}.", err=True)
    _renew(paths, service)


def _renew(paths: Paths, service: Service) -> None:
    """After an upgrade the unit is the same and the process is old."""
    if not lock.is_held(paths.lock_file):
        return
    about = control.request(paths.socket, "hello", {"client": "mlxd install"})
    if about.get("version") != version():
        stop_gently(paths, resume=True)
        service.start()
        click.echo(f"It was restarted: {about.get('version')} → {version()}", err=True)


def _make_room(paths: Paths) -> bool:
    """A daemon started by hand holds the socket that the service is to listen on."""
    if not lock.is_held(paths.lock_file):
        return False
    click.echo("Stopping the running daemon; the service takes over.", err=True)
    stop_gently(paths, resume=True)
    return True


@click.command()
def uninstall() -> None:
    """Remove the service. Configuration, conversations, logs and models stay."""
    paths = resolve_paths()
    service = current_service(paths)
    if lock.is_held(paths.lock_file):
        if not service.state().installed:
            click.echo("mlxd was not installed as a service.", err=True)
            click.echo("      A daemon started by hand is running; to end it: mlxd stop", err=True)
            return
        stop_gently(paths)
    remove([starter.start_lock(paths)])
    if service.uninstall():
        click.echo(f"The {service.manager} service is gone.", err=True)
        click.echo(f"      Kept: {paths.config_dir}, {paths.state_dir}, {paths.log_dir}", err=True)
    else:
        click.echo("mlxd was not installed as a service.", err=True)
