"""Cached prefixes are not computed again, and give the same text as computing them."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxd.daemon.engine.options import EngineOptions
from support.engine_process import POCKET, EngineProcess, running_engine
from support.model_folders import copy_of_pocket, small_model

SYSTEM = "You are a patient helper who speaks of rivers, stones and birds. " * 3
BUILTIN = {"name": "builtin", "path": str(POCKET)}
WORDS = [
    "red",
    "blue",
    "owl",
    "stone",
    "river",
    "seven",
    "bridge",
    "count",
    "tell",
    "story",
    "apple",
    "green",
]


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with running_engine() as running:
        running.call("load", model=BUILTIN)  # an engine without a model exits after a while
        yield running


@pytest.fixture(scope="module")
def uncached() -> Iterator[EngineProcess]:
    """An engine without a prefix cache."""
    options = EngineOptions(prefix_cache_memory_bytes=0, prefix_cache_disk_bytes=0)
    with running_engine(options) as running:
        running.call("load", model=BUILTIN)
        yield running


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(result: dict[str, Any]) -> dict[str, str]:
    return {"role": "assistant", "content": result["choices"][0]["text"]}


def chat(engine: EngineProcess, messages: list[dict[str, str]], **params: Any) -> dict[str, Any]:
    result = engine.result(engine.submit(messages=messages, **{"max_tokens": 12, **params}))
    assert "error" not in result, result
    return result


def computed_prompt_tokens(engine: EngineProcess) -> int:
    return int(engine.call("stats")["prompt_tokens_computed"])


def cached_and_new(engine: EngineProcess, result: dict[str, Any], before: int) -> tuple[int, int]:
    """Return the cached tokens by `usage`, and the computed tokens by the engine's counter."""
    return result["usage"]["cached_tokens"], computed_prompt_tokens(engine) - before


def random_text(rng: random.Random, words: int = 12) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def test_a_second_turn_computes_only_its_new_tokens(engine: EngineProcess) -> None:
    messages = [user("Count from 2 to 5. " + random_text(random.Random(1)))]
    first = chat(engine, messages)
    messages += [assistant(first), user("And now from 4 to 8.")]
    before = computed_prompt_tokens(engine)
    second = chat(engine, messages)
    cached, new = cached_and_new(engine, second, before)
    covered = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert cached >= covered - 2  # less the last token and the end token, which the template adds
    assert cached + new == second["usage"]["prompt_tokens"] - 1  # one is fed with the first step


def test_conversations_share_the_kv_cache_of_their_system_prompt(engine: EngineProcess) -> None:
    first = chat(engine, [{"role": "system", "content": SYSTEM}, user("Hello, who are you?")])
    before = computed_prompt_tokens(engine)
    second = chat(engine, [{"role": "system", "content": SYSTEM}, user("Count from 1 to 3.")])
    cached, new = cached_and_new(engine, second, before)
    assert first["usage"]["cached_tokens"] < 20
    assert cached > 60
    assert new == second["usage"]["prompt_tokens"] - 1 - cached < 25


def test_a_prompt_that_grows_by_a_line_computes_only_that_line(engine: EngineProcess) -> None:
    lines = [f"def function_{number}(a, b):\n    return a + b * {number}\n" for number in range(9)]
    for count in range(3, 9):
        before = computed_prompt_tokens(engine)
        prompt = "".join(lines[:count])
        result = engine.result(engine.submit("generate", prompt=prompt, max_tokens=3))
        cached, new = cached_and_new(engine, result, before)
        assert cached + new == result["usage"]["prompt_tokens"] - 1
        if count > 3:
            assert new <= result["usage"]["prompt_tokens"] / count + 6


def test_prefill_warms_the_prefix_cache_and_emits_no_text(engine: EngineProcess) -> None:
    messages = [user("Warm this: " + random_text(random.Random(2), 40))]
    request_id = engine.submit("prefill", messages=messages)
    warmed = engine.result(request_id)
    assert warmed["usage"]["completion_tokens"] == 0
    assert "delta" not in {kind for kind, _ in engine.events[request_id]}
    before = computed_prompt_tokens(engine)
    result = chat(engine, messages)
    assert result["usage"]["cached_tokens"] == result["usage"]["prompt_tokens"] - 1
    assert computed_prompt_tokens(engine) == before


