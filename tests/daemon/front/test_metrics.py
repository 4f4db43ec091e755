"""Metrics of a real daemon and engine, read by Prometheus' own parser."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from mlxd.daemon.front.metrics import ENGINE_GAUGES, Histogram, Metrics
from support.daemon_process import Daemon, running_daemon, user
from support.places import MLXD

RESULT = {
    "usage": {"prompt_tokens": 5, "completion_tokens": 4},
    "timing": {
        "queue_s": 0.02,
        "load_s": 0.0,
        "prefill_s": 0.3,
        "decode_s": 0.4,
        "time_to_first_token_s": 0.32,
    },
}


def parse_metrics(text: str) -> dict[str, Metric]:
    families = list(text_string_to_metric_families(text))
    assert len({one.name for one in families}) == len(families), "every family occurs once"
    assert all(one.type in ("counter", "gauge", "histogram") for one in families)
    return {one.name: one for one in families}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    family = families[name]
    suffix = "_total" if family.type == "counter" else ""
    found = [s for s in family.samples if s.name == name + suffix and s.labels == labels]
    assert len(found) == 1, f"{name} {labels}"
    return float(found[0].value)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        running.ask("load")
        yield running


def test_engine_metrics_have_the_right_types_and_values(daemon: Daemon) -> None:
    messages = user("Repeat after me: " + "grey stone bridge " * 8)
    before = parse_metrics(daemon.ask("metrics")["text"])
    for _ in range(2):
        result = daemon.ask("chat", messages=messages, temperature=0, max_tokens=5)
    daemon.ask("chat", messages=user("x"), schema={"allOf": [{"type": "null"}, {"const": 1}]})
    after = parse_metrics(daemon.ask("metrics")["text"])

    cached = result["usage"]["cached_tokens"]
    assert cached == result["usage"]["prompt_tokens"] - 1
    for name, grown in {
        "mlxd_engine_requests": 3,
        "mlxd_engine_completion_tokens": 10,
        "mlxd_engine_prefix_tokens_reused": cached,
        "mlxd_engine_prefix_hits": 1,
    }.items():
        assert after[name].type == "counter"
        had = value(before, name) if name in before else 0
        assert value(after, name) - had >= grown
    for name in ENGINE_GAUGES:
        assert after[f"mlxd_engine_{name}"].type == "gauge"
    assert value(after, "mlxd_engine_prefix_memory_bytes") > 0
    assert value(after, "mlxd_engine_weights_bytes") > 10e6
    assert value(after, "mlxd_engine_rows_decoding") == 0
    assert value(after, "mlxd_requests_queued") == 0
    assert value(after, "mlxd_engine_restarts") == 0
    assert value(after, "mlxd_outcomes", code="ok") == 2
    assert value(after, "mlxd_outcomes", code="constraint_invalid") == 1
    assert value(after, "mlxd_tokens", kind="cached_tokens") >= cached


def test_counters_never_decrease(daemon: Daemon) -> None:
    seen = [parse_metrics(daemon.ask("metrics")["text"])]
    with daemon.peer() as peer:
        running = peer.send("generate", prompt="A", max_tokens=300, ignore_eos=True, stream=True)
        peer.wait_event("delta")
        seen.append(parse_metrics(daemon.ask("metrics")["text"]))
        assert value(seen[-1], "mlxd_requests_running") == 1
        peer.notify("cancel", id=running)
        assert peer.answer(running)["error"]["code"] == "cancelled"
    seen.append(parse_metrics(daemon.ask("metrics")["text"]))
    assert value(seen[-1], "mlxd_requests_running") == 0
    for before, after in pairwise(seen):
        for name, family in before.items():
            if family.type != "gauge":
                later = {(s.name, *sorted(s.labels.items())): s.value for s in after[name].samples}
                for sample in family.samples:
                    key = (sample.name, *sorted(sample.labels.items()))
                    assert later[key] >= sample.value, key


def test_latency_histograms_count_every_answer() -> None:
    metrics = Metrics()
    metrics.finished(RESULT)
    metrics.finished({**RESULT, "usage": {"prompt_tokens": 5, "completion_tokens": 0}})
    families = parse_metrics(metrics.text({}, {}))
    counts = {}
    for name, family in families.items():
        if family.type == "histogram":
            samples = {(s.name, s.labels.get("le")): s.value for s in family.samples}
            counts[name] = samples[(f"{name}_count", None)]
            assert samples[(f"{name}_bucket", "+Inf")] == counts[name]
    assert counts == {
        "mlxd_time_to_first_token_seconds": 1,  # a prefill has no first token
        "mlxd_token_seconds": 1,
        "mlxd_request_seconds": 2,
        "mlxd_queue_seconds": 2,
        "mlxd_prefill_seconds": 2,
    }


def test_a_histogram_bucket_includes_its_upper_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(seconds)
    lines = list(histogram.lines("x"))
    assert lines[1:4] == ['x_bucket{le="0.1"} 2', 'x_bucket{le="1"} 3', 'x_bucket{le="+Inf"} 4']
    assert lines[4:] == ["x_sum 7.650000", "x_count 4"]


def test_status_json_contains_requests_models_and_engine(daemon: Daemon) -> None:
    done = subprocess.run(
        [*MLXD, "status", "--json"],
        env=daemon.environ, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    record = json.loads(done.stdout)
    assert record["state"] == "ready"
    assert record["requests"] == {"running": 0, "queued": 0}
    assert record["models"][0]["model"] == "pocket"
    assert record["models"][0]["bytes"] > 10e6
    assert record["engine"]["pid"] == daemon.engine_pid()


def test_the_log_has_one_line_per_request_with_counts_and_no_text(daemon: Daemon) -> None:
    def requests() -> list[dict[str, Any]]:
        return [line for line in daemon.log_lines() if line["event"] == "request"]

    before = len(requests())
    secret, schema = "Xylophonquartett", {"type": "object", "title": "Geheimnis"}
    ok = daemon.ask("chat", messages=user(f"Repeat: {secret}"), temperature=0, max_tokens=6)
    bad = daemon.ask("generate", prompt=secret, stop=[secret], regex="(")
    daemon.ask("chat", messages=user(secret), schema=schema, tag=secret, max_tokens=4)
    assert bad["error"]["code"] == "constraint_invalid"
    lines = requests()[before:]
    assert [line["outcome"] for line in lines] == ["ok", "constraint_invalid", "ok"]
    assert {key: lines[0][key] for key in ok["usage"]} == ok["usage"]
    assert {key: lines[0][key] for key in ok["timing"]} == ok["timing"]
    assert {"rid", "conn", "method", "model", "priority", "time"} <= lines[1].keys()
    logged = (daemon.folder / "log" / "mlxd.log").read_text()
    for text in (secret, "Geheimnis", ok["choices"][0]["text"]):
        assert text not in logged
