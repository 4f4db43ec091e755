"""Ctrl-C at any moment between start and end of the interpreter: exit 130, no traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from support.commands import BIN
from support.places import own_environ
from support.waiting import until

LINES = {
    "fast": ("mlx", "ask", "hi"),
    "full": ("mlx", "rpc", "status"),
    "daemon": ("mlxd", "logs", "-f"),
}
SPREAD_S = 0.3
TIMES = {"fast": 40, "full": 12, "daemon": 12}
AT_ONCE = 4
SIGINT_BIT = 1 << (signal.SIGINT - 1)


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment whose daemon accepts connections and never answers."""
    folder = tmp_path_factory.mktemp("silent")
    found = own_environ(folder)
    del found["PYTHONPATH"]
    (folder / "log").mkdir()
    (folder / "log" / "mlxd.log").write_text("")
    Path(found["MLXD_SOCKET"]).parent.mkdir(mode=0o700)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(found["MLXD_SOCKET"])
    listener.listen(200)
    yield found
    listener.close()


def sigint_blocked(process: subprocess.Popen[bytes]) -> bool:
    """Return whether the launcher has blocked SIGINT, or has already unblocked it.

    Before that the process is the shell, which SIGINT ends, or an interpreter that is starting.
    For two or three milliseconds Python handles the signal before our code runs.
    """
    folder = Path(f"/proc/{process.pid}")
    try:
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        handed_over = b"mlxd." in (folder / "cmdline").read_bytes()
        connected = any("socket:" in os.readlink(file) for file in (folder / "fd").iterdir())
    except OSError:
        return process.poll() is not None
    return bool(int(status["SigBlk"], 16) & SIGINT_BIT) or handed_over or connected


def wait_at_most(process: subprocess.Popen[bytes], delay_s: float) -> None:
    """Wait until the process ends, or for `delay_s`: the signal must hit it at any moment."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(delay_s)


def interrupted(line: tuple[str, ...], environ: dict[str, str], delay_s: float) -> tuple[int, str]:
    """Start a program, send SIGINT after a delay, and return its exit code and its stderr."""
    program, *arguments = line
    process = subprocess.Popen(
        [str(BIN / program), *arguments], env=environ, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    until(lambda: sigint_blocked(process), "the launcher blocks SIGINT")
    wait_at_most(process, delay_s)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    return process.returncode, said.decode()


@pytest.mark.parametrize("name", LINES)
def test_ctrl_c_at_any_moment_exits_with_130(name: str, environ: dict[str, str]) -> None:
    delays_s = [SPREAD_S * number / TIMES[name] for number in range(TIMES[name])]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = list(pool.map(lambda s: interrupted(LINES[name], environ, s), delays_s))
    for delay_s, (code, said) in zip(delays_s, ends, strict=True):
        assert (code, said.strip()) == (130, ""), f"after {delay_s:.4f} s"


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_ctrl_c_during_exit_prints_no_traceback(
    line: tuple[str, ...], environ: dict[str, str]
) -> None:
    """The signal arrives after the help is printed, while the interpreter exits, or too late."""
    program, command, *_ = line
    for delay_s in (0.0, 0.002, 0.008):
        process = subprocess.Popen(
            [str(BIN / program), command, "--help"], env=environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.read(1)
        wait_at_most(process, delay_s)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, 130, -signal.SIGINT)
        assert b"Traceback" not in said


@pytest.mark.parametrize("program", ["mlx", "mlxd"])
def test_sigint_is_ignored_if_the_parent_ignores_it(program: str, environ: dict[str, str]) -> None:
    """A shell ignores SIGINT for a background job of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by the child
    process = subprocess.Popen(
        [str(BIN / program), "--help"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    signal.signal(signal.SIGINT, before)
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        wait_at_most(process, 0.01)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 0
