"""Prompts that cannot fit are refused by their length; those that may fit never are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.daemon.prompt_bound import PromptBound, PromptTexts
from mlxd.protocol.errors import ContextOverflow

BOUND = PromptBound(context_tokens=100, longest_bytes=4, user_messages=True)
LONG = "a" * 400


def message(role: str, content: str | None) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "params",
    [
        {"prompt": LONG},
        {"prompt": "é" * 200},
        {"prefix": LONG[:200], "suffix": LONG[200:]},
        {
            "messages": [
                message("system", "s"),
                message("user", LONG[:200]),
                message("user", LONG[200:]),
            ]
        },
    ],
    ids=["prompt", "two bytes a letter", "fill", "chat"],
)
def test_prompts_with_more_bytes_than_the_context_allows_are_refused(
    params: dict[str, Any],
) -> None:
    with pytest.raises(ContextOverflow, match="at least 100 tokens; pocket has") as refused:
        BOUND.check("pocket", PromptTexts.from_map(params))
    assert refused.value.data == {"prompt_tokens": 100, "context_tokens": 100}


@pytest.mark.parametrize(
    "params",
    [
        {"prompt": LONG[1:]},
        {"prompt": [1] * 4000},
        {"messages": [message("assistant", LONG), message("user", "and?")]},
        {"messages": [message("user", " \u3000" * 400 + "a")]},
        {"messages": [message("user", None)]},
        {"messages": [message("user", LONG)], "template_kwargs": {"chat_template": "a"}},
        {"prefix": LONG[1:], "suffix": None},
    ],
    ids=["may fit", "tokens", "an answer", "blanks", "nothing", "another template", "fill"],
)
def test_text_that_a_template_may_drop_is_not_counted(params: dict[str, Any]) -> None:
    BOUND.check("pocket", PromptTexts.from_map(params))


def test_user_messages_are_counted_only_if_the_template_renders_them() -> None:
    bound = PromptBound(context_tokens=100, longest_bytes=4)
    bound.check("pocket", PromptTexts.from_map({"messages": [message("user", LONG)]}))


@given(st.text(max_size=50), st.binary(max_size=3), st.booleans())
def test_a_prompt_bound_survives_serialisation(text: str, uncounted: bytes, user: bool) -> None:
    bound = PromptBound(100, 4, uncounted, user)
    again = PromptBound.from_map(bound.to_map())
    assert again == bound
    assert again.tokens_at_least(text) == bound.tokens_at_least(text)
