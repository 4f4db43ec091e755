"""The log as `mlxd logs` formats it: local time, units, widths, control characters."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mlxd.daemon.cli.log_lines import formatted

REQUEST = {
    "time": "2026-11-27T17:12:59Z", "level": "info", "event": "request", "rid": 7, "conn": 2,
    "method": "chat", "model": "mlx-community/Qwen3-4B-4bit", "priority": "batch", "replays": 1,
    "outcome": "ok", "prompt_tokens": 17, "cached_tokens": 3, "completion_tokens": 14,
    "reasoning_tokens": 0, "queue_s": 2.5, "load_s": 0.0, "prefill_s": 0.03, "decode_s": 0.37,
    "time_to_first_token_s": 0.0631, "tokens_per_s": 37.671,
}  # fmt: skip


def record(event: str, level: str = "info", **fields: object) -> bytes:
    line = {"time": "2026-11-27T17:12:59Z", "level": level, "event": event, **fields}
    return json.dumps(line).encode() + b"\n"


@pytest.fixture(autouse=True)
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_log_lines_use_local_time_and_readable_units() -> None:
    line = formatted(record("converted", model="pocket", bytes=3_626_592, took_s=3720))
    assert line == (
        "Nov 28 02:12:59 info  converted      model pocket, size 3.6 MB, took 1 h 2 min"
    )


def test_a_request_line_shows_outcome_tokens_and_speed() -> None:
    line = formatted(json.dumps(REQUEST).encode())
    assert line == (
        "Nov 28 02:12:59 info  request        #7 chat mlx-community/Qwen3-4B-4bit, ok, "
        "priority batch, retried 1×, 17 tokens in (3 cached), 14 out, queued 2.5 s, "
        "first token 63 ms, 37.7 tokens/s"
    )


def test_text_added_by_log_text_is_shown_escaped() -> None:
    line = formatted(json.dumps({**REQUEST, "prompt": "a\x1b[31mb\nc"}).encode())
    assert "prompt a\\x1b[31mb\\nc" in line


@pytest.mark.parametrize("width", [50, 80, 120])
def test_log_lines_wrap_between_words_at_the_terminal_width(width: int) -> None:
    raw = json.dumps(REQUEST).encode()
    shown = formatted(raw, width=width).splitlines()
    assert len(shown) > 1
    assert all(len(line) <= width for line in shown)
    assert all(line.startswith("  ") for line in shown[1:])
    assert " ".join(" ".join(shown).split()) == " ".join(formatted(raw).split())


@pytest.mark.parametrize("width", [50, 80])
def test_wide_characters_count_as_two_columns(width: int) -> None:
    raw = record("pulled", model="模型 " * 40)
    shown = formatted(raw, width=width).splitlines()
    assert all(cell_len(line) <= width for line in shown)
    assert max(cell_len(line) for line in shown[:-1]) > width - 6
    assert "".join(shown).count("模型") == 40


def test_only_the_log_level_is_coloured() -> None:
    line = formatted(record("hub worker died", "warning"), colour=True)
    assert line == "Nov 28 02:12:59 \x1b[33mwarn\x1b[0m  hub worker died"
    assert "\x1b" not in formatted(record("ready"), colour=True)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"no JSON\x1b[2J\n", "no JSON\\x1b[2J"),
        (b'{"event": "x"}\n', '{"event": "x"}'),
        (b"[1, 2]\n", "[1, 2]"),
        (b"\xff\xfe\n", "\\xff\\xfe"),
        (b"[" * 100_000, "[" * 100_000),
        (b"\xe2\x80\xaeright to left\n", "\\u202eright to left"),
    ],
    ids=["text", "other JSON", "a list", "not UTF-8", "too deep", "direction"],
)
def test_a_line_that_is_no_record_is_shown_escaped(line: bytes, shown: str) -> None:
    assert formatted(line) == shown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
NAMES = st.sampled_from([*REQUEST, "x_s", "bytes", "_bytes"]) | st.text(max_size=6)


@given(fields=st.dictionaries(NAMES, JSON, max_size=6), width=st.none() | st.integers(1, 130))
def test_any_record_is_formatted_without_control_characters(
    fields: dict[str, Any], width: int | None
) -> None:
    shown = formatted(record("request") [:-2] + b", " + json.dumps(fields).encode()[1:] + b"\n"
                      if fields else record("ready"), width=width)  # fmt: skip
    assert shown
    assert all(char.isprintable() for char in shown.replace("\n", ""))
