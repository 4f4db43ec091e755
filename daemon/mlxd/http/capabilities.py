"""What a model can do, from the chat template in its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPLATE_MAX_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Whether the model's chat template knows tools and thinking."""

    chat: bool
    tools: bool
    thinking: bool


def capabilities_of(record: dict[str, Any]) -> Capabilities:
    """Return what the model of a record of `models.list` can do. Reads files."""
    template = template_of(Path(record.get("path") or "/nowhere"))
    return Capabilities(
        chat=bool(record.get("chat_template")),
        tools="tools" in template,
        thinking="<think>" in template or "enable_thinking" in template,
    )


def template_of(folder: Path) -> str:
    """Return the chat template of a model's folder, or an empty text."""
    try:
        own = folder / "chat_template.jinja"
        if own.exists():
            return _read(own)
        given = json.loads(_read(folder / "tokenizer_config.json")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return ""
    if isinstance(given, list):  # several templates, with names
        given = "".join(str(one.get("template")) for one in given if isinstance(one, dict))
    return given if isinstance(given, str) else ""


def _read(path: Path) -> str:
    with path.open("rb") as stream:
        return stream.read(TEMPLATE_MAX_BYTES).decode(errors="replace")
