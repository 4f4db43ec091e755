"""Events queued for a slow reader are merged without loss, in order."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlxd.daemon.front.server.events import EventQueue


def delta(text: str, request: int = 1, index: int = 0, channel: str = "answer") -> dict[str, Any]:
    event = {"id": request, "type": "delta", "index": index, "text": text}
    return {**event, "channel": channel, "tokens": 1}


DELTAS = st.lists(
    st.builds(
        delta,
        st.text(max_size=3),
        st.integers(1, 2),
        st.integers(0, 2),
        st.sampled_from(["answer", "reasoning"]),
    )
)


@given(DELTAS)
def test_merged_events_keep_text_order_and_token_count(
    events: list[dict[str, Any]],
) -> None:
    queue = EventQueue()
    for event in events:
        queue.add(event)
    taken = queue.take()

    def said(items: list[dict[str, Any]], stream: tuple[int, int]) -> list[tuple[str, str]]:
        mine = [item for item in items if (item["id"], item["index"]) == stream]
        return [(item["channel"], letter) for item in mine for letter in item["text"]]

    for stream in {(event["id"], event["index"]) for event in events}:
        assert said(taken, stream) == said(events, stream)
    assert sum(event["tokens"] for event in taken) == len(events)
    assert len(queue) == queue.nbytes == 0


def test_alternating_deltas_are_merged_per_choice() -> None:
    queue = EventQueue()
    for number in range(100):
        for index in range(4):
            queue.add(delta(f"{number} ", index=index))
    assert len(queue) == 4


def test_a_tool_call_keeps_its_place_between_deltas() -> None:
    queue = EventQueue()
    call = {"id": 1, "type": "tool_call", "index": 0, "name": "f"}
    for event in (delta("a"), delta("b"), call, delta("c")):
        queue.add(event)
    taken = queue.take()
    assert [event.get("text") for event in taken] == ["ab", None, "c"]


def test_only_the_latest_prefill_progress_is_kept() -> None:
    queue = EventQueue()
    for done in (1, 2, 3):
        queue.add({"id": 1, "type": "prefill", "done": done, "total": 3})
    assert [event["done"] for event in queue.take()] == [3]


def test_merging_joins_logprobs_without_changing_the_original_events() -> None:
    queue = EventQueue()
    first = {**delta("a"), "logprobs": [{"token": 1}]}
    queue.add(first)
    queue.add({**delta("b"), "logprobs": [{"token": 2}]})
    assert [item["token"] for item in queue.take()[0]["logprobs"]] == [1, 2]
    assert len(first["logprobs"]) == 1
