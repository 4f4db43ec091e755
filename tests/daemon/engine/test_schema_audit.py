from __future__ import annotations

from typing import Any

import pytest

from mlxd.daemon.engine.schema_audit import unenforced


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"format": "date"}, "29 February"),
        ({"properties": {"when": {"items": [{"format": "date-time"}]}}}, "leap second"),
        ({"$defs": {"h": {"format": "hostname"}}}, "hostname"),
        ({"contentEncoding": "base64"}, "contentEncoding"),
        ({"anyOf": [{"contentMediaType": "text/html"}]}, "contentMediaType"),
        ({"x-guidance": {"lenient": True}}, "lenient"),
        ({"x-guidance": {"coerce_one_of": True}}, "anyOf"),
        ({"items": {"$ref": "#/x", "$id": "y"}}, "$id"),
    ],
)
def test_what_is_not_held_is_said(schema: Any, word: str):
    assert [word in note for note in unenforced(schema)] == [True]


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"format": "uuid", "pattern": "a"},
        {"properties": {"format": {"type": "string"}, "contentEncoding": True}},
        {
            "const": {"format": "date"},
            "enum": [{"contentEncoding": 1}],
            "default": {"format": "time"},
        },
        {"x-guidance": {"whitespace_flexible": True}},
        {"format": {"not": "a string"}},
    ],
)
def test_what_is_held_or_is_data_is_not_complained_about(schema: Any):
    assert unenforced(schema) == []


def test_each_thing_is_said_once():
    schema = {"properties": {name: {"format": "date"} for name in "abc"}}
    assert len(unenforced(schema)) == 1
