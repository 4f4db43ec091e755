"""The real commands, in pipes and on a terminal, against the real daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from mlxd.daemon import lock
from mlxd.protocol.paths import resolve_paths
from support.commands import BIN, Run, runner
from support.daemon_process import Daemon, running_daemon
from support.places import mlxd, own_environ
from support.terminal import terminal
from support.waiting import until

POCKET_NOTE = "small built-in model"


def test_ask_prints_the_answer_and_nothing_else(mlx: Run) -> None:
    mlx("ask", "hello")
    done = mlx("ask", "--temp", "0", "Count from 3 to 7.")
    assert (done.stdout, done.stderr, done.returncode) == ("3, 4, 5, 6, 7\n", "", 0)


@pytest.mark.parametrize("way", [(), ("--json",), ("--no-stream",), ("-x",), ("-n", "1")])
def test_the_fast_path_and_the_full_program_print_the_same_answer(
    mlx: Run, way: tuple[str, ...]
) -> None:
    done = mlx("ask", "--temp", "0", *way, "Count from 3 to 7.")
    if way == ("--json",):
        assert json.loads(done.stdout)["choices"][0]["text"] == "3, 4, 5, 6, 7"
    else:
        assert done.stdout == "3, 4, 5, 6, 7\n"


def test_stdin_is_the_prompt_or_is_appended(mlx: Run) -> None:
    assert mlx("ask", "--temp", "0", stdin="Count from 3 to 7.").stdout == "3, 4, 5, 6, 7\n"
    tokens = [
        json.loads(mlx("ask", "--json", "--max-tokens", "1", *words, stdin=piped).stdout)
        for words, piped in ((("Summarise",), "a diff"), (("Summarise\n\na diff",), None))
    ]
    assert tokens[0]["usage"]["prompt_tokens"] == tokens[1]["usage"]["prompt_tokens"]


def test_the_built_in_model_prints_its_note_once(daemon: Daemon, tmp_path: Path) -> None:
    run = runner({**daemon.environ, "MLXD_STATE_DIR": str(tmp_path / "new")})
    (note,) = run("ask", "hello").stderr.splitlines()
    assert POCKET_NOTE in note
    assert len(note) < 80
    assert run("ask", "hello").stderr == ""


def test_verbose_prints_statistics_on_stderr(mlx: Run) -> None:
    done = mlx("ask", "-v", "--temp", "0", "Count from 3 to 7.")
    assert "tokens/s" in done.stderr
    assert done.stdout == "3, 4, 5, 6, 7\n"


def test_generate_and_fill_print_a_completion(mlx: Run) -> None:
    assert mlx("generate", "--temp", "0", "--max-tokens", "8", "Once upon a time").stdout
    done = mlx("fill", "--temp", "0", "--prefix", "def add(a, b):\n    return ", "--suffix", "\n")
    assert done.stdout == "a + b\n"


def test_ask_applies_system_prompts_presets_and_schemas(mlx: Run) -> None:
    done = mlx("ask", "-s", "Answer in upper case.", "--preset", "precise", "Repeat: red fox")
    assert done.stdout == "RED FOX\n"
    done = mlx("ask", "--schema", "kind bool, quick bool", "Invent a person")
    assert set(json.loads(done.stdout)) == {"kind", "quick"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("ask", "-m", "nope", "hi"), 4, "mlx models pull"),
        (("ask", "--temp", "99", "hi"), 6, "temperature"),
        (("ask", "--regex", "(", "hi"), 6, "regex"),
        (("ask",), 2, "prompt is empty"),
        (("ask", "--tempp", "1", "hi"), 2, "--temp"),
        (("nonsense",), 2, "nonsense"),
        (("ask", "--timeout", "0.001", "Tell me a story about a fox."), 7, "--timeout"),
        (("ask", "-f", "missing.txt", "hi"), 2, "missing.txt"),
        (("ask", "--priority", "low", "hi"), 2, "must be one of interactive"),
        (("ask", "--preset", "crative", "hi"), 2, "Did you mean creative?"),
        (("ask", "-t", "explian", "hi"), 2, "Did you mean explain?"),
        (("ask", "--seed", "9" * 30, "hi"), 2, "does not fit into 64 bits"),
        (("rpc", "tokenize", '{"text": "x", "self": 1}'), 6, "self"),
        (("rpc", "tokenize", '{"text": %s}' % ("9" * 30)), 6, "64 bits"),
        (("batch", "."), 2, "Is a directory"),
        (("batch", "nosuch.jsonl"), 2, "nosuch.jsonl cannot be read"),
        (("batch", "/dev/null", "-o", "nodir/x"), 2, "mkdir -p"),
        (("ask", "--json", "--top-p", "8", "hi"), 6, "--top-p: must be between 0 and 1, not 8"),
        (("ask", "--top-p", "8", "hi"), 6, "See: mlx ask --help"),
        (("ask", "--schema", "person.json", "hi"), 2, "is neither a file"),
        (("ask", "--logprobs", "2", "hi"), 2, "--json"),
        (("ask", "--stream", "hi"), 2, "--json"),
        (("ask", "--keep-alive", "long", "hi"), 2, "Use 90, 30s, 1h30m, 2d or forever"),
        (("fill", "-s", "x", "--prefix", "a"), 2, "--system cannot be used with fill"),
        (("fill", "--think", "--prefix", "a"), 2, "--think cannot be used with fill"),
        (("fill", "-f", "x", "--prefix", "a"), 2, "--file cannot be used with fill"),
        (("batch", "--stream", "/dev/null"), 2, "--stream cannot be used in a batch"),
        (("asks", "hi"), 2, "Did you mean ask?"),
        (("why", "is", "it"), 2, 'mlx ask "why …"'),
        (("models", "shw"), 2, "Did you mean show?"),
        (("rpc", "nope"), 6, "nope"),
        (("rpc", "tokenize", '{"txt": 1}'), 6, "Did you mean text?"),
    ],
)
def test_failures_print_the_next_step_and_set_the_exit_code(
    mlx: Run, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = mlx(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    # A timeout may end an answer in the middle; every other refusal precedes any output.
    assert done.stdout == "" or code == 7


def test_commands_known_from_other_tools_work(mlx: Run) -> None:
    assert mlx("run", "pocket", "--temp", "0", "Count from 3 to 7.").stdout == "3, 4, 5, 6, 7\n"
    assert mlx("run", "pocket", "--temp", "0", stdin="Count from 3 to 7.").stdout == (
        "3, 4, 5, 6, 7\n"
    )
    assert mlx("run", "nope", "hi").returncode == 4
    assert mlx("list").stdout == mlx("models", "list").stdout
    assert mlx("show", "pocket").stdout == mlx("models", "show", "pocket").stdout
    assert mlx("stop", "pocket").returncode == 0
    assert "--revision" in mlx("help", "models", "pull").stdout
    assert mlx("help", "pull").stdout.startswith("Usage: mlx pull")
    assert mlx("help", "nosuch").returncode == 2
    assert mlx("pull", "https://example.com/x/y").returncode == 2


def test_a_binary_file_is_refused(mlx: Run, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\xff")
    done = mlx("ask", "-f", str(tmp_path / "image.png"), "hi")
    assert done.returncode == 2
    assert "binary" in done.stderr


@pytest.mark.parametrize("way", [(), ("--json",)], ids=["fast", "full"])
@pytest.mark.parametrize(
    ("data", "said"), [(b"text\0more", "is binary"), (b"caf\xe9", "byte 3 is 0xe9")]
)
def test_binary_stdin_is_refused_by_the_fast_path_and_the_full_program(
    mlx: Run, way: tuple[str, ...], data: bytes, said: str
) -> None:
    for words in ((), ("Summarise",)):
        done = mlx("ask", *way, *words, stdin=data)
        assert (done.returncode, done.stdout) == (2, "")
        assert "stdin " in done.stderr
        assert said in done.stderr


@pytest.mark.parametrize("way", [(), ("--json",)], ids=["fast", "full"])
def test_input_over_the_message_limit_is_refused_with_size_and_limit(
    mlx: Run, way: tuple[str, ...], tmp_path: Path
) -> None:
    large = b"word " * (34 << 18)
    done = mlx("ask", *way, stdin=large)
    assert (done.returncode, done.stdout) == (6, "")
    assert "The request has 44,56" in done.stderr
    assert "accepts at most 33,554,432." in done.stderr
    (tmp_path / "large.txt").write_bytes(large)
    assert (
        mlx("ask", "-f", str(tmp_path / "large.txt"), "hi").stderr.splitlines()[1:]
        == (done.stderr.splitlines()[1:])
    )


@pytest.mark.parametrize("way", [(), ("--json",)], ids=["fast", "full"])
def test_a_truncated_answer_is_reported_on_stderr(mlx: Run, way: tuple[str, ...]) -> None:
    line = ("ask", *way, "--temp", "0", "--max-tokens", "3", "Count from 3 to 7.")
    done = mlx(*line)
    assert (done.returncode, done.stderr) == (
        0, "mlx: Truncated at max_tokens. Raise the limit: --max-tokens N\n"
    )  # fmt: skip
    assert mlx(*line, "-q").stderr == ""


@pytest.mark.parametrize(
    "constraint",
    [("--regex", "[ab]{40}"), ("--json", "--regex", "[ab]{40}"), ("--schema", "name, age int"),
     ("--grammar", "start: /[ab]{40}/")],
    ids=["fast", "full", "schema", "grammar"],
)  # fmt: skip
def test_a_truncated_constrained_answer_exits_with_8(mlx: Run, constraint: tuple[str, ...]) -> None:
    done = mlx("ask", *constraint, "--max-tokens", "3", "Invent a person")
    assert done.returncode == 8
    assert "Truncated at max_tokens" in done.stderr


@pytest.mark.parametrize("way", [(), ("--json",)], ids=["fast", "full"])
def test_a_full_disk_behind_the_stdout_of_mlx_is_an_error(
    daemon: Daemon, way: tuple[str, ...]
) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [str(BIN / "mlx"), "ask", *way, "hello"], env=daemon.environ, stdout=full,
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_quiet_prints_only_the_answer(daemon: Daemon, tmp_path: Path) -> None:
    run = runner({**daemon.environ, "MLXD_STATE_DIR": str(tmp_path / "new")})
    for way in ((), ("--no-stream",), ("-n", "1")):
        done = run("ask", "-q", "-v", *way, "--temp", "0", "Count from 3 to 7.")
        assert (done.stdout, done.stderr) == ("3, 4, 5, 6, 7\n", "")


@pytest.mark.parametrize("way", [(), ("--json",)], ids=["fast", "full"])
def test_a_dash_stands_for_stdin(mlx: Run, daemon: Daemon, way: tuple[str, ...]) -> None:
    done = mlx("ask", "-q", *way, "--temp", "0", "-", stdin="Count from 3 to 7.")
    assert "3, 4, 5, 6, 7" in done.stdout
    done = mlx("ask", "--json", "--max-tokens", "1", "Summarise", "-", stdin="a diff")
    assert question_received(daemon, done) == "Summarise\n\na diff"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_stdin_is_decoded_by_its_byte_order_mark(mlx: Run, encoding: str, tmp_path: Path) -> None:
    raw = "Count from 3 to 7.".encode(encoding)
    assert mlx("ask", "--temp", "0", stdin=raw).stdout == "3, 4, 5, 6, 7\n"


def question_received(daemon: Daemon, done: subprocess.CompletedProcess[str]) -> str:
    """Return the text of the question that the model received."""
    name = json.loads(done.stdout)["conversation"]
    (turn,) = daemon.ask("conversations.show", id=name)["turns"]
    text: str = turn["messages"][-1]["content"]
    return text


def test_attached_files_are_named_and_fenced(mlx: Run, daemon: Daemon, tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.md"
    one.write_text("Count from 3 to 7.\n")
    two.write_text("```\ncode\n```\n")
    json_only = ("ask", "--json", "--max-tokens", "2")
    done = mlx(*json_only, "-f", str(one), "-f", str(two), "Do it", stdin="and this")
    assert question_received(daemon, done) == (
        f"{one}:\n```\nCount from 3 to 7.\n```\n\n{two}:\n````\n```\ncode\n```\n````\n\n"
        "Do it\n\nand this"
    )
    done = mlx(*json_only, "-f", "-", "Do it", stdin="from a pipe\n")
    assert question_received(daemon, done) == "stdin:\n```\nfrom a pipe\n```\n\nDo it"


def test_a_prompt_over_the_context_is_refused_with_sizes_and_a_hint(mlx: Run) -> None:
    done = mlx("ask", stdin="word " * 9000)
    assert (done.returncode, done.stdout) == (6, "")
    assert "pocket has a context of 16384" in done.stderr
    tokens = int(done.stderr.partition("The prompt has ")[2].split()[0])
    assert f"Shorten the prompt by {tokens - 16383} tokens or more" in done.stderr


def test_json_stream_prints_the_events_and_then_the_result(mlx: Run) -> None:
    lines = mlx("ask", "--json", "--stream", "--temp", "0", "Count from 3 to 7.").stdout
    *events, result = [json.loads(line) for line in lines.splitlines()]
    deltas = [event["text"] for event in events if event["type"] == "delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == result["choices"][0]["text"] == "3, 4, 5, 6, 7"


def test_reasoning_is_not_printed_into_pipes(mlx: Run) -> None:
    for way in ((), ("-n", "1"), ("-n", "2")):
        done = mlx("ask", "--think", "--temp", "0", *way, "hello")
        assert "The user" not in done.stdout + done.stderr
    result = json.loads(mlx("ask", "--think", "--temp", "0", "--json", "hello").stdout)
    assert "The user" in result["choices"][0]["reasoning"]


def test_keep_alive_accepts_durations(mlx: Run) -> None:
    for said, kept in (("2h", 7200.0), ("90", 90.0), ("forever", -1.0), ("1h30m", 5400.0)):
        assert mlx("load", "--keep-alive", said).returncode == 0
        assert json.loads(mlx("ps", "--json").stdout)[0]["keep_alive_s"] == kept


def test_several_answers_are_numbered(mlx: Run) -> None:
    done = mlx("ask", "-n", "2", "--temp", "0", "Count from 3 to 5.")
    assert done.stdout == "1. 3, 4, 5\n2. 3, 4, 5\n"


def test_load_ps_models_rpc_and_unload_work(mlx: Run) -> None:
    assert "pocket" in mlx("load").stdout
    assert json.loads(mlx("ps", "--json").stdout)[0]["model"] == "pocket"
    assert "pocket" in mlx("ps").stdout
    assert "builtin" in mlx("models", "list").stdout
    assert "qwen3" in mlx("models", "show").stdout
    assert json.loads(mlx("rpc", "ping").stdout) == {"pong": True}
    assert "Unloaded" in mlx("unload", "pocket").stdout


def test_a_piped_chat_obeys_clear_and_quit(mlx: Run) -> None:
    lines = "My name is Ada.\n\nWhat is my name?\nclear\nCount from 2 to 4.\nquit\nnever\n"
    done = mlx("chat", "--temp", "0", stdin=lines)
    assert done.returncode == 0
    answers = done.stdout.splitlines()
    assert "Ada" in answers[1]
    assert answers[2] == "2, 3, 4"
    assert len(answers) == 3
    assert "cleared" in done.stderr


def test_ctrl_c_stops_the_answer_and_exits_130(daemon: Daemon, environ_of: dict[str, str]) -> None:
    command = ["ask", "--ignore-eos", "--max-tokens", "9000", "Count from 1 to 99."]
    with terminal([str(BIN / "mlx"), *command], environ_of) as screen:
        screen.wait("2, 3")
        screen.send("\x03")
        screen.end()
        assert screen.exit_code == 130
    daemon.wait_idle()


def test_a_reader_of_stdout_that_exits_early_is_no_error(daemon: Daemon) -> None:
    done = subprocess.run(
        f"{BIN / 'mlx'} ask --temp 0 'Count from 1 to 60.' </dev/null | head -c 4",
        shell=True, env=daemon.environ, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("1, 2", "")


def test_mlx_works_through_a_symlink(daemon: Daemon, tmp_path: Path) -> None:
    link = tmp_path / "bin" / "ask-me"
    link.parent.mkdir()
    link.symlink_to(BIN / "mlx")
    done = subprocess.run(
        [str(link), "ask", "--temp", "0", "Count from 3 to 7."],
        env=daemon.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "3, 4, 5, 6, 7\n"


# ---- with a daemon of their own


def test_ask_starts_the_daemon_if_none_is_running(tmp_path: Path) -> None:
    environ = own_environ(tmp_path)
    run = runner(environ)
    refused = run("ask", "hi", MLXD_AUTOSTART="0")
    assert refused.returncode == 3
    assert "mlxd start" in refused.stderr
    done = run("ask", "--temp", "0", stdin="Count from 3 to 7.")
    try:
        assert done.stdout == "3, 4, 5, 6, 7\n", done.stderr
    finally:
        assert mlxd(environ, "stop").returncode == 0
    assert lock.holder(resolve_paths(environ).lock_file) is None


def test_an_engine_crash_ends_the_answer_with_exit_8_and_the_next_works() -> None:
    with running_daemon() as daemon:
        pid = daemon.engine_pid()
        process = subprocess.Popen(
            [str(BIN / "mlx"), "ask", "--ignore-eos", "--max-tokens", "9000", "Count from 1 to 9."],
            env=daemon.environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.read(4)
        os.kill(pid, signal.SIGKILL)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 8
        assert b"engine" in stderr
        done = runner(daemon.environ)("ask", "--temp", "0", "Count from 3 to 7.")
        assert done.stdout == "3, 4, 5, 6, 7\n"


def test_an_engine_without_models_exits_to_free_its_memory() -> None:
    with running_daemon(MLXD_KEEP_ALIVE_S="0.5") as daemon:
        pid = daemon.engine_pid()
        until(lambda: daemon.ask("status")["engine"]["state"] == "stopped", "the engine ends")
        until(lambda: not Path(f"/proc/{pid}").exists(), "its process ends")
        assert daemon.ask("ps")["models"] == []
        assert "choices" in daemon.ask("chat", messages=[{"role": "user", "content": "hello"}])


def test_cached_prompts_survive_a_restart(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Repeat after me: " + "green lake stone " * 20}]
    with running_daemon(tmp_path) as daemon:
        cold = daemon.ask("chat", messages=messages, temperature=0)
    with running_daemon(tmp_path) as daemon:
        warm = daemon.ask("chat", messages=messages, temperature=0)
    assert cold["usage"]["cached_tokens"] == 0
    assert warm["usage"]["cached_tokens"] == warm["usage"]["prompt_tokens"] - 1
    assert warm["choices"][0]["text"] == cold["choices"][0]["text"]


def test_a_model_over_the_memory_budget_is_refused_with_its_size() -> None:
    with running_daemon(MLXD_MEMORY_BUDGET_BYTES="4000000", MLXD_PRELOAD="false") as daemon:
        error = daemon.ask("chat", messages=[{"role": "user", "content": "hi"}])["error"]
    assert error["code"] == "out_of_memory"
    assert error["data"]["need_bytes"] > error["data"]["budget_bytes"] == 4_000_000
