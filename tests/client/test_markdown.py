"""Markdown as it streams: however it is cut, the screen ends up the same."""

from __future__ import annotations

import io
import itertools

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mlxd.client.cli import markdown
from support.terminal import SYNCHRONISED

TEXT = """# Title

Hello *world*, this is a **long** paragraph that goes over several lines, so that it is wrapped.

- one
- two
  - nested

1. first
2. second

```python
def f(x):
    return x
```

| a | b |
|---|---|
| 1 | 2 |
| 333333 | 4 |

> quote

宽字符 are twice as wide, 宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽.

End."""


@pytest.fixture(autouse=True)
def every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown, "FRAME_S", 0.0)


def shown(parts: list[str], *, columns: int = 60, rows: int = 200, before: str = "") -> list[str]:
    """Return the lines of a terminal that was given the parts."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=columns, height=rows, highlight=False)
    stream = markdown.MarkdownStream(before, console)
    for part in parts:
        stream.write(part)
    stream.close()
    screen = pyte.HistoryScreen(columns, rows, history=1000, ratio=1)
    written = SYNCHRONISED.sub("", before + file.getvalue())
    pyte.Stream(screen).feed(written.replace("\n", "\r\n") + "|")
    gone = ["".join(line[x].data for x in range(columns)) for line in screen.history.top]
    lines = [line.rstrip() for line in [*gone, *screen.display]]
    return "\n".join(lines).rstrip().split("\n")


WHOLE = shown([TEXT])


def test_it_looks_like_markdown() -> None:
    assert WHOLE[0] == "# Title"
    assert " • two" in WHOLE
    assert "    return x" in [line[1:] for line in WHOLE]
    assert "**" not in "\n".join(WHOLE)
    # The cursor ends at the beginning of a new line.
    assert WHOLE[-2:] == ["End.", "|"]


@settings(deadline=None, max_examples=60)
@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=80))
def test_the_way_it_is_cut_makes_no_difference(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(TEXT)]
    parts = [TEXT[a:b] for a, b in itertools.pairwise(edges)]
    assert shown(parts) == WHOLE


def test_token_by_token_on_a_small_screen_nothing_is_lost() -> None:
    parts = [TEXT[at : at + 3] for at in range(0, len(TEXT), 3)]
    assert shown(parts, rows=8) == WHOLE


@pytest.mark.parametrize("cut", [1, 5, 20, 59, 60, 61, 100])
def test_it_takes_over_what_was_printed_raw(cut: int) -> None:
    text = "Some words that were printed before there was any need, and " * 2 + "then **bold**."
    assert shown([text[cut:]], before=text[:cut]) == shown([text])


@settings(deadline=None, max_examples=60)
@given(parts=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9)))
def test_no_text_makes_it_fail(parts: list[str]) -> None:
    shown(parts, columns=20, rows=5)
