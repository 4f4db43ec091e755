from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.protocol.durations import seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90), ("0", 0), ("1.5", 1.5), ("45s", 45), ("30m", 1800), ("2h", 7200), ("1d", 86400),
        ("1h30m", 5400), ("1h 30m", 5400), ("1d2h3m4s", 93784), ("500ms", 0.5), ("1.5h", 5400),
        ("1H30M", 5400), (" 5m ", 300), ("1m30s", 90), ("forever", -1), ("Forever", -1),
    ],
)  # fmt: skip
def test_durations_are_parsed_in_common_formats(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "m", "5x", "30m1h", "1h30", "1h1h", "-5", "-1m", "1e3", "inf", "nan", "1_000", "٣",
     "1..5h", ".", "1h-30m", "5 minutes ago", "forever1", "9" * 400],
)  # fmt: skip
def test_invalid_durations_are_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="Use 90, 30s, 1h30m"):
        seconds(text)


@given(st.text())
def test_parsing_any_text_as_a_duration_is_safe(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert seconds(text) >= 0 or seconds(text) == -1
