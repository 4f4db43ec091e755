"""What the probe finds out about architectures, each as a tiny model with random weights."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache, make_prompt_cache

from mlxd.daemon.engine.models.findings import Findings, FindingsStore, KvSize
from mlxd.daemon.engine.models.probe import Probe, Prober, kv_size
from mlxd.daemon.engine.options import EngineOptions
from support.engine_process import EngineProcess, running_engine
from support.model_folders import bare_model
from support.tiny_models import VOCABULARY, build, configurations, write

T = TypeVar("T")
BATCHED = (
    "qwen3", "llama", "gemma3_text", "gpt_oss", "lfm2", "mamba", "deepseek_v3", "plamo3", "gpt2",
)  # fmt: skip
ALONE = {
    "gemma2": "logits differ",
    "gemma2, one KV head": "reshape",
    "afm7": "logits differ",
    "gpt_bigcode": "scalars",
    "llama, dynamic RoPE": "scalars",
    "llama4": "merge",
    "deepseek_v41": "merge",
}
"""What the reason says."""


def end_of(generator: Generator[None, None, T]) -> T:
    while True:
        try:
            next(generator)
        except StopIteration as end:
            result: T = end.value
            return result


def findings(name: str) -> Findings:
    return end_of(Probe(build(configurations()[name]), VOCABULARY).run())


@pytest.mark.parametrize("name", BATCHED)
def test_architectures_that_give_the_same_logits_in_a_batch_are_batched(name: str) -> None:
    found = findings(name)
    assert (found.alone, found.unkept, found.unstored) == ("", "", "")


@pytest.mark.parametrize("name", ALONE)
def test_architectures_that_fail_or_differ_in_a_batch_are_served_alone(name: str) -> None:
    assert ALONE[name] in findings(name).alone


def test_caches_that_cannot_be_restored_are_not_stored() -> None:
    found = findings("deepseek_v41")
    assert "LayerCache" in found.unstored
    assert found.unkept == ""


def test_a_cache_that_forgets_when_it_is_copied_is_not_kept(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(KVCache):  # type: ignore[misc]
        def __deepcopy__(self, memo: Any) -> KVCache:
            return KVCache()

    cache = [Forgetful() for _ in tiny_model.layers]
    monkeypatch.setattr(tiny_model, "make_cache", lambda: [type(one)() for one in cache], False)
    found = end_of(Probe(tiny_model, 96).run())
    assert found.unkept
    assert found.unstored


def test_operations_that_differ_from_mlxs_own_are_not_used_for_the_model(tiny_model: Any) -> None:
    @contextlib.contextmanager
    def original() -> Iterator[None]:
        tiny_model.model.norm.weight = tiny_model.model.norm.weight * mx.arange(64)
        yield
        tiny_model.model.norm.weight = mx.ones(64)

    assert end_of(Probe(tiny_model, 96).run()).original == ""
    assert "engine's own operations" in end_of(Probe(tiny_model, 96, original).run()).original


@pytest.mark.parametrize(
    ("name", "tokens", "item_bytes"),
    [("qwen3", 100, 4), ("deepseek_v3", 100, 4), ("gemma3_text", 100, 4), ("lfm2", 100, 4)],
)
def test_the_measured_size_is_that_of_the_cache(name: str, tokens: int, item_bytes: int) -> None:
    model = build(configurations()[name])
    short, long = make_prompt_cache(model), make_prompt_cache(model)
    mx.eval(model(mx.array([[5] * 3]), cache=short))
    for _ in range(tokens):  # one by one: a window holds no more than its size then
        mx.eval(model(mx.array([[5]]), cache=long))
    used = 0
    for layer in long:
        keys = getattr(layer, "keys", None)
        share = 1.0 if keys is None else min(tokens, keys.shape[2]) / keys.shape[2]
        used += int(layer.nbytes * share)
    assert kv_size(short).of(tokens) == used


def test_windows_stop_to_grow() -> None:
    size = KvSize(100, 10, ((32, 5), (64, 1)))
    assert size.of(10) == 100 + 100 + 50 + 10
    assert size.of(1000) == 100 + 10_000 + 160 + 64


def test_findings_are_remembered_until_versions_or_configuration_change(tmp_path: Path) -> None:
    store = FindingsStore(tmp_path / "findings", "cpu")
    key = store.key({"model_type": "qwen3"}, ["float32"], False)
    known = Findings(alone="reason", kv=KvSize(1, 2, ((3, 4),)))
    assert store.read(key) is None
    store.write(key, known)
    assert FindingsStore(tmp_path / "findings", "cpu").read(key) == known
    assert key != store.key({"model_type": "llama"}, ["float32"], False)
    assert key != store.key({"model_type": "qwen3"}, ["bfloat16"], False)
    assert key != FindingsStore(tmp_path, "metal").key({"model_type": "qwen3"}, ["float32"], False)
    (tmp_path / "findings" / f"{key}.json").write_text('{"alone": ""}')
    assert store.read(key) is None


def test_a_second_load_computes_nothing(tiny_model: Any, tmp_path: Path) -> None:
    class Counted:
        calls = 0

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return tiny_model(*args, **kwargs)

        def __getattr__(self, name: str) -> Any:
            return getattr(tiny_model, name)

    folder = bare_model(tmp_path / "model")
    prober = Prober(FindingsStore(tmp_path / "findings", "cpu"))
    first, second = Counted(), Counted()
    found = end_of(prober.measure(first, folder, adapter=False))
    assert end_of(prober.measure(second, folder, adapter=False)) == found
    assert (first.calls > 0, second.calls) == (True, 0)


def answers(engine: EngineProcess, model: dict[str, Any], *, together: bool) -> list[Any]:
    """Ask three prompts of different length, one after the other or at once."""
    ids, results = [], []
    for number in range(3):
        prompt = "word " * (1 + 9 * number)
        ids.append(
            engine.submit(
                "generate", prompt=prompt, model=model, conn=number, max_tokens=12, ignore_eos=True
            )
        )
        if not together:
            results.append(engine.result(ids[-1]))
    return [*results, *(engine.result(one) for one in ids[len(results) :])]


def test_a_model_that_must_not_be_batched_answers_as_alone_and_ps_says_why(tmp_path: Path) -> None:
    options = EngineOptions(findings_dir=str(tmp_path / "findings"))
    model = write(tmp_path / "gemma2", configurations()["gemma2"])
    with running_engine(options) as engine:
        alone = answers(engine, model, together=False)
        at_once = answers(engine, model, together=True)
        [record] = engine.call("ps")["models"]
    assert [one["choices"] for one in at_once] == [one["choices"] for one in alone]
    for result in at_once:
        assert result["applied"]["batched"] is False
        assert any(
            note.startswith("served alone: its logits") for note in result["applied"]["notes"]
        )
    assert record["batches"] is False
    assert record["notes"][0].startswith("served alone: its logits")


def test_a_probe_that_is_given_up_holds_no_model() -> None:
    gc.disable()
    try:
        for steps in range(5):
            model = build(configurations()["qwen3"])
            gone = weakref.ref(model)
            work = Probe(model, VOCABULARY, lambda: None).run()
            for _ in range(steps):
                next(work, None)
            work.close()
            del work, model
            assert gone() is None
    finally:
        gc.enable()
