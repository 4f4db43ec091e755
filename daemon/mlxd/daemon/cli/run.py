"""`mlxd run`: the daemon in the foreground, as launchd, systemd and `mlxd start` run it."""

from __future__ import annotations

import os
from typing import Any

import click

from mlxd.daemon.cli.options import setting_options


@click.command()
@click.option("--check", is_flag=True, help="Check the configuration and exit.")
@setting_options
def run(check: bool, **overrides: Any) -> int:
    """Run the daemon in the foreground.

    Started by launchd or systemd, it uses the socket that they pass.
    """
    from mlxd.daemon import starter
    from mlxd.daemon.config import load_config
    from mlxd.daemon.front.app import serve
    from mlxd.launchd import activation
    from mlxd.protocol.paths import resolve_paths

    starter.keep_from_children(os.environ)
    paths = resolve_paths()
    config = load_config(paths, overrides=overrides)
    if check:
        click.echo(f"The configuration is valid. mlxd would listen at {paths.socket}", err=True)
        return 0
    os.environ.update(config.process_environment(os.environ))

    def tell_ready() -> None:
        activation.notify("READY=1", os.environ)
        starter.tell_ready(os.environ)

    sockets = activation.adopt_sockets(os.environ)
    return serve(config, paths, listen_sockets=sockets, on_ready=tell_ready)
