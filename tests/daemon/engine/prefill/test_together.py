"""Requests in a batch get the same answers as alone, whatever their options."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.engine_process import EngineProcess, running_engine
from support.model_folders import small_model

SAMPLED = {"temperature": 0.9, "max_tokens": 24}
OWL = [{"role": "user", "content": "Tell me a story about an owl."}]
COUNT = [{"role": "user", "content": "Count from 3 to 9."}]
REQUESTS: list[dict[str, Any]] = [
    {"messages": OWL, "seed": 1, **SAMPLED},
    {"messages": OWL, "seed": 2, **SAMPLED, "repetition_penalty": 1.3, "presence_penalty": 0.5},
    {"messages": OWL, "seed": 3, **SAMPLED, "logprobs": 3, "frequency_penalty": 0.4},
    {"messages": COUNT, "seed": 4, "temperature": 0.3, "stop": ["6"], "max_tokens": 24},
    {"messages": COUNT, "seed": 5, "temperature": 0.3, "thinking": True, "max_tokens": 60},
    {"messages": OWL, "seed": 6, **SAMPLED, "regex": "[a-z ]{5,15}\\."},
    {"messages": OWL, "seed": 7, **SAMPLED, "n": 3},
    {"messages": OWL, "seed": 8, **SAMPLED, "logit_bias": {"65": 4.0}, "xtc_probability": 0.5,
     "xtc_threshold": 0.05, "min_p": 0.02},
]  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with running_engine() as running:
        yield running


def answers(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the choices of a result, with logprobs rounded to what kernels reproduce."""
    assert "error" not in result, result
    out = []
    for choice in result["choices"]:
        told = {key: choice[key] for key in ("text", "reasoning", "finish_reason")}
        told["logprobs"] = [
            (entry["text"], round(entry["logprob"], 2), [top["text"] for top in entry["top"]][:1])
            for entry in choice.get("logprobs") or []
        ]
        out.append(told)
    return out


def test_a_seeded_request_is_answered_the_same_alone_and_in_a_batch(
    engine: EngineProcess,
) -> None:
    alone = [answers(engine.result(engine.submit(**params))) for params in REQUESTS]
    request_ids = [engine.submit(conn=index, **params) for index, params in enumerate(REQUESTS)]
    results = [engine.result(request_id) for request_id in request_ids]
    assert [answers(result) for result in results] == alone
    assert all(result["applied"]["batched"] for result in results)
    assert all(result["applied"]["notes"] == [] for result in results)
    mixed = [
        events
        for events in engine.steps
        if len({request_id for request_id, _, _ in events} & {*request_ids}) > 4
    ]
    assert mixed, "the requests shared a batch"
    penalised, told, stopped, thought, held, several = alone[1:7]
    assert penalised != alone[0]
    assert len(told[0]["logprobs"]) == 24
    assert "6" not in stopped[0]["text"]
    assert thought[0]["reasoning"]
    assert held[0]["text"].endswith(".")
    assert len({one["text"] for one in several}) > 1


def test_requests_that_join_and_leave_a_batch_do_not_change_other_answers(
    engine: EngineProcess,
) -> None:
    long: dict[str, Any] = {
        "messages": OWL,
        "seed": 11,
        "temperature": 0.8,
        "max_tokens": 80,
        "ignore_eos": True,
    }
    alone = answers(engine.result(engine.submit(**long)))
    request_id = engine.submit(**long)
    engine.wait_event(request_id, "delta")
    others = [engine.submit(conn=2, **params) for params in REQUESTS[:4]]
    engine.wait_event(others[0], "delta")
    engine.cancel(others[0])
    later = engine.submit(conn=3, **{**REQUESTS[6], "priority": "interactive"})
    assert answers(engine.result(request_id)) == alone
    assert engine.result(others[0])["error"]["code"] == "cancelled"
    for other in (*others[1:], later):
        assert "choices" in engine.result(other)


