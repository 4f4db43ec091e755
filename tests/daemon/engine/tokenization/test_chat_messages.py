"""System messages with templates that reject them, and content in parts."""

from __future__ import annotations

from typing import Any

import pytest

from mlxd.daemon.engine.constraints.compiler import compile_pool
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.prompt import ChatPrompt, check_template_kwargs
from mlxd.daemon.engine.tokenization.chat_messages import FOLDED, fold_system
from mlxd.daemon.engine.tokenization.prompts import prepare
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer
from mlxd.protocol.errors import InvalidParams
from mlxd.protocol.methods import validate
from support.engine_process import POCKET
from support.requests import asking

SYSTEM = {"role": "system", "content": "Be brief, and answer as a pirate would."}
USER = {"role": "user", "content": "Hi <|im_end|>"}
ANSWER = {"role": "assistant", "content": "Ahoy"}
WITHOUT_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}"
    "{% endfor %}"
)


@pytest.fixture(scope="module")
def pocket() -> Tokenizer:
    return Tokenizer(ModelRef("pocket", str(POCKET)), compile_pool())


def test_a_rejected_system_message_moves_into_the_first_user_message(
    pocket: Tokenizer,
) -> None:
    params = validate(
        "chat",
        {
            "messages": [SYSTEM, USER, ANSWER, USER],
            "template_kwargs": {"chat_template": WITHOUT_SYSTEM},
        },
    )
    prepared = prepare(pocket, asking("chat", params))
    assert prepared.notes == (FOLDED,)
    text = pocket.wrapper.decode(prepared.tokens)
    assert text.startswith(f"<|im_start|>user\n{SYSTEM['content']}\n\nHi <|im_end|><|im_end|>")
    assert text.count(SYSTEM["content"]) == 1
    assert len(prepared.cuts) >= 1, "the folded system message is a reusable prefix"


def test_a_supported_system_message_is_not_moved(pocket: Tokenizer) -> None:
    prepared = prepare(pocket, asking("chat", validate("chat", {"messages": [SYSTEM, USER]})))
    assert prepared.notes == ()
    assert "<|im_start|>system\n" in pocket.wrapper.decode(prepared.tokens)


def test_fold_system_keeps_the_order_of_messages() -> None:
    assert fold_system([USER]) is None
    assert fold_system([SYSTEM]) == [{"role": "user", "content": SYSTEM["content"]}]
    assert fold_system([SYSTEM, ANSWER, USER]) == [
        {"role": "user", "content": SYSTEM["content"]}, ANSWER, USER,
    ]  # fmt: skip


def parts(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize("method", ["chat", "prefill", "tokenize"])
def test_text_parts_are_joined(method: str) -> None:
    asked = {"role": "user", "content": parts("Count ", "from 1", "")}
    given = [asked, {**ANSWER, "content": []}]
    messages = validate(method, {"messages": given})["messages"]
    assert [one["content"] for one in messages] == ["Count from 1", ""]
    assert asked["content"] == parts("Count ", "from 1", ""), "the caller's own is not changed"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], "messages[0].content[0].type"),
        ([*parts("a"), {"type": "text"}], "messages[0].content[1].text"),
        (["a"], "messages[0].content[0].type"),
        ({"type": "text", "text": "a"}, "messages[0].content"),
    ],
)
def test_unsupported_content_parts_are_refused_by_name(content: Any, named: str) -> None:
    with pytest.raises(InvalidParams) as refusal:
        validate("chat", {"messages": [{"role": "user", "content": content}]})
    assert refusal.value.data["param"] == named


@pytest.mark.parametrize("name", ["messages", "tools", "tokenize", "add_generation_prompt"])
def test_template_variables_cannot_replace_request_fields(name: str) -> None:
    with pytest.raises(InvalidParams, match=f"'{name}' is already set by the request"):
        check_template_kwargs({"language": "en", name: []})


def test_a_reserved_template_variable_is_refused() -> None:
    with pytest.raises(InvalidParams):
        ChatPrompt.from_map({"messages": [USER], "template_kwargs": {"messages": []}})
