"""`mlxd install` and `uninstall`: a launchd agent on macOS, systemd user units on Linux."""

from __future__ import annotations

import os

import click

from mlxd.daemon import control, lock, starter
from mlxd.daemon.cli.failures import more
from mlxd.daemon.cli.http import check_extra
from mlxd.daemon.cli.lifecycle import stop_gently
from mlxd.daemon.cli.places import current_http_service, current_service
from mlxd.daemon.config import Config, load_config
from mlxd.daemon.config_edit import capture_environment
from mlxd.daemon.version import version
from mlxd.launchd.service import Service, ServiceError, remove
from mlxd.protocol.paths import Paths, resolve_paths


@click.command()
@click.option(
    "--at-login/--on-demand",
    "at_login",
    default=None,
    help="Start at login, or for the first request. [default: as before, or on demand]",
)
def install(at_login: bool | None) -> None:
    """Install mlxd as a service of your user.

    Copies proxies, HF_HOME and HF_ENDPOINT from this shell into config.toml, unless they are set
    there, because services do not see the shell. Run it again after an upgrade.
    """
    paths = resolve_paths()
    config = load_config(paths)
    if config.http:
        check_extra()
    service = current_service(paths)
    service.check()
    captured = capture_environment(paths.config_file, os.environ)
    if captured:
        click.echo(f"Copied into {paths.config_file}: {', '.join(captured)}", err=True)
    before = service.state()
    wanted = before.at_login if at_login is None else at_login
    made_room = not before.loaded and _make_room(paths)
    service = current_service(paths, at_login=wanted)
    try:
        changed = service.install()
    except ServiceError:
        if made_room:
            click.echo("Starting the daemon again without the service.", err=True)
            starter.start(paths, starter.run_in_foreground(), os.environ)
        raise
    when = "at login" if wanted else "for the first request"
    verb = "is now" if changed else "is already"
    click.echo(f"mlxd {verb} a {service.manager} service and starts {when}.", err=True)
    _renew(paths, service)
    _settle_http(config, paths)


def _settle_http(config: Config, paths: Paths) -> None:
    """Install the HTTP bridge if `http` is set, otherwise remove it."""
    bridge = current_http_service(paths)
    if config.http:
        bridge.install(config.http_port)
        more(f"The HTTP bridge listens at http://localhost:{config.http_port}")
    elif bridge.uninstall():
        more("Removed the HTTP bridge, because `http` is not set in config.toml.")


def _renew(paths: Paths, service: Service) -> None:
    """Restart a daemon of an earlier version. Its unit has not changed."""
    if not lock.is_held(paths.lock_file):
        return
    about = control.request(paths.socket, "hello", {"client": "mlxd install"})
    if about.get("version") != version():
        stop_gently(paths, resume=True)
        service.start()
        click.echo(f"Restarted: {about.get('version')} → {version()}", err=True)


def _make_room(paths: Paths) -> bool:
    """Stop a daemon that was started by hand and holds the socket of the service."""
    if not lock.is_held(paths.lock_file):
        return False
    click.echo("Stopping the running daemon. The service replaces it.", err=True)
    stop_gently(paths, resume=True)
    return True


@click.command()
def uninstall() -> None:
    """Remove the service. Keeps configuration, conversations, logs and models."""
    paths = resolve_paths()
    service = current_service(paths)
    current_http_service(paths).uninstall()
    if lock.is_held(paths.lock_file):
        if not service.state().installed:
            click.echo("mlxd is not installed as a service.", err=True)
            more("A daemon that was started by hand is running. Stop it: mlxd stop")
            return
        stop_gently(paths)
    remove([starter.start_lock(paths)])
    if service.uninstall():
        click.echo(f"Removed the {service.manager} service.", err=True)
        more(f"Kept: {paths.config_dir}, {paths.state_dir}, {paths.log_dir}")
    else:
        click.echo("mlxd is not installed as a service.", err=True)
