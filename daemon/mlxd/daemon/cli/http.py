"""`mlxd http`: the HTTP bridge in the foreground, as launchd and systemd run it."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
from typing import Any

import click

from mlxd.daemon.config import load_config
from mlxd.daemon.isolation import python_command
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.paths import resolve_paths


class ExtraMissing(MlxdError):
    """The packages of the bridge are not installed."""

    code = "extra_missing"
    default_hint = "Install them: pip install 'mlxd[http]'"


def check_extra() -> None:
    """Check that the packages of the bridge are installed. Raises ExtraMissing."""
    if importlib.util.find_spec("h11") is None:
        raise ExtraMissing("The HTTP bridge needs packages that are not installed.")


def _addresses(
    _ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    for one in given:
        try:
            ipaddress.ip_address(one)
        except ValueError:
            raise click.BadParameter(f"{one!r} is not an IP address") from None
    return given


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port.  [default: 6593]")
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    callback=_addresses,
    help="Listen at this IP address instead of 127.0.0.1 and ::1. Repeatable.",
)
@click.option("--i-know", is_flag=True, help="Allow --listen with addresses of the network.")
@click.option(
    "--unix-socket",
    metavar="PATH",
    type=click.Path(dir_okay=False),
    help="Listen at this Unix socket too.",
)
@click.option(
    "--host-name",
    multiple=True,
    metavar="NAME",
    help="Serve requests for this host name too, as from a proxy. Repeatable.",
)
@click.option(
    "--origin", multiple=True, metavar="ORIGIN", help="Allow web pages of this origin. Repeatable."
)
@click.option(
    "--require-key",
    is_flag=True,
    help="Serve whoever has the API key, not this user only. For proxies.",
)
@click.option("--show-key", is_flag=True, help="Print the API key and exit.")
def http(i_know: bool, **given: Any) -> None:
    """Serve the models over HTTP, in the dialects of OpenAI, Anthropic and Ollama.

    Only programs of your user on this machine can connect. Starts the daemon if necessary.
    Started by launchd or systemd, it uses the sockets that they pass.
    """
    config = load_config(resolve_paths())
    if given["port"] is None:
        given["port"] = config.http_port
    given["host_name"] += config.http_hosts
    given["origin"] += config.http_origins
    check_extra()
    outside = [one for one in given["listen"] if not ipaddress.ip_address(one).is_loopback]
    if outside and not i_know:
        raise click.UsageError(
            f"{outside[0]} can be reached from the network. mlxd has no TLS: put a proxy with TLS "
            "in front of it, and repeat the command with --i-know."
        )
    if outside:
        click.echo(
            f"mlxd: {outside[0]} can be reached from the network, without TLS. "
            "Every request needs the API key.",
            err=True,
        )
    command = [*python_command("mlxd.http"), *_as_arguments(given)]
    os.execv(command[0], command)


def _as_arguments(given: dict[str, Any]) -> list[str]:
    arguments: list[str] = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        values = value if isinstance(value, tuple) else (value,)
        for one in values:
            if one is True:
                arguments.append(flag)
            elif one is not None and one is not False:
                arguments.append(f"{flag}={one}")
    return arguments
