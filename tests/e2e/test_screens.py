"""Whole screens as text: the real commands on a terminal.

The fake engine answers with a given text, so that the screen is known. The rest is real.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from support.commands import BIN, runner
from support.daemon_process import Daemon, daemon_with_fake_engine, running_daemon
from support.terminal import Terminal, terminal

MLX = str(BIN / "mlx")
MARKDOWN = """# Title

Some **bold** words and `code` in a paragraph that is wrapped.

- one
- two

```python
def f(x):
    return x
```

| a | b |
|---|---|
| 1 | 22 |
"""
SCREEN = """\
# Title

Some bold words and code in a paragraph
that is wrapped.

 • one
 • two

 def f(x):
     return x

 a  b
 ─────
 1  22"""


@pytest.fixture(scope="module")
def scripted_daemon() -> Iterator[Daemon]:
    """A daemon whose fake engine answers with the text that the prompt gives."""
    with daemon_with_fake_engine() as running:
        runner(running.environ)("ask", "--no-log", "say hello")  # introduces pocket
        yield running


def ask(
    scripted_daemon: Daemon,
    text: str,
    *options: str,
    settings: dict[str, str] | None = None,
    columns: int = 40,
) -> Terminal:
    """Run `mlx ask` on a terminal; return the terminal once the answer is complete."""
    command = [MLX, "ask", *options, f"say {text}"]
    with terminal(
        command, {**scripted_daemon.environ, **(settings or {})}, columns=columns
    ) as screen:
        screen.end()
    assert screen.exit_code == 0
    return screen


def shown_on(screen: Terminal) -> str:
    """Return the visible text, without the blanks that pad tables and code blocks."""
    return "\n".join(line.rstrip() for line in screen.text().splitlines())


def test_ask_and_chat_render_markdown_identically(scripted_daemon: Daemon) -> None:
    assert shown_on(ask(scripted_daemon, MARKDOWN)) == SCREEN
    chat = [MLX, "chat", "--temp", "0"]
    with terminal(chat, scripted_daemon.environ, columns=40) as screen:
        screen.wait_prompt(">")
        screen.send('"""say ' + MARKDOWN.replace("\n", "\x1b\r") + '"""\r')
        screen.wait("───")
        screen.wait_prompt(">")
        assert SCREEN in shown_on(screen)


def test_an_answer_longer_than_the_screen_is_complete_in_the_scrollback(
    scripted_daemon: Daemon,
) -> None:
    text = "\n\n".join(f"Paragraph **{number}** of many." for number in range(40))
    shown = "\n\n".join(f"Paragraph {number} of many." for number in range(40))
    assert shown_on(ask(scripted_daemon, text)) == shown


def test_wide_characters_take_two_columns(scripted_daemon: Daemon) -> None:
    text = "宽字符" * 12 + " **end** 한국어 🦊 and é."
    # pyte leaves an empty cell behind each wide character, as terminals do.
    screen = ask(scripted_daemon, text, columns=24)
    rows = [line.rstrip() for line in screen.screen.display if line.strip()]
    assert "".join(rows).replace(" ", "") == text.replace("*", "").replace(" ", "")
    assert rows[0] == "宽字符" * 4
    assert screen.screen.cursor.x == 0


@pytest.mark.parametrize("columns", [10, 20, 79, 80, 81])
def test_wrapping_loses_no_word_at_any_width(scripted_daemon: Daemon, columns: int) -> None:
    words = [f"word{number}" for number in range(30)]
    shown = shown_on(ask(scripted_daemon, "*" + " ".join(words) + "*", columns=columns))
    # A row that leaves the screen before the closing marker has come keeps the opening one.
    assert shown.removeprefix("*").split() == words


@pytest.mark.parametrize("way", [(), ("--plain",), ("--no-stream",)], ids=str)
def test_control_characters_in_an_answer_are_shown_escaped(
    scripted_daemon: Daemon, way: tuple[str, ...]
) -> None:
    evil = "a\x1b[31mred\x1b]0;title\x07 \u202egnp.exe\x9b2J end"
    screen = ask(scripted_daemon, evil, *way, columns=60)
    assert shown_on(screen) == "a␛[31mred␛]0;title␇ \ufffdgnp.exe\ufffd2J end"
    assert "\x1b[31m" not in screen.raw
    assert "\x07" not in screen.raw


def test_piped_output_is_the_models_text_unchanged(scripted_daemon: Daemon) -> None:
    text = "a\x1b[31mred\x1b[0m **bold** 宽\u202e"
    done = runner(scripted_daemon.environ)("ask", f"say {text}")
    assert (done.stdout, done.stderr) == (text + "\n", "")


@pytest.mark.parametrize(
    ("way", "settings"),
    [(("--plain",), {}), ((), {"NO_COLOR": "1"}), ((), {"TERM": "dumb"})], ids=str,
)  # fmt: skip
def test_plain_output_contains_no_escape_sequences(
    scripted_daemon: Daemon, way: tuple[str, ...], settings: dict[str, str]
) -> None:
    screen = ask(scripted_daemon, "# Title\n\n**bold** `code`", *way, settings=settings)
    assert screen.raw == "# Title\r\n\r\n**bold** `code`\r\n"


def test_an_answer_streams_into_a_pipe(scripted_daemon: Daemon) -> None:
    process = subprocess.Popen(
        [MLX, "ask", "endless"],
        env=scripted_daemon.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(9) == b"on on on "
    process.terminate()
    process.communicate()


# ---- reasoning


@pytest.mark.parametrize("full", [False, True], ids=["fast", "full"])
def test_reasoning_is_printed_dimmed_above_the_answer(scripted_daemon: Daemon, full: bool) -> None:
    command = [MLX, "ask", "mixed"]
    if full:
        command[2:2] = ["-e"]
    environ = {**scripted_daemon.environ, "EDITOR": "true"}
    with terminal(command, environ) as screen:
        assert screen.end() == "hm\n\nwell"
    assert "\x1b[2mhm\x1b[0m" in screen.raw


@pytest.mark.parametrize(
    ("options", "settings", "shown"),
    [
        (["--no-think"], {}, "well"),
        (["--think"], {}, "hm\n\nwell"),
        ([], {"NO_COLOR": "1"}, "well"),
        (["--think"], {"NO_COLOR": "1"}, "hm\n\nwell"),
        (["-n", "1"], {}, "hm\n\nwell"),
        (["-n", "1", "--no-think"], {}, "well"),
    ],
    ids=str,
)
def test_options_and_colour_settings_show_or_hide_reasoning(
    scripted_daemon: Daemon, options: list[str], settings: dict[str, str], shown: str
) -> None:
    with terminal(
        [MLX, "ask", *options, "mixed"], {**scripted_daemon.environ, **settings}
    ) as screen:
        assert screen.end() == shown


def test_reasoning_is_not_printed_if_stdout_is_piped(scripted_daemon: Daemon) -> None:
    for option, shown in (("", "well|"), ("--think", "hm\n\nwell|")):
        script = f"{MLX} ask {option} mixed | sed 's/$/|/'"
        with terminal(["sh", "-c", script], scripted_daemon.environ) as screen:
            assert screen.end() == shown


def test_a_terminal_shows_the_loading_note_then_reasoning_and_answer() -> None:
    with (
        running_daemon(MLXD_PRELOAD="false") as daemon,
        terminal([MLX, "ask", "--think", "--temp", "0", "hello"], daemon.environ) as screen,
    ):
        thought, blank, answer = screen.end().split("\n")[:3]
        # The loading note is shown while the model loads, and removed afterwards.
        assert "loading pocket …" in screen.raw
        assert "loading" not in screen.text()
    assert thought.startswith("The user")
    assert (blank, answer[:5]) == ("", "Hello")


@pytest.mark.parametrize("way", [(), ("-n", "1")], ids=["fast", "full"])
def test_a_truncated_answer_is_reported_on_a_terminal_and_in_a_pipe(
    daemon: Daemon, way: tuple[str, ...]
) -> None:
    command = [MLX, "ask", "--temp", "0", "--max-tokens", "5", *way, "Count from 1 to 9."]
    said = "mlx: Truncated at max_tokens. Raise the limit: --max-tokens N"
    with terminal(command, daemon.environ) as screen:
        assert said in screen.end()
    done = runner(daemon.environ)(*command[1:])
    assert (done.stderr, done.stdout[:4]) == (said + "\n", "1, 2")


# ---- failures


def test_a_failure_is_printed_below_the_partial_answer(scripted_daemon: Daemon) -> None:
    with daemon_with_fake_engine() as daemon:
        with terminal([MLX, "ask", "endless"], daemon.environ, columns=80) as screen:
            screen.wait("on on on")
            daemon.stop(9)
            said = screen.end()
        assert screen.exit_code == 8
    assert said.splitlines()[-2:] == [
        "mlx: The daemon went away before the answer was complete.",
        "     Ask again. If it happens again: mlxd logs -n 50",
    ]
    assert said.splitlines()[-3].startswith("on on")
