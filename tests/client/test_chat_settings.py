"""`/set` of `mlx chat`: the options that can change during a chat."""

from __future__ import annotations

from typing import Any

import pytest

from mlxd.client.cli.chat.settings import SETTABLE, change
from mlxd.protocol.errors import InvalidParams


def test_every_option_of_ask_that_may_change_can_be_set() -> None:
    expected = {
        "temperature", "top_p", "seed", "stop", "regex", "thinking", "priority", "adapter",
        "draft", "max_tokens", "repetition_penalty", "ignore_eos", "deadline_s",
    }  # fmt: skip
    assert expected <= SETTABLE.keys()


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("top_k 20", {"top_k": 20}),
        ("temp 0.5", {"temperature": 0.5}),
        ("think off", {"thinking": False}),
        ("keep-alive 1h30m", {"keep_alive_s": 5400.0}),
        ("stop END", {"stop": ["END"]}),
        ("preset precise", {"temperature": 0.0, "top_p": 0.95}),
    ],
)
def test_a_setting_becomes_a_parameter(text: str, params: dict[str, Any]) -> None:
    found: dict[str, Any] = {}
    change(found, text)
    assert found == params


def test_a_setting_without_a_value_is_unset() -> None:
    params: dict[str, Any] = {"top_k": 20}
    assert change(params, "top_k") == ["top_k: daemon default"]
    assert params == {}


def test_without_a_name_the_settings_are_listed() -> None:
    params: dict[str, Any] = {"top_k": 20, "messages": []}
    assert change(params, "") == ["top_k 20"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("top_k many", "top_k cannot be 'many'", "For example: /set top_k 20"),
        ("top_p 7", "top_p: must be between 0 and 1, not 7", "Unset it: /set top_p"),
        ("topk 5", "there is no setting 'topk'", "Did you mean top_k"),
        ("xyzzy 5", "there is no setting 'xyzzy'", "Known: adapter"),
    ],
)
def test_what_cannot_be_set_is_refused_with_help(text: str, message: str, hint: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        change({}, text)
    assert message in str(caught.value)
    assert caught.value.hint.startswith(hint)
