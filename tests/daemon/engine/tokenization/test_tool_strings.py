"""Tool calls whose arguments contain their own end marker, in the format of every family."""

from __future__ import annotations

import importlib
import json
import pkgutil
from typing import Any

import pytest
from mlx_lm import tool_parsers

from mlxd.daemon.engine.tokenization.text import Channel, Markers, TextSplitter

NAME, KEY = "save", "text"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": NAME,
            "parameters": {"type": "object", "properties": {KEY: {"type": "string"}}},
        },
    }
]
FORMATS: dict[str, str] = {
    "function_gemma": "call:save{text:<escape>VALUE<escape>}",
    "gemma4": 'call:save{text:<|"|>VALUE<|"|>}',
    "glm47": "save<arg_key>text</arg_key><arg_value>VALUE</arg_value>",
    "json_tools": '{"name": "save", "arguments": {"text": QUOTED}}',
    "kimi_k2": "<|tool_call_begin|>functions.save:0<|tool_call_argument_begin|>"
    '{"text": QUOTED}<|tool_call_end|>',
    "kimi_k3": '<|open|>call tool="save" index="1"<|sep|><|open|>argument key="text" '
    'type="string"<|sep|>VALUE<|close|>argument<|sep|><|close|>call<|sep|>',
    "laguna": "save<arg_key>text</arg_key><arg_value>VALUE</arg_value>",
    "longcat": "save<longcat_arg_key>text</longcat_arg_key>"
    "<longcat_arg_value>VALUE</longcat_arg_value>",
    "minicpm5": '"save"><param name="text">VALUE</param>',
    "minimax_m2": '<invoke name="save"><parameter name="text">VALUE</parameter></invoke>',
    "muse_spark": '<atem:invoke name="save"><atem:parameter name="text">VALUE'
    "</atem:parameter></atem:invoke>",
    "pythonic": "[save(text=QUOTED)]",
    "qwen3_coder": "<function=save><parameter=text>VALUE</parameter></function>",
}
NO_END = {"mistral"}
"""The end of the answer ends these calls."""
OWN_TAGS_INSIDE = {"minicpm5", "kimi_k2"}
"""mlx-lm's parsers search these calls for their own end markers."""


def calls(parser: Any, text: str, size: int) -> tuple[list[str], str]:
    """Return the tool calls and the answer in a text that arrives in pieces of this size."""
    splitter = TextSplitter(Markers("", "", parser.tool_call_start, parser.tool_call_end))
    pieces = [
        piece for at in range(0, len(text), size) for piece in splitter.feed(text[at : at + size])
    ]
    pieces += splitter.flush()
    found = [piece.text for piece in pieces if piece.channel is Channel.TOOL and piece.closed]
    answer = "".join(piece.text for piece in pieces if piece.channel is Channel.ANSWER)
    return found, answer


def test_every_family_is_tried() -> None:
    assert {one.name for one in pkgutil.iter_modules(tool_parsers.__path__)} == {*FORMATS, *NO_END}


@pytest.mark.parametrize("family", FORMATS)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_end_marker_inside_a_string_is_text(family: str, size: int) -> None:
    parser = importlib.import_module(f"mlx_lm.tool_parsers.{family}")
    value = f"it's {parser.tool_call_end} and more"
    call = FORMATS[family].replace("VALUE", value).replace("QUOTED", json.dumps(value))
    text = f"{parser.tool_call_start}{call}{parser.tool_call_end}"
    found, answer = calls(parser, f"one {text}two {text}three", size)
    assert found == [call, call]
    assert answer == "one two three"
    if family not in OWN_TAGS_INSIDE:
        parsed = parser.parse_tool_call(call, TOOLS)
        parsed = parsed[0] if isinstance(parsed, list) else parsed
        assert parsed["name"] == NAME
        assert parsed["arguments"] == {KEY: value}


@pytest.mark.parametrize("family", FORMATS)
@pytest.mark.parametrize("value", ["it's", 'a "quoted" word', "5' 7\" tall", "<b>", "\\"])
def test_quotes_in_a_value_hide_no_end(family: str, value: str) -> None:
    parser = importlib.import_module(f"mlx_lm.tool_parsers.{family}")
    call = FORMATS[family].replace("VALUE", value).replace("QUOTED", json.dumps(value))
    text = f"{parser.tool_call_start}{call}{parser.tool_call_end}"
    assert calls(parser, text + "end", 3) == ([call], "end")
