"""The help texts: every option in its section, none that is refused, nothing too wide."""

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


ALL = dict([*commands(cli, "mlx"), *commands(daemon_cli, "mlxd")])


def help_of(path: str, columns: int = 80) -> str:
    ctx = click.Context(ALL[path], info_name=path, terminal_width=columns,
                        max_content_width=columns, help_option_names=["-h", "--help"])  # fmt: skip
    return ALL[path].get_help(ctx)


@pytest.mark.parametrize("columns", [50, 80])
def test_the_list_of_commands_is_cut_nowhere(columns: int) -> None:
    text = " ".join(help_of("mlx", columns).split())
    for name, command in commands(cli, "mlx")[1:]:
        if name.count(" ") == 1:
            about = command.get_short_help_str(1000)
            assert f"{name.split()[1]} {about}" in text


def test_every_option_has_one_section() -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted({name for name, *_ in (*OPTIONS, *FILL_OPTIONS)})


@pytest.mark.parametrize("path", ALL)
def test_help_fits_80_columns_and_says_what_each_thing_is(path: str) -> None:
    text = help_of(path)
    assert max(map(len, text.splitlines())) <= 80
    assert ALL[path].get_short_help_str(200)
    for param in ALL[path].params:
        if isinstance(param, click.Option) and not param.hidden:
            assert param.help or param.name == "version", param.name


def test_defaults_are_those_of_the_protocol() -> None:
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
def test_what_has_no_meaning_is_not_listed(path: str, flags: tuple[str, ...]) -> None:
    for flag in flags:
        assert flag in help_of("mlx ask")
        assert flag not in help_of(path)


def test_a_question_and_its_kin_come_with_examples() -> None:
    for path in ("mlx", "mlx ask", "mlx generate", "mlx fill", "mlx chat", "mlx batch"):
        assert "mlx ask" in help_of(path) or f"  {path} " in help_of(path)
