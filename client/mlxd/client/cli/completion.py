"""`mlx completion`: what a shell needs to complete commands, options and names of models."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from mlxd.client.cli.template_files import names
from mlxd.client.cli.terminal import visible
from mlxd.protocol.errors import MlxdError

ANSWER_S = 0.5
"""Longest wait for the daemon, in seconds. A slower one completes nothing."""


@click.command(
    epilog="\b\nzsh, with ~/.zfunc in fpath:\n"
    "  mlx completion zsh > ~/.zfunc/_mlx\n"
    "bash 4.4 or newer, in ~/.bashrc:\n"
    '  eval "$(mlx completion bash)"\n'
    "fish:\n"
    "  mlx completion fish > ~/.config/fish/completions/mlx.fish\n"
)
@click.argument("shell", type=click.Choice(["zsh", "bash", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL."""
    from mlxd.client.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    # Not `source()`: bash's version is checked there by running it, which costs and may fail.
    script = kind(cli, {}, "mlx", "_MLX_COMPLETE")
    click.echo(script.source_template % script.source_vars())


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Return the models whose names start like this, or none if no daemon runs."""
    return [CompletionItem(name) for name in _names() if name.startswith(incomplete)]


def complete_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Let the shell complete a file's name."""
    return [CompletionItem(incomplete, type="file")]


def complete_conversations(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[Any]:
    """Return the last conversations whose ids start like this, each with its first question."""
    found = _answer("conversations.list", limit=50) or {"conversations": []}
    records = [one for one in found["conversations"] if one["id"].startswith(incomplete)]
    return [CompletionItem(one["id"], help=visible(one["title"])) for one in records]


def _names() -> list[str]:
    found = _answer("models.list")
    if found is None:
        return []
    return [*found["aliases"], *(record["name"] for record in found["models"])]


def _answer(method: str, **params: Any) -> dict[str, Any] | None:
    """Call a method of a running daemon. Return None if none runs, or if it is too slow."""
    from mlxd.client.sync import Client

    try:
        with Client(timeout=ANSWER_S) as client:
            result: dict[str, Any] = client.request(method, **params)
    except MlxdError:
        return None
    return result


def complete_templates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Return the templates whose names start like this."""
    return [CompletionItem(name) for name in sorted(names()) if name.startswith(incomplete)]


def complete_priorities(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Return the classes of priority that start like this."""
    from mlxd.protocol.methods import METHODS

    choices = METHODS["chat"].param("priority").choices
    return [CompletionItem(name) for name in choices if name.startswith(incomplete)]


def complete_presets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Return the presets whose names start like this."""
    from mlxd.client.fast.options import PRESETS

    return [CompletionItem(name) for name in PRESETS if name.startswith(incomplete)]
