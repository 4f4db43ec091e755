"""Parameters from the wire become typed ones, once."""

from __future__ import annotations

import pytest

from mlxd.daemon.engine.generation import GenerationParams
from mlxd.protocol.methods import validate

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
MESSAGES = [{"role": "user", "content": "hello"}]


def test_every_parameter_of_a_validated_request_arrives() -> None:
    given = validate(
        "chat", {"messages": MESSAGES, "n": 3, "top_k": 7, "stop": ["END"], "temperature": 0.5}
    )
    parsed = GenerationParams.from_map(given)
    assert (parsed.n, parsed.top_k, parsed.stop, parsed.temperature) == (3, 7, ("END",), 0.5)
    assert parsed.max_tokens == given["max_tokens"]
    for name in GenerationParams.__dataclass_fields__.keys() & given.keys() - {"stop"}:
        if given[name] is not None:
            assert getattr(parsed, name) == given[name], name


@pytest.mark.parametrize("choice", ["auto", "none", "required", "look"])
def test_a_tool_is_forced_where_the_model_may_not_choose(choice: str) -> None:
    given = validate("chat", {"messages": MESSAGES, "tools": [TOOL], "tool_choice": choice})
    assert GenerationParams.from_map(given).forced_tool == (choice in ("required", "look"))
