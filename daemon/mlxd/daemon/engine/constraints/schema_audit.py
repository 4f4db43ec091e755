"""Finds parts of a JSON Schema that llguidance does not enforce, and repairs, refuses or reports
them. Pure.

llguidance refuses keywords that it does not know. This module covers keywords that it accepts but
does not enforce, or enforces in part. They were found with JSON Schema's official test suite, by
invalid instances that the compiled grammar accepts (`benchmarks/schemas`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeGuard

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
"""The values of these keywords are data, not schemas."""
NAMED_KEYS = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)
"""The keys below these keywords are names, not keywords."""


EXACT_MAX = 2**53 - 1
"""llguidance uses 64-bit floats, which cannot represent all larger integers."""
LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
DECIMALS = 14
"""llguidance rounds bounds to 15 decimals. It refuses tiny bounds, because it nests one group per
decimal."""


def exact(schema: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the schema in a form that llguidance enforces exactly, and notes on narrowed bounds.

    Raises:
        ValueError: there is no such form. The message names the keyword.
    """
    notes: list[str] = []
    exact_schema = _exact(schema, notes)
    if fractions := frozenset(_fractions(exact_schema)):
        exact_schema = _narrowed(exact_schema, fractions, notes)
    return exact_schema, list(dict.fromkeys(notes))


def _exact(schema: Any, notes: list[str]) -> Any:
    if isinstance(schema, list):
        return [_exact(part, notes) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out = {}
    for key, value in schema.items():
        if key == "additionalItems" and _without_effect(schema):
            continue
        if key in NAMED_KEYS and isinstance(value, dict):
            out[key] = {name: _exact(part, notes) for name, part in value.items()}
        elif key in DATA_KEYS:
            out[key] = _exact_data(key, value)
        else:
            out[key] = _exact(_bound(key, value, notes), notes)
    return out


def _fractions(schema: Any) -> Iterator[float]:
    """Yield all bounds that are not integers."""
    if isinstance(schema, list):
        for part in schema:
            yield from _fractions(part)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key in (*LOWER, *UPPER) and _is_number(value) and value != round(value):
                yield value
            elif key not in DATA_KEYS:
                yield from _fractions(value)


def _narrowed(schema: Any, fractions: frozenset[float], notes: list[str]) -> Any:
    """Return the schema with bounds that llguidance enforces beside fractions.

    With `exclusiveMinimum` 0 and `maximum` 0.5 llguidance allows 0. The same holds for any
    exclusive integer and a fraction less than 1 away from it. The two may be in different parts of
    an `allOf`, so `fractions` has those of the whole schema.
    """
    if isinstance(schema, list):
        return [_narrowed(part, fractions, notes) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out = {}
    for key, value in schema.items():
        if key in NAMED_KEYS and isinstance(value, dict):
            out[key] = {name: _narrowed(each, fractions, notes) for name, each in value.items()}
        else:
            out[key] = value if key in DATA_KEYS else _narrowed(value, fractions, notes)
    for sign, (inclusive, exclusive) in ((1, LOWER), (-1, UPPER)):
        _narrow_side(out, inclusive, exclusive, sign, notes)
        value = out.get(exclusive)
        if _is_number(value) and any(
            0 <= sign * value < sign * each < sign * value + 1 for each in fractions
        ):
            _include(out, inclusive, exclusive, sign, notes)
    return out


def _narrow_side(
    schema: dict[str, Any], inclusive: str, exclusive: str, sign: int, notes: list[str]
) -> None:
    """Round the bounds of one side in place. `sign` is 1 for the lower side, -1 for the upper."""
    if schema.get(exclusive) is True and _is_number(schema.get(inclusive)):  # as in draft 4
        schema[exclusive] = schema.pop(inclusive)
    for key in (inclusive, exclusive):
        value = schema.get(key)
        if _is_number(value) and value != (rounded := _rounded(value, sign)):
            notes.append(f"schema: {key} {value} is taken as {rounded}")
            schema[key] = rounded


def _include(
    schema: dict[str, Any], inclusive: str, exclusive: str, sign: int, notes: list[str]
) -> None:
    """Replace an exclusive bound by the nearest inclusive one, in place."""
    value, other = schema.pop(exclusive), schema.get(inclusive)
    step = round(value + sign * 10**-DECIMALS, DECIMALS)
    nearest = step if step != value else math.nextafter(value, sign * math.inf)
    notes.append(f"schema: {exclusive} {value} is taken as {inclusive} {nearest}")
    both = [nearest, other] if _is_number(other) else [nearest]
    schema[inclusive] = max(both) if sign > 0 else min(both)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _rounded(value: float, sign: int) -> float:
    """Return the nearest number with at most `DECIMALS` decimals that does not allow more."""
    nearest = round(value, DECIMALS)
    if (nearest - value) * sign < 0:
        nearest = round(nearest + sign * 10**-DECIMALS, DECIMALS)
    return nearest


def _without_effect(schema: dict[str, Any]) -> bool:
    """Return whether `additionalItems` has no effect. llguidance would ignore `prefixItems` because
    of it."""
    return "prefixItems" in schema or not isinstance(schema.get("items"), list)


def _bound(key: str, value: Any, notes: list[str]) -> Any:
    """Return the bound, or the nearest one that llguidance can represent and that allows less."""
    if key not in (*LOWER, *UPPER, "multipleOf") or isinstance(value, bool):
        return value
    if not isinstance(value, (int, float)) or abs(value) <= EXACT_MAX:
        return value
    if key == "multipleOf" or (value > 0) == (key in LOWER):
        raise ValueError(f"{key} {value} is beyond {EXACT_MAX}, the largest exact integer")
    narrower = EXACT_MAX if value > 0 else -EXACT_MAX
    notes.append(f"schema: {key} {value} is taken as {narrower}, the largest exact integer")
    return narrower


def _exact_data(key: str, value: Any) -> Any:
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, int) and not -(2**63) <= part < 2**64:
            raise ValueError(f"{key} has {part}, which does not fit into 64 bits")
        if isinstance(part, dict):
            _exact_data(key, [*part.values()])
        elif isinstance(part, list):
            _exact_data(key, part)
    return value


def unenforced(schema: dict[str, Any]) -> list[str]:
    """Return a note for each part of the schema that the text may violate, without duplicates."""
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
