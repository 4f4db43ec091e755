"""`mlx chat`: the command and its options."""

from __future__ import annotations

from typing import Any

import click

from mlxd.client.cli.chat.repl import Repl
from mlxd.client.cli.chat.session import Session
from mlxd.client.cli.options import given, shared_options
from mlxd.client.cli.sections import Sectioned
from mlxd.client.fast.options import long_flags

NOT_IN_CHAT = ("template", "param", "edit", "events", "n", "logprobs", "copy")


@click.command(
    cls=Sectioned,
    without=NOT_IN_CHAT,
    epilog="\b\nExamples:\n"
    "  mlx chat\n"
    "  mlx chat -c                          Continue the last conversation\n"
    '  mlx chat -s "You are terse." -f main.py\n\n'
    "Inside: /help shows the commands. Ctrl-C stops an answer, Ctrl-D leaves.\n",
)
@shared_options
def chat(**values: Any) -> int:
    """Chat with a model. The conversation lasts until you clear it or leave."""
    return run(given(values))


def run(values: dict[str, Any]) -> int:
    """Chat until the user leaves. Return the exit code.

    Raises:
        click.UsageError: an option cannot be used in a chat.
    """
    check_options(values)
    Repl(Session(values)).run()
    return 0


def check_options(values: dict[str, Any]) -> None:
    """Refuse options that cannot be used in a chat."""
    for name in NOT_IN_CHAT:
        if name in values:
            raise click.UsageError(
                f"{long_flags()[name]} cannot be used in a chat. "
                "Use it with mlx ask, then continue: mlx chat -c"
            )
    if "-" in values.get("file", []):
        raise click.UsageError(
            "-f - cannot be used in a chat, which reads your messages from stdin."
        )
