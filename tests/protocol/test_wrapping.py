"""Text for terminals is wrapped between words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mlxd.protocol.wrapping import wrapped

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


@given(text=TEXTS, width=st.integers(1, 40))
def test_no_word_is_lost_and_only_single_words_are_too_wide(text: str, width: int) -> None:
    lines = wrapped(text, width, rest="  ").splitlines()
    assert " ".join(lines).split() == text.split()
    for line in lines:
        assert cell_len(line) <= width or len(line.split()) <= 1 or line == text
