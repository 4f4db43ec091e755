"""Streamed markdown: the final screen is the same for any chunking."""

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


def rendered(
    parts: list[str], *, columns: int = 60, rows: int = 200, before: str = ""
) -> list[str]:
    """Return the lines of a terminal after the parts were streamed."""
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


WHOLE = rendered([TEXT])


def test_markdown_is_rendered() -> None:
    assert WHOLE[0] == "# Title"
    assert " • two" in WHOLE
    assert "    return x" in [line[1:] for line in WHOLE]
    assert "**" not in "\n".join(WHOLE)
    # The cursor ends at the beginning of a new line.
    assert WHOLE[-2:] == ["End.", "|"]


@settings(deadline=None, max_examples=60)
@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=80))
def test_streamed_markdown_renders_the_same_for_any_chunking(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(TEXT)]
    parts = [TEXT[a:b] for a, b in itertools.pairwise(edges)]
    assert rendered(parts) == WHOLE


def test_markdown_streamed_on_a_small_screen_loses_no_line() -> None:
    parts = [TEXT[at : at + 3] for at in range(0, len(TEXT), 3)]
    assert rendered(parts, rows=8) == WHOLE


@pytest.mark.parametrize("cut", [1, 5, 20, 59, 60, 61, 100])
def test_rendering_takes_over_text_that_was_printed_raw(cut: int) -> None:
    text = "Some words that were printed before there was any need, and " * 2 + "then **bold**."
    assert rendered([text[cut:]], before=text[:cut]) == rendered([text])


@settings(deadline=None, max_examples=60)
@given(parts=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9)))
def test_no_text_breaks_the_markdown_stream(parts: list[str]) -> None:
    rendered(parts, columns=20, rows=5)
