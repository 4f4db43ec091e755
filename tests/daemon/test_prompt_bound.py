"""A prompt that cannot fit is refused by its length; one that may fit never is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.daemon.prompt_bound import PromptBound, PromptTexts
from mlxd.protocol.errors import ContextOverflow

BOUND = PromptBound(context_tokens=100, longest_bytes=4, user_messages=True)
LONG = "a" * 400


def said(role: str, content: str | None) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "params",
    [
        {"prompt": LONG},
        {"prompt": "é" * 200},
        {"prefix": LONG[:200], "suffix": LONG[200:]},
        {"messages": [said("system", "s"), said("user", LONG[:200]), said("user", LONG[200:])]},
    ],
    ids=["prompt", "two bytes a letter", "fill", "chat"],
)
def test_texts_of_more_bytes_than_the_context_holds_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ContextOverflow, match="at least 100 tokens; pocket has") as refused:
        BOUND.check("pocket", PromptTexts.from_map(params))
    assert refused.value.data == {"prompt_tokens": 100, "context_tokens": 100}


@pytest.mark.parametrize(
    "params",
    [
        {"prompt": LONG[1:]},
        {"prompt": [1] * 4000},
        {"messages": [said("assistant", LONG), said("user", "and?")]},
        {"messages": [said("user", " \u3000" * 400 + "a")]},
        {"messages": [said("user", None)]},
        {"messages": [said("user", LONG)], "template_kwargs": {"chat_template": "a"}},
        {"prefix": LONG[1:], "suffix": None},
    ],
    ids=["may fit", "tokens", "an answer", "blanks", "nothing", "another template", "fill"],
)
def test_what_a_template_may_leave_out_does_not_count(params: dict[str, Any]) -> None:
    BOUND.check("pocket", PromptTexts.from_map(params))


def test_user_messages_count_only_where_the_template_is_known_to_render_them() -> None:
    bound = PromptBound(context_tokens=100, longest_bytes=4)
    bound.check("pocket", PromptTexts.from_map({"messages": [said("user", LONG)]}))


@given(st.text(max_size=50), st.binary(max_size=3), st.booleans())
def test_a_bound_survives_the_link(text: str, uncounted: bytes, user: bool) -> None:
    bound = PromptBound(100, 4, uncounted, user)
    again = PromptBound.from_map(bound.to_map())
    assert again == bound
    assert again.tokens_at_least(text) == bound.tokens_at_least(text)
