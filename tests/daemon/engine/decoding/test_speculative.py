"""Speculative decoding: the same text in fewer steps, with correct counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxd.daemon.engine.models.files import estimate_resident_bytes, kv_room_bytes
from mlxd.daemon.engine.options import EngineOptions
from support.engine_process import POCKET, EngineProcess, running_engine
from support.model_folders import copy_of_pocket, random_weights

STORY = "Tell me a story about a fox."


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with running_engine() as running:
        yield running


@pytest.fixture(scope="module")
def drafts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a copy of pocket, `twin`, and one with random weights, `fool`."""
    root = tmp_path_factory.mktemp("drafts")
    copy_of_pocket(root / "twin")
    random_weights(root / "fool")
    return root


def with_draft(drafts: Path, name: str) -> dict[str, Any]:
    path = str(drafts / name)
    return {"name": "pocket", "path": str(POCKET), "draft": path, "draft_name": name}


def text(result: dict[str, Any]) -> str:
    return str(result["choices"][0]["text"])


@pytest.mark.parametrize("draft", ["twin", "fool"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 7, "top_p": 0.9}])
def test_speculative_decoding_does_not_change_the_text(
    engine: EngineProcess, drafts: Path, draft: str, sampling: dict[str, Any]
) -> None:
    alone = engine.ask(STORY, max_tokens=120, **sampling)
    steps = engine.call("stats")["decode_steps"]
    drafted = engine.ask(STORY, model=with_draft(drafts, draft), max_tokens=120, **sampling)
    steps = engine.call("stats")["decode_steps"] - steps
    assert text(drafted) == text(alone)
    assert drafted["usage"]["completion_tokens"] == alone["usage"]["completion_tokens"]
    report = drafted["applied"]["draft"]
    assert report["model"] == draft
    if draft == "twin":
        assert report["accepted"] == report["proposed"] > 60
        assert steps < drafted["usage"]["completion_tokens"] / 3
    else:
        assert report["accepted"] < report["proposed"] / 3


def test_a_draft_model_that_is_never_right_is_disabled_with_a_note(
    engine: EngineProcess,
    drafts: Path,
) -> None:
    result = engine.ask(STORY, model=with_draft(drafts, "fool"), max_tokens=200, ignore_eos=True)
    assert any("was turned off" in note for note in result["applied"]["notes"])
    assert result["applied"]["draft"]["proposed"] < 100


def test_a_drafted_answer_ends_at_end_token_stop_sequence_and_limit(
    engine: EngineProcess, drafts: Path
) -> None:
    ref = with_draft(drafts, "twin")
    counted = engine.ask("Count from 3 to 30.", model=ref)
    assert text(counted).endswith("29, 30")
    assert counted["choices"][0]["finish_reason"] == "stop"
    stopped = engine.ask("Count from 3 to 30.", model=ref, stop=["15"])
    assert text(stopped) == text(engine.ask("Count from 3 to 30.", stop=["15"]))
    for limit in (1, 2, 9, 10):
        cut = engine.ask("Count from 3 to 30.", model=ref, max_tokens=limit)
        assert cut["usage"]["completion_tokens"] == limit
        assert text(cut) == text(engine.ask("Count from 3 to 30.", max_tokens=limit))


def test_the_cached_prefix_of_a_drafted_answer_is_correct(
    engine: EngineProcess, drafts: Path
) -> None:
    ref = with_draft(drafts, "twin")
    first = text(engine.ask("My name is Zora.", model=ref))
    messages = [
        {"role": "user", "content": "My name is Zora."},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "What is my name?"},
    ]
    drafted = engine.result(engine.submit(model=ref, messages=messages))
    assert drafted["usage"]["cached_tokens"] > 0
    assert "Zora" in text(drafted)


def test_in_a_batch_everybody_decodes_together_and_the_draft_catches_up_afterwards(
    engine: EngineProcess,
    drafts: Path,
) -> None:
    ref = with_draft(drafts, "twin")
    expected = text(engine.ask(STORY, max_tokens=150, ignore_eos=True))
    messages = [{"role": "user", "content": STORY}]
    drafted = engine.submit(model=ref, messages=messages, max_tokens=150, ignore_eos=True)
    engine.wait_event(drafted, "delta")
    other = engine.submit(messages=[{"role": "user", "content": "Count from 1 to 30."}], conn=2)
    assert text(engine.result(other)).endswith("29, 30")
    result = engine.result(drafted)
    assert text(result) == expected
    assert result["applied"]["draft"]["accepted"] > 0


@pytest.mark.parametrize(
    "params",
    [{"regex": "[0-9, ]+"}, {"n": 2}, {"logprobs": 2}, {"repetition_penalty": 1.1}],
)
def test_options_incompatible_with_a_draft_model_disable_it_with_a_note(
    engine: EngineProcess, drafts: Path, params: dict[str, Any]
) -> None:
    result = engine.ask("Count from 3 to 7.", model=with_draft(drafts, "twin"), **params)
    assert "draft" not in result["applied"]
    assert any("draft model twin was not used" in note for note in result["applied"]["notes"])


def test_a_draft_folder_without_a_model_is_refused(engine: EngineProcess, drafts: Path) -> None:
    ref = {**with_draft(drafts, "twin"), "draft": str(drafts), "draft_name": "nothing"}
    answer = engine.ask("Count from 3 to 7.", model=ref)
    assert answer["error"]["code"] == "model_load_failed"


def test_a_draft_model_over_the_memory_budget_is_skipped_with_a_note(
    engine: EngineProcess, drafts: Path
) -> None:
    one_and_a_half = int(1.5 * estimate_resident_bytes(POCKET)) + kv_room_bytes(POCKET)
    with running_engine(EngineOptions(memory_budget_bytes=one_and_a_half)) as small:
        result = small.ask("Count from 3 to 7.", model=with_draft(drafts, "twin"))
    assert text(result) == "3, 4, 5, 6, 7"
    assert any("was not used: twin needs" in note for note in result["applied"]["notes"])
