"""Text for terminals is wrapped between words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mlxd.protocol.wrapping import folded, wrapped

TEXTS = st.text(st.sampled_from("ab 模é'-"), max_size=80)


def test_a_line_that_fits_stays_as_it_is() -> None:
    assert wrapped("a  b", 9, first="mlx: ") == "mlx: a  b"


def test_a_longer_one_continues_below_its_indent() -> None:
    text = "There is no model nope here."
    assert wrapped(text, 20, first="mlx: ", rest="     ") == (
        "mlx: There is no\n     model nope\n     here."
    )


def test_a_command_or_path_is_never_cut() -> None:
    path = "/a/very-long/path/to-some/model"
    assert wrapped(f"See {path} now", 12).splitlines() == ["See", path, "now"]


def test_a_value_that_does_not_fit_beside_its_label_goes_below_it() -> None:
    assert wrapped("/a/long/path", 16, first="folder  ", rest="  ") == "folder\n  /a/long/path"


def test_a_command_in_a_message_stays_in_one_line() -> None:
    text = "Complete parts are kept. Resume: mlx models pull org/name, or see `mlx models list`."
    assert wrapped(text, 50).splitlines() == [
        "Complete parts are kept. Resume:",
        "mlx models pull org/name, or see",
        "`mlx models list`.",
    ]


def test_every_line_of_a_message_continues_below_its_own_indent() -> None:
    text = "mlx: There is no model here.\n     Get one: mlx models pull NAME"
    assert folded(text, 24).splitlines() == [
        "mlx: There is no model",
        "     here.",
        "     Get one:",
        "     mlx models pull NAME",
    ]


def test_a_second_column_continues_below_itself() -> None:
    assert folded("  /set [NAME]  see or change an option", 30).splitlines() == [
        "  /set [NAME]  see or change",
        "               an option",
    ]


@given(text=TEXTS, width=st.integers(1, 40))
def test_no_word_is_lost_and_only_single_words_are_too_wide(text: str, width: int) -> None:
    lines = wrapped(text, width, rest="  ").splitlines()
    assert " ".join(lines).split() == text.split()
    for line in lines:
        assert cell_len(line) <= width or len(line.split()) <= 1 or line == text
