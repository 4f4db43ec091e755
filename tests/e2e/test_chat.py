"""`mlx chat` on a terminal and in a pipe, against a real daemon."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from support.commands import BIN, runner
from support.daemon_process import Daemon, running_daemon
from support.terminal import Terminal, terminal

CHAT = [str(BIN / "mlx"), "chat", "--temp", "0"]


@pytest.fixture(scope="module")
def own_daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        yield running


def chat(own_daemon: Daemon, *arguments: str) -> AbstractContextManager[Terminal]:
    return terminal([*CHAT, *arguments], own_daemon.environ)


def say(screen: Terminal, line: str, wanted: str) -> None:
    screen.wait_prompt(">")
    screen.send(line + "\r")
    screen.wait(wanted)


def test_clear_starts_a_new_conversation_and_every_quit_word_exits(own_daemon: Daemon) -> None:
    for word in ("quit", "exit", "q", "/quit", "\x04"):
        with chat(own_daemon) as screen:
            say(screen, "My name is Ada.", "Nice to meet you, Ada!")
            say(screen, "What is my name?", "Your name is Ada.")
            say(screen, "clear", "is cleared")
            say(screen, "/tokens", "0 of 16384 tokens")
            screen.wait_prompt(">")
            screen.send(word + "\r" if len(word) > 1 or word == "q" else word)
            screen.end()
            assert screen.exit_code == 0


def test_ctrl_c_stops_the_answer_but_not_the_chat(own_daemon: Daemon) -> None:
    with chat(own_daemon) as screen:
        say(screen, "My name is Ada.", "Ada!")
        say(screen, "Count from 0 to 99.", "0, 1, 2")
        screen.send("\x03")
        screen.wait("(stopped)")
        say(screen, "What is my name?", "Your name is Ada.")


def test_a_stopped_answer_stays_in_the_conversation_until_undo(own_daemon: Daemon) -> None:
    with chat(own_daemon) as screen:
        say(screen, "Count from 0 to 99.", "0, 1, 2")
        screen.send("\x03")
        screen.wait("(stopped)")
        say(screen, "My name is Ada.", "Ada!")
        say(screen, "/undo", "Forgotten: My name is Ada.")
        say(screen, "/undo", "Forgotten: Count from 0 to 99.")
        say(screen, "/tokens", "0 of 16384 tokens")
        # Another name: this text is not on the screen yet, so `say` waits for the new answer.
        say(screen, "My name is Bob.", "Bob!")
        screen.wait_prompt(">")
    (record,) = own_daemon.ask("conversations.list", limit=1)["conversations"]
    turns = own_daemon.ask("conversations.show", id=record["id"])["turns"]
    assert record["title"] == "My name is Bob."
    assert [(turn["answer"], turn["state"]) for turn in turns] == [
        ("Nice to meet you, Bob!", "done")
    ]


def test_a_conversation_emptied_by_undo_is_still_the_latest(own_daemon: Daemon) -> None:
    with chat(own_daemon) as screen:
        say(screen, "My name is Cleo.", "Cleo!")
        say(screen, "/undo", "Forgotten: My name is Cleo.")
        screen.wait_prompt(">")
    (record,) = own_daemon.ask("conversations.list", limit=1)["conversations"]
    assert (record["title"], record["turns"]) == ("", 0)


def test_retry_resends_a_question_that_failed(own_daemon: Daemon) -> None:
    with chat(own_daemon) as screen:
        say(screen, "My name is Ada.", "Ada!")
        say(screen, "/set regex (", "regex (")
        say(screen, "What is my name?", "regex")
        screen.wait("mlx: ")
        say(screen, "/set regex", "regex: daemon default")
        say(screen, "/retry", "Your name is Ada.")


def test_a_killed_daemon_keeps_finished_turns_and_marks_the_interrupted_one(
    own_daemon: Daemon,
) -> None:
    with chat(own_daemon) as screen:
        say(screen, "My name is Ada.", "Ada!")
        say(screen, "Count from 0 to 99.", "0, 1, 2")
        own_daemon.stop(signal.SIGKILL)
        screen.wait("Ask again with /retry.")
        own_daemon.start()
        (record,) = own_daemon.ask("conversations.list", limit=1)["conversations"]
        turns = own_daemon.ask("conversations.show", id=record["id"])["turns"]
        assert [(turn["state"], turn["error"]) for turn in turns] == [
            ("done", None), ("broken", "engine_died")
        ]  # fmt: skip
        say(screen, "/set max_tokens 12", "max_tokens 12")
        say(screen, "/retry", "Truncated at max_tokens. Raise the limit: /set max_tokens N")
        say(screen, "What is my name?", "Your name is Ada.")
    shown = own_daemon.ask("conversations.show", id=record["id"])["turns"]
    assert [turn["state"] for turn in shown] == ["done", "done", "done"]


def test_a_chat_survives_a_daemon_restart(own_daemon: Daemon) -> None:
    with chat(own_daemon) as screen:
        say(screen, "My name is Ada.", "Ada!")
        own_daemon.stop()
        own_daemon.start()
        say(screen, "What is my name?", "Your name is Ada.")


def test_a_chat_survives_an_engine_crash(own_daemon: Daemon) -> None:
    with chat(own_daemon) as screen:
        say(screen, "My name is Ada.", "Ada!")
        os.kill(own_daemon.engine_pid(), signal.SIGKILL)
        say(screen, "What is my name?", "Your name is Ada.")


def test_chat_commands_apply_to_the_next_message(own_daemon: Daemon, tmp_path: Path) -> None:
    with chat(own_daemon) as screen:
        say(screen, "/system Answer in upper case.", "System prompt: Answer in upper case.")
        say(screen, "Repeat after me: the red fox", "THE RED FOX")
        say(screen, "/undo", "Forgotten: Repeat after me")
        say(screen, "/system -", "(none)")
        say(screen, "Repeat after me: a blue bird", "a blue bird")
        say(screen, "/set temperature 0.5", "temperature 0.5")
        say(screen, "/set temprature 1", "there is no setting")
        say(screen, "/set top_p 7", "between 0 and 1")
        say(screen, "/model nonesuch", "nonesuch")
        say(screen, "/model pocket", "pocket answers from now on")
        say(screen, "/tokens", "of 16384 tokens")
        say(screen, f"/save {tmp_path}/talk.json", "Saved as")
        say(screen, "/clear", "is cleared")
        say(screen, f"/load {tmp_path}/talk.json", "1 answer so far.")
        say(screen, "/retry", "a blue bird")
        say(screen, "/copy", "Copied")
        say(screen, "/wat", "There is no command /wat.")
        say(screen, "/help", "start a new conversation")
    saved = (tmp_path / "talk.json").read_text()
    assert "a blue bird" in saved
    assert "red fox" not in saved


def test_tab_completes_chat_commands_and_models(own_daemon: Daemon) -> None:
    with chat(own_daemon) as screen:
        screen.wait_prompt(">")
        screen.send("/tok\t")
        screen.wait("> /tokens")
        screen.send("\r")
        screen.wait("0 of 16384 tokens")
        screen.wait_prompt(">")
        screen.send("/model poc\t")
        screen.wait("> /model pocket")
        screen.send("\r")
        screen.wait("pocket answers from now on")


def test_input_history_is_kept_in_a_private_file(own_daemon: Daemon) -> None:
    with chat(own_daemon) as screen:
        say(screen, "Repeat after me: the purple hippo", "\nthe purple hippo")
        screen.wait_prompt(">")
        screen.send("\x04")
        screen.end()
    with chat(own_daemon) as screen:
        screen.wait_prompt(">")
        screen.send("\x1b[A")
        screen.wait("Repeat after me: the purple hippo")
    kept = Path(own_daemon.environ["MLXD_STATE_DIR"]) / "chat-history"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_alt_enter_adds_a_line_to_the_message(own_daemon: Daemon) -> None:
    with chat(own_daemon) as screen:
        screen.wait_prompt(">")
        screen.send("Repeat after me: one\x1b\r two\r")
        screen.wait("   two")
        screen.wait_prompt(">")
    (record,) = own_daemon.ask("conversations.list", limit=1)["conversations"]
    (turn,) = own_daemon.ask("conversations.show", id=record["id"])["turns"]
    assert turn["messages"][0]["content"] == "Repeat after me: one\n two"


def test_a_chat_is_stored_as_one_conversation_and_can_be_continued(own_daemon: Daemon) -> None:
    with chat(own_daemon) as screen:
        say(screen, "My name is Ada.", "Ada!")
        say(screen, "Count from 1 to 3.", "1, 2, 3")
    (record,) = own_daemon.ask("conversations.list", limit=1)["conversations"]
    assert record["turns"] == 2
    with chat(own_daemon, "--conversation", record["id"]) as screen:
        screen.wait("(2 answers so far)")
        say(screen, "What is my name?", "Your name is Ada.")
    (again,) = own_daemon.ask("conversations.list", limit=1)["conversations"]
    assert (again["id"], again["turns"]) == (record["id"], 3)


def test_a_piped_chat_prints_one_answer_per_line_and_nothing_else(own_daemon: Daemon) -> None:
    done = runner(own_daemon.environ)(
        "chat", "--temp", "0", stdin="My name is Ada.\n\nWhat is my name?\nq\nignored\n"
    )
    assert done.stdout == "Nice to meet you, Ada!\nYour name is Ada.\n"
    assert done.returncode == 0


@pytest.mark.parametrize(
    "option", [("-t", "commit"), ("-p", "a=b"), ("-e",), ("--stream",), ("-n", "2"),
               ("--logprobs", "2")], ids=str,
)  # fmt: skip
def test_chat_refuses_options_that_only_ask_supports(
    own_daemon: Daemon, option: tuple[str, ...]
) -> None:
    done = runner(own_daemon.environ)("chat", *option, stdin="")
    assert done.returncode == 2
    assert "Use it with mlx ask, then continue: mlx chat -c" in done.stderr


def test_chat_refuses_stdin_as_an_attached_file(own_daemon: Daemon) -> None:
    done = runner(own_daemon.environ)("chat", "-f", "-", stdin="hello")
    assert (done.returncode, "reads your messages from stdin" in done.stderr) == (2, True)


def test_json_and_extract_work_in_a_pipe(own_daemon: Daemon) -> None:
    run = runner(own_daemon.environ)
    done = run("chat", "--json", "--temp", "0", stdin="Count from 3 to 5.\nCount from 5 to 7.\n")
    texts = [json.loads(line)["choices"][0]["text"] for line in done.stdout.splitlines()]
    assert texts == ["3, 4, 5", "5, 6, 7"]
    done = run("chat", "-x", "--temp", "0", stdin="Count from 3 to 5.\n")
    assert done.stdout == "3, 4, 5\n"


def test_attached_files_go_into_the_next_message_only(own_daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("1")
    (tmp_path / "two.txt").write_text("2")
    lines = f"first\n/file {tmp_path}/two.txt\nsecond\nthird\n/file {tmp_path}/no.txt\n"
    done = runner(own_daemon.environ)(
        "chat", "--max-tokens", "2", "-f", str(tmp_path / "one.txt"), stdin=lines
    )
    assert "no.txt cannot be read" in done.stderr
    (record,) = own_daemon.ask("conversations.list", limit=1)["conversations"]
    turns = own_daemon.ask("conversations.show", id=record["id"])["turns"]
    assert [turn["messages"][-1]["content"] for turn in turns] == [
        f"{tmp_path}/one.txt:\n```\n1\n```\n\nfirst",
        f"{tmp_path}/two.txt:\n```\n2\n```\n\nsecond",
        "third",
    ]


def test_a_retried_question_contains_its_file_once(own_daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("1")
    lines = "/set regex (\nfirst\n/set regex\n/retry\nsecond\n"
    runner(own_daemon.environ)(
        "chat", "--max-tokens", "2", "-f", str(tmp_path / "one.txt"), stdin=lines
    )
    (record,) = own_daemon.ask("conversations.list", limit=1)["conversations"]
    turns = own_daemon.ask("conversations.show", id=record["id"])["turns"]
    assert [turn["messages"][-1]["content"] for turn in turns] == [
        f"{tmp_path}/one.txt:\n```\n1\n```\n\nfirst", "second"
    ]  # fmt: skip


def test_undo_shows_the_removed_question_on_one_line(own_daemon: Daemon) -> None:
    lines = '"""a\x1b[31m\n' + "word " * 100 + '"""\n/undo\n'
    done = runner(own_daemon.environ)("chat", "--max-tokens", "2", stdin=lines)
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("Forgotten"))
    assert said.startswith("Forgotten: a␛[31m word word")
    assert said.endswith("…")
    assert len(said) < 80


def test_triple_quotes_group_lines_into_one_message(own_daemon: Daemon) -> None:
    lines = '"""Repeat after me:\nquit\n"""\n"""one line"""\n"""open'
    runner(own_daemon.environ)("chat", "--max-tokens", "2", stdin=lines)
    (record,) = own_daemon.ask("conversations.list", limit=1)["conversations"]
    turns = own_daemon.ask("conversations.show", id=record["id"])["turns"]
    assert [turn["messages"][-1]["content"] for turn in turns] == [
        "Repeat after me:\nquit", "one line", "open"
    ]  # fmt: skip


def test_enter_inside_triple_quotes_starts_a_new_line(own_daemon: Daemon) -> None:
    with chat(own_daemon) as screen:
        screen.wait_prompt(">")
        screen.send('"""Repeat after me: one\r')
        screen.send('two"""\r')
        screen.wait('  two"""')
        screen.wait_prompt(">")
    (record,) = own_daemon.ask("conversations.list", limit=1)["conversations"]
    (turn,) = own_daemon.ask("conversations.show", id=record["id"])["turns"]
    assert turn["messages"][0]["content"] == "Repeat after me: one\ntwo"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/set temp 0.2", "temperature 0.2"),
        ("/set top-k 20", "top_k 20"),
        ("/set think on", "thinking True"),
        ("/set keep_alive 2h", "keep_alive_s 7200.0"),
        ("/set preset code", "temperature 0.4, top_p 0.95"),
        ("/set schema name, age int", "'required': ['name', 'age']"),
        ("/set temperature", "temperature: daemon default"),
        ("/set temperature hot", "For example: /set temperature 0.5"),
        ("/set temprature 1", "Did you mean temperature?"),
        ("/set trust_remote_code on", "there is no setting"),
        ("/file", "needs a file name"),
        ("/save", "needs a file name"),
        ("/load", "needs a file or an id"),
        ("/load nonesuch", "nonesuch"),
        ("/undo", "Nothing to undo"),
        ("/retry", "No question to retry"),
        ("/copy", "No answer to copy yet"),
    ],
)
def test_chat_commands_print_their_result_on_stderr(
    own_daemon: Daemon, line: str, said: str
) -> None:
    done = runner(own_daemon.environ)("chat", stdin=line + "\n")
    assert (done.returncode, done.stdout) == (0, "")
    assert said in done.stderr


