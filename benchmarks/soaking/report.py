"""The report of a run, as text and as JSON."""

from __future__ import annotations

import statistics
from typing import Any


def text(report: dict[str, Any]) -> str:
    """Return the report as plain text."""
    lines = [f"{report['minutes']:.1f} minutes, {report['clients']} callers, "
             f"seed {report['seed']}, {report['date']}, commit {report['commit']}",
             ", ".join(f"{value}" for value in report["machine"].values())]  # fmt: skip
    ended = sum(report["requests"]["by_outcome"].values())
    lines += ["", f"{report['requests']['sent']} requests sent, {ended} ended, each once"]
    lines += _table("requests by end", report["requests"]["by_outcome"])
    lines += _table("requests by method", report["requests"]["by_method"])
    lines += _table("callers' habits", report["habits"])
    lines += _table("injected faults", report["faults"])
    lines += ["", "seconds from the fault to the next answer (median, worst, count)"]
    for name, taken in report["recoveries_s"].items():
        lines.append(f"  {name:28}{statistics.median(taken):8.2f}{max(taken):8.2f}{len(taken):6}")
    lines += _rests(report["rests"])
    lines += _table("log", report["log"])
    lines += _table("conversations", report["conversations"])
    lines += ["", f"violations: {report['violation_count']}"]
    lines += [f"  {one}" for one in report["violations"]]
    return "\n".join(lines)


def _table(title: str, rows: dict[str, Any]) -> list[str]:
    return ["", title, *(f"  {name:28}{value:>10}" for name, value in rows.items())]


def _rests(rests: list[dict[str, Any]]) -> list[str]:
    head = f"  {'at s':>7}  {'phase':14}{'requests':>9}   front: pid  MiB  fds threads children"
    head += "   engine"
    lines = ["", "at rest, with no caller connected", head]
    for one in rests:
        cells = "   ".join(_holding(one[which]) for which in ("front", "engine"))
        lines.append(f"  {one['at_s']:7.0f}  {one['phase']:14}{one['requests']:9}   {cells}")
    return lines


def _holding(one: dict[str, Any] | None) -> str:
    if one is None:
        return "-"
    counts = "".join(f"{one[what]:5}" for what in ("descriptors", "threads", "children"))
    return f"{one['pid']:7}{one['rss_mib']:8.1f}{counts}"
