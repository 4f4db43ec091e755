"""`mlx batch`, against a real daemon that is stopped and killed during the run."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.commands import BIN, runner
from support.daemon_process import Daemon, running_daemon
from support.terminal import terminal

SHORT = ("--temp", "0", "--max-tokens", "40")


@pytest.fixture(scope="module")
def own_daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        yield running


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    lines: list[Any] = [
        "Count from 3 to 7.",
        {"id": "fox", "prompt": "Repeat after me: the red fox"},
        {"id": 3, "messages": [{"role": "user", "content": "Count from 1 to 3."}]},
        {"prefix": "def add(a, b):\n    return ", "max_tokens": 8},
        {"prompt": "Once upon", "method": "generate", "max_tokens": 2},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return path


def parse_records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_batch_answers_every_line_in_order(own_daemon: Daemon, source: Path) -> None:
    done = runner(own_daemon.environ)("batch", str(source), "--temp", "0")
    assert done.returncode == 0, done.stderr
    found = parse_records(done.stdout)
    assert [record["line"] for record in found] == [1, 2, 3, 4, 5]
    assert [record.get("id") for record in found] == [None, "fox", 3, None, None]
    assert [record["text"] for record in found[:4]] == [
        "3, 4, 5, 6, 7", "the red fox", "1, 2, 3", "a + b"
    ]  # fmt: skip
    assert own_daemon.ask("conversations.list") == {"conversations": []}


def test_as_finished_prints_answers_without_waiting_for_slow_lines(
    own_daemon: Daemon, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    slow = {"prompt": "Tell me a story about a fox.", "max_tokens": 200, "ignore_eos": True}
    path.write_text("\n".join(json.dumps(line) for line in [slow, "hello", "hello"]))
    done = runner(own_daemon.environ)("batch", str(path), "--as-finished", "--temp", "0")
    assert [record["line"] for record in parse_records(done.stdout)][-1] == 1


def test_an_invalid_line_fails_only_that_line(own_daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('"Count from 3 to 7."\nno json\n{"prompt": "x", "temprature": 1}\n7\n')
    done = runner(own_daemon.environ)("batch", str(path), "--temp", "0")
    found = parse_records(done.stdout)
    assert done.returncode == 6
    assert [record["line"] for record in found if "error" in record] == [2, 3, 4]
    assert "temprature" in found[2]["error"]["message"]
    assert "3 of 4 failed" in done.stderr


def test_a_second_run_computes_only_missing_lines(
    own_daemon: Daemon, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    run = runner(own_daemon.environ)
    assert run("batch", str(source), "-o", str(out), "--temp", "0").returncode == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    whole = out.read_text()
    lines = whole.splitlines(keepends=True)
    broken = json.dumps({"line": 3, "id": 3, "error": {"code": "engine_died"}}) + "\n"
    out.write_text("".join([lines[0], broken, lines[1], lines[3][:40]]))
    again = run("batch", str(source), "-o", str(out), "--temp", "0")
    assert "2 of 5 lines are already answered" in again.stderr
    found = parse_records(out.read_text())
    assert sorted(record["line"] for record in found) == [1, 2, 3, 4, 5]
    assert all("result" in record for record in found)


def test_a_resumed_run_recomputes_edited_lines_and_keeps_moved_ones(
    own_daemon: Daemon, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    run = runner(own_daemon.environ)
    source.write_text('"Count from 1 to 3."\n"Count from 2 to 4."\n"Count from 3 to 5."\n')
    assert run("batch", str(source), "-o", str(out), "--temp", "0").returncode == 0
    source.write_text('"Count from 3 to 5."\n"Count from 6 to 8."\n"Count from 1 to 3."\n')
    done = run("batch", str(source), "-o", str(out), "--temp", "0")
    assert "2 of 3 lines are already answered" in done.stderr
    found = {record["line"]: record["text"] for record in parse_records(out.read_text())}
    assert found == {1: "3, 4, 5", 2: "6, 7, 8", 3: "1, 2, 3"}


def test_resuming_with_another_input_of_equal_length_is_refused(
    own_daemon: Daemon, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    run = runner(own_daemon.environ)
    source.write_text('"Count from 1 to 3."\n')
    assert run("batch", str(source), "-o", str(out)).returncode == 0
    whole = out.read_text()
    source.write_text('"Count from 2 to 4."\n')
    done = run("batch", str(source), "-o", str(out))
    assert (done.returncode, out.read_text()) == (2, whole)
    assert "belongs to another input" in done.stderr


def test_a_resumed_run_reports_removed_lines_and_answers_with_other_options(
    own_daemon: Daemon, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    run = runner(own_daemon.environ)
    source.write_text('"Count from 1 to 3."\n"Count from 2 to 4."\n')
    assert run("batch", str(source), "-o", str(out), "--temp", "0").returncode == 0
    source.write_text('"Count from 2 to 4."\n')
    done = run("batch", str(source), "-o", str(out), "--temp", "0.1", "--priority", "completion")
    assert done.stderr == (
        "1 of 1 lines are already answered.\n"
        "mlx: Removed 1 answer whose line is no longer in the input.\n"
        "mlx: Kept 1 answer computed with other options. To compute them again, use another -o.\n"
    )
    assert [record["text"] for record in parse_records(out.read_text())] == ["2, 3, 4"]
    same = run("batch", str(source), "-o", str(out), "--temp", "0", "--keep-alive", "1h")
    assert same.stderr == "1 of 1 lines are already answered.\n"


def test_batch_refuses_to_overwrite_the_output_of_an_older_mlx(
    own_daemon: Daemon, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text('{"line": 1, "text": "3", "result": {}}\n')
    done = runner(own_daemon.environ)("batch", str(source), "-o", str(out))
    assert (done.returncode, out.read_text()[:10]) == (2, '{"line": 1')
    assert "written by an older mlx" in done.stderr
    assert "Choose another -o" in done.stderr


def test_a_truncated_constrained_line_fails_and_is_retried(
    own_daemon: Daemon, tmp_path: Path
) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text('"hello"\n{"prompt": "x", "regex": "[ab]{20}"}\n')
    run = runner(own_daemon.environ)
    line = ("batch", str(path), "-o", str(out))
    done = run(*line, "--max-tokens", "3")
    assert done.returncode == 8
    first, second = parse_records(out.read_text())
    assert first["truncated"]
    assert "error" not in first
    assert second["truncated"]
    assert second["error"]["code"] == "truncated"
    again = run(*line)
    assert again.returncode == 0
    assert "1 of 2 lines are already answered" in again.stderr


def test_batch_output_follows_symlinks_and_writes_to_devices_and_fifos(
    own_daemon: Daemon, tmp_path: Path
) -> None:
    run = runner(own_daemon.environ)
    path, real, link = tmp_path / "in.jsonl", tmp_path / "real.jsonl", tmp_path / "link"
    path.write_text('"Count from 1 to 3."\n')
    link.symlink_to(real)
    for _ in range(2):
        assert run("batch", str(path), "-o", str(link), "--temp", "0").returncode == 0
        assert link.is_symlink()
        assert parse_records(real.read_text())[0]["text"] == "1, 2, 3"
    for name in ("/dev/stdout", "-", "/dev/fd/1"):
        done = run("batch", str(path), "-o", name, "--temp", "0")
        assert parse_records(done.stdout)[0]["text"] == "1, 2, 3", done.stderr
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    assert run("batch", str(path), "-o", str(null)).returncode == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [str(BIN / "mlx"), "batch", str(path), "-o", str(fifo), "--temp", "0"]
    process = subprocess.Popen(command, env=own_daemon.environ, stdin=subprocess.DEVNULL)
    assert parse_records(fifo.read_text())[0]["text"] == "1, 2, 3"
    assert process.wait(60) == 0
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_batch_refuses_its_input_as_output(own_daemon: Daemon, source: Path) -> None:
    whole = source.read_text()
    done = runner(own_daemon.environ)("batch", str(source), "-o", str(source))
    assert (done.returncode, source.read_text()) == (2, whole)


def test_batch_does_not_overwrite_unrelated_files(
    own_daemon: Daemon, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    for text in ('{"line": 2, "id": "hen", "result": {}}\n', "my diary\n"):
        out.write_text(text)
        done = runner(own_daemon.environ)("batch", str(source), "-o", str(out))
        assert done.returncode == 2
        assert out.read_text() == text


def test_batch_continues_through_a_daemon_restart_and_an_engine_crash(
    own_daemon: Daemon, tmp_path: Path
) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text("".join(f'"Count from {n} to 99."\n' for n in range(24)))
    command = [str(BIN / "mlx"), "batch", str(path), "-o", str(out), *SHORT, "-j", "4"]
    process = subprocess.Popen(command, env=own_daemon.environ, stdin=subprocess.DEVNULL)
    with own_daemon.peer() as peer:
        while not out.exists() or out.read_text().count("\n") < 3:
            peer.call("ping")
    os.kill(own_daemon.engine_pid(), signal.SIGKILL)
    own_daemon.stop(signal.SIGKILL)
    own_daemon.start()
    assert process.wait(120) == 0
    found = parse_records(out.read_text())
    assert [record["line"] for record in found] == list(range(1, 25))
    assert all("result" in record for record in found)


def test_ctrl_c_keeps_finished_answers_and_prints_how_to_resume(
    own_daemon: Daemon, tmp_path: Path
) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text("".join(f'"Count from {n} to 99."\n' for n in range(24)))
    command = [str(BIN / "mlx"), "batch", str(path), "-o", str(out), *SHORT, "-j", "2"]
    with terminal(command, own_daemon.environ) as screen:
        screen.wait("/24")
        while not out.exists() or out.read_text().count("\n") < 2:
            own_daemon.ask("ping")
        screen.send("\x03")
        said = screen.end()
    assert screen.exit_code == 130
    assert "resumes here" in said
    kept = len(parse_records(out.read_text()))
    assert kept >= 2
    done = runner(own_daemon.environ)("batch", str(path), "-o", str(out), *SHORT, "-j", "4")
    assert f"{kept} of 24 lines" in done.stderr
    assert len(parse_records(out.read_text())) == 24


def test_batch_requests_have_the_lowest_priority(own_daemon: Daemon, source: Path) -> None:
    runner(own_daemon.environ)("batch", str(source))
    priorities = [line["priority"] for line in own_daemon.log_lines() if line["event"] == "request"]
    assert set(priorities[-5:]) == {"batch"}