@pytest.mark.parametrize("kind", ["rotating", "hybrid"])
def test_models_with_other_kv_cache_types_are_batched(
    engine: EngineProcess, tmp_path: Path, kind: str
) -> None:
    model = small_model(tmp_path / kind, kind)
    asked: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "x" * (5 + 40 * index)}], "seed": index,
         "temperature": 0.9, "max_tokens": 20, "ignore_eos": True}
        for index in range(4)
    ]  # fmt: skip
    alone = [answers(engine.result(engine.submit(model=model, **one))) for one in asked]
    request_ids = [engine.submit(model=model, conn=index, **one) for index, one in enumerate(asked)]
    results = [engine.result(request_id) for request_id in request_ids]
    assert [answers(result) for result in results] == alone
    assert all(result["applied"]["batched"] for result in results)


def test_a_model_with_unmergeable_kv_caches_is_served_alone_with_a_note(
    engine: EngineProcess, tmp_path: Path
) -> None:
    model = small_model(tmp_path / "chunked", "chunked")
    asked: dict[str, Any] = {
        "messages": OWL,
        "temperature": 0.9,
        "max_tokens": 16,
        "ignore_eos": True,
    }
    alone = [engine.result(engine.submit(model=model, seed=s, n=2, **asked)) for s in range(3)]
    request_ids = [engine.submit(model=model, seed=s, n=2, conn=s, **asked) for s in range(3)]
    results = [engine.result(request_id) for request_id in request_ids]
    assert [answers(result) for result in results] == [answers(result) for result in alone]
    for result in results:
        assert result["applied"]["batched"] is False
        assert any("served alone" in note for note in result["applied"]["notes"])
        first, second = (choice["text"] for choice in result["choices"])
        assert first != second


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
LISTS = 'start: item ("," item){1,3}\nitem: /[a-z]{1,4}/'


def test_constrained_answers_are_valid_at_a_high_temperature(engine: EngineProcess) -> None:
    request_ids = [
        engine.submit(messages=OWL, schema=PERSON, temperature=1.2, seed=seed, max_tokens=150)
        for seed in range(8)
    ]
    lists = [
        engine.submit(messages=OWL, grammar=LISTS, temperature=1.2, seed=seed, max_tokens=60)
        for seed in range(4)
    ]
    for request_id in request_ids:
        choice = engine.result(request_id)["choices"][0]
        assert choice["finish_reason"] == "stop"
        value = json.loads(choice["text"])
        assert value.keys() == {"name", "age", "tags"}
        assert len(value["name"]) <= 10
        assert isinstance(value["age"], int)
        assert 0 <= value["age"] <= 150
        assert {*value["tags"]} <= {"red", "blue"}
    for request_id in lists:
        parts = engine.result(request_id)["choices"][0]["text"].split(",")
        assert 2 <= len(parts) <= 4
        assert all(part.isalpha() and part.islower() and len(part) <= 4 for part in parts)


def test_a_constrained_answer_truncated_by_max_tokens_has_a_note(engine: EngineProcess) -> None:
    for asked in ({"schema": PERSON}, {"regex": "[a-f]{300}"}, {"grammar": LISTS}):
        result = engine.result(engine.submit(messages=OWL, temperature=1.2, max_tokens=2, **asked))
        assert result["choices"][0]["finish_reason"] == "length"
        assert any("max_tokens" in note for note in result["applied"]["notes"]), result["applied"]


@pytest.mark.parametrize(
    "asked",
    [
        {"schema": {"allOf": [{"type": "string"}, {"type": "integer"}]}},
        {"schema": {"type": "string", "minLength": 5, "maxLength": 2}},
        {"schema": {"type": "object", "unevaluatedProperties": False}},
        {"schema": {"$ref": "https://example.invalid/schema.json"}},
        {"regex": "(unclosed"},
        {"grammar": "start: nothing_of_that_name"},
    ],
)
def test_impossible_constraints_are_refused_before_any_token(
    engine: EngineProcess, asked: dict[str, Any]
) -> None:
    request_id = engine.submit(messages=OWL, **asked)
    error = engine.result(request_id)["error"]
    assert error["code"] == "constraint_invalid"
    assert error["message"]
    assert {kind for kind, _ in engine.events[request_id]} <= {"error", "loading"}
