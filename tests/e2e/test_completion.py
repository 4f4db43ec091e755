"""Completion in real shells, with the names of the installed models."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support import needs
from support.commands import BIN, Run, runner
from support.daemon_process import Daemon
from support.terminal import Terminal, terminal

PROMPT = "ready>"


def shell_program(shell: str) -> str:
    return needs.program(shell)


def environ(daemon: Daemon, tmp_path: Path) -> dict[str, str]:
    path = f"{BIN}:{daemon.environ['PATH']}"
    return {**daemon.environ, "PATH": path, "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("mlx ask -m po", {"pocket"}),
        ("mlx ask --preset c", {"code", "chat", "creative"}),
        ("mlx ask -t com", {"commit"}),
        ("mlx models r", {"rm"}),
        ("mlx unload po", {"pocket"}),
        ("mlx ask --max-t", {"--max-tokens"}),
    ],
)
def test_completion_offers_options_values_and_model_names(
    daemon: Daemon, words: str, wanted: set[str]
) -> None:
    mlx: Run = runner(daemon.environ)
    given = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    said = mlx(_MLX_COMPLETE="bash_complete", **given).stdout
    assert {line.partition(",")[2] for line in said.splitlines()} == wanted


def test_completion_starts_no_daemon(tmp_path: Path, daemon: Daemon) -> None:
    nowhere = {**daemon.environ, "MLXD_SOCKET": str(tmp_path / "s")}
    done = runner(nowhere)(_MLX_COMPLETE="bash_complete", COMP_WORDS="mlx load p", COMP_CWORD="2")
    assert (done.returncode, done.stdout.strip()) == (0, "")
    assert not (tmp_path / "s").exists()


def complete(screen: Terminal) -> None:
    screen.wait_prompt(PROMPT)
    screen.send("mlx load poc\t")
    screen.wait("mlx load pocket")
    screen.send("\r")
    screen.wait("pocket (")


def test_bash_completes_a_model(daemon: Daemon, tmp_path: Path) -> None:
    command = [shell_program("bash"), "--norc", "-i"]
    with terminal(command, {**environ(daemon, tmp_path), "PS1": PROMPT}) as screen:
        screen.wait_prompt(PROMPT)
        screen.send('eval "$(mlx completion bash)"\r')
        complete(screen)


def test_zsh_completes_a_model(daemon: Daemon, tmp_path: Path) -> None:
    rc = 'autoload -Uz compinit; compinit -u -D; eval "$(mlx completion zsh)"; PS1="ready>"\n'
    (tmp_path / ".zshrc").write_text(rc)
    with terminal([shell_program("zsh"), "-i"], environ(daemon, tmp_path)) as screen:
        complete(screen)


def test_fish_completes_a_model(daemon: Daemon, tmp_path: Path) -> None:
    script = 'mlx completion fish | source; complete -C "mlx load poc"'
    done = subprocess.run(
        [shell_program("fish"), "-c", script], env=environ(daemon, tmp_path), capture_output=True,
        text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["pocket"]