def test_chat_help_fits_into_80_columns(own_daemon: Daemon) -> None:
    done = runner(own_daemon.environ)("chat", stdin="/help\n")
    assert max(map(len, done.stderr.splitlines())) < 80


def test_chat_starts_by_printing_the_model_and_its_context_size(own_daemon: Daemon) -> None:
    for columns in (50, 80, 120):
        with terminal(CHAT, own_daemon.environ, columns=columns) as screen:
            said = screen.wait("Ctrl-D leaves.").splitlines()
            assert said[0] == "pocket, context 16384 tokens"
            assert said[1] == "/help shows the commands, Ctrl-D leaves."


def test_chat_exits_at_once_if_the_model_is_missing(own_daemon: Daemon) -> None:
    with chat(own_daemon, "-m", "nope") as screen:
        assert "mlx models pull" in screen.end()
        assert screen.exit_code == 4


def test_exit_and_bye_end_the_chat_and_typos_get_a_suggestion(own_daemon: Daemon) -> None:
    for word in ("/exit", "/bye"):
        with chat(own_daemon) as screen:
            say(screen, "/hlep", "There is no command /hlep. Did you mean /help")
            say(screen, "/modle pocket", "Did you mean /model?")
            screen.wait_prompt(">")
            screen.send(word + "\r")
            screen.end()
            assert screen.exit_code == 0


