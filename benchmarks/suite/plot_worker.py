"""Draws the plots in the environment with matplotlib: RESULTS FOLDER. Prints their file names."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {
    "mlxd": "#1f6feb", "in-process mlx-lm": "#57606a", "mlx_lm.server": "#bc4c00",
    "llama.cpp server": "#8250df", "vllm-mlx": "#1a7f37",
}  # fmt: skip
Records = list[dict[str, Any]]


def median(record: dict[str, Any]) -> float:
    return float(statistics.median(record["values"]))


def lines_by_model(
    records: Records, label: str, unit: str, scale: float = 1.0, y_scale: str = "linear"
) -> Any:
    """Draw a panel for each model, and a line over numeric cases for each contender."""
    models = list(dict.fromkeys(one["model"] for one in records))
    figure, panels = plt.subplots(
        1, len(models), figsize=(1 + 3.4 * len(models), 3.4), squeeze=False
    )
    for panel, model in zip(panels[0], models, strict=True):
        some = [one for one in records if one["model"] == model]
        for name in dict.fromkeys(one["contender"] for one in some):
            of_name = [one for one in some if one["contender"] == name]
            x = [int(one["case"]) for one in of_name]
            y = [scale * median(one) for one in of_name]
            low = [scale * min(one["values"]) for one in of_name]
            high = [scale * max(one["values"]) for one in of_name]
            panel.plot(x, y, "o-", label=name, color=COLOURS.get(name), markersize=4)
            panel.fill_between(x, low, high, color=COLOURS.get(name), alpha=0.12)
        panel.set(title=model, xlabel=label, xscale="log")
        panel.set_xticks(sorted({int(one["case"]) for one in some}))
        panel.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        panel.minorticks_off()
        panel.set_yscale(y_scale)
        if y_scale == "linear":
            panel.set_ylim(bottom=0)
    panels[0][0].set_ylabel(unit)
    panels[0][0].legend(fontsize=8)
    return figure


def streams(records: Records) -> Any:
    return lines_by_model(records, "streams", "tokens/s")


def first_token(records: Records) -> Any:
    label = "ms to the first token"
    return lines_by_model(records, "tokens of prompt", label, 1000, y_scale="log")


def first_byte(records: Records) -> Any:
    """Draw a bar for each command, on a logarithmic time scale."""
    found: dict[str, float] = {}
    for one in records:
        found.setdefault(one["contender"], 1000 * median(one))
    names = sorted(found, key=lambda name: -found[name])
    figure, panel = plt.subplots(figsize=(8, 0.5 + 0.42 * len(names)))
    colours = ["#1f6feb" if "mlx ask" in name or "mlxd" in name else "#bc4c00" for name in names]
    bars = panel.barh(names, [found[name] for name in names], color=colours)
    panel.bar_label(bars, [f"{found[name]:.0f} ms" for name in names], padding=3, fontsize=8)
    panel.set(xscale="log", xlabel="ms from exec to the first byte on the terminal")
    panel.set_xlim(right=3 * max(found.values()))
    return figure


def gaps(records: Records) -> Any:
    """Draw groups of bars: percentiles of the gap, for each model."""
    models = list(dict.fromkeys(one["model"] for one in records))
    figure, panels = plt.subplots(
        1, len(models), figsize=(1 + 4.5 * len(models), 3.4), squeeze=False
    )
    for panel, model in zip(panels[0], models, strict=True):
        some = [one for one in records if one["model"] == model]
        names = list(dict.fromkeys(one["contender"] for one in some))
        cases = list(dict.fromkeys(one["case"] for one in some))
        width = 0.8 / len(names)
        for at, name in enumerate(names):
            heights = [1000 * median(one) for one in some if one["contender"] == name]
            x = [place + at * width for place in range(len(heights))]
            panel.bar(x, heights, width, label=name, color=COLOURS.get(name))
        panel.set(title=model, yscale="log", ylabel="ms between tokens")
        panel.set_xticks([place + 0.4 - width / 2 for place in range(len(cases))], cases)
    panels[0][0].legend(fontsize=8)
    return figure


def over_number(panel: Any, records: Records, contender: str, scale: float, **style: Any) -> None:
    some = [one for one in records if one["contender"] == contender]
    x = [int(one["case"].split()[0]) for one in some]
    panel.plot(x, [scale * median(one) for one in some], "o-", markersize=4, **style)


def front(records: Records) -> Any:
    """Draw memory and ping over the number of idle connections."""
    idle = [one for one in records if one["case"].endswith(" idle") and "decode" not in one["case"]]
    figure, (weight, ping) = plt.subplots(1, 2, figsize=(9, 3.4))
    over_number(weight, idle, "mlxd, front", 2**-20)
    weight.set(xlabel="idle connections", ylabel="MB of the front")
    weight.set_ylim(bottom=0)
    for share in ("p50", "p99"):
        over_number(ping, idle, f"mlxd, ping {share}", 1e6, label=share)
    ping.set(xlabel="idle connections", ylabel="µs for a ping", xscale="log")
    ping.set_ylim(bottom=0)
    ping.legend()
    return figure


def growth(records: Records) -> Any:
    """Draw first token and time per token over the length of a conversation, and models by
    memory."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.4))
    before = [one for one in records if one["case"].endswith("before")]
    over_number(panels[0], before, "mlxd, first token", 1000, label="first token")
    over_number(panels[0], before, "mlxd, per token", 1000, label="per token")
    panels[0].set(xlabel="tokens of conversation before", ylabel="ms")
    panels[0].legend()
    over_number(panels[1], before, "mlxd, engine", 2**-20)
    panels[1].set(xlabel="tokens of conversation before", ylabel="MB of the engine")
    resident = [one for one in records if one["case"].endswith("resident")]
    over_number(panels[2], resident, "mlxd, engine", 2**-20)
    panels[2].set(xlabel="resident models", ylabel="MB of the engine")
    for panel in panels:
        panel.set_ylim(bottom=0)
    return figure


PLOTS: dict[str, Callable[[Records], Any]] = {
    "streams": streams, "first_token": first_token, "first_byte": first_byte, "gaps": gaps,
    "front": front, "growth": growth,
}  # fmt: skip


def main() -> None:
    runs = json.loads(Path(sys.argv[1]).read_text())["measurements"]
    drawn = []
    for name, draw in PLOTS.items():
        if records := runs.get(name, {}).get("records"):
            figure = draw(records)
            for panel in figure.axes:
                panel.grid(alpha=0.25)
                panel.spines[["top", "right"]].set_visible(False)
            figure.tight_layout()
            # Without date and version, so that equal figures result in equal files.
            figure.savefig(Path(sys.argv[2]) / f"{name}.png", dpi=110, metadata={"Software": None})
            drawn.append(f"{name}.png")
    print(json.dumps(drawn))


if __name__ == "__main__":
    main()
