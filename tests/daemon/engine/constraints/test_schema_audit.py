from __future__ import annotations

from typing import Any

import pytest

from mlxd.daemon.engine.constraints.schema_audit import exact, unenforced


@pytest.mark.parametrize(
    ("schema", "held"),
    [
        (
            {"exclusiveMinimum": 5, "maximum": 5.5},
            {"minimum": 5.00000000000001, "maximum": 5.5},
        ),
        (
            {"minimum": 5.2, "exclusiveMinimum": 5, "maximum": 5.5},
            {"minimum": 5.2, "maximum": 5.5},
        ),
        (
            {"minimum": 5, "exclusiveMinimum": True, "maximum": 5.5},
            {"minimum": 5.00000000000001, "maximum": 5.5},
        ),
        (
            {"allOf": [{"minimum": -6.5}, {"exclusiveMaximum": -6}]},
            {"allOf": [{"minimum": -6.5}, {"maximum": -6.00000000000001}]},
        ),
    ],
)
def test_exclusive_integer_bounds_beside_a_fraction_become_inclusive(
    schema: Any, held: Any
) -> None:
    narrowed, notes = exact(schema)
    assert narrowed == held
    assert ["is taken as" in note for note in notes] == [True]


@pytest.mark.parametrize(
    ("schema", "held"),
    [
        ({"maximum": 3.9999999999999996}, {"maximum": 3.99999999999999}),
        ({"minimum": 1e-300}, {"minimum": 1e-14}),
        ({"maximum": 0.12345678901234567}, {"maximum": 0.12345678901234}),
    ],
)
def test_bounds_with_many_decimals_are_narrowed_with_a_note(schema: Any, held: Any) -> None:
    narrowed, notes = exact(schema)
    assert narrowed == held
    assert len(notes) == 1


def test_exact_bounds_are_unchanged() -> None:
    for schema in (
        {"exclusiveMinimum": 0, "maximum": 1},
        {"minimum": 0.5, "maximum": 1e9},
        {"minimum": 0.5, "exclusiveMaximum": 1},
    ):
        assert exact(schema) == (schema, [])


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
def test_unenforced_keywords_are_listed_in_notes(schema: Any, word: str) -> None:
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
def test_enforced_keywords_and_data_produce_no_note(schema: Any) -> None:
    assert unenforced(schema) == []


def test_each_unenforced_keyword_is_noted_once() -> None:
    schema = {"properties": {name: {"format": "date"} for name in "abc"}}
    assert len(unenforced(schema)) == 1


@pytest.mark.parametrize(
    ("schema", "held"),
    [
        ({"maximum": 2**63 - 1}, {"maximum": 2**53 - 1}),
        ({"exclusiveMaximum": 2**53}, {"exclusiveMaximum": 2**53 - 1}),
        ({"items": {"minimum": -(2**70)}}, {"items": {"minimum": -(2**53 - 1)}}),
        (
            {"properties": {"maximum": {"maximum": 1e300}}},
            {"properties": {"maximum": {"maximum": 2**53 - 1}}},
        ),
    ],
)  # fmt: skip
def test_bounds_beyond_float_precision_are_narrowed_with_a_note(schema: Any, held: Any) -> None:
    narrowed, notes = exact(schema)
    assert narrowed == held
    assert len(notes) == 1
    assert "is taken as" in notes[0]


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"minimum": 2**53}, "minimum"),
        ({"anyOf": [{"exclusiveMinimum": 2**63}]}, "exclusiveMinimum"),
        ({"maximum": -(2**53)}, "maximum"),
        ({"exclusiveMaximum": -(2**64)}, "exclusiveMaximum"),
        ({"multipleOf": 2**60}, "multipleOf"),
        ({"const": 2**64}, "const"),
        ({"enum": [1, {"a": [-(2**64)]}]}, "enum"),
    ],
)
def test_unenforceable_bounds_are_refused_by_name(schema: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} "):
        exact(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"minimum": -5, "maximum": 2**53 - 1, "exclusiveMinimum": True},
        {"const": {"maximum": 2**60}, "default": {"minimum": 2**60}},
        {"items": [{}], "additionalItems": False},
    ],
)
def test_other_keywords_are_unchanged(schema: Any) -> None:
    assert exact(schema) == (schema, [])