def test_save_asks_before_it_overwrites(own_daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text("mine")
    with terminal(CHAT, own_daemon.environ, columns=200) as screen:
        say(screen, f"/save {path}", "[y/N]")
        screen.send("n\r")
        screen.wait("Not saved.")
        assert path.read_text() == "mine"
        other = tmp_path / "other.json"
        other.write_text("mine")
        say(screen, f"/save {other}", "other.json? [y/N]")
        screen.send("y\r")
        screen.wait("Saved as")
    assert "messages" in json.loads(other.read_text())
    done = runner(own_daemon.environ)("chat", stdin=f"/save {path}\n")
    assert "exists" in done.stderr


def test_undo_detaches_files_before_it_removes_a_question(
    own_daemon: Daemon, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("text")
    lines = f"hello\n/attach {tmp_path}/a.txt\n/undo\n/undo\n"
    done = runner(own_daemon.environ)("chat", "--temp", "0", stdin=lines)
    assert "The file is detached." in done.stderr
    assert done.stderr.index("detached") < done.stderr.index("Forgotten: hello")


def test_ctrl_z_suspends_the_chat_and_fg_resumes_it(own_daemon: Daemon) -> None:
    shell = ["bash", "--norc", "-i"]
    with terminal(shell, {**own_daemon.environ, "PS1": "sh$ "}) as screen:
        screen.wait_prompt("sh$")
        screen.send(" ".join(CHAT) + "\r")
        screen.wait_prompt(">")
        screen.send("\x1a")
        screen.wait("Stopped")
        screen.wait_prompt("sh$")
        screen.send("fg\r")
        screen.wait_prompt(">")
        screen.send("/bye\r")
        screen.wait_prompt("sh$")
