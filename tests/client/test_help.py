"""Help texts: every option in its section, no refused options, at most 80 columns."""

from __future__ import annotations

import click
import pytest

from mlxd.client.cli import cli
from mlxd.client.cli.sections import SECTIONS
from mlxd.client.fast.options import FILL_OPTIONS, OPTIONS
from mlxd.daemon.cli import cli as daemon_cli


def commands(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner is not None
            found += commands(inner, f"{path} {name}")
    return found


ALL_COMMANDS = dict([*commands(cli, "mlx"), *commands(daemon_cli, "mlxd")])


def help_of(path: str, columns: int = 80) -> str:
    ctx = click.Context(ALL_COMMANDS[path], info_name=path, terminal_width=columns,
                        max_content_width=columns, help_option_names=["-h", "--help"])  # fmt: skip
    return ALL_COMMANDS[path].get_help(ctx)


@pytest.mark.parametrize("columns", [50, 80])
def test_the_command_list_is_not_truncated(columns: int) -> None:
    text = " ".join(help_of("mlx", columns).split())
    for name, command in commands(cli, "mlx")[1:]:
        if name.count(" ") == 1:
            about = command.get_short_help_str(1000)
            assert f"{name.split()[1]} {about}" in text


def test_every_option_is_in_one_help_section() -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted({name for name, *_ in (*OPTIONS, *FILL_OPTIONS)})


@pytest.mark.parametrize("path", ALL_COMMANDS)
def test_help_fits_into_80_columns_and_describes_every_option(path: str) -> None:
    text = help_of(path)
    assert max(map(len, text.splitlines())) <= 80
    assert ALL_COMMANDS[path].get_short_help_str(200)
    for param in ALL_COMMANDS[path].params:
        if isinstance(param, click.Option) and not param.hidden:
            assert param.help or param.name == "version", param.name


def test_help_shows_the_defaults_of_the_protocol() -> None:
    text = " ".join(help_of("mlx ask").split())
    assert "Randomness; 0 is greedy. [0.7]" in text
    assert "this mass. [0.95]" in text
    assert "Maximum number of tokens. [512]" in text


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        ("mlx fill", ("--system", "--continue", "--template", "--file", "--think", "--no-log")),
        ("mlx chat", ("--template", "--edit", "--logprobs", "--stream")),
        ("mlx batch", ("--file", "--continue", "--json", "--plain", "--no-log")),
    ],
)
def test_help_omits_options_that_the_command_refuses(path: str, flags: tuple[str, ...]) -> None:
    for flag in flags:
        assert flag in help_of("mlx ask")
        assert flag not in help_of(path)


def test_help_of_request_commands_contains_examples() -> None:
    for path in ("mlx", "mlx ask", "mlx generate", "mlx fill", "mlx chat", "mlx batch"):
        assert "mlx ask" in help_of(path) or f"  {path} " in help_of(path)
