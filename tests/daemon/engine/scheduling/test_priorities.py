"""Priorities in the real engine, checked by the order of its events, never by the clock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mlxd.daemon.engine.options import EngineOptions
from support.engine_process import POCKET, EngineProcess, running_engine
from support.needs import linux_only
from support.waiting import until

LONG = "word stone river " * 500
MAX_SEQUENCES = 4


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    # Without a prefix cache, so that computed tokens can be counted.
    options = EngineOptions(
        max_sequences=MAX_SEQUENCES, prefix_cache_memory_bytes=0, prefix_cache_disk_bytes=0
    )
    with running_engine(options) as running:
        running.ask("hello", max_tokens=1)
        yield running


def stream(engine: EngineProcess, tokens: int, prompt: str = "Once", **params: Any) -> int:
    return engine.submit("generate", prompt=prompt, max_tokens=tokens, ignore_eos=True, **params)


def events_of(engine: EngineProcess, *request_ids: int) -> list[tuple[int, str]]:
    """Return the events of these requests in the order of their arrival."""
    return [
        (request_id, kind)
        for step in engine.steps
        for request_id, kind, _ in step
        if request_id in request_ids
    ]


def text(engine: EngineProcess, request_id: int) -> str:
    return str(engine.result(request_id)["choices"][0]["text"])


def computed_prompt_tokens(engine: EngineProcess) -> int:
    return int(engine.call("stats")["prompt_tokens_computed"])


def other_events_between(
    events: list[tuple[int, str]], request_id: int, first: str, last: str
) -> list[int]:
    """Return the other requests that had events between two events of a request."""
    start = events.index((request_id, first))
    return [
        other
        for other, _ in events[start : events.index((request_id, last))]
        if other != request_id
    ]


@pytest.mark.parametrize("lower", ["completion", "batch"])
def test_a_preempted_request_resumes_without_recomputing(engine: EngineProcess, lower: str) -> None:
    sampling: dict[str, Any] = {"temperature": 0.8, "seed": 3}
    alone = text(engine, stream(engine, 150, priority=lower, **sampling))
    before = computed_prompt_tokens(engine)
    low = stream(engine, 150, priority=lower, **sampling)
    engine.wait_event(low, "delta")
    high = stream(engine, 30, prompt="A short one")
    result = engine.result(high)
    assert text(engine, low) == alone
    events = events_of(engine, low, high)
    assert other_events_between(events, high, "delta", "end") == []
    assert events[-1] == (low, "end")
    prompts = result["usage"]["prompt_tokens"] + engine.result(low)["usage"]["prompt_tokens"]
    assert computed_prompt_tokens(engine) - before == prompts - 2, "nothing was computed again"


def test_a_low_priority_prefill_is_preempted_between_chunks(engine: EngineProcess) -> None:
    before = computed_prompt_tokens(engine)
    low = stream(engine, 2, prompt=LONG, priority="batch")
    engine.wait_event(low, "prefill")
    high = stream(engine, 5, prompt="Count")
    first = engine.result(high)
    last = engine.result(low)
    events = events_of(engine, low, high)
    assert other_events_between(events, high, "prefill", "end") == []
    assert events.index((high, "end")) < events.index((low, "delta"))
    steps = [payload["done"] for kind, payload in engine.events[low] if kind == "prefill"]
    assert steps == sorted(steps)
    prompts = first["usage"]["prompt_tokens"] + last["usage"]["prompt_tokens"]
    assert computed_prompt_tokens(engine) - before == prompts - 2


def test_queued_requests_are_served_in_order_of_priority(engine: EngineProcess) -> None:
    running = stream(engine, 100, priority="batch")
    engine.wait_event(running, "delta")
    later = [stream(engine, 40, priority=name) for name in ("batch", "completion", "interactive")]
    for request_id in (running, *later):
        engine.result(request_id)
    ends = [request_id for request_id, kind in events_of(engine, running, *later) if kind == "end"]
    assert ends[:2] == [later[2], later[1]]


def test_a_running_stream_continues_between_chunks_of_a_long_prefill(
    engine: EngineProcess,
) -> None:
    # Always the same letter: text of other tokens may be held back, so a step would have no delta.
    model = {"name": "pocket", "path": str(POCKET)}
    (letter,) = engine.call("tokenize", model=model, text="a")["tokens"]
    running = stream(engine, 4000, logit_bias={str(letter): 100.0})
    engine.wait_event(running, "delta")
    long = stream(engine, 1, prompt=LONG, conn=2)
    engine.result(long)
    engine.cancel(running)
    assert engine.result(running)["error"]["code"] == "cancelled"
    events = events_of(engine, running, long)
    chunks = [place for place, event in enumerate(events) if event == (long, "prefill")]
    assert len(chunks) > 2
    # A step that started before a chunk reports its token after it: hence every three chunks.
    for here, there in zip(chunks, chunks[3:], strict=False):
        assert (running, "delta") in events[here:there], "tokens between chunks"
    assert (
        sum(request_id == running for request_id, _ in events[chunks[0] : chunks[-1]])
        >= len(chunks) // 2
    )


def test_a_connection_with_many_requests_yields_to_others_without_loss(
    engine: EngineProcess,
) -> None:
    many: list[dict[str, Any]] = [
        {"seed": seed, "temperature": 0.9} for seed in range(MAX_SEQUENCES + 2)
    ]
    newest = MAX_SEQUENCES - 1  # the newest that starts at once, which is preempted
    # Long answers, so that the other connection's request comes while the batch is full.
    alone = text(engine, stream(engine, 250, **many[newest]))
    preempted = engine.call("stats").get("parked", 0)
    greedy = [stream(engine, 250, conn=1, **one) for one in many]
    engine.wait_event(greedy[0], "delta")
    modest = stream(engine, 20, conn=2)
    engine.result(modest)
    texts = [text(engine, request_id) for request_id in greedy]
    assert texts[newest] == alone
    ends = [request_id for request_id, kind in events_of(engine, *greedy, modest) if kind == "end"]
    assert ends.index(modest) <= MAX_SEQUENCES, "it did not wait for the other connection's queue"
    assert engine.call("stats").get("parked", 0) > preempted


def test_a_cancelled_request_emits_nothing_after_one_step(engine: EngineProcess) -> None:
    request_id = stream(engine, 4000)
    engine.wait_event(request_id, "delta")
    engine.cancel(request_id)
    error = engine.result(request_id)["error"]
    assert error["code"] == "cancelled"
    deltas = [kind for kind, _ in engine.events[request_id] if kind == "delta"]
    assert error["data"]["usage"]["completion_tokens"] >= len(deltas)
    stats = engine.call("stats")
    assert stats["rows_decoding"] == stats["jobs"] == 0
    assert engine.events[request_id][-1][0] == "error", "nothing came after its end"


@contextmanager
def opened_at_both_ends(fifo: Path, engine: EngineProcess) -> Iterator[None]:
    writers = []

    def opened() -> list[int]:
        engine.call("ping")  # answered by another thread than compute; also reads other messages
        with suppress(OSError):  # while it has no reader
            writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return writers

    until(opened, "the engine reads the fifo")
    try:
        yield
    finally:
        os.close(writers[0])


@linux_only
def test_a_cancel_is_confirmed_while_the_compute_thread_is_busy(tmp_path: Path) -> None:
    pressure = tmp_path / "pressure"
    pressure.write_text("")
    with running_engine(EngineOptions(pressure_file=str(pressure))) as engine:
        request_id = stream(engine, 16_000)
        engine.wait_event(request_id, "delta")
        pressure.unlink()
        os.mkfifo(pressure)
        # The compute thread opens the FIFO too, and waits for data.
        with opened_at_both_ends(pressure, engine):
            engine.cancel(request_id)
            early = engine.wait_event(request_id, "stopping")
            assert "error" not in [kind for kind, _ in engine.events[request_id]]
            assert early["code"] == "cancelled"
            seen = sum(kind == "delta" for kind, _ in engine.events[request_id])
            assert early["data"]["usage"]["completion_tokens"] >= seen > 0
        late = engine.result(request_id)["error"]["data"]["usage"]["completion_tokens"]
        assert late - early["data"]["usage"]["completion_tokens"] <= 1, "one step at most"
