"""`mlx ask -c`, `--conversation`, `--no-log` and `mlx log`, run as commands."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import BIN, Run, runner
from support.daemon_process import Daemon, daemon_with_fake_engine, running_daemon
from support.terminal import terminal


@pytest.fixture(scope="module")
def own_daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        yield running


@pytest.fixture
def mlx(own_daemon: Daemon) -> Iterator[Run]:
    yield runner(own_daemon.environ)
    own_daemon.ask("conversations.remove", all=True)


def in_folder(own_daemon: Daemon, folder: Path) -> Run:
    """Return a runner of `mlx` without a terminal, in `folder`."""
    environ = own_daemon.environ
    run = runner(environ)

    def here(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        before = Path.cwd()
        os.chdir(folder)
        try:
            return run(*arguments, **more)
        finally:
            os.chdir(before)

    return here


def test_c_continues_the_last_conversation_of_this_folder(
    own_daemon: Daemon, mlx: Run, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    first, second = in_folder(own_daemon, one), in_folder(own_daemon, two)
    first("ask", "--temp", "0", "My name is Ada.")
    second("ask", "--temp", "0", "My name is Bob.")
    assert first("ask", "-c", "--temp", "0", "What is my name?").stdout == "Your name is Ada.\n"
    assert second("ask", "-c", "--temp", "0", "What is my name?").stdout == "Your name is Bob.\n"


def test_the_full_program_continues_the_same_conversation(
    own_daemon: Daemon, mlx: Run, tmp_path: Path
) -> None:
    here = in_folder(own_daemon, tmp_path)
    here("ask", "--temp", "0", "My name is Ada.")
    done = here("ask", "-c", "--json", "--temp", "0", "What is my name?")
    result = json.loads(done.stdout)
    assert result["choices"][0]["text"] == "Your name is Ada."
    assert len(own_daemon.ask("conversations.show", id=result["conversation"])["turns"]) == 2


def test_c_without_a_conversation_to_continue_is_an_error(
    mlx: Run, own_daemon: Daemon, tmp_path: Path
) -> None:
    done = in_folder(own_daemon, tmp_path)("ask", "-c", "And now?")
    assert done.returncode == 6
    assert "no conversation to continue in this folder" in done.stderr
    assert "mlx log list" in done.stderr


def test_each_terminal_continues_its_own_conversation(own_daemon: Daemon, mlx: Run) -> None:
    # Each shell runs in its own session on its own terminal.
    ask = f"{BIN}/mlx ask --temp 0"
    shell = ["sh"]
    environ = {**own_daemon.environ, "PS1": "$ "}
    with terminal(shell, environ) as one, terminal(shell, environ) as two:
        one.send(f"{ask} 'My name is Ada.'\n")
        one.wait("meet you, Ada!")
        two.send(f"{ask} 'My name is Bob.'\n")
        two.wait("meet you, Bob!")
        one.send(f"{ask} -c 'What is my name?'\n")
        one.wait("Your name is Ada.")
        two.send(f"cd /; {ask} -c 'What is my name?' | cat\n")
        two.wait("Your name is Bob.")


def test_no_log_stores_nothing(own_daemon: Daemon, mlx: Run) -> None:
    mlx("ask", "--no-log", "hello")
    assert own_daemon.ask("conversations.list") == {"conversations": []}


def test_conversation_continues_an_id_from_any_folder(
    own_daemon: Daemon, mlx: Run, tmp_path: Path
) -> None:
    in_folder(own_daemon, tmp_path)("ask", "--temp", "0", "My name is Ada.")
    (record,) = own_daemon.ask("conversations.list")["conversations"]
    done = mlx("ask", "--conversation", record["id"][:5], "--temp", "0", "What is my name?")
    assert done.stdout == "Your name is Ada.\n"


def test_c_and_conversation_together_are_a_usage_error(mlx: Run) -> None:
    assert mlx("ask", "-c", "--conversation", "x", "hi").returncode == 2
    assert mlx("fill", "--prefix", "x", "-c").returncode == 2


def test_generate_continues_where_it_stopped(own_daemon: Daemon, mlx: Run) -> None:
    whole = mlx("generate", "--temp", "0", "--max-tokens", "20", "--no-log", "Once upon a time")
    first = mlx("generate", "--temp", "0", "--max-tokens", "10", "Once upon a time")
    rest = mlx("generate", "-c", "--temp", "0", "--max-tokens", "10")
    assert first.stdout.rstrip("\n") + rest.stdout.rstrip("\n") == whole.stdout.rstrip("\n")


def test_log_lists_shows_searches_and_removes_conversations(own_daemon: Daemon, mlx: Run) -> None:
    mlx("ask", "--temp", "0", "Repeat after me: the purple hippo")
    mlx("ask", "--temp", "0", "Count from 3 to 7.")
    listed = mlx("log", "list").stdout
    assert listed.index("Count from 3 to 7.") < listed.index("Repeat after me")
    name = next(line for line in mlx("log", "search", "hippo").stdout.splitlines()[1:]).split()[0]
    shown = mlx("log", "show", name)
    assert shown.stdout.splitlines()[-1] == "the purple hippo"
    assert mlx("log", "rm", name).returncode == 0
    assert "No conversation matches" in mlx("log", "search", "hippo").stderr
    assert mlx("log", "rm").returncode == 2
    assert mlx("log", "rm", "--all", "-y").returncode == 0
    assert mlx("log", "list").stdout == ""


def test_log_show_without_an_id_shows_the_last_conversation_of_this_folder(
    own_daemon: Daemon, mlx: Run, tmp_path: Path
) -> None:
    here = in_folder(own_daemon, tmp_path)
    here("ask", "--temp", "0", "Count from 3 to 7.")
    mlx("ask", "--temp", "0", "hello")
    record = json.loads(here("log", "show", "--json").stdout)
    assert [turn["answer"] for turn in record["turns"]] == ["3, 4, 5, 6, 7"]
    assert here("log", "list", "--here", "--json").stdout.count('"id"') == 1


def test_log_show_marks_an_interrupted_answer(own_daemon: Daemon, mlx: Run) -> None:
    with terminal([str(BIN / "mlx"), "ask", "Count from 0 to 99."], own_daemon.environ) as screen:
        screen.wait("0, 1, 2")
        screen.send("\x03")
        screen.end()
    assert screen.exit_code == 130
    (record,) = own_daemon.ask("conversations.list")["conversations"]
    shown = mlx("log", "show", record["id"])
    assert "(incomplete: cancelled)" in shown.stderr
    assert "0, 1, 2" in shown.stdout


def test_all_conversations_are_exported_as_json_lines(
    own_daemon: Daemon, mlx: Run, tmp_path: Path
) -> None:
    assert mlx("ask", "hello").returncode == 0
    file = tmp_path / "all.jsonl"
    assert mlx("log", "export", str(file)).returncode == 0
    found = [json.loads(line) for line in file.read_text().splitlines()]
    known = own_daemon.ask("conversations.list", limit=10_000)["conversations"]
    assert [one["id"] for one in found] == [one["id"] for one in reversed(known)]
    assert found[-1]["turns"][0]["messages"][0]["content"] == "hello"
    assert mlx("log", "export", str(file)).returncode == 2
    assert mlx("log", "export").stdout == file.read_text()


def test_an_export_is_imported_completely_and_without_duplicates(
    own_daemon: Daemon, mlx: Run, tmp_path: Path
) -> None:
    mlx("ask", "--temp", "0", "-s", "Be brief.", "Repeat after me: the purple hippo")
    mlx("ask", "-c", "--temp", "0", "Count from 3 to 7.")
    mlx("generate", "--max-tokens", "5", "Once upon a time")
    file = tmp_path / "all.jsonl"
    assert mlx("log", "export", str(file)).returncode == 0
    count = len(file.read_text().splitlines())
    with daemon_with_fake_engine() as other:
        there = runner(other.environ)
        done = there("log", "import", str(file))
        assert done.stderr == (
            f"{count} conversations imported, 0 skipped because they are already stored.\n"
        )
        assert there("log", "export").stdout == file.read_text()
        again = there("log", "import", "-", stdin=file.read_text())
        assert again.stderr.startswith(f"0 conversations imported, {count} skipped")
        assert "hippo" in there("log", "search", "hippo").stdout


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no json", "Line 2 is not JSON"),
        ("[]", "Line 2: conversation: must be a map."),
        ('{"id": "abcdefgh"}', "Line 2: conversation.kind: is required."),
        ('"\\ud800"', "Line 2 is not JSON"),
    ],
)
def test_an_invalid_line_is_refused_by_number_before_anything_is_imported(
    own_daemon: Daemon, mlx: Run, tmp_path: Path, line: str, said: str
) -> None:
    mlx("ask", "--max-tokens", "2", "hello")
    good = mlx("log", "export").stdout.splitlines()[-1]
    mlx("log", "rm", "-y", "--all")
    file = tmp_path / "bad.jsonl"
    file.write_text(f"{good}\n{line}\n")
    done = mlx("log", "import", str(file))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Nothing was imported." in done.stderr
    assert own_daemon.ask("conversations.list") == {"conversations": []}
