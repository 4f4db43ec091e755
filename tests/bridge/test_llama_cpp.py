"""llama.cpp's filling in the middle, and LM Studio's models."""

from __future__ import annotations

from typing import Any

from mlxd.http.dialects import llama_cpp, lm_studio
from mlxd.protocol.methods import validate
from support.answers_of import choice, delta, result
from support.bridge import sse_data


def plan(**fields: Any) -> Any:
    found = llama_cpp.plan({"input_prefix": "a(", "input_suffix": ")", **fields})
    validate("fill", found.params)
    return found


def test_other_files_come_before_the_prefix() -> None:
    params = plan(input_extra=[{"filename": "b.py", "text": "x = 1"}], prompt="b").params
    assert params["prefix"] == "b.py\nx = 1\na(b"
    assert params["suffix"] == ")"


def test_the_limit_is_called_n_predict() -> None:
    assert plan(n_predict=5).params["max_tokens"] == 5
    assert not plan(n_predict=-1).has_own_limit


def test_fields_of_llama_vim_are_quiet() -> None:
    quiet = {"samplers": ["top_k"], "t_max_predict_ms": 500, "cache_prompt": True, "n_indent": 4}
    assert plan(**quiet, response_fields=["content"], id_slot=0).notes == ()


def test_an_answer_whole_and_streamed() -> None:
    found = plan().whole(result(choice("x", finish="length")))
    assert (found["content"], found["stop"], found["stop_type"]) == ("x", True, "limit")
    assert found["timings"]["prompt_n"] == 7
    writer = plan(stream=True).writer
    first, last = sse_data(writer.event(delta("x")) + writer.end(result(choice("x"))))
    assert (first["content"], first["stop"]) == ("x", False)
    assert (last["content"], last["stop"], last["stop_type"]) == ("", True, "eos")


def test_lm_studios_model_tells_whether_it_is_loaded() -> None:
    record = {"bits": 4, "architecture": "qwen3", "context_tokens": 9}
    found = lm_studio.entry("org/name", record, True)
    assert (found["publisher"], found["quantization"], found["state"]) == ("org", "4bit", "loaded")
    assert found["loaded_context_length"] == found["max_context_length"] == 9
    assert lm_studio.entry("name", record, False)["state"] == "not-loaded"
