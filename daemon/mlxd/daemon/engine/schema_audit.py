"""What a JSON Schema asks for and llguidance does not hold, so that it can be said. Pure.

Keywords that llguidance does not know are refused by it. The table is of those that it takes and
does not, or not wholly, enforce: found with the official test collection of JSON Schema, by
instances that are invalid and that the compiled grammar lets pass (`benchmarks/schemas`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LOOSE_FORMATS = {
    "date": "29 February is allowed in every year",
    "date-time": "29 February is allowed in every year, and a leap second at any time",
    "time": "a leap second is allowed at any time",
    "hostname": "neither its whole length nor its international labels are checked",
}
NOT_ENFORCED = ("contentEncoding", "contentMediaType", "contentSchema")
LAX_OPTIONS = {
    "lenient": "keywords that are not supported are left out, as x-guidance.lenient asks",
    "coerce_one_of": "oneOf is taken as anyOf, as x-guidance.coerce_one_of asks",
}
DATA_KEYS = frozenset({"const", "default", "enum", "examples"})
"""Below these stands data, whatever it looks like."""
NAMED_KEYS = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)
"""Below these, keys are names and not keywords."""


def unenforced(schema: dict[str, Any]) -> list[str]:
    """Return a note for each thing in the schema that the text may break, without repetition."""
    options = schema.get("x-guidance")
    asked = options if isinstance(options, dict) else {}
    notes = [f"schema: {text}" for option, text in LAX_OPTIONS.items() if asked.get(option)]
    return list(dict.fromkeys([*notes, *_notes(schema)]))


def _notes(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for part in schema:
            yield from _notes(part)
    if not isinstance(schema, dict):
        return
    name = schema.get("format")
    if isinstance(name, str) and name in LOOSE_FORMATS:
        yield f"schema: format {name}: {LOOSE_FORMATS[name]}"
    for keyword in NOT_ENFORCED:
        if keyword in schema:
            yield f"schema: {keyword} is not enforced"
    if "$ref" in schema and "$id" in schema:
        yield "schema: $id beside $ref is taken as the base of the reference"
    for key, value in schema.items():
        if key in NAMED_KEYS and isinstance(value, dict):
            for part in value.values():
                yield from _notes(part)
        elif key not in DATA_KEYS:
            yield from _notes(value)
