"""`mlxd completion`: print a shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    epilog="\b\nzsh:   mlxd completion zsh > ~/.zfunc/_mlxd, where ~/.zfunc is in fpath\n"
    'bash:  eval "$(mlxd completion bash)" in ~/.bashrc (bash 4.4 or newer)\n'
    "fish:  mlxd completion fish > ~/.config/fish/completions/mlxd.fish\n"
)
@click.argument("shell", type=click.Choice(["zsh", "bash", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL."""
    from mlxd.daemon.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    # Not `source()`, which starts bash to read its version. That is slow and may fail.
    script = kind(cli, {}, "mlxd", "_MLXD_COMPLETE")
    click.echo(script.source_template % script.source_vars())
