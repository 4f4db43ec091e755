"""`mlx shell-init`: key bindings for shells, and a Git hook."""

from __future__ import annotations

from pathlib import Path

import click

FILES = {"zsh": "mlxd.zsh", "bash": "mlxd.bash", "fish": "mlxd.fish", "git": "prepare-commit-msg"}
PLACES = (Path(__file__).parents[1] / "shell", Path(__file__).parents[3] / "shell")
"""Their folder in an installation, and in the repository."""


@click.command(
    "shell-init",
    epilog='\b\neval "$(mlx shell-init zsh)"     in ~/.zshrc; bash likewise in ~/.bashrc\n'
    "mlx shell-init fish | source     in ~/.config/fish/config.fish\n"
    "mlx shell-init git > .git/hooks/prepare-commit-msg\n",
)
@click.argument("shell", type=click.Choice([*FILES]))
def shell_init(shell: str) -> None:
    """Print shell key bindings, or a Git hook."""
    folder = next(place for place in PLACES if place.is_dir())
    click.echo((folder / FILES[shell]).read_text(encoding="utf-8"), nl=False)