def test_a_superseding_request_reuses_the_prefill_of_its_predecessor(
    engine: EngineProcess,
) -> None:
    text = "A long text to be read: " + random_text(random.Random(3), 700)
    older = engine.submit(messages=[user(text)], max_tokens=1)
    progress = engine.wait_event(older, "prefill")
    assert progress["done"] < progress["total"]
    engine.cancel(older, "superseded")
    assert engine.result(older)["error"]["code"] == "superseded"
    newer = chat(engine, [user(text + " And more.")])
    assert newer["usage"]["cached_tokens"] >= progress["done"] - 1


def conversations(seed: int, turns: int) -> list[list[str]]:
    """Return the questions of three conversations that share their first turns."""
    rng = random.Random(seed)
    trunk = [random_text(rng, rng.randrange(3, 20)) for _ in range(turns)]
    out = []
    for _ in range(3):
        stay = rng.randrange(turns)
        out.append(
            trunk[:stay] + [random_text(rng, rng.randrange(3, 20)) for _ in range(turns - stay)]
        )
    return out


def play_conversation(engine: EngineProcess, questions: list[str], **params: Any) -> list[str]:
    messages: list[dict[str, str]] = [{"role": "system", "content": SYSTEM}]
    said = []
    for question in questions:
        messages.append(user(question))
        messages.append(assistant(chat(engine, messages, **params)))
        said.append(messages[-1]["content"])
    return said


@pytest.mark.parametrize("kind", ["pocket", "rotating", "hybrid", "chunked"])
def test_the_prefix_cache_does_not_change_the_text(
    engine: EngineProcess, uncached: EngineProcess, tmp_path: Path, kind: str
) -> None:
    model = None if kind == "pocket" else small_model(tmp_path / kind, kind)
    before = engine.call("stats").get("prompt_tokens_cached", 0)
    # Odd lengths, so that snapshots end inside and outside of attention windows.
    for questions, max_tokens in zip(conversations(len(kind), 4), (7, 33, 18), strict=True):
        asked = {"model": model, "max_tokens": max_tokens, "ignore_eos": max_tokens > 20}
        assert play_conversation(engine, questions, **asked) == play_conversation(
            uncached, questions, **asked
        )
    assert engine.call("stats")["prompt_tokens_cached"] > before + 300
    assert uncached.call("stats")["prompt_tokens_cached"] == 0


@pytest.mark.parametrize("kind", ["rotating", "hybrid", "chunked"])
def test_untrimmable_kv_caches_are_snapshotted_at_the_end_of_each_turn(
    engine: EngineProcess, tmp_path: Path, kind: str
) -> None:
    model = small_model(tmp_path / kind, kind)
    messages = [{"role": "system", "content": SYSTEM}, user("Hello, tell me of the river.")]
    first = chat(engine, messages, model=model)
    # Not the answer itself, as with a template that drops the reasoning.
    messages += [{"role": "assistant", "content": "It is long."}, user("And the birds?")]
    before = computed_prompt_tokens(engine)
    second = chat(engine, messages, model=model)
    cached, new = cached_and_new(engine, second, before)
    assert first["usage"]["prompt_tokens"] - 8 < cached < first["usage"]["prompt_tokens"]
    assert cached + new == second["usage"]["prompt_tokens"] - 1
    other = chat(engine, [messages[0], user("Something else.")], model=model)
    assert other["usage"]["cached_tokens"] > 60  # the system prompt


def on_disk(folder: Path, **more: Any) -> EngineOptions:
    return EngineOptions(prefix_cache_dir=str(folder), **more)


