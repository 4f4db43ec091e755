"""Every client refuses a relative MLXD_SOCKET, which would depend on the working folder."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from support import needs
from support.commands import BIN, runner
from support.neovim import neovim, neovims
from support.shells import KEYS, PROMPT, shell

RELATIVE = "run/mlxd.sock"
MESSAGE = f'MLXD_SOCKET must be an absolute path, not "{RELATIVE}".'
NEXT_STEP = "Set it to the whole path of the socket, or unset it."
EMACS = Path(__file__).resolve().parents[2] / "client" / "editors" / "emacs"
Environ = Mapping[str, str]


def command(program: str, *arguments: str) -> Callable[[dict[str, str], Path], str]:
    def refused(environ: dict[str, str], folder: Path) -> str:
        done = runner(environ, program)(*arguments)
        assert done.returncode == 6, done.stderr
        assert done.stdout == ""
        return done.stderr

    return refused


def library(environ: dict[str, str], folder: Path) -> str:
    code = (
        "from mlxd.client import Client\nfrom mlxd.protocol.errors import MlxdError\n"
        "try: Client()\nexcept MlxdError as error: print(error.message, error.hint)"
    )
    done = subprocess.run(
        [str(BIN / "python"), "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout


def shell_key(name: str) -> Callable[[dict[str, str], Path], str]:
    def refused(environ: dict[str, str], folder: Path) -> str:
        with shell(name, environ, folder) as screen:
            screen.wait_prompt(PROMPT)
            screen.send("list files by size")
            screen.wait("by size")
            screen.send(KEYS[name][0])
            return screen.wait(NEXT_STEP)

    return refused


def emacs(environ: dict[str, str], folder: Path) -> str:
    code = "(condition-case err (mlxd-socket-path) (user-error (princ (cadr err))))"
    done = subprocess.run(
        [needs.program("emacs"), "--batch", "-Q", "-L", str(EMACS), "-l", "mlxd", "--eval", code],
        env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def nvim(environ: dict[str, str], folder: Path) -> str:
    with neovim(environ, folder, next(iter(neovims().values()), None)) as editor:
        editor.command("Mlx hello")
        editor.wait(f"vim.api.nvim_exec('messages', true):find('{NEXT_STEP}', 1, true)")
        said = editor.lua("return vim.api.nvim_exec('messages', true)")
    assert isinstance(said, str)
    return said


CLIENTS = {
    "the fast path": command("mlx", "ask", "hello"),
    "the full program": command("mlx", "ps"),
    "mlxd": command("mlxd", "status"),
    "mlxd start": command("mlxd", "start"),
    "the Python library": library,
    "zsh": shell_key("zsh"),
    "bash": shell_key("bash"),
    "fish": shell_key("fish"),
    "Emacs": emacs,
    "Neovim": nvim,
}


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_refuses_a_relative_socket_with_the_same_message(
    client: str, environ: dict[str, str], tmp_path: Path
) -> None:
    said = CLIENTS[client]({**environ, "MLXD_SOCKET": RELATIVE}, tmp_path)
    words = " ".join(said.split())
    assert MESSAGE in words
    assert NEXT_STEP in words
