"""Draws frames of a terminal as one animated SVG. With reduced motion it shows the last frame.

A frame is a screen and the time at which it appeared. The SVG consists of runs: text of one style
in one place, from one frame until a later frame changes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

CELL_W, CELL_H, FONT_PX = 8.4, 20.0, 14.0
PAD_X, PAD_Y, BAR_H = 18.0, 14.0, 34.0
BASELINE = 14.5
HOLD_S = 6.0
"""Duration of the last frame before the animation repeats."""

COLOURS = {
    "default": "#d8dce4", "black": "#5c6370", "red": "#f07178", "green": "#8fce7e",
    "brown": "#e5c07b", "blue": "#7aa8f0", "magenta": "#c49af0", "cyan": "#6fc9d0",
    "white": "#f2f4f8", "brightblack": "#7d8596",
}  # fmt: skip
"""pyte's names of colours, for the dark background of the window."""

HEAD = """<svg xmlns="http://www.w3.org/2000/svg" width="{w:g}" height="{h:g}" \
viewBox="0 0 {w:g} {h:g}" role="img" aria-labelledby="t">
<title id="t">{label}</title>
<style>
text{{font:{font:g}px ui-monospace,SFMono-Regular,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",\
"Liberation Mono",monospace;fill:{ink};white-space:pre}}
.bar{{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#8d95a5;\
text-anchor:middle}}
.bold{{font-weight:700;fill:#ffffff}}
.gone{{opacity:0}}
{rules}
@media (prefers-reduced-motion:reduce){{*{{animation:none!important}}}}
</style>
<rect x=".75" y=".75" width="{inner_w:g}" height="{inner_h:g}" rx="10" fill="#191c23" \
stroke="#474d5b" stroke-width="1.5"/>
<path d="M.75 {bar:g}V11A10.25 10.25 0 0 1 11 .75H{right:g}a10.25 10.25 0 0 1 10.25 10.25\
V{bar:g}z" fill="#242832"/>
<circle cx="20" cy="17.5" r="5.5" fill="#f0655c"/><circle cx="39" cy="17.5" r="5.5" \
fill="#f2bd42"/><circle cx="58" cy="17.5" r="5.5" fill="#57c353"/>
<text class="bar" x="{middle:g}" y="22">{title}</text>
"""


@dataclass(frozen=True, slots=True)
class Style:
    """The style of a cell."""

    colour: str = "default"
    bold: bool = False


Cells = dict[tuple[int, int], tuple[str, Style]]
"""Maps (row, column) to a visible character and its style."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A screen, the time at which it appeared, and its cursor's (row, column)."""

    at_s: float
    cells: Cells
    cursor: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Run:
    """Text in one place, from one frame until another. None: until the end."""

    row: int
    column: int
    text: str
    style: Style
    born: int
    gone: int | None


def runs_of(frames: Sequence[Frame]) -> list[Run]:
    """Return the runs to draw, row by row."""
    lives: list[tuple[int, int, int | None, int, str, Style]] = []
    seen: dict[tuple[int, int], tuple[str, Style, int]] = {}
    for number, frame in enumerate(frames):
        for place, (text, style, born) in list(seen.items()):
            if frame.cells.get(place) != (text, style):
                lives.append((place[0], born, number, place[1], text, style))
                del seen[place]
        for place, (text, style) in frame.cells.items():
            if place not in seen:
                seen[place] = (text, style, number)
    for (row, column), (text, style, born) in seen.items():
        lives.append((row, born, None, column, text, style))
    lives.sort(
        key=lambda life: (life[0], life[1], len(frames) if life[2] is None else life[2], life[3])
    )
    used = {(life[0], life[3]) for life in lives}
    joined: list[Run] = []
    for (row, born, gone), cells in groupby(lives, key=lambda life: life[:3]):
        joined += _joined(row, born, gone, [cell[3:] for cell in cells], used)
    return joined


