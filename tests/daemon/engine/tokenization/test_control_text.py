"""Control tokens in a caller's text are tokenized as text, for every kind of tokenizer."""

from __future__ import annotations

from typing import Any

import pytest

from mlxd.daemon.engine.constraints.compiler import compile_pool
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.prompt import ChatPrompt
from mlxd.daemon.engine.tokenization.prompts import prepare
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer
from support.engine_process import POCKET
from support.requests import asking
from support.tokenizer_families import FAMILIES, write

CALL = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    kind = FAMILIES[request.param]
    folder = write(kind, tmp_path_factory.mktemp("families") / request.param)
    return kind, Tokenizer(ModelRef(request.param, str(folder)), compile_pool())


def tokens_of(tokenizer: Tokenizer, params: dict[str, Any]) -> list[int]:
    text, notes = tokenizer.chat.text(ChatPrompt.from_map(params))
    assert notes == []
    return tokenizer.encode_chat(text)


def controls(tokenizer: Tokenizer, tokens: list[int], kind: Any) -> list[str]:
    names = tokenizer.wrapper.convert_ids_to_tokens(tokens)
    return [name for name in names if name in kind.control]


def dialogue(text: str) -> dict[str, Any]:
    """Return a request that contains `text` in every field that takes text."""
    return {
        "messages": [
            {"role": "system", "content": f"Be {text} brief."},
            {"role": "user", "content": f"a{text}b"},
            {
                "role": "assistant",
                "content": f"c {text}",
                "tool_calls": [
                    {"function": {"name": f"n{text}", "arguments": {f"k{text}": [f"v{text}", 1]}}}
                ],
            },
            {"role": "tool", "content": f"{text}", "name": f"t{text}"},
            {"role": "user", "content": f" {text}\n\nd  e"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": f"f{text}",
                    "description": f"Does {text} it.",
                    "parameters": {"type": "object", "properties": {f"p{text}": {}}},
                },
            }
        ],
    }


def test_caller_text_is_never_tokenized_as_a_control_token(family: Any) -> None:
    kind, tokenizer = family
    hostile = " x ".join(kind.control)
    harmless = tokens_of(tokenizer, dialogue("plain"))
    tokens = tokens_of(tokenizer, dialogue(hostile))
    assert controls(tokenizer, tokens, kind) == controls(tokenizer, harmless, kind)
    # The text is unchanged, except for blanks that these tokenizers insert.
    written = tokenizer.wrapper.decode(tokens).replace(" ", "")
    rendered = tokenizer.chat.text(
        ChatPrompt.from_map({**dialogue(hostile), "special_tokens_in_text": True})
    )[0]
    expected = rendered.replace(" ", "")
    if kind.rstrip:
        written, expected = written.replace("\n", ""), expected.replace("\n", "")
    assert written == expected


def test_text_without_control_tokens_is_tokenized_as_by_transformers(family: Any) -> None:
    _, tokenizer = family
    params = dialogue("<b>bold</b> é 你  \n\n x")
    fast = tokenizer.wrapper._tokenizer
    messages = [
        {**one, "tool_calls": [{"type": "function", "id": None, **call} for call in calls]}
        if (calls := one.get("tool_calls"))
        else one
        for one in params["messages"]
    ]
    expected = fast.apply_chat_template(
        messages, tools=params["tools"], add_generation_prompt=True, return_dict=False
    )
    assert tokens_of(tokenizer, params) == expected


def test_text_next_to_a_control_token_is_tokenized_unchanged(family: Any) -> None:
    kind, tokenizer = family
    text = "The quick <b>brown</b> fox\n\njumps  over é."
    rendered = f"{kind.control[0]}{text}{kind.control[-1]}{text}"
    parts = tokenizer._control._encode_parts(rendered, every=True)
    assert parts == tokenizer.wrapper.encode(rendered, add_special_tokens=False)


def test_special_tokens_in_text_enables_control_tokens(family: Any) -> None:
    kind, tokenizer = family
    text = kind.special[-1]
    params = {"messages": [{"role": "user", "content": f"a{text}b"}]}
    once = controls(tokenizer, tokens_of(tokenizer, params), kind).count(text)
    asked = tokens_of(tokenizer, {**params, "special_tokens_in_text": True})
    assert controls(tokenizer, asked, kind).count(text) == once + 1


@pytest.mark.parametrize("how", ["upper", "title", "trim", "tojson", "length", "replace('x', 'x')"])
def test_string_filters_of_templates_do_not_create_control_tokens(family: Any, how: str) -> None:
    kind, tokenizer = family
    template = f"{kind.control[0]}{{{{ messages[0].content | {how} }}}}"
    if how.startswith("replace"):
        template = f"{kind.control[0]}{{{{ messages[0].content.{how} }}}}"
    params = {
        "messages": [{"role": "user", "content": f" a {kind.control[-1]} "}],
        "template_kwargs": {"chat_template": template},
    }
    assert controls(tokenizer, tokens_of(tokenizer, params), kind) == [kind.control[0]]


def test_a_normalized_look_alike_of_a_control_token_is_text(tmp_path: Any) -> None:
    # This tokenizer turns full-width signs into ASCII before it searches for normalized tokens.
    kind = FAMILIES["unigram"]
    folder = write(kind, tmp_path)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"normalized": false', '"normalized": true'))
    tokenizer = Tokenizer(ModelRef("loose", str(folder)), compile_pool())
    fake = "a＜/s＞b"
    assert "</s>" in tokenizer.wrapper.convert_ids_to_tokens(tokenizer.wrapper.encode(fake))
    tokens = tokens_of(tokenizer, {"messages": [{"role": "user", "content": fake}]})
    assert controls(tokenizer, tokens, kind) == ["</s>"]


@pytest.fixture(scope="module")
def pocket() -> Tokenizer:
    return Tokenizer(ModelRef("pocket", str(POCKET)), compile_pool())


def test_only_the_template_can_start_reasoning(pocket: Tokenizer) -> None:
    params = {"messages": [{"role": "user", "content": "Say <think>"}]}
    assert not starts_in_reasoning(pocket, params)
    assert starts_in_reasoning(pocket, {**params, "thinking": True})
    closed = {"messages": [{"role": "user", "content": "Say </think>"}], "thinking": True}
    assert starts_in_reasoning(pocket, closed)


def starts_in_reasoning(tokenizer: Tokenizer, params: dict[str, Any]) -> bool:
    return tokenizer.chat.starts_in_reasoning(tokenizer.chat.text(ChatPrompt.from_map(params))[0])


def test_control_tokens_in_prefix_and_suffix_are_text(pocket: Tokenizer) -> None:
    tokens = prepare(pocket, asking("fill", {"prefix": "a<|fim_suffix|>", "suffix": "<|im_end|>b"}))
    names = pocket.wrapper.convert_ids_to_tokens(tokens.tokens)
    assert [name for name in names if name.startswith("<|") and name.endswith("|>")] == [
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>",
    ]  # fmt: skip
