from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlxd.protocol.errors import InvalidParams, MethodNotFound
from mlxd.protocol.methods import METHODS, Method, validate
from mlxd.protocol.params import REQUIRED
from mlxd.protocol.paths import SOCKET_PATH_MAX_BYTES, SocketPathTooLong, resolve_paths

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_every_default_of_a_parameter_is_valid(method: Method) -> None:
    for param in method.params:
        if param.default is not REQUIRED and param.default is not None:
            assert param.check(param.default) == param.default


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": MESSAGES, "temperature": "hot"}, "temperature"),
        ({"messages": MESSAGES, "temperature": float("inf")}, "temperature"),
        ({"messages": MESSAGES, "max_tokens": 0}, "max_tokens"),
        ({"messages": MESSAGES, "max_tokens": True}, "max_tokens"),
        ({"messages": MESSAGES, "max_tokens": 1.5}, "max_tokens"),
        ({"messages": MESSAGES, "stop": [""]}, "stop"),
        ({"messages": MESSAGES, "priority": "high"}, "priority"),
        ({"messages": MESSAGES, "logit_bias": {"x": 1}}, "logit_bias"),
        ({"messages": MESSAGES, "schema": {}, "regex": "a"}, "regex"),
        ({"messages": MESSAGES, "temprature": 1}, "temprature"),
    ],
)
def test_an_invalid_parameter_is_refused_by_name(params: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        validate("chat", params)
    assert caught.value.data["param"] == named


def test_a_misspelled_parameter_or_method_gets_a_suggestion() -> None:
    with pytest.raises(InvalidParams) as caught:
        validate("chat", {"messages": MESSAGES, "temprature": 1})
    assert "temperature" in caught.value.hint
    with pytest.raises(MethodNotFound) as missing:
        validate("caht", {})
    assert "chat" in missing.value.hint


def test_defaults_are_filled_in_and_fill_has_a_lower_priority() -> None:
    assert validate("chat", {"messages": MESSAGES})["priority"] == "interactive"
    assert validate("fill", {"prefix": "x"})["priority"] == "completion"
    assert validate("chat", {"messages": MESSAGES, "logit_bias": {"5": 1}})["logit_bias"] == {
        5: 1.0
    }


def test_a_socket_path_over_103_bytes_is_refused() -> None:
    room = "/" + "s" * (SOCKET_PATH_MAX_BYTES - 1)
    assert str(resolve_paths({"MLXD_SOCKET": room}).socket) == room
    with pytest.raises(SocketPathTooLong, match="104"):
        resolve_paths({"MLXD_SOCKET": room + "s"})


def test_the_socket_path_follows_the_environment(tmp_path: Path) -> None:
    assert str(resolve_paths({"XDG_RUNTIME_DIR": "/run/u"}).socket) == "/run/u/mlxd/mlxd.sock"
    state = resolve_paths({"MLXD_STATE_DIR": str(tmp_path)})
    assert state.socket == tmp_path / "mlxd.sock"
