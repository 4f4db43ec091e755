"""Both programs in unusual environments: a documented exit code, never a traceback."""

from __future__ import annotations

import codecs
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxd.protocol.errors import EXITS
from support.commands import BIN, Run
from support.daemon_process import Daemon
from support.places import own_environ

LONGEST_S = 100.0
COMMANDS = (
    ("mlx", "ask", "--max-tokens", "3"), ("mlx", "generate", "--max-tokens", "3"),
    ("mlx", "fill", "--max-tokens", "3", "--prefix", "x"), ("mlx", "batch", "lines.jsonl"),
    ("mlx", "chat", "--max-tokens", "3"), ("mlx", "ps"), ("mlx", "models", "list"),
    ("mlx", "log", "list"), ("mlx", "rpc", "status"), ("mlx",), ("mlx", "nosuch"),
    ("mlxd", "status"), ("mlxd", "doctor"), ("mlxd", "logs"), ("mlxd",), ("mlxd", "nosuch"),
)  # fmt: skip
WORDS = ("hi", "-", "--", "--json", "-f", "text.txt", "folder", "--temp", "0", "nan", "-q",
         "--help", "-m", "nope", "--timeout", "1h30m", "5x", "-x", "café 🦊", "")  # fmt: skip
REDIRECTS = ("", "", "<&-", ">&-", ">/dev/full", "2>&-", "<&- >&- 2>&-")
ENVIRONMENTS = st.fixed_dictionaries({}, optional={
    "HOME": st.sampled_from([None, "", "/nonexistent"]),
    "LANG": st.sampled_from(["C", "xx_YY.nosuch", "de_DE.ISO-8859-1"]),
    "NO_COLOR": st.just("1"),
    "TERM": st.sampled_from(["dumb", "xterm"]),
    "COLUMNS": st.sampled_from(["1", "x"]),
})  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("odd")
    (found / "text.txt").write_text("some text")
    (found / "lines.jsonl").write_text('{"prompt": "hi", "max_tokens": 2}\nno json\n')
    (found / "folder").mkdir()
    return found


@settings(deadline=None, max_examples=24, suppress_health_check=[*HealthCheck])
@given(
    command=st.sampled_from(COMMANDS),
    words=st.lists(st.sampled_from(WORDS), max_size=3),
    redirect=st.sampled_from(REDIRECTS),
    environ=ENVIRONMENTS,
    stdin=st.sampled_from([b"", b"hi", b"\xff\xfe\0", b"/help\n/quit\n"]),
    with_daemon=st.booleans(),
)
def test_any_command_line_exits_with_a_documented_code(
    command: tuple[str, ...],
    words: list[str],
    redirect: str,
    environ: dict[str, str | None],
    stdin: bytes,
    with_daemon: bool,
    daemon: Daemon,
    folder: Path,
) -> None:
    base = daemon.environ if with_daemon else own_environ(folder)
    changed = {**base, "MLXD_AUTOSTART": "0", **environ}
    program, *arguments = command
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", str(BIN / program), *arguments, *words],
        env={name: value for name, value in changed.items() if value is not None},
        cwd=folder, input=stdin, capture_output=True, timeout=LONGEST_S, check=False,
    )  # fmt: skip
    assert done.returncode in EXITS, done.stderr
    for traceback_marker in (b"Traceback", b"Exception ignored", b"Unexpected"):
        assert traceback_marker not in done.stderr


def test_ask_copy_puts_the_answer_on_the_clipboard(
    mlx: Run, daemon: Daemon, tmp_path: Path
) -> None:
    program = tmp_path / "xclip"
    program.write_text(f"#!/bin/sh\necho noise\ncat > {tmp_path}/clipboard\n")
    program.chmod(0o700)
    settings = {"PATH": f"{tmp_path}:{daemon.environ['PATH']}", "DISPLAY": ":0"}
    done = mlx("ask", "--temp", "0", "--copy", "Count from 3 to 7.", **settings)
    assert (done.returncode, done.stdout) == (0, "3, 4, 5, 6, 7\n")
    assert "Copied." in done.stderr
    assert "noise" not in done.stderr
    assert (tmp_path / "clipboard").read_text() == "3, 4, 5, 6, 7"


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [(codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")],
)
def test_a_utf_16_file_is_decoded(
    mlx: Run, daemon: Daemon, tmp_path: Path, mark: bytes, encoding: str
) -> None:
    file = tmp_path / "note.txt"
    file.write_bytes(mark + "Grüße 🦊".encode(encoding))
    done = mlx(
        "ask",
        "--json",
        "--max-tokens",
        "2",
        "-f",
        str(file),
        "Summarise",
        MLXD_SOCKET=daemon.socket_path,
    )
    assert done.returncode == 0, done.stderr
    (record,) = daemon.ask("conversations.list", limit=1)["conversations"]
    (turn,) = daemon.ask("conversations.show", id=record["id"])["turns"]
    assert turn["messages"][0]["content"] == f"{file}:\n```\nGrüße 🦊\n```\n\nSummarise"
