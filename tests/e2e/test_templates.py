"""`mlx ask -t`, `-p`, `-e` and `mlx templates`."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.commands import Run
from support.daemon_process import Daemon

SHIPPED = ("commit", "explain", "review", "shell", "summarise", "translate")


@pytest.fixture
def folder(daemon: Daemon) -> Path:
    path = Path(daemon.environ["MLXD_CONFIG_DIR"]) / "templates"
    path.mkdir(parents=True, exist_ok=True)
    return path


def test_templates_list_starts_with_the_shipped_templates(mlx: Run) -> None:
    listed = mlx("templates", "list").stdout
    assert [line.split()[0] for line in listed.splitlines()[1:]][: len(SHIPPED)] == list(SHIPPED)


def test_the_shell_template_answers_with_a_command(mlx: Run) -> None:
    done = mlx("ask", "-t", "shell", "list files by size")
    assert done.stdout == "ls -lS\n"


def test_a_user_template_sets_fields_system_prompt_and_options(mlx: Run, folder: Path) -> None:
    (folder / "loud.toml").write_text(
        'prompt = "Repeat after me: the {colour} {input}"\n'
        'system = "Answer in upper case."\n[options]\ntemperature = 0.0\n'
    )
    assert mlx("ask", "-t", "loud", "-p", "colour=red", "fox").stdout == "THE RED FOX\n"
    assert mlx("ask", "-t", "loud", "-p", "colour=red", stdin="fox").stdout == "THE RED FOX\n"
    said = mlx("ask", "-t", "loud", "-p", "colour=red", "-s", "Answer in lower case.", "fox")
    assert said.stdout == "the red fox\n"
    shown = mlx("templates", "show", "loud")
    assert "{colour}" in shown.stdout
    assert "(yours)" in mlx("templates", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["-t", "comit", "x"], "Did you mean commit"),
        (["-t", "translate", "x"], "-p language="),
        (["-t", "translate", "-p", "language=French", "-p", "a=b", "x"], "no field 'a'"),
        (["-t", "translate", "-p", "language", "x"], "NAME=VALUE"),
        (["-t", "bad", "x"], "templates edit bad"),
        (["-t", "unknown", "x"], "unknown key 'promt'"),
        (["-t", "option", "x"], "options.colour is not an option"),
        (["-t", "type", "x"], "options.top_k must be int"),
        (["-p", "a=b", "x"], "needs -t"),
        (["-t", "explain"], "needs input"),
    ],
)
def test_template_mistakes_are_reported_with_the_next_step(
    mlx: Run, folder: Path, arguments: tuple[str, ...], word: str
) -> None:
    (folder / "bad.toml").write_text("prompt = \n")
    (folder / "unknown.toml").write_text('promt = "x"\n')
    (folder / "option.toml").write_text('prompt = "x"\n[options]\ncolour = 1\n')
    (folder / "type.toml").write_text('prompt = "x"\n[options]\ntop_k = "many"\n')
    done = mlx("ask", *arguments)
    assert done.returncode in (2, 6)
    assert word in done.stderr
    assert done.stdout == ""


def test_a_placeholder_inside_a_field_value_is_not_expanded(mlx: Run, folder: Path) -> None:
    (folder / "echo.toml").write_text(
        'prompt = "Repeat after me: {a} fox"\n[options]\ntemperature = 0.0\n'
    )
    done = mlx("ask", "-t", "echo", "-p", "a={input}", "--json", "x")
    assert "Repeat after me" not in done.stderr
    assert done.returncode == 0


def test_ask_edit_opens_the_prompt_in_the_editor(mlx: Run, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/green/red/" "$1"\n')
    editor.chmod(0o755)
    done = mlx("ask", "-e", "--temp", "0", "Repeat after me: the green fox", EDITOR=str(editor))
    assert done.stdout == "the red fox\n"


def test_templates_edit_copies_a_shipped_template_for_the_user(
    mlx: Run, folder: Path, tmp_path: Path
) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/^description.*/description = \\"mine\\"/" "$1"\n')
    editor.chmod(0o755)
    assert mlx("templates", "edit", "review", EDITOR=str(editor)).returncode == 0
    assert "mine" in (folder / "review.toml").read_text()
    (folder / "review.toml").unlink()
    assert mlx("templates", "edit", "../x", EDITOR=str(editor)).returncode == 2
