"""`mlxd logs`: the last lines, following new ones across rotation, formats."""

from __future__ import annotations

import subprocess
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.daemon.cli import logs as module
from mlxd.daemon.cli.logs import tail, whole_lines
from mlxd.protocol.paths import Paths
from support.places import MLXD, mlxd
from support.terminal import terminal


@given(
    text=st.text(alphabet="ab\n", max_size=60),
    count=st.integers(0, 12),
    block=st.integers(1, 7),
)
def test_the_tail_is_the_same_for_every_block_size(
    tmp_path_factory: pytest.TempPathFactory, text: str, count: int, block: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "tail.log"
    path.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_BYTES", block)
        expected = text.splitlines(keepends=True)[-count:] if count else []
        with path.open("rb") as stream:
            assert tail(stream, count).decode() == "".join(expected)
            assert stream.read() == b""


def test_logs_shows_the_last_lines(environ: dict[str, str], own_paths: Paths) -> None:
    own_paths.log_dir.mkdir()
    own_paths.log_file.write_text("".join(f"line {n}\n" for n in range(100)))
    assert mlxd(environ, "logs", "-n", "2").stdout == "line 98\nline 99\n"
    assert len(mlxd(environ, "logs").stdout.splitlines()) == 20


def test_logs_reports_that_there_is_no_log_yet(environ: dict[str, str]) -> None:
    done = mlxd(environ, "logs")
    assert done.returncode == 0
    assert "There is no log at" in done.stderr
    assert "mlxd start" in done.stderr


def append(path: Path, text: str) -> None:
    with path.open("a") as stream:
        stream.write(text)


def test_logs_follow_continues_across_rotation(environ: dict[str, str], own_paths: Paths) -> None:
    own_paths.log_dir.mkdir()
    log = own_paths.log_file
    log.write_text("old\n")
    with subprocess.Popen(
        [*MLXD, "logs", "-f", "-n", "1"], env=environ, stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        watchdog = threading.Timer(60, follower.kill)
        watchdog.start()
        assert follower.stdout.readline() == "old\n"
        append(log, "added\n")
        assert follower.stdout.readline() == "added\n"
        log.rename(log.with_suffix(".1"))
        log.write_text("rotated\n")
        assert follower.stdout.readline() == "rotated\n"
        watchdog.cancel()
        follower.terminate()


RECORD = '{"time": "2026-11-27T17:12:59Z", "level": "warning", "event": "woke", "canary": "ok"}\n'


def test_logs_formats_records_and_json_prints_them_unchanged(
    environ: dict[str, str], own_paths: Paths
) -> None:
    own_paths.log_dir.mkdir()
    own_paths.log_file.write_text(RECORD * 2)
    assert mlxd(environ, "logs", "--json", "-n", "1").stdout == RECORD
    said = mlxd({**environ, "TZ": "UTC"}, "logs", "-n", "1").stdout
    assert said == "Nov 27 17:12:59 warn  woke           canary ok\n"


@given(text=st.lists(st.binary(max_size=5)).map(b"\n".join), cuts=st.lists(st.integers(0, 40)))
def test_whole_lines_are_yielded_for_any_chunking(text: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(text)]
    chunks = [text[a:b] for a, b in pairwise(places)]
    expected = text.split(b"\n")
    assert [*whole_lines(chunks)] == (expected if expected[-1] else expected[:-1])


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_colours_are_used_on_terminals_unless_no_color_is_set(
    variables: dict[str, str], environ: dict[str, str], own_paths: Paths
) -> None:
    own_paths.log_dir.mkdir()
    own_paths.log_file.write_text(RECORD)
    with terminal([*MLXD, "logs"], {**environ, **variables}) as screen:
        screen.end()
    assert ("\x1b[33mwarn" in screen.raw) == (not variables)
    assert "\x1b" not in mlxd({**environ, "FORCE_COLOR": "1"}, "logs").stdout
