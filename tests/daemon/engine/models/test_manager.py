"""Several models in a real engine process: concurrent, evicted, with adapters, too large."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from mlx_lm import generate, load

from mlxd.daemon.engine.models.files import estimate_resident_bytes, kv_room_bytes
from mlxd.daemon.engine.models.loader import next_slice_bytes
from mlxd.daemon.engine.options import EngineOptions
from support.engine_process import POCKET, EngineProcess, running_engine
from support.model_folders import copy_of_pocket, make_adapter
from support.waiting import until

SIZE = estimate_resident_bytes(POCKET)
KV_ROOM = kv_room_bytes(POCKET)
QUESTION = "Count from 3 to 7."


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("models")
    refs = {name: copy_of_pocket(root / name) for name in ("one", "two", "three")}
    adapters = {name: make_adapter(root / name, seed) for name, seed in (("red", 1), ("blue", 2))}
    return {**refs, **adapters}


@pytest.fixture
def roomy() -> Iterator[EngineProcess]:
    with running_engine() as engine:
        yield engine


def budget_for(models: float, **options: Any) -> EngineOptions:
    return EngineOptions(memory_budget_bytes=int(models * SIZE) + KV_ROOM, **options)


def names(engine: EngineProcess) -> list[str]:
    return sorted(one["model"] for one in engine.call("ps")["models"])


def text(result: dict[str, Any]) -> str:
    return str(result["choices"][0]["text"])


def with_adapter(folders: dict[str, Any], name: str) -> dict[str, Any]:
    return {**folders["one"], "adapter": folders[name]}


def test_several_models_decode_alternately(roomy: EngineProcess, folders: dict[str, Any]) -> None:
    request_ids = [
        roomy.submit(
            model=folders[name], messages=[{"role": "user", "content": "Count from 1 to 40."}]
        )
        for name in ("one", "two")
    ]
    assert len({text(roomy.result(request_id)) for request_id in request_ids}) == 1
    assert names(roomy) == ["one", "two"]
    order = [request_id for step in roomy.steps for request_id, kind, _ in step if kind == "delta"]
    switches = sum(a != b for a, b in pairwise(order))
    assert switches > 10, "neither waited for the other to finish"


def test_two_requests_for_an_unloaded_model_load_it_once(
    roomy: EngineProcess, folders: dict[str, Any]
) -> None:
    request_ids = [
        roomy.submit(
            model=folders["one"], conn=conn, messages=[{"role": "user", "content": QUESTION}]
        )
        for conn in (1, 2)
    ]
    assert {text(roomy.result(request_id)) for request_id in request_ids} == {"3, 4, 5, 6, 7"}
    assert roomy.call("stats")["models_loaded_total"] == 1


def test_the_least_recently_used_model_is_evicted_for_another(folders: dict[str, Any]) -> None:
    with running_engine(budget_for(2)) as engine:
        for name in ("one", "two", "one", "three"):
            assert text(engine.ask(QUESTION, model=folders[name])) == "3, 4, 5, 6, 7"
        assert names(engine) == ["one", "three"]
        stats = engine.call("stats")
        assert stats["models_evicted_total"] == 1
        assert stats["weights_bytes"] <= stats["budget_bytes"]


def test_a_load_that_needs_a_pinned_models_memory_is_refused_with_numbers(
    folders: dict[str, Any],
) -> None:
    with running_engine(budget_for(1.5)) as engine:
        engine.call("load", model=folders["one"], pin=True)
        error = engine.ask(QUESTION, model=folders["two"])["error"]
        assert error["code"] == "out_of_memory"
        assert error["data"]["need_bytes"] == SIZE
        assert error["data"]["budget_bytes"] == int(1.5 * SIZE) + KV_ROOM
        assert error["data"]["held_bytes"] > 0
        assert names(engine) == ["one"]
        assert text(engine.ask(QUESTION, model=folders["one"])) == "3, 4, 5, 6, 7"


def test_a_model_over_the_memory_budget_is_refused_before_it_is_read(
    folders: dict[str, Any],
) -> None:
    with running_engine(EngineOptions(memory_budget_bytes=SIZE // 2)) as engine:
        answer = engine.call("load", model=folders["one"])
        assert answer["error"]["code"] == "out_of_memory"
        assert engine.call("stats")["active_bytes"] < SIZE // 2


def test_a_load_over_the_budget_waits_for_running_requests(
    folders: dict[str, Any],
) -> None:
    with running_engine(budget_for(1.5)) as engine:
        running = engine.submit(
            model=folders["one"], messages=[{"role": "user", "content": "Count from 1 to 60."}]
        )
        engine.wait_event(running, "delta")
        waiting = engine.submit(
            model=folders["two"], messages=[{"role": "user", "content": QUESTION}]
        )
        assert text(engine.result(waiting)) == "3, 4, 5, 6, 7"
        ended = [
            request_id for step in engine.steps for request_id, kind, _ in step if kind == "end"
        ]
        assert ended == [running, waiting]
        assert names(engine) == ["two"]


def test_keep_alive_zero_unloads_the_model_and_the_empty_engine_exits(
    folders: dict[str, Any],
) -> None:
    with running_engine(EngineOptions(keep_alive_s=3600)) as engine:
        engine.ask(QUESTION, model=folders["one"], keep_alive_s=0)
        assert engine.wait_notice("bye")["reason"] == "empty"
        assert engine.process.wait(30) == 0


def test_a_keep_alive_time_expires_while_another_model_decodes(folders: dict[str, Any]) -> None:
    with running_engine(EngineOptions(keep_alive_s=3600)) as engine:
        engine.call("load", model=folders["two"], keep_alive_s=0.2)
        story = engine.submit(
            model=folders["one"],
            messages=[{"role": "user", "content": "Tell me a story about a fox."}],
            ignore_eos=True,
            max_tokens=4000,
        )
        engine.wait_event(story, "delta")

        def only_one() -> bool:
            assert not any(kind == "end" for kind, _ in engine.events[story])
            return names(engine) == ["one"]

        until(only_one, "the other model is unloaded")
        engine.cancel(story)
        engine.result(story)


def test_adapters_share_one_base_and_their_text_equals_mlx_lm(
    roomy: EngineProcess, folders: dict[str, Any]
) -> None:
    texts = {}
    for name in ("red", "blue"):
        result = roomy.ask(QUESTION, model=with_adapter(folders, name), max_tokens=24)
        texts[name] = text(result)
    base = roomy.ask(QUESTION, model=folders["one"], max_tokens=24)
    assert text(base) == "3, 4, 5, 6, 7"
    for name, said in texts.items():
        assert said == reference(folders["one"]["path"], folders[name], 24)
    records = roomy.call("ps")["models"]
    sizes = {one["adapter"] and os.path.basename(one["adapter"]): one["bytes"] for one in records}
    assert sizes["red"] < sizes[None] / 20
    stats = roomy.call("stats")
    assert stats["models_loaded_total"] == 3
    assert stats["active_bytes"] < 1.5 * SIZE + stats["prefix_memory_bytes"]


def reference(path: str, adapter: str, tokens: int) -> str:
    """Return mlx-lm's own text with the adapter."""
    model, tokenizer = load(path, adapter_path=adapter)
    prompt = tokenizer._tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}],
        tokenize=False,
        add_generation_prompt=True,
        return_dict=False,
    )
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    return str(generate(model, tokenizer, ids, max_tokens=tokens))


