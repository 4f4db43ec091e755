"""Counters, gauges and histograms in the text format of Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)

ENGINE_GAUGES = frozenset(
    {
        "rows_decoding",
        "jobs",
        "jobs_waiting",
        "jobs_parked",
        "weights_bytes",
        "active_bytes",
        "peak_bytes",
        "cache_bytes",
        "budget_bytes",
        "prefix_memory_entries",
        "prefix_memory_bytes",
        "prefix_disk_entries",
        "prefix_disk_bytes",
    }
)
"""Numbers of the engine that are gauges. All others are counters since its start."""

HELP = {
    "mlxd_requests_total": "Requests by method.",
    "mlxd_outcomes_total": "Completions by outcome: ok, or the code of the error.",
    "mlxd_tokens_total": "Tokens of answered requests.",
    "mlxd_engine_restarts_total": "Engine starts after the first.",
    "mlxd_time_to_first_token_seconds": "Time from the request to its first token.",
    "mlxd_request_seconds": "Time from the request to its last token.",
    "mlxd_queue_seconds": "Time before the prefill of the prompt.",
    "mlxd_prefill_seconds": "Time of the prefill.",
    "mlxd_token_seconds": "Time per token of an answer.",
}


class Histogram:
    """Counts observations in buckets, in seconds."""

    def __init__(self, buckets: tuple[float, ...] = LATENCY_BUCKETS_S) -> None:
        self.buckets = buckets
        self.counts = [0] * (len(buckets) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.buckets, seconds)] += 1
        self.total += seconds

    def lines(self, name: str) -> Iterable[str]:
        yield from _heading(name, "histogram")
        seen = 0
        for edge, count in zip(self.buckets, self.counts, strict=False):
            seen += count
            yield f'{name}_bucket{{le="{edge:g}"}} {seen}'
        seen += self.counts[-1]
        yield f'{name}_bucket{{le="+Inf"}} {seen}'
        yield f"{name}_sum {self.total:.6f}"
        yield f"{name}_count {seen}"


class Metrics:
    """The metrics of the front. Names and labels never contain user text."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.first_token = Histogram()
        self.duration = Histogram()
        self.queued = Histogram()
        self.prefill = Histogram()
        self.token = Histogram(TOKEN_BUCKETS_S)

    def finished(self, result: Mapping[str, Any]) -> None:
        """Record the usage and timing of a completion."""
        usage, timing = result["usage"], result["timing"]
        for name, count in usage.items():
            self.tokens[name] += count
        self.queued.observe(timing["queue_s"])
        self.prefill.observe(timing["prefill_s"])
        spent = (timing[key] for key in ("queue_s", "load_s", "prefill_s", "decode_s"))
        self.duration.observe(sum(spent))
        if not usage["completion_tokens"]:
            return
        self.first_token.observe(timing["time_to_first_token_s"])
        self.token.observe(timing["decode_s"] / usage["completion_tokens"])

    def text(
        self,
        gauges: Mapping[str, float],
        engine: Mapping[str, Any],
        *,
        engine_restarts: int = 0,
    ) -> str:
        """Return all metrics as text. `engine` has the numbers of the engine."""
        lines: list[str] = []
        lines += _labelled("mlxd_requests_total", "method", self.requests)
        lines += _labelled("mlxd_outcomes_total", "code", self.outcomes)
        lines += _labelled("mlxd_tokens_total", "kind", self.tokens)
        lines += _single("mlxd_engine_restarts_total", "counter", engine_restarts)
        for name, histogram in (
            ("mlxd_time_to_first_token_seconds", self.first_token),
            ("mlxd_request_seconds", self.duration),
            ("mlxd_queue_seconds", self.queued),
            ("mlxd_prefill_seconds", self.prefill),
            ("mlxd_token_seconds", self.token),
        ):
            lines += histogram.lines(name)
        for name, value in gauges.items():
            lines += _single(f"mlxd_{name}", "gauge", value)
        for name, value in sorted(engine.items()):
            if isinstance(value, (int, float)):
                lines += _engine_number(name, value)
        return "\n".join(lines) + "\n"


def _engine_number(name: str, value: float) -> Iterable[str]:
    if name in ENGINE_GAUGES:
        return _single(f"mlxd_engine_{name}", "gauge", value)
    return _single(f"mlxd_engine_{name.removesuffix('_total')}_total", "counter", value)


def _heading(name: str, kind: str) -> Iterable[str]:
    if name in HELP:
        yield f"# HELP {name} {HELP[name]}"
    yield f"# TYPE {name} {kind}"


def _single(name: str, kind: str, value: float) -> Iterable[str]:
    yield from _heading(name, kind)
    yield f"{name} {value}"


def _labelled(name: str, label: str, counts: Counter[str]) -> Iterable[str]:
    yield from _heading(name, "counter")
    for value, count in sorted(counts.items()):
        yield f'{name}{{{label}="{value}"}} {count}'
