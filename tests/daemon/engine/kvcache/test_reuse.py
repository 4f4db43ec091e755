"""What a request finds of the prompts before it, through a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.engine_process import EngineProcess, running_engine
from support.model_folders import small_model


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with running_engine() as engine:
        yield engine


def generate(engine: EngineProcess, tokens: list[int], **options: Any) -> int:
    return engine.submit("generate", prompt=tokens, ignore_eos=True, **options)


@pytest.mark.parametrize("others", [0, 2])
def test_a_cancelled_answer_keeps_its_prompt(engine: EngineProcess, others: int) -> None:
    prompt = [5 + others, *range(10, 300)]
    beside = [generate(engine, [7, 8, one], max_tokens=60) for one in range(others)]
    request_id = generate(engine, prompt, max_tokens=2000)
    engine.wait_event(request_id, "delta")
    engine.cancel(request_id)
    assert engine.result(request_id)["error"]["code"] == "cancelled"
    result = engine.result(generate(engine, [*prompt, 20, 21, 22], max_tokens=2))
    assert result["usage"]["cached_tokens"] >= len(prompt)
    for one in beside:
        assert engine.result(one)["usage"]["completion_tokens"] == 60


def test_another_tail_finds_the_beginning_of_a_prompt_whose_cache_cannot_be_cut(
    engine: EngineProcess, tmp_path: Path
) -> None:
    model = small_model(tmp_path / "hybrid", "hybrid")
    beginning = [3 + number % 500 for number in range(1100)]
    engine.result(generate(engine, [*beginning, *range(40, 90)], model=model, max_tokens=2))
    other = [*beginning, *range(200, 260)]
    result = engine.result(generate(engine, other, model=model, max_tokens=4))
    assert result["usage"]["cached_tokens"] == 1024
    fresh = [*beginning[:600], *range(300, 360)]
    assert engine.result(generate(engine, fresh, model=model, max_tokens=2))["usage"][
        "cached_tokens"
    ] == 512  # fmt: skip
