"""Tables fit the terminal width; durations are printed in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mlxd.client.cli.tables import ago, duration, table_lines

TEXT = st.text(st.sampled_from("abc 漢字🦊é"), max_size=60)


@given(rows=st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=5), width=st.sampled_from([50, 80, 120]))
def test_no_table_line_is_wider_than_the_terminal(rows: list[tuple[str, ...]], width: int) -> None:
    lines = table_lines(("ONE", "TWO", "THREE"), rows, width)
    assert len(lines) == len(rows) + 1
    assert max(map(cell_len, lines)) <= width


def test_wide_characters_take_two_cells_in_tables() -> None:
    lines = table_lines(("NAME", "N"), [("漢字漢字", "1"), ("abc", "2")], None)
    assert lines == ["NAME      N", "漢字漢字  1", "abc       2"]


def test_truncated_text_ends_with_an_ellipsis() -> None:
    (_, line) = table_lines(("NAME", "N"), [("x" * 30, "1")], 20)
    assert line == "x" * 8 + "…" + "x" * 8 + "  1"


def test_the_end_of_a_name_is_kept_since_it_tells_models_apart() -> None:
    rows: list[tuple[str, ...]] = [("mlx-community/Qwen3-4B-4bit", "2.3 GB"), ("模" * 20, "1 GB")]
    _, name, wide = table_lines(("MODEL", "SIZE"), rows, 26)
    assert name == "mlx-comm…3-4B-4bit  2.3 GB"
    assert cell_len(wide) <= 26
    assert wide.startswith("模模")


def test_other_columns_lose_their_end() -> None:
    (_, line) = table_lines(("N", "TEXT"), [("1", "one two three four")], 12)
    assert line == "1  one two…"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 seconds"), (1, "1 second"), (59, "1 minute"), (125, "2 minutes"), (1500, "25 minutes"),
     (3600, "1 hour"), (7300, "2 hours"), (86400, "1 day"), (9e5, "10 days")],
)  # fmt: skip
def test_durations_are_printed_in_words(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_past_times_are_printed_relative_to_now() -> None:
    assert (ago(0.2), ago(125)) == ("now", "2 minutes ago")
