"""Every client finds the same socket in the same environment, on Linux and on macOS.

`protocol/golden/socket.json` has the environments and the expected paths. A leading `~` stands for
the home directory in the user database. The JavaScript client's own tests read the same file.
"""

from __future__ import annotations

import json
import os
import pwd
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxd.protocol.paths import RelativePath, derive_paths
from support import needs
from support.neovim import neovim

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "protocol" / "golden" / "socket.json"
VARIABLES = ["HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "MLXD_SOCKET", "MLXD_STATE_DIR"]
ACCOUNT_HOME = pwd.getpwuid(os.getuid()).pw_dir

Case = dict[str, Any]


def golden() -> list[Case]:
    cases: list[Case] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return cases


def expected(case: Case) -> str:
    if "relative" in case:
        return "refused"
    socket: str = case["socket"]
    return os.path.normpath(ACCOUNT_HOME + socket[1:] if socket.startswith("~") else socket)


def python(cases: list[Case], folder: Path) -> list[str]:
    found = []
    for case in cases:
        environ = case["environ"]
        try:
            paths = derive_paths(environ, case["platform"], environ.get("HOME") or ACCOUNT_HOME)
            found.append(str(paths.socket))
        except RelativePath:
            found.append("refused")
    return found


def output(*command: str) -> list[str]:
    done = subprocess.run(
        command, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


FAST = """
import json, posix, sys
sys.path.insert(0, sys.argv[1])
import text
for case in json.loads(sys.argv[2]):
    posix.environ.clear()
    for name, value in case["environ"].items():
        posix.environ[name.encode()] = value.encode()
    try:
        print(text.socket_path(case["platform"]).decode())
    except OSError:
        print("refused")
"""


def fast_path(cases: list[Case], folder: Path) -> list[str]:
    fast = str(ROOT / "client" / "mlxd" / "client" / "fast")
    return output(sys.executable, "-I", "-S", "-c", FAST, fast, json.dumps(cases))


def zsh(cases: list[Case], folder: Path) -> list[str]:
    lines = [
        f"source {shlex.quote(str(ROOT / 'client' / 'shell' / 'mlxd.zsh'))} 2>/dev/null",
        "_mlxd_say() { : }",
    ]
    for case in cases:
        system = {"linux": "linux-gnu", "darwin": "darwin25.0"}[case["platform"]]
        given = [f"{name}={shlex.quote(value)}" for name, value in case["environ"].items()]
        own = "; ".join([f"unset {' '.join(VARIABLES)}", f"OSTYPE={system}", *given])
        lines.append(f"( {own}; _mlxd_socket && print -r -- $REPLY || print refused )")
    script = folder / "cases.zsh"
    script.write_text("\n".join(lines), encoding="utf-8")
    return output(needs.program("zsh"), "-f", str(script))


EMACS = """
(dolist (one (append (json-parse-string (getenv "CASES") :object-type 'alist) nil))
  (let ((process-environment
         (mapcar (lambda (pair) (format "%s=%s" (car pair) (cdr pair))) (alist-get 'environ one)))
        (system-type (if (equal (alist-get 'platform one) "darwin") 'darwin 'gnu/linux)))
    (princ (format "%s\\n" (condition-case nil (mlxd-socket-path) (user-error "refused"))))))
"""


def emacs(cases: list[Case], folder: Path) -> list[str]:
    package = ROOT / "client" / "editors" / "emacs"
    script = folder / "cases.el"
    script.write_text(EMACS.replace('(getenv "CASES")', json.dumps(json.dumps(cases))))
    command = ["-Q", "--batch", "-L", str(package), "-l", "mlxd", "-l", str(script)]
    return output(needs.program("emacs"), *command)


NEOVIM = """
local cases, variables = ...
local real, found = vim.fn.has, {}
for _, case in ipairs(cases) do
  for _, name in ipairs(variables) do vim.env[name] = case.environ[name] end
  vim.fn.has = function(what)
    return what == 'mac' and (case.platform == 'darwin' and 1 or 0) or real(what)
  end
  local path = require('mlxd.client').socket_path()
  table.insert(found, path:sub(1, 1) == '/' and path or 'refused')
end
return found
"""


def nvim(cases: list[Case], folder: Path) -> list[str]:
    with neovim({"PATH": os.environ["PATH"], "HOME": str(folder)}, folder) as editor:
        found: list[str] = editor.lua(NEOVIM, cases, VARIABLES)
    return found


CLIENTS: dict[str, Callable[[list[Case], Path], list[str]]] = {
    "Python": python,
    "the fast path": fast_path,
    "zsh": zsh,
    "Emacs": emacs,
    "Neovim": nvim,
}


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_finds_the_same_socket_on_linux_and_macos(client: str, tmp_path: Path) -> None:
    cases = golden()
    found = CLIENTS[client](cases, tmp_path)
    assert len(found) == len(cases)
    wrong = [
        (case, path)
        for case, path in zip(cases, found, strict=True)
        if os.path.normpath(path) != expected(case)
    ]
    assert not wrong


def test_on_macos_no_folder_follows_the_xdg_variables() -> None:
    names = ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"]
    xdg = dict.fromkeys([*names, "XDG_CACHE_HOME", "XDG_LOG_HOME"], "/x")
    paths = derive_paths(xdg, "darwin", "/Users/u")
    assert paths == derive_paths({}, "darwin", "/Users/u")
    support = Path("/Users/u/Library/Application Support/mlxd")
    assert {paths.config_dir, paths.state_dir, paths.data_dir, paths.socket.parent} == {support}
    assert paths.cache_dir == Path("/Users/u/Library/Caches/mlxd")
    assert paths.log_dir == Path("/Users/u/Library/Logs/mlxd")
    on_linux = derive_paths(xdg, "linux", "/home/u")
    assert {on_linux.config_dir, on_linux.state_dir, on_linux.cache_dir} == {Path("/x/mlxd")}
    assert on_linux.log_dir == Path("/x/mlxd/log")