def _joined(
    row: int,
    born: int,
    gone: int | None,
    cells: list[tuple[int, str, Style]],
    used: set[tuple[int, int]],
) -> Iterator[Run]:
    """Join adjacent runs of one style, also across a cell that is blank in every frame."""
    column, text, style = cells[0]
    for at, character, its in cells[1:]:
        gap = at - column - len(text)
        if its == style and (gap == 0 or (gap == 1 and (row, at - 1) not in used)):
            text += " " * gap + character
        else:
            yield Run(row, column, text, style, born, gone)
            column, text, style = at, character, its
    yield Run(row, column, text, style, born, gone)


def draw(frames: Sequence[Frame], *, columns: int, title: str, label: str) -> str:
    """Return the SVG. `label` describes it for screen readers."""
    runs = runs_of(frames)
    rows = 1 + max(row for frame in frames for row, _ in frame.cells)
    total_s = frames[-1].at_s + HOLD_S
    width, height = columns * CELL_W + 2 * PAD_X, rows * CELL_H + 2 * PAD_Y + BAR_H
    lives = sorted({(run.born, run.gone) for run in runs}, key=lambda life: (life[0], life[1] or 0))
    names = {life: f"a{number}" for number, life in enumerate(lives)}
    rules = [_rule(names[life], life, frames, total_s) for life in lives]
    rules.append(_cursor_rule(frames, total_s))
    head = HEAD.format(
        w=width, h=height, inner_w=width - 1.5, inner_h=height - 1.5, bar=BAR_H, right=width - 11,
        middle=width / 2, font=FONT_PX, ink=COLOURS["default"], title=escape(title),
        label=escape(label), rules="\n".join(rules),
    )  # fmt: skip
    x, y = _cursor_place(frames[-1])
    cursor = (
        f'<rect class="cursor" width="{CELL_W:g}" height="{CELL_H - 3:g}" fill="#aab2c2" '
        f'opacity=".75" style="transform:translate({x:g}px,{y:g}px)"/>'
    )
    body = "\n".join(_element(run, names[run.born, run.gone]) for run in runs)
    return f"{head}{cursor}\n{body}\n</svg>\n"


def _percent(at_s: float, total_s: float) -> str:
    return f"{100 * at_s / total_s:.2f}%"


def _rule(name: str, life: tuple[int, int | None], frames: Sequence[Frame], total_s: float) -> str:
    born, gone = life
    steps = ["0%{opacity:0}"] if frames[born].at_s > 0 else []
    steps.append(f"{_percent(frames[born].at_s, total_s)}{{opacity:1}}")
    if gone is not None:
        steps.append(f"{_percent(frames[gone].at_s, total_s)}{{opacity:0}}")
    animation = f".{name}{{animation:{name} {total_s:.2f}s step-end infinite}}"
    return f"{animation}@keyframes {name}{{{''.join(steps)}}}"


def _cursor_place(frame: Frame) -> tuple[float, float]:
    if frame.cursor is None:
        return -100.0, 0.0
    row, column = frame.cursor
    return PAD_X + column * CELL_W, BAR_H + PAD_Y + row * CELL_H + 1


def _cursor_rule(frames: Sequence[Frame], total_s: float) -> str:
    steps = []
    last: tuple[float, float] | None = None
    for frame in frames:
        place = _cursor_place(frame)
        if place != last:
            at = _percent(frame.at_s, total_s)
            steps.append(f"{at}{{transform:translate({place[0]:g}px,{place[1]:g}px)}}")
        last = place
    animation = f".cursor{{animation:cursor {total_s:.2f}s step-end infinite}}"
    return f"{animation}@keyframes cursor{{{''.join(steps)}}}"


def _element(run: Run, name: str) -> str:
    classes = [name]
    if run.gone is not None:
        classes.append("gone")
    if run.style.bold:
        classes.append("bold")
    colour = COLOURS.get(run.style.colour, COLOURS["default"])
    fill = "" if run.style.colour == "default" else f' style="fill:{colour}"'
    x, y = PAD_X + run.column * CELL_W, BAR_H + PAD_Y + run.row * CELL_H + BASELINE
    # The length is explicit so that columns align in every font.
    return (
        f'<text class="{" ".join(classes)}" x="{x:g}" y="{y:g}" '
        f'textLength="{len(run.text) * CELL_W:g}" lengthAdjust="spacingAndGlyphs"{fill}>'
        f"{escape(run.text, quote=False)}</text>"
    )
