"""Ollama's chat, generate and lists of models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxd.http.capabilities import Capabilities, capabilities_of
from mlxd.http.dialects import ollama, ollama_models
from mlxd.protocol.errors import EngineDied, InvalidParams
from mlxd.protocol.methods import validate
from support.answers_of import CALL, PREFILL, called, choice, delta, result

USER = {"role": "user", "content": "hi"}


def chat(**fields: Any) -> Any:
    found = ollama.plan_chat({"model": "m", "messages": [USER], **fields})
    validate("chat", found.params)
    return found


def generate(**fields: Any) -> Any:
    found = ollama.plan_generate({"model": "m", "prompt": "hi", **fields})
    validate(found.method, found.params)
    return found


def refused(**fields: Any) -> str:
    with pytest.raises(InvalidParams) as caught:
        chat(**fields)
    return str(caught.value.data["param"])


def lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.splitlines()]


# ---- requests


def test_options_become_sampling_parameters() -> None:
    options = {
        "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "seed": 7, "stop": ["x"],
        "repeat_penalty": 1.1, "repeat_last_n": 64, "num_predict": 20, "num_ctx": 2048,
    }  # fmt: skip
    plan = chat(options=options)
    expected = {
        "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "seed": 7, "stop": ["x"],
        "repetition_penalty": 1.1, "repetition_context_size": 64, "max_tokens": 20,
    }  # fmt: skip
    assert expected.items() <= plan.params.items()
    assert plan.notes == ()  # num_ctx never truncates anything here


def test_special_values_of_options() -> None:
    assert not chat(options={"num_predict": -1}).has_own_limit
    assert (
        "repetition_penalty" not in chat(options={"repeat_last_n": 0, "repeat_penalty": 1.1}).params
    )
    assert chat(options={"repeat_last_n": -1}).params["repetition_context_size"] == 2**20
    assert refused(options={"mirostat": 1}) == "mirostat"
    assert chat(options={"surprise": 1}).notes == ("ignored: surprise",)


def test_the_model_may_be_called_name_and_have_a_tag() -> None:
    found = ollama.plan_chat({"name": "a/b:latest", "messages": [USER]})
    assert found.params["model"] == "a/b"
    assert refused(model="") == "model"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(None, None), ("5m", 300), ("1h30m", 5400), (60, 60), (0, 0), ("0", 0), (-1, -1), ("-1m", -1)],
)
def test_keep_alive_is_a_number_or_a_duration(given: Any, seconds: float | None) -> None:
    assert ollama.keep_alive_of(given) == seconds


def test_other_keep_alives_are_refused() -> None:
    for given in ("soon", True, ["5m"]):
        with pytest.raises(InvalidParams):
            ollama.keep_alive_of(given)


def test_formats_are_constraints() -> None:
    assert chat(format="json").params["schema"] == {"type": "object"}
    assert chat(format={"type": "array"}).params["schema"] == {"type": "array"}
    assert "schema" not in chat(format="").params
    assert refused(format="xml") == "format"


def test_think_is_a_flag_or_an_effort() -> None:
    assert chat(think=False).params["thinking"] is False
    assert chat(think=True).params["thinking"] is True
    assert chat(think="high").params["thinking"] is True


def test_messages_with_thinking_calls_and_results() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    found = chat(
        messages=[
            USER,
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
            {"role": "tool", "tool_name": "f", "content": "r"},
        ]
    ).params["messages"]
    assert found[1]["reasoning"] == "hm"
    assert found[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert found[2] == {"role": "tool", "content": "r", "name": "f"}


def test_images_are_refused() -> None:
    assert refused(messages=[{**USER, "images": ["x"]}]) == "messages[0].images"


def test_generate_uses_the_template_unless_raw_or_with_a_suffix() -> None:
    plan = generate(system="be brief")
    assert plan.method == "chat"
    assert [one["role"] for one in plan.params["messages"]] == ["system", "user"]
    assert generate(raw=True).method == "generate"
    plan = generate(prompt="a(", suffix=")")
    assert (plan.method, plan.params["suffix"]) == ("fill", ")")


# ---- answers


def test_streaming_is_the_default() -> None:
    assert chat().writer is not None
    assert chat(stream=False).writer is None


def test_content_is_always_text_and_the_last_line_is_done() -> None:
    writer = ollama.LineWriter("m", "message")
    events = (PREFILL, delta("hm", channel="reasoning"), delta("a"), called("f", city="Paris"))
    data = b"".join(map(writer.event, events)) + writer.alive() + writer.end(result(choice("a")))
    found = lines(data)
    assert [one["message"]["content"] for one in found] == ["", "a", "", "", ""]
    assert found[0]["message"]["thinking"] == "hm"
    function = found[2]["message"]["tool_calls"][0]["function"]
    assert function == {"name": "f", "arguments": {"city": "Paris"}}
    assert [one["done"] for one in found] == [False] * 4 + [True]
    assert found[-1]["done_reason"] == "stop"
    assert (found[-1]["prompt_eval_count"], found[-1]["eval_count"]) == (11, 7)
    assert found[-1]["prompt_eval_duration"] == 125_000_000


def test_generate_answers_in_another_field() -> None:
    writer = ollama.LineWriter("m", "response")
    found = lines(writer.event(delta("a")) + writer.end(result(choice("a", finish="length"))))
    assert [one["response"] for one in found] == ["a", ""]
    assert found[-1]["done_reason"] == "length"


def test_a_whole_answer() -> None:
    plan = chat(stream=False)
    found = plan.whole(result(choice("hello", reasoning="hm", tool_calls=[CALL])))
    assert found["message"]["content"] == "hello"
    assert found["message"]["thinking"] == "hm"
    assert found["message"]["tool_calls"][0]["function"]["arguments"] == {"city": "Paris"}
    assert found["done"] is True


def test_a_failure_in_mid_stream_is_a_line() -> None:
    writer = ollama.LineWriter("m", "message")
    assert lines(writer.fail(EngineDied("gone", hint="Again.")))[0] == {"error": "gone Again."}


# ---- models


def test_a_model_of_the_list() -> None:
    record = {"path": "/", "bytes": 5, "bits": 4, "architecture": "qwen3", "parameters": 4_000_000}
    found = ollama_models.entry("a/b", record)
    assert (found["name"], found["model"], found["size"]) == ("a/b", "a/b", 5)
    assert found["details"]["families"] == ["qwen3"]
    assert found["details"]["parameter_size"] == "4.0M"
    assert found["details"]["quantization_level"] == "Q4"


def test_a_shown_model_has_the_context_below_its_architecture(tmp_path: Path) -> None:
    template = "{% if tools %}{% endif %}<think>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    record = {"name": "x", "path": str(tmp_path), "architecture": "qwen3", "context_tokens": 99}
    found = ollama_models.shown({**record, "chat_template": True})
    assert found["model_info"]["general.architecture"] == "qwen3"
    assert found["model_info"]["qwen3.context_length"] == 99
    assert found["capabilities"] == ["completion", "tools", "thinking"]


def test_capabilities_of_a_model_without_a_template(tmp_path: Path) -> None:
    found = capabilities_of({"path": str(tmp_path)})
    assert found == Capabilities(chat=False, tools=False, thinking=False)


def test_a_loaded_model_expires() -> None:
    loaded = {"model": "x", "path": "/", "bytes": 5, "idle_s": 1.0, "keep_alive_s": 300.0}
    found = ollama_models.running({**loaded, "context_tokens": 9}, {})
    assert (found["size_vram"], found["context_length"]) == (5, 9)
    assert found["expires_at"] > ollama.timestamp()


def test_progress_of_a_download() -> None:
    event = {"type": "progress", "file": "a.safetensors", "done": 5, "total": 9}
    found = ollama_models.progress(event)
    assert found is not None
    assert (found["completed"], found["total"]) == (5, 9)
    assert found["digest"].startswith("sha256:")
    assert ollama_models.progress({"type": "queued"}) is None
