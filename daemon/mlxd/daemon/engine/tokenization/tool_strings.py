"""Tells whether a tool call's text ends inside a string, where an end marker is text. Pure.

Models write calls as JSON, as Python, or between tags of their family.
"""

from __future__ import annotations

import re

JSON_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
PYTHON_STRING = re.compile(JSON_STRING.pattern + r"|'[^'\\]*(?:\\.[^'\\]*)*'", re.DOTALL)
PYTHONIC_END = "<|tool_call_end|>"
TAGS: dict[str, tuple[tuple[str, str], ...]] = {
    "</tool_call>": (
        (r"<parameter=[^>\n]*>", "</parameter>"),  # Qwen3-Coder
        (r"<arg_value>", "</arg_value>"),  # GLM 4.7, Laguna
    ),
    "</longcat_tool_call>": ((r"<longcat_arg_value>", "</longcat_arg_value>"),),
    "</minimax:tool_call>": ((r"<parameter name=[^>\n]*>", "</parameter>"),),
    "</atem:function_calls>": ((r"<atem:parameter\b[^>\n]*>", "</atem:parameter>"),),
    "</function>": ((r"<param\s[^>\n]*>", "</param>"),),  # MiniCPM5
    "<|close|>tools<|sep|>": (
        (r"<\|open\|>argument\b[^|]*<\|sep\|>", "<|close|>argument<|sep|>"),  # Kimi K3
        (r"<\|open\|>json\b[^|]*<\|sep\|>", "<|close|>json<|sep|>"),
    ),
    "<end_function_call>": ((r"<escape>", "<escape>"),),  # FunctionGemma
    "<tool_call|>": ((r'<\|"\|>', '<|"|>'),),  # Gemma 4
}
"""The text that ends a family's calls, to the tags around its values."""
JSON_AFTER = {"<|tool_calls_section_end|>": "<|tool_call_argument_begin|>"}  # Kimi K2
"""The text that ends a family's calls, to the one after which the arguments are JSON."""


def ends_in_string(call: str, end: str) -> bool:
    """Whether `call`, the text before an occurrence of the end marker, ends inside a string."""
    begin = call.lstrip()
    if end == PYTHONIC_END:
        rest = PYTHON_STRING.sub("", call)
        return '"' in rest or "'" in rest
    if begin.startswith(("{", "[")) or JSON_AFTER.get(end, end) in call:
        return '"' in JSON_STRING.sub("", call)
    return _ends_in_tags(call, TAGS.get(end, ()))


def _ends_in_tags(call: str, tags: tuple[tuple[str, str], ...]) -> bool:
    """Whether a value between tags was opened and not closed."""
    if not tags:
        return False
    opening = re.compile("|".join(f"({begin})" for begin, _ in tags))
    position = 0
    while (found := opening.search(call, position)) is not None:
        assert found.lastindex is not None
        closing = tags[found.lastindex - 1][1]
        after = call.find(closing, found.end())
        if after < 0:
            return True
        position = after + len(closing)
    return False
