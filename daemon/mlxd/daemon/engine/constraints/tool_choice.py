"""The tools of a request, and the grammar that forces a call in the form of the model. Pure.

The form follows from the parser of mlx-lm that reads the model's calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlxd.daemon.engine.constraints.schema_audit import exact, unenforced
from mlxd.protocol.errors import InvalidParams
from mlxd.protocol.params import function_of

Tool = dict[str, Any]
"""A tool's description, as the caller gave it: JSON for the chat template and the tool parser."""

WHITE_SPACE = {"whitespace_pattern": "[ ]?"}
"""One blank, as models write JSON."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a model writes calls: the name of its parser, its markers, the texts of its tokens."""

    parser: str
    start: str
    end: str
    vocabulary: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a request, and `choice`: auto, none, required or the name of one."""

    tools: tuple[Tool, ...] | None = None
    choice: str = "auto"

    @classmethod
    def from_map(cls, raw: Mapping[str, Any]) -> ToolUse:
        """Return the tools of a request that the front has validated."""
        tools = raw.get("tools")
        choice = raw.get("tool_choice") or "auto"
        return cls(None if tools is None else tuple(tools), choice)

    @property
    def offered(self) -> tuple[Tool, ...] | None:
        """The tools that the chat template shows to the model."""
        return None if self.choice == "none" else self.tools

    @property
    def forced(self) -> tuple[Tool, ...]:
        """The tools of which one must be called; empty if the model may choose."""
        if self.choice in ("auto", "none"):
            return ()
        tools = self.tools or ()
        return tuple(t for t in tools if self.choice in ("required", function_of(t)["name"]))


def call_source(form: CallForm, tools: Iterable[Tool]) -> tuple[str, list[str]]:
    """Return a Lark grammar of one call of one of the tools, and notes on what it leaves out.

    Raises:
        InvalidParams: the form of the model's calls is not known.
        ValueError: a tool's schema cannot be held.
    """
    rule = FORMS.get(form.parser)
    if rule is None:
        what = f"the form {form.parser}" if form.parser else "no form that is known"
        raise InvalidParams(
            "tool_choice",
            f"cannot force a call: the model writes calls in {what}",
            hint=f"Use auto or none. Forms that can be forced: {', '.join(FORMS)}.",
        )
    notes: list[str] = []
    calls = []
    for tool in tools:
        function = function_of(tool)
        arguments, narrowed = exact(function.get("parameters") or {"type": "object"})
        notes += [
            f"tool {function['name']}: {note}" for note in (*narrowed, *unenforced(arguments))
        ]
        calls.append((str(function["name"]), arguments))
    return rule(form, calls), notes


Calls = list[tuple[str, dict[str, Any]]]
"""Names and the schemas of their arguments."""


def _json_call(form: CallForm, calls: Calls) -> str:
    """`<tool_call>`, an object with name and arguments, `</tool_call>`: ChatML kinds."""
    rules = [f"call_{at}: %json {_call_schema(*call)}" for at, call in enumerate(calls)]
    inside = f'"\\n" ({_any_of("call", calls)}) "\\n"'
    return "\n".join([f"start: {_mark(form, form.start)} {inside} {_mark(form, form.end)}", *rules])


def _mistral_call(form: CallForm, calls: Calls) -> str:
    """`[TOOL_CALLS]` and a list of calls, or, where there is `[ARGS]`, name and arguments."""
    if "[ARGS]" in form.vocabulary:
        rules = [
            f"call_{at}: {json.dumps(name)} {_mark(form, '[ARGS]')} arguments_{at}\n"
            f"arguments_{at}: %json {_with_white_space(arguments)}"
            for at, (name, arguments) in enumerate(calls)
        ]
        inside = _any_of("call", calls)
    else:
        rules = [f"call_{at}: %json {_call_schema(*call)}" for at, call in enumerate(calls)]
        inside = f'"[" ({_any_of("call", calls)}) "]"'
    return "\n".join([f"start: {_mark(form, form.start)} ({inside})", *rules])


def _any_of(name: str, calls: Calls) -> str:
    return " | ".join(f"{name}_{at}" for at in range(len(calls)))


def _mark(form: CallForm, text: str) -> str:
    """Return a marker as a token where it is one, otherwise as text."""
    return f"<[{form.vocabulary[text]}]>" if text in form.vocabulary else json.dumps(text)


def _call_schema(name: str, arguments: dict[str, Any]) -> str:
    arguments = dict(arguments)
    # References are read from the root, where the definitions must be.
    names = [key for key in ("$defs", "definitions") if key in arguments]
    call: dict[str, Any] = {key: arguments.pop(key) for key in names}
    call["type"] = "object"
    call["properties"] = {"name": {"const": name}, "arguments": arguments}
    call["required"] = ["name", "arguments"]
    call["additionalProperties"] = False
    return _with_white_space(call)


def _with_white_space(schema: dict[str, Any]) -> str:
    return json.dumps({"x-guidance": WHITE_SPACE, **schema})


FORMS: dict[str, Callable[[CallForm, Calls], str]] = {
    "json_tools": _json_call,
    "mistral": _mistral_call,
}
"""Name of mlx-lm's parser to what writes the grammar of its form."""