def test_a_base_loaded_only_for_adapters_is_unloaded_with_the_last_one(
    roomy: EngineProcess, folders: dict[str, Any]
) -> None:
    roomy.ask(QUESTION, model=folders["two"])
    roomy.ask(QUESTION, model=with_adapter(folders, "red"), max_tokens=8, keep_alive_s=0)
    roomy.ask(QUESTION, model=folders["two"])

    def only_two() -> bool:
        roomy.ask("hello", model=folders["two"], max_tokens=1)
        return names(roomy) == ["two"]

    until(only_two, "the base is unloaded")


def test_unloading_the_base_unloads_its_adapters(
    roomy: EngineProcess, folders: dict[str, Any]
) -> None:
    roomy.ask(QUESTION, model=folders["two"])
    roomy.ask(QUESTION, model=with_adapter(folders, "red"), max_tokens=8)
    assert roomy.call("unload", name="one")["unloaded"]
    assert names(roomy) == ["two"]


def test_a_broken_adapter_is_a_load_error_and_the_base_still_answers(
    roomy: EngineProcess, folders: dict[str, Any], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{}")
    roomy.ask(QUESTION, model=folders["one"])  # an engine without a model would exit
    error = roomy.ask(QUESTION, model={**folders["one"], "adapter": str(broken)})["error"]
    assert error["code"] == "model_load_failed"
    assert text(roomy.ask(QUESTION, model=folders["one"])) == "3, 4, 5, 6, 7"


def test_a_broken_model_folder_does_not_block_the_queue(
    roomy: EngineProcess, folders: dict[str, Any], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(Path(POCKET, "config.json").read_text())
    (broken / "model.safetensors").write_bytes(b"\0" * 100)
    bad = roomy.submit(
        model={"name": "broken", "path": str(broken)},
        messages=[{"role": "user", "content": QUESTION}],
    )
    good = roomy.submit(model=folders["one"], messages=[{"role": "user", "content": QUESTION}])
    assert roomy.result(bad)["error"]["code"] == "model_load_failed"
    assert text(roomy.result(good)) == "3, 4, 5, 6, 7"


def test_slices_of_weights_get_smaller_when_reading_is_slow() -> None:
    assert next_slice_bytes(2**27, 0.1) == 2**28, "at most doubled, up to the maximum"
    assert next_slice_bytes(2**28, 0.1) == 2**28
    assert next_slice_bytes(2**26, 8.0) == 2**23
    assert next_slice_bytes(2**22, 60.0) == 2**22


def evictions(engine: EngineProcess) -> list[tuple[str, str]]:
    """Return (model, reason) of the evictions that the engine has reported."""
    reported = [one for notice in engine.notices for one in notice.params.get("evicted", ())]
    return [(one["model"], one["reason"]) for one in reported]


def test_an_eviction_reports_its_reason(folders: dict[str, Any]) -> None:
    with running_engine(budget_for(1.5, keep_alive_s=3600)) as engine:
        engine.ask(QUESTION, model=folders["one"])
        engine.ask(QUESTION, model=folders["two"], keep_alive_s=0)
        engine.wait_notice("bye")  # the engine exits when its last model is unloaded
        assert evictions(engine) == [
            ("one", "two needed its memory"), ("two", "its keep-alive time ended")
        ]  # fmt: skip


@pytest.mark.parametrize(("stalled", "level"), [("25.00", "warning"), ("80.00", "critical")])
def test_an_eviction_under_memory_pressure_reports_the_level(
    folders: dict[str, Any], tmp_path: Path, stalled: str, level: str
) -> None:
    psi = tmp_path / "pressure"
    psi.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    with running_engine(EngineOptions(keep_alive_s=3600, pressure_file=str(psi))) as engine:
        engine.ask(QUESTION, model=folders["one"])
        psi.write_text(f"some avg10={stalled} avg60=0.00 avg300=0.00 total=0\n")
        engine.wait_notice("bye")
        reason = f"the machine ran short of memory ({level} pressure)"
        assert evictions(engine) == [("one", reason)]


def test_load_reports_whether_the_model_was_loaded_and_how_long_it_stays(
    folders: dict[str, Any],
) -> None:
    with running_engine(EngineOptions(keep_alive_s=300)) as engine:
        first = engine.call("load", model=folders["one"], pin=True)
        assert (first["was_loaded"], first["pinned"], first["keep_alive_s"]) == (False, True, 300)
        again = engine.call("load", model=folders["one"], keep_alive_s=60)
        assert (again["was_loaded"], again["pinned"], again["keep_alive_s"]) == (True, True, 60)
        assert engine.call("load", model=folders["one"], keep_alive_s=-1)["keep_alive_s"] == -1


def test_pin_false_unpins_a_model_pinned_by_the_configuration(folders: dict[str, Any]) -> None:
    configured = {**folders["one"], "pin": True}
    with running_engine() as engine:
        assert engine.call("load", model=configured)["pinned"]
        assert not engine.call("load", model=configured, pin=False)["pinned"]
        engine.ask("hello", model=configured, max_tokens=1)
        assert not engine.call("load", model=configured)["pinned"], (
            "a request does not pin it again"
        )


def test_a_failed_load_leaves_no_weights_and_no_tokenizer_in_memory(
    roomy: EngineProcess, folders: dict[str, Any], tmp_path: Path
) -> None:
    """Neither weights nor tokenizer nor an entry in `ps` remain."""
    roomy.ask(QUESTION, model=folders["one"])
    before = roomy.call("stats")["active_bytes"]
    broken = tmp_path / "broken"
    ref = copy_of_pocket(broken)
    tokenizer = (broken / "tokenizer.json").read_text()
    (broken / "tokenizer.json").write_text("{}")
    error = roomy.ask(QUESTION, model=ref)["error"]
    assert error["code"] == "model_load_failed"
    assert names(roomy) == ["one"]
    assert roomy.call("stats")["active_bytes"] <= before + SIZE / 20
    (broken / "tokenizer.json").write_text(tokenizer)
    assert text(roomy.ask(QUESTION, model=ref)) == "3, 4, 5, 6, 7", "the broken tokenizer is gone"


def test_an_evicted_model_leaves_no_weights_in_memory(
    roomy: EngineProcess, folders: dict[str, Any]
) -> None:
    roomy.ask(QUESTION, model=folders["one"])
    before = roomy.call("stats")["active_bytes"]
    roomy.ask(QUESTION, model=folders["two"], keep_alive_s=0)
    until(lambda: names(roomy) == ["one"], "two is unloaded")
    stats = roomy.call("stats")
    assert stats["active_bytes"] - stats["prefix_memory_bytes"] <= before + SIZE / 20
