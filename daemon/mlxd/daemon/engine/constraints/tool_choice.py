"""The tools of a request, and the grammar that forces a call in the model's format. Pure.

mlx-lm's parser for the model's calls identifies the format.
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
"""A tool's description in the caller's JSON, for the chat template and the tool parser."""

WHITE_SPACE = {"whitespace_pattern": "[ ]?"}
"""One space, as models write JSON."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """The format of a model's calls: the name of its parser, its markers, and the texts of its
    tokens."""

    parser: str
    start: str
    end: str
    vocabulary: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a request. `choice` is auto, none, required or the name of a tool."""

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
        """The tools of which one must be called. Empty: the model may choose."""
        if self.choice in ("auto", "none"):
            return ()
        tools = self.tools or ()
        return tuple(t for t in tools if self.choice in ("required", function_of(t)["name"]))


def call_source(form: CallForm, tools: Iterable[Tool]) -> tuple[str, list[str]]:
    """Return a Lark grammar for one call of one of the tools, and notes on what is not enforced.

    Raises:
        InvalidParams: the format of the model's calls is unknown.
        ValueError: a tool's schema cannot be enforced.
    """
    rule = FORMS.get(form.parser)
    if rule is None:
        what = f"the format {form.parser}" if form.parser else "an unknown format"
        raise InvalidParams(
            "tool_choice",
            f"cannot force a call, because the model writes calls in {what}",
            hint=f"Use auto or none. Supported formats: {', '.join(FORMS)}.",
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
"""Maps the name of a tool to the schema of its arguments."""


def _json_call(form: CallForm, calls: Calls) -> str:
    """ChatML formats: `<tool_call>`, an object with name and arguments, `</tool_call>`."""
    rules = [f"call_{at}: %json {_call_schema(*call)}" for at, call in enumerate(calls)]
    inside = f'"\\n" ({_any_of("call", calls)}) "\\n"'
    return "\n".join([f"start: {_mark(form, form.start)} {inside} {_mark(form, form.end)}", *rules])


def _mistral_call(form: CallForm, calls: Calls) -> str:
    """`[TOOL_CALLS]` and a list of calls or, if the model has `[ARGS]`, a name and arguments."""
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
    """Return a marker as a token if the vocabulary has it, otherwise as text."""
    return f"<[{form.vocabulary[text]}]>" if text in form.vocabulary else json.dumps(text)


def _call_schema(name: str, arguments: dict[str, Any]) -> str:
    arguments = dict(arguments)
    # References are resolved from the root, so the definitions must be there.
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
"""Maps mlx-lm's parser to the function that writes the grammar of its format."""
