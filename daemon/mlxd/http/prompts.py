"""What all dialects need to make the daemon's messages: roles, texts, tools, arguments."""

from __future__ import annotations

import json
from typing import Any

from mlxd.http.problems import invalid

Message = dict[str, Any]

TEXT_TYPES = frozenset({"text", "input_text", "output_text", "summary_text", "reasoning_text"})


def text_in(content: Any, where: str) -> str:
    """Return the text of a content: a string, a list of parts, or null.

    Raises:
        InvalidParams: a part is not text, such as an image.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(where, "must be a string or a list of parts")
    return "".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in TEXT_TYPES and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "refusal":
        return str(part.get("refusal") or "")
    raise invalid(where, f"mlxd reads text only, not parts of the type {kind!r}")


def settled(messages: list[Message]) -> tuple[list[Message], list[str]]:
    """Return messages whose order every chat template accepts, and a note if it was changed.

    System messages at the start become one. Many templates refuse later ones. Such a message
    becomes part of the user message after it, so that everything before it stays as it was and
    its KV cache can be used again.
    """
    first = next((i for i, one in enumerate(messages) if one["role"] != "system"), len(messages))
    leading = [one["content"] for one in messages[:first] if one["content"]]
    out: list[Message] = []
    if leading:
        out.append({"role": "system", "content": "\n\n".join(leading)})
    waiting: list[str] = []
    moved = False
    for one in messages[first:]:
        if one["role"] == "system":
            waiting.append(f"<system>\n{one['content']}\n</system>")
            moved = True
        elif one["role"] == "user" and waiting:
            out.append({**one, "content": "\n\n".join([*waiting, one["content"]])})
            waiting = []
        else:
            out += _as_user(waiting)
            waiting = []
            out.append(one)
    out += _as_user(waiting)
    note = "system messages after the first other message became part of user messages"
    return out, [note] if moved else []


def _as_user(texts: list[str]) -> list[Message]:
    return [{"role": "user", "content": "\n\n".join(texts)}] if texts else []


def arguments_of(given: Any) -> Any:
    """Return the arguments of a tool call as an object, which chat templates need."""
    if not isinstance(given, str):
        return {} if given is None else given
    try:
        value = json.loads(given or "{}")
    except (ValueError, RecursionError):
        return given
    return value if isinstance(value, dict) else given


def call_of(name: Any, arguments: Any, call_id: Any) -> dict[str, Any]:
    """Return a tool call of an assistant message as the daemon takes it."""
    function = {"name": str(name or ""), "arguments": arguments_of(arguments)}
    return {"id": str(call_id or ""), "type": "function", "function": function}


def function_tool(name: Any, description: Any, parameters: Any, where: str) -> dict[str, Any]:
    """Return the description of a function as the daemon takes it. Raises InvalidParams."""
    if not isinstance(name, str) or not name:
        raise invalid(f"{where}.name", "must be a non-empty string")
    if parameters is not None and not isinstance(parameters, dict):
        raise invalid(f"{where}.parameters", "must be a JSON Schema")
    function = {
        "name": name,
        "description": description if isinstance(description, str) else "",
        "parameters": parameters or {"type": "object", "properties": {}},
    }
    return {"type": "function", "function": function}


def list_of(body: dict[str, Any], name: str) -> list[Any]:
    """Return a list field, or an empty list if it is absent. Raises InvalidParams."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(name, "must be a list")
    return value


def map_of(value: Any, where: str) -> dict[str, Any]:
    """Return a map. Raises InvalidParams."""
    if not isinstance(value, dict):
        raise invalid(where, "must be an object")
    return value


def flag(body: dict[str, Any], name: str, default: bool = False) -> bool:
    """Return a boolean field. Raises InvalidParams."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise invalid(name, "must be true or false")
    return value


def effort_thinks(effort: Any) -> bool | None:
    """Return whether a reasoning effort means thinking. None: the template decides."""
    return None if effort is None else str(effort).lower() not in ("none", "minimal", "off")


def unknown_notes(body: dict[str, Any], used: frozenset[str], ignored: frozenset[str]) -> list[str]:
    """Return a note for each field of a body that has no effect and is not known to have none."""
    unknown = sorted(
        name for name, value in body.items() if value is not None and name not in used | ignored
    )
    return [f"ignored: {name[:80]}" for name in unknown]


def system_first(system: str, messages: list[Message]) -> list[Message]:
    """Return messages with a system message in front, if there is one."""
    return [{"role": "system", "content": system}, *messages] if system else messages
