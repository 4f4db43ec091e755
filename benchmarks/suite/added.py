"""The overhead of a server over its own engine, for servers with different engines. Pure."""

from __future__ import annotations

import statistics

from suite.records import Record, Results
from suite.tables import number, table

PAIRS = (
    ("mlxd", "in-process mlx-lm"),
    ("mlx_lm.server", "in-process mlx-lm"),
    ("llama.cpp server", "in-process llama.cpp"),
)
TEXT = """## What a server adds to its own engine

The time of a server minus the time of its engine in a process without a server (median over the
rounds), per token of a single stream and to the first token. A negative value means that the server
is faster than the engine's own loop.
"""


def section(results: Results) -> str:
    """Return the table, or an empty text if nothing was measured."""
    lines = [["model", "server", "engine", "per token", "first token, 16 tokens of prompt"]]
    models = dict.fromkeys(one.model for one in results if one.measurement == "streams")
    for model in models:
        for server, engine in PAIRS:
            per_token = _difference(results, "streams", "1", model, server, engine)
            first = _difference(results, "first_token", "16", model, server, engine)
            if per_token or first:
                lines.append([model, server, engine, per_token or "–", first or "–"])
    return f"{TEXT}\n{table(lines)}\n" if len(lines) > 1 else ""


def _difference(
    results: Results, measurement: str, case: str, model: str, server: str, engine: str
) -> str:
    found = [results.find(measurement, case, name, model) for name in (server, engine)]
    if found[0] is None or found[1] is None:
        return ""
    pairs = zip(_seconds(found[0]), _seconds(found[1]), strict=False)
    added_s = statistics.median(one - other for one, other in pairs)
    return f"{'−' if added_s < 0 else ''}{number(abs(added_s), 's')}"


def _seconds(record: Record) -> list[float]:
    return [1 / value if record.unit == "tokens/s" else value for value in record.values]
