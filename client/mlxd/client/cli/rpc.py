"""`mlx rpc`: any method, for scripts and debugging."""

from __future__ import annotations

import json
from typing import Any

import click

from mlxd.client.cli.daemon import connect


@click.command(epilog='\b\nExamples:\n  mlx rpc status\n  mlx rpc tokenize \'{"text": "hello"}\'\n')
@click.argument("method")
@click.argument("params", default="{}", metavar="['{json}']")
@click.option(
    "--stream", is_flag=True, help="Print events as they arrive, one JSON object per line."
)
def rpc(method: str, params: str, stream: bool) -> None:
    """Call METHOD with JSON parameters and print the JSON result."""
    try:
        given = json.loads(params)
    except ValueError as exc:
        raise click.BadParameter(f"is not JSON: {exc}", param_hint="params") from exc
    if not isinstance(given, dict):
        raise click.BadParameter("must be a JSON object", param_hint="params")
    with connect() as client:
        answer = client.stream(method, given) if stream else None
        if answer is None:
            result = client.request(method, given)
        else:
            for event in answer:
                _print(event)
            result = answer.result
        _print(result)


def _print(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))
