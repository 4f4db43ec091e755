"""Counters and histograms in the text format of Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


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
        yield f"# TYPE {name} histogram"
        seen = 0
        for edge, count in zip(self.buckets, self.counts, strict=False):
            seen += count
            yield f'{name}_bucket{{le="{edge:g}"}} {seen}'
        seen += self.counts[-1]
        yield f'{name}_bucket{{le="+Inf"}} {seen}'
        yield f"{name}_sum {self.total:.6f}"
        yield f"{name}_count {seen}"


class Metrics:
    """What the front counts. Names never carry text of users."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.first_token = Histogram()
        self.duration = Histogram()
        self.queued = Histogram()

    def finished(self, result: Mapping[str, Any]) -> None:
        """Take in the usage and timing of a completion."""
        for name, count in result["usage"].items():
            self.tokens[name] += count
        timing = result["timing"]
        self.first_token.observe(timing["time_to_first_token_s"])
        self.queued.observe(timing["queue_s"])
        spent = (timing[key] for key in ("queue_s", "load_s", "prefill_s", "decode_s"))
        self.duration.observe(sum(spent))

    def text(self, gauges: Mapping[str, float], engine: Mapping[str, Any]) -> str:
        """Return everything; `engine` holds the engine's own counters."""
        lines: list[str] = []
        lines += _labelled("mlxd_requests_total", "method", self.requests)
        lines += _labelled("mlxd_outcomes_total", "code", self.outcomes)
        lines += _labelled("mlxd_tokens_total", "kind", self.tokens)
        for name, histogram in (
            ("mlxd_time_to_first_token_seconds", self.first_token),
            ("mlxd_request_seconds", self.duration),
            ("mlxd_queue_seconds", self.queued),
        ):
            lines += histogram.lines(name)
        for name, value in gauges.items():
            lines += [f"# TYPE mlxd_{name} gauge", f"mlxd_{name} {value}"]
        for name, value in sorted(engine.items()):
            if isinstance(value, (int, float)):
                lines += [f"# TYPE mlxd_engine_{name} gauge", f"mlxd_engine_{name} {value}"]
        return "\n".join(lines) + "\n"


def _labelled(name: str, label: str, counts: Counter[str]) -> Iterable[str]:
    yield f"# TYPE {name} counter"
    for value, count in sorted(counts.items()):
        yield f'{name}{{{label}="{value}"}} {count}'