@pytest.mark.parametrize("kind", ["pocket", "rotating", "hybrid", "chunked"])
def test_a_cached_prompt_survives_engine_exit_crash_and_unload(tmp_path: Path, kind: str) -> None:
    make = copy_of_pocket if kind == "pocket" else lambda folder: small_model(folder, kind)
    model, prompts = make(tmp_path / kind), tmp_path / "prompts"
    messages = [{"role": "system", "content": SYSTEM}, user("Hello, tell me of the river.")]
    with running_engine(on_disk(prompts)) as engine:
        first = chat(engine, messages, model=model)
        size = first["usage"]["prompt_tokens"]
    said = first["choices"][0]["text"]
    messages[-1] = user("Hello, tell me of the birds.")
    with running_engine(on_disk(prompts)) as engine:  # after a normal exit
        engine.call("load", model=BUILTIN)  # keeps the engine running after the unload below
        second = chat(engine, messages, model=model)
        assert second["usage"]["cached_tokens"] > 60
        assert engine.call("stats")["prefix_disk_hits"] == 1
        assert engine.call("unload", name=kind)["unloaded"]
        assert engine.call("stats")["prefix_memory_bytes"] == 0
        messages[-1] = user("Hello, tell me of the river.")
        again = chat(engine, messages, model=model)
        assert again["choices"][0]["text"] == said
        assert again["usage"]["cached_tokens"] >= (size - 8 if kind != "pocket" else 60)
        os.kill(engine.process.pid, signal.SIGKILL)
        engine.process.wait()
    with running_engine(on_disk(prompts)) as engine:  # after a crash
        third = chat(engine, messages, model=model)
        assert third["choices"][0]["text"] == said
        assert third["usage"]["cached_tokens"] > 60


def test_snapshot_files_of_other_weights_or_with_damage_are_not_used(tmp_path: Path) -> None:
    model, prompts = copy_of_pocket(tmp_path / "model"), tmp_path / "prompts"
    messages = [{"role": "system", "content": SYSTEM}, user("Count from 3 to 7.")]
    with running_engine(on_disk(prompts)) as engine:
        said = chat(engine, messages, model=model)["choices"][0]["text"]
    weights = tmp_path / "model" / "model.safetensors"
    shutil.copyfile(weights, tmp_path / "again")
    os.replace(tmp_path / "again", weights)
    with running_engine(on_disk(prompts)) as engine:
        other = chat(engine, messages, model=model)
        assert other["usage"]["cached_tokens"] == 0, "the same name, other files"
    for path in prompts.glob("*/*.kv"):
        data = bytearray(path.read_bytes())
        data[-1000] ^= 255
        path.write_bytes(data)
    with running_engine(on_disk(prompts)) as engine:
        result = chat(engine, messages, model=model)
        assert result["usage"]["cached_tokens"] == 0
        assert result["choices"][0]["text"] == said
        assert engine.call("stats")["prefix_disk_dropped"] >= 1


def test_memory_and_disk_tiers_stay_within_their_limits(tmp_path: Path) -> None:
    limits = {"prefix_cache_memory_bytes": 2_000_000, "prefix_cache_disk_bytes": 3_000_000}
    with running_engine(on_disk(tmp_path, **limits)) as engine:
        rng = random.Random(5)
        for _ in range(8):
            chat(engine, [user(random_text(rng, 60))], max_tokens=2)
            stats = engine.call("stats")
            assert 0 < stats["prefix_memory_bytes"] <= 2_000_000
            assert stats["prefix_disk_bytes"] <= 3_000_000
    kept = sum(path.stat().st_size for path in tmp_path.rglob("*.kv"))
    assert 0 < kept <= 3_000_000


def test_memory_pressure_evicts_idle_models_and_cached_prompts(tmp_path: Path) -> None:
    psi = tmp_path / "pressure"
    calm = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    psi.write_text(calm)
    refs = [copy_of_pocket(tmp_path / name) for name in ("busy", "idle", "pinned")]
    with running_engine(EngineOptions(pressure_file=str(psi))) as engine:
        for ref in refs[1:]:
            engine.call("load", model=ref, pin=ref["name"] == "pinned")
        chat(
            engine, [user("Remember this one: " + random_text(random.Random(6), 30))], model=refs[1]
        )
        assert engine.call("stats")["prefix_memory_bytes"] > 0
        request_id = engine.submit(
            "generate", prompt="A", model=refs[0], max_tokens=16_000, ignore_eos=True
        )
        engine.wait_event(request_id, "delta")
        psi.write_text(calm.replace("avg10=0.00", "avg10=55.00"))
        while "idle" in [one["model"] for one in engine.wait_notice("resident")["models"]]:
            engine.notices.clear()
        assert [one["model"] for one in engine.call("ps")["models"]] == ["pinned", "busy"]
        assert engine.call("stats")["prefix_memory_bytes"] == 0
        psi.write_text(calm)
        engine.cancel(request_id)
        assert engine.result(request_id)["error"]["code"] == "cancelled"
        back = chat(engine, [user("Count from 3 to 5.")], model=refs[1])
        assert back["choices"][0]["text"] == "3, 4, 5"
