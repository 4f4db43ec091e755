"""The fast path compared with the full program and the tables of the protocol."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxd.client.cli.options import fill_options, params_of, shared_options
from mlxd.client.cli.options import given as given_options
from mlxd.client.fast import options, wire
from mlxd.protocol.durations import seconds
from mlxd.protocol.errors import ERRORS
from mlxd.protocol.methods import METHODS
from mlxd.protocol.parameters import SAMPLING
from mlxd.safesocket import peercred
from support.commands import BIN

FAST = Path(options.__file__).parent
SAFESOCKET = Path(peercred.__file__).parent
FLAGS = [flag for _, flags, _, _ in options.OPTIONS for flag in flags]


@click.command()
@click.argument("words", nargs=-1)
@shared_options
@click.pass_context
def full(ctx: click.Context, /, words: tuple[str, ...], **values: object) -> None:
    ctx.obj = (given_options(values), list(words))


def by_click(arguments: list[str]) -> tuple[dict[str, object], list[str]] | None:
    try:
        context = full.make_context("ask", list(arguments))
        full.invoke(context)
    except click.UsageError:
        return None
    found: tuple[dict[str, object], list[str]] = context.obj
    return found


WORDS = st.one_of(
    st.sampled_from(FLAGS), st.sampled_from(FLAGS), st.sampled_from(["--", "-", "0.5", "7", "x y"]),
    st.builds(lambda flag, value: f"{flag}={value}", st.sampled_from(FLAGS), st.sampled_from("1x")),
    st.text(max_size=4),
)  # fmt: skip


@settings(deadline=None, max_examples=500)
@given(arguments=st.lists(WORDS, max_size=7))
def test_the_fast_parser_agrees_with_click(arguments: list[str]) -> None:
    fast = options.parse(arguments)
    if fast is None or "--help" in arguments:
        return  # left to click
    assert by_click(arguments) == fast


def test_the_fast_path_parses_ordinary_command_lines() -> None:
    line = ["-m", "x", "--temp=0.5", "--stop", "a", "--stop", "b", "--no-think", "-v", "why", "so"]
    values, words = options.parse(line)
    assert values == {"model": "x", "temperature": 0.5, "stop": ["a", "b"], "thinking": False,
                      "verbose": True}  # fmt: skip
    assert words == ["why", "so"]


def test_options_override_presets() -> None:
    values = {"preset": "code", "temperature": 0.1}
    params = params_of("ask", values, "hi")
    assert (params["temperature"], params["top_p"]) == (0.1, 0.95)


def test_every_sampling_parameter_has_an_option() -> None:
    named = {name for name, *_ in options.OPTIONS}
    assert {param.name for param in SAMPLING} <= named
    known = {param.name for param in METHODS["chat"].params}
    assert named - known == set(options.LOCAL) - {"prefix", "suffix"}


NO_OPTION = {
    "messages", "prompt", "stream", "scope", "history",  # set by `mlx` from the command line
    "tools", "tool_choice", "template_kwargs", "tag", "supersede",  # for programs: `mlx rpc`
}  # fmt: skip


def test_every_request_parameter_has_an_option_or_is_listed_without_one() -> None:
    named = {name for name, *_ in options.OPTIONS}
    params = {param.name for name in ("chat", "generate") for param in METHODS[name].params}
    assert params - named == NO_OPTION


def test_exit_codes_of_the_fast_path_equal_those_of_the_protocol() -> None:
    assert {code: kind.exit_code for code, kind in ERRORS.items()} == options.EXIT_CODES


def test_priorities_of_the_fast_path_equal_those_of_the_protocol() -> None:
    assert METHODS["chat"].param("priority").choices == options.PRIORITIES


DURATIONS = ("90", "0.5", "30m", "1h30m", "1d2h3m4s", "0.5h", "500ms", "-1", "forever", "", "h",
             "5x", "1h30", "nan", "inf", "1e3", "1_000", "٣", "9" * 30, "1m!", "1m1h")  # fmt: skip


@pytest.mark.parametrize("text", DURATIONS)
def test_the_fast_path_parses_only_durations_in_seconds(
    text: str,
) -> None:
    fast = options.parse(["--timeout", text])
    if fast is None:
        assert not (text.isascii() and text.isdigit()) or len(text) > 20
    else:
        assert fast[0]["deadline_s"] == seconds(text)


@pytest.mark.parametrize(
    ("text", "wanted"), [("30m", 1800), ("1h30m", 5400), ("-1", -1), ("forever", -1), ("5x", None)]
)
def test_the_full_program_parses_durations_like_the_daemon(text: str, wanted: float | None) -> None:
    found = by_click(["--keep-alive", text])
    assert (found and found[0]["keep_alive_s"]) == wanted


COLOURS: list[tuple[dict[str, str], bool]] = [
    ({}, False),
    ({"TERM": "xterm"}, True),
    ({"TERM": "dumb"}, False),
    ({"TERM": "xterm", "NO_COLOR": "1"}, False),
    ({"TERM": "xterm", "NO_COLOR": ""}, True),
    ({"TERM": "xterm", "CLICOLOR": "0"}, False),
    ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
    ({"CLICOLOR_FORCE": "1", "CLICOLOR": "0"}, True),
    ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
]


@pytest.mark.parametrize(("environ", "wanted"), COLOURS, ids=str)
def test_colour_settings_follow_the_environment(environ: dict[str, str], wanted: bool) -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); import text; print(text.coloured())"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, str(FAST)],
        env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(wanted)


def test_model_folders_are_resolved_against_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "models" / "one"
    model.mkdir(parents=True)
    (model / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    values = {"model": "models/one", "draft": "./two", "adapter": "models/one"}
    params = params_of("ask", values, "hi")
    assert params["model"] == params["adapter"] == str(model)
    assert params["draft"].startswith(str(tmp_path))
    names = {"model": "ORG/NAME", "adapter": "mine", "draft": "models"}
    params = params_of("ask", dict(names), "hi")
    assert {name: params[name] for name in names} == names


def test_fill_has_its_own_options() -> None:
    command = click.command()(fill_options(lambda **_: None))
    assert {p.name for p in command.params} >= {"prefix"}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(
        st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=20),
)  # fmt: skip


@settings(deadline=None)
@given(value=VALUES)
def test_the_fast_paths_codec_agrees_with_msgpack(value: Any) -> None:
    import msgpack

    packed = wire.pack(value)
    assert msgpack.unpackb(packed, strict_map_key=False) == value
    theirs = msgpack.packb(value)
    assert wire.unpack(theirs, 0) == (value, len(theirs))
    for size in range(len(theirs)):
        with pytest.raises(wire.More):
            wire.unpack(theirs[:size], 0)


def test_the_fast_path_imports_few_modules() -> None:
    code = "import sys; sys.path[:0] = sys.argv[1:]; import main; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [str(BIN / "python"), "-I", "-S", "-c", code, str(FAST), str(SAFESOCKET)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    forbidden = {"click", "asyncio", "dataclasses", "platformdirs", "re", "json", "msgpack", "os",
                 "site", "socket", "typing"}  # fmt: skip
    assert not loaded & forbidden
    assert len(loaded) < 45
