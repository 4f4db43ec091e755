"""Who goes first in the real engine: told by the order of its events, never by the clock."""

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
ROWS = 4


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    # Nothing is remembered, so that what is computed can be counted.
    options = EngineOptions(
        max_sequences=ROWS, prefix_cache_memory_bytes=0, prefix_cache_disk_bytes=0
    )
    with running_engine(options) as running:
        running.ask("hello", max_tokens=1)
        yield running


def stream(engine: EngineProcess, tokens: int, prompt: str = "Once", **params: Any) -> int:
    return engine.submit("generate", prompt=prompt, max_tokens=tokens, ignore_eos=True, **params)


def told(engine: EngineProcess, *request_ids: int) -> list[tuple[int, str]]:
    """Return the events of these requests in the order in which they came."""
    return [
        (request_id, kind)
        for step in engine.steps
        for request_id, kind, _ in step
        if request_id in request_ids
    ]


def text(engine: EngineProcess, request_id: int) -> str:
    return str(engine.result(request_id)["choices"][0]["text"])


def computed(engine: EngineProcess) -> int:
    return int(engine.call("stats")["prompt_tokens_computed"])


def between(events: list[tuple[int, str]], request_id: int, first: str, last: str) -> list[int]:
    """Return who else had events between two events of a request."""
    start = events.index((request_id, first))
    return [
        other
        for other, _ in events[start : events.index((request_id, last))]
        if other != request_id
    ]


@pytest.mark.parametrize("lower", ["completion", "batch"])
def test_a_lower_class_stands_still_and_goes_on_where_it_was(
    engine: EngineProcess, lower: str
) -> None:
    sampling: dict[str, Any] = {"temperature": 0.8, "seed": 3}
    alone = text(engine, stream(engine, 150, priority=lower, **sampling))
    before = computed(engine)
    low = stream(engine, 150, priority=lower, **sampling)
    engine.wait_event(low, "delta")
    high = stream(engine, 30, prompt="A short one")
    result = engine.result(high)
    assert text(engine, low) == alone
    events = told(engine, low, high)
    assert between(events, high, "delta", "end") == []
    assert events[-1] == (low, "end")
    prompts = result["usage"]["prompt_tokens"] + engine.result(low)["usage"]["prompt_tokens"]
    assert computed(engine) - before == prompts - 2, "nothing was computed again"


def test_a_long_prompt_of_a_lower_class_waits_chunk_by_chunk(engine: EngineProcess) -> None:
    before = computed(engine)
    low = stream(engine, 2, prompt=LONG, priority="batch")
    engine.wait_event(low, "prefill")
    high = stream(engine, 5, prompt="Count")
    first = engine.result(high)
    last = engine.result(low)
    events = told(engine, low, high)
    assert between(events, high, "prefill", "end") == []
    assert events.index((high, "end")) < events.index((low, "delta"))
    steps = [payload["done"] for kind, payload in engine.events[low] if kind == "prefill"]
    assert steps == sorted(steps)
    prompts = first["usage"]["prompt_tokens"] + last["usage"]["prompt_tokens"]
    assert computed(engine) - before == prompts - 2


def test_classes_are_served_in_their_order(engine: EngineProcess) -> None:
    running = stream(engine, 100, priority="batch")
    engine.wait_event(running, "delta")
    later = [stream(engine, 40, priority=name) for name in ("batch", "completion", "interactive")]
    for request_id in (running, *later):
        engine.result(request_id)
    ends = [request_id for request_id, kind in told(engine, running, *later) if kind == "end"]
    assert ends[:2] == [later[2], later[1]]


def test_a_running_stream_goes_on_between_the_chunks_of_a_long_prompt(
    engine: EngineProcess,
) -> None:
    # Always the same letter: other tokens may hold their text back, and then a step has no delta.
    model = {"name": "pocket", "path": str(POCKET)}
    (letter,) = engine.call("tokenize", model=model, text="a")["tokens"]
    running = stream(engine, 4000, logit_bias={str(letter): 100.0})
    engine.wait_event(running, "delta")
    long = stream(engine, 1, prompt=LONG, conn=2)
    engine.result(long)
    engine.cancel(running)
    assert engine.result(running)["error"]["code"] == "cancelled"
    events = told(engine, running, long)
    chunks = [place for place, event in enumerate(events) if event == (long, "prefill")]
    assert len(chunks) > 2
    # A step that was begun before a chunk reports its token after it: hence of every three.
    for here, there in zip(chunks, chunks[3:], strict=False):
        assert (running, "delta") in events[here:there], "tokens between chunks"
    assert (
        sum(request_id == running for request_id, _ in events[chunks[0] : chunks[-1]])
        >= len(chunks) // 2
    )


def test_a_greedy_connection_starves_nobody_and_what_it_gives_up_loses_nothing(
    engine: EngineProcess,
) -> None:
    asked: list[dict[str, Any]] = [{"seed": seed, "temperature": 0.9} for seed in range(12)]
    alone = [text(engine, stream(engine, 60, **one)) for one in asked[:3]]
    preempted = engine.call("stats").get("parked", 0)
    greedy = [stream(engine, 60, conn=1, **one) for one in asked]
    engine.wait_event(greedy[0], "delta")
    modest = stream(engine, 20, conn=2)
    engine.result(modest)
    texts = [text(engine, request_id) for request_id in greedy]
    assert texts[:3] == alone
    ends = [request_id for request_id, kind in told(engine, *greedy, modest) if kind == "end"]
    assert ends.index(modest) <= ROWS, "it did not wait for the greedy one's queue"
    assert engine.call("stats")["parked"] > preempted


def test_a_cancel_is_silence_after_one_step(engine: EngineProcess) -> None:
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
        engine.call("ping")  # answered beside the compute thread; reads what else has come
        with suppress(OSError):  # while it has no reader
            writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return writers

    until(opened, "the engine reads the fifo")
    try:
        yield
    finally:
        os.close(writers[0])


@linux_only
def test_a_cancel_is_answered_while_the_compute_thread_is_at_work(tmp_path: Path) -> None:
    pressure = tmp_path / "pressure"
    pressure.write_text("")
    with running_engine(EngineOptions(pressure_file=str(pressure))) as engine:
        request_id = stream(engine, 16_000)
        engine.wait_event(request_id, "delta")
        pressure.unlink()
        os.mkfifo(pressure)
        # The compute thread opens it too, and waits for what is written.
        with opened_at_both_ends(pressure, engine):
            engine.cancel(request_id)
            early = engine.wait_event(request_id, "stopping")
            assert "error" not in [kind for kind, _ in engine.events[request_id]]
            assert early["code"] == "cancelled"
            seen = sum(kind == "delta" for kind, _ in engine.events[request_id])
            assert early["data"]["usage"]["completion_tokens"] >= seen > 0
        late = engine.result(request_id)["error"]["data"]["usage"]["completion_tokens"]
        assert late - early["data"]["usage"]["completion_tokens"] <= 1, "one step, and silence"
