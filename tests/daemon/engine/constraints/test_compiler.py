"""Grammars on the built-in model's tokenizer: random walks produce only valid text."""

from __future__ import annotations

import itertools
import json
import random
import re
import threading
from typing import Any

import jsonschema
import pytest

from mlxd.daemon.engine.constraints.compiler import Constraint, Guide, compile_pool, deliver
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer
from mlxd.protocol.errors import ConstraintInvalid, MlxdError, Overloaded
from support.engine_process import POCKET
from support.waiting import until

SLOW = {"type": "integer", "multipleOf": 19_997}
"""A short schema that takes llguidance seconds to compile: it needs 19,997 states."""

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", None, 3]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
LINKED = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"next": {"$ref": "#/$defs/node"}, "value": {"type": "boolean"}},
            "required": ["value"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS: list[Any] = [
    PERSON,
    {"type": "array", "items": PERSON, "minItems": 1, "maxItems": 2},
    {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"const": {"x": [1, "é\n"]}}]},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"},
    {"type": "integer", "minimum": -30, "maximum": 700, "multipleOf": 5},
    LINKED,
    {"type": "object", "patternProperties": {"^x[0-9]$": {"type": "null"}},
     "additionalProperties": False, "maxProperties": 3},
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(ModelRef("pocket", str(POCKET)), compile_pool())


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> Any:
    return tokenizer.constraints.compiler()


def walk(tokenizer: Tokenizer, constraint: Constraint, seed: int, most: int = 400) -> str | None:
    """Choose among the allowed tokens at random, without a model.

    Return the text, or None if it did not end within `most` tokens.
    """
    rng = random.Random(seed)
    state = constraint.start()
    tokens: list[int] = []
    ends = tokenizer.wrapper.eos_token_ids
    while len(tokens) < most:
        allowed = state.mask().nonzero()[0].tolist()
        assert allowed, "at least the end token is always allowed"
        token = rng.choice(allowed)
        if token in ends:
            assert state.accepting
            return str(tokenizer.wrapper.decode(tokens))
        state.advance(token)
        tokens.append(token)
    return None


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_random_walks_satisfy_the_schema(tokenizer: Tokenizer, compiler: Any, schema: Any) -> None:
    constraint = compiler.compile("schema", schema)
    texts = [walk(tokenizer, constraint, seed) for seed in range(25)]
    complete = [text for text in texts if text is not None]
    assert len(complete) >= 5
    for text in complete:
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("pattern", ["[0-9]{2,40}", "(ab|c)+d?", "é[äö]{1,3}", "a.c"])
def test_random_walks_match_the_regular_expression(
    tokenizer: Tokenizer, compiler: Any, pattern: str
) -> None:
    constraint = compiler.compile("regex", pattern)
    for seed in range(25):
        text = walk(tokenizer, constraint, seed)
        assert text is None or re.fullmatch(pattern, text)


def test_random_walks_follow_a_lark_grammar(tokenizer: Tokenizer, compiler: Any) -> None:
    lark = 'start: item ("," item)*\nitem: NAME "=" NUMBER\nNAME: /[a-z]{1,4}/\nNUMBER: /[0-9]+/\n'
    constraint = compiler.compile("grammar", lark)
    for seed in range(25):
        text = walk(tokenizer, constraint, seed)
        assert text is None or re.fullmatch(r"[a-z]{1,4}=[0-9]+(,[a-z]{1,4}=[0-9]+)*", text)


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("schema", False),
        ("schema", {"allOf": [{"type": "string"}, {"type": "integer"}]}),
        ("schema", {"enum": []}),
        ("schema", {"type": "nonsense"}),
        ("schema", {"$ref": "#"}),
        ("schema", {"$ref": "#/$defs/none"}),
        ("schema", {"$ref": "https://example.org/elsewhere.json"}),
        ("schema", {"not": {"type": "string"}}),
        ("schema", {"type": "array", "uniqueItems": True}),
        ("schema", {"if": {"type": "string"}, "then": {"minLength": 2}}),
        ("schema", {"type": "array", "contains": {"type": "string"}}),
        ("schema", {"type": "string", "pattern": "(?=a)b"}),
        ("schema", {"type": "string", "minLength": 3, "maxLength": 2}),
        ("schema", {"type": "string", "format": "no-such-format"}),
        ("regex", "("),
        ("grammar", ""),
        ("grammar", "start: start\n"),
        ("grammar", "start: /(/\n"),
        ("grammar", "begin: NOTHING\n"),
    ],
)
def test_impossible_and_unsupported_constraints_are_refused(
    compiler: Any, kind: str, source: Any
) -> None:
    with pytest.raises(ConstraintInvalid) as refused:
        compiler.compile(kind, source)
    assert kind in refused.value.message


def test_a_deeply_nested_schema_is_refused_and_the_thread_survives(compiler: Any) -> None:
    schema: Any = {"type": "string"}
    for _ in range(400):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    with pytest.raises(ConstraintInvalid):
        compiler.compile("schema", schema)
    assert compiler.compile("schema", {"type": "null"}).possible


def test_equal_constraints_share_one_compilation_or_refusal(compiler: Any) -> None:
    assert compiler.begin("schema", PERSON) is compiler.begin("schema", dict(PERSON))
    assert compiler.begin("regex", "x(") is compiler.begin("regex", "x(")
    other_order = {**PERSON, "properties": dict(reversed(PERSON["properties"].items()))}
    assert compiler.begin("schema", PERSON) is not compiler.begin("schema", other_order)


def test_the_least_recently_used_constraint_is_evicted(tokenizer: Tokenizer) -> None:
    compiler = Tokenizer(ModelRef("pocket", str(POCKET)), compile_pool()).constraints.compiler()
    compiler._entries = 2
    first, second = compiler.begin("regex", "a"), compiler.begin("regex", "b")
    assert compiler.begin("regex", "a") is first
    compiler.begin("regex", "c")
    assert compiler.begin("regex", "a") is first
    assert compiler.begin("regex", "b") is not second


def test_a_slow_compilation_does_not_delay_others(compiler: Any) -> None:
    slow = compiler.begin("schema", SLOW)
    assert compiler.compile("schema", {"type": "boolean"}).possible
    assert not slow.done()
    slow.result()


def outcome(future: Any, limit_s: float) -> tuple[Constraint | None, MlxdError | None]:
    told, results = threading.Event(), []

    def done(*result: Any) -> None:
        results.append(result)
        told.set()

    deliver(future, done, limit_s)
    assert told.wait(60)
    future.exception()
    assert len(results) == 1
    return results[0]


def test_a_compilation_past_its_time_limit_is_ready_on_retry(compiler: Any) -> None:
    schema = {"type": "integer", "multipleOf": 19_993}
    future = compiler.begin("schema", schema)
    constraint, error = outcome(future, 0.05)
    assert constraint is None
    assert isinstance(error, ConstraintInvalid)
    assert "compile" in error.message
    constraint, error = outcome(compiler.begin("schema", schema), 0.05)
    assert constraint is future.result()
    assert error is None


def test_overloaded_is_returned_while_all_compile_threads_are_busy() -> None:
    compiler = Tokenizer(
        ModelRef("pocket", str(POCKET)), compile_pool(threads=1)
    ).constraints.compiler()
    slow = compiler.begin("schema", SLOW)
    until(lambda: slow.running() or slow.done(), "a thread compiles")
    waiting = compiler.begin("regex", "a")
    assert isinstance(outcome(waiting, 0.01)[1], Overloaded)
    assert waiting.result().possible


def test_a_refused_constraint_delivers_its_error(compiler: Any) -> None:
    constraint, error = outcome(compiler.begin("regex", "("), 10)
    assert constraint is None
    assert isinstance(error, ConstraintInvalid)


def test_only_the_end_token_may_follow_a_complete_match(
    tokenizer: Tokenizer, compiler: Any
) -> None:
    state = compiler.compile("regex", "[0-9]{2}").start()
    for token in tokenizer.wrapper.encode("42", add_special_tokens=False):
        assert not state.accepting
        state.advance(token)
    assert state.accepting
    assert set(state.mask().nonzero()[0].tolist()) <= set(tokenizer.wrapper.eos_token_ids)


def test_a_forbidden_token_does_not_change_the_state(tokenizer: Tokenizer, compiler: Any) -> None:
    state = compiler.compile("regex", "[0-9]{2}").start()
    before = state.mask().tolist()
    state.advance(tokenizer.wrapper.encode("x", add_special_tokens=False)[0])
    assert state.mask().tolist() == before


def test_sequences_with_the_same_constraint_have_separate_states(
    tokenizer: Tokenizer, compiler: Any
) -> None:
    constraint = compiler.compile("regex", "[0-9]{2}")
    first, second = constraint.start(), constraint.start()
    first.advance(tokenizer.wrapper.encode("4", add_special_tokens=False)[0])
    assert second.mask().tolist() == constraint.start().mask().tolist()


COMPLEX = "(a?){1,300}(a){300}b"
"""Compiles, but exceeds the limits of the lexer after one or two tokens."""


def test_a_grammar_that_exceeds_the_lexer_limit_ends_the_text_with_a_note(
    tokenizer: Tokenizer, compiler: Any
) -> None:
    guide = Guide(compiler.compile("regex", COMPLEX).start())
    token = tokenizer.wrapper.encode("a", add_special_tokens=False)[0]
    for _ in range(50):
        mask = guide.next_mask(token)
        if guide.failed:
            break
    assert guide.failed
    assert mask is not None
    assert set(mask.nonzero()[0].tolist()) <= set(tokenizer.wrapper.eos_token_ids)
    assert "too complex" in guide.verdict()
    assert "aaa" not in guide.verdict()


def test_a_guide_constrains_only_the_text_after_the_reasoning(
    tokenizer: Tokenizer, compiler: Any
) -> None:
    end = tuple(tokenizer.wrapper.think_end_tokens)
    guide = Guide(compiler.compile("regex", "[0-9]{2}").start(), think_end=end)
    four = tokenizer.wrapper.encode("4", add_special_tokens=False)[0]
    assert guide.next_mask(end[-1]) is None, "the prompt's last token is not part of the answer"
    assert guide.next_mask(four) is None
    assert guide.verdict()
    for token in end[:-1]:
        assert guide.next_mask(token) is None
    mask = guide.next_mask(end[-1])
    assert mask is not None
    assert mask[four]
    guide.next_mask(four)
    guide.next_mask(four)
    assert guide.verdict() == ""


def test_a_model_may_open_its_reasoning_once_before_the_answer(
    tokenizer: Tokenizer, compiler: Any
) -> None:
    (opens,) = tokenizer.wrapper.think_start_tokens
    (closes,) = tokenizer.wrapper.think_end_tokens
    four = tokenizer.wrapper.encode("4", add_special_tokens=False)[0]
    constraint = compiler.compile("regex", "[0-9]{2}")

    guide = Guide(constraint.start(), may_think=opens, think_end_after=(closes,))
    mask = guide.next_mask(0)
    assert mask is not None
    assert mask[opens]
    assert mask[four]
    assert guide.next_mask(opens) is None
    assert guide.next_mask(four) is None
    mask = guide.next_mask(closes)
    assert mask is not None
    assert mask[four]
    assert not mask[opens]

    guide = Guide(constraint.start(), may_think=opens, think_end_after=(closes,))
    guide.next_mask(0)
    mask = guide.next_mask(four)
    assert mask is not None
    assert not mask[opens]
    assert not constraint.start().mask()[opens], "a shared first mask was written to"


def test_whitespace_is_flexible_only_if_the_schema_requests_it(
    tokenizer: Tokenizer, compiler: Any
) -> None:
    def accepts(schema: dict[str, Any], text: str) -> bool:
        state = compiler.compile("schema", schema).start()
        for token in tokenizer.wrapper.encode(text, add_special_tokens=False):
            if not state.mask()[token]:
                return False
            state.advance(token)
        return bool(state.accepting)

    schema = {"type": "array", "items": {"const": 1}, "minItems": 2}
    assert accepts(schema, "[1,1]")
    assert accepts(schema, "[1, 1]")
    assert not accepts(schema, "[1,  1]")
    assert accepts({**schema, "x-guidance": {"whitespace_flexible": True}}, "[1,  1]")


@pytest.mark.parametrize(
    "text", ["<think>", "<|im_end|>", "x<tool_call>y</tool_call>", "<|im_start|>"]
)
@pytest.mark.parametrize("kind", ["schema", "regex", "grammar"])
def test_a_constrained_control_token_text_is_written_as_characters(
    tokenizer: Tokenizer, compiler: Any, kind: str, text: str
) -> None:
    source = {"schema": {"const": text}, "regex": re.escape(text), "grammar": f'start: "{text}"'}
    written = walk(tokenizer, compiler.compile(kind, source[kind]), seed=1)
    assert written == (json.dumps(text) if kind == "schema" else text)


def test_a_grammar_can_reference_control_tokens(tokenizer: Tokenizer, compiler: Any) -> None:
    source = 'start: <think> "a/<think>" <[8]> /<th[i]nk>/ // <think>'
    state, tokens = compiler.compile("grammar", source).start(), []
    while not state.finished:
        allowed = state.mask().nonzero()[0].tolist()
        if set(allowed) <= tokenizer.wrapper.eos_token_ids:
            break
        tokens.append(allowed[0])
        state.advance(allowed[0])
    names = tokenizer.wrapper.convert_ids_to_tokens(tokens)
    assert [name for name in names if name in ("<think>", "</think>")] == ["<think>", "</think>"]
    assert tokenizer.wrapper.decode(tokens) == "<think>a/<think></think><think>"


KEYWORDS: dict[str, list[tuple[str, list[Any]]]] = {
    "integer": [
        ("minimum", [0, 3, 5, 2**53 - 1]), ("maximum", [4, 6, 9, 2**63 - 1]),
        ("multipleOf", [2, 3]),
        ("exclusiveMinimum", [0, 3, 5, -(2**63)]), ("exclusiveMaximum", [4, 6, 9, 2**63]),
    ],
    "number": [
        ("minimum", [0, 3.5, 5]), ("maximum", [4, 6.5]), ("multipleOf", [0.5, 2]),
        ("exclusiveMinimum", [0, 3, 4.5]), ("exclusiveMaximum", [4, 6, 9.5]),
    ],
    "string": [
        ("minLength", [0, 1, 2]), ("maxLength", [1, 2, 3]),
        ("pattern", ["a", "^a", "b$", "^[ab]*$"]), ("format", ["date", "uuid", "ipv4", "email"]),
        ("enum", [["a", "bb", "abc"]]), ("const", ["ab"]),
    ],
    "array": [
        ("minItems", [0, 1, 2]), ("maxItems", [0, 1, 2]), ("items", ["schema"]),
        ("prefixItems", ["schemas"]), ("additionalItems", [False]),
    ],
    "object": [
        ("properties", ["named"]), ("required", [["a"], ["b"], ["a", "b"]]),
        ("additionalProperties", [False, True, "schema"]), ("patternProperties", ["named"]),
        ("minProperties", [0, 1, 2]), ("maxProperties", [1, 2]),
    ],
}  # fmt: skip
INSTANCES: list[Any] = [
    0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 3.5, 4.5, 6.5, -1, 2**53 - 2, 2**53 - 1, 2**53, 2**63 - 1, 2**63,
    -(2**63), "", "a", "b", "ab", "bb", "abc", "aaaa", "2024-01-01", "1.2.3.4", None, True, [], [1],
    [1, 2], [1, 2, 3], ["a"], ["a", 5], [4, "ab"], {}, {"a": 1}, {"b": 1}, {"a": 1, "b": 2},
    {"a": "ab"}, {"a": 4, "c": 5}, {"a": 5, "b": "ab", "c": None}, {"c": 3}, {"ab": 4}, {"b": "a"},
]  # fmt: skip


def random_schema(rng: random.Random, depth: int) -> dict[str, Any]:
    if depth and rng.random() < 0.4:
        word = rng.choice(["anyOf", "allOf", "oneOf"])
        beside = random_schema(rng, 0) if rng.random() < 0.3 and word != "oneOf" else {}
        return {**beside, word: [random_schema(rng, depth - 1) for _ in range(2)]}
    kind = rng.choice(list(KEYWORDS))
    schema: dict[str, Any] = {"type": kind} if rng.random() < 0.7 else {}
    if rng.random() < 0.1:
        schema["type"] = [kind, rng.choice(["null", "string", "integer"])]
    for name, values in rng.sample(KEYWORDS[kind], rng.choice([1, 2, 3])):
        value = rng.choice(values)
        if value == "schema":
            value = random_schema(rng, max(0, depth - 1))
        elif value == "schemas":
            value = [random_schema(rng, max(0, depth - 1))]
        elif value == "named":
            key = "^a" if name == "patternProperties" else rng.choice("abc")
            value = {key: random_schema(rng, max(0, depth - 1))}
        schema[name] = value
    return schema


@pytest.mark.parametrize("seed", range(4))
def test_a_text_accepted_by_the_grammar_satisfies_the_schema(
    tokenizer: Tokenizer, compiler: Any, seed: int
) -> None:
    """Compare every keyword with jsonschema: an instance that the grammar accepts is valid."""
    rng, accepted = random.Random(seed), 0
    for _ in range(60):
        schema = random_schema(rng, 2)
        try:
            constraint = compiler.compile("schema", schema)
        except ConstraintInvalid:
            continue
        validator = jsonschema.Draft202012Validator(schema)
        for instance in INSTANCES:
            state = constraint.start()
            tokens = tokenizer.wrapper.encode(json.dumps(instance), add_special_tokens=False)
            if state._matcher.try_consume_tokens(tokens) == len(tokens) and state.accepting:
                assert validator.is_valid(instance), (schema, instance)
                accepted += 1
    assert accepted > 100


BOUNDS = [-5, -0.5, 0, 0.5, 5, 5.001, 5.5]
NUMBERS = ["-5", "-0.5", "-0", "0", "0.0", "0.1", "0.5", "5", "5.0", "5.0005", "5.1", "5.5", "6"]


@pytest.mark.parametrize("low", ["minimum", "exclusiveMinimum"])
@pytest.mark.parametrize("high", ["maximum", "exclusiveMaximum"])
def test_a_number_outside_its_bounds_is_never_accepted(
    tokenizer: Tokenizer, compiler: Any, low: str, high: str
) -> None:
    for lower, upper in itertools.combinations(BOUNDS, 2):
        schema = {"type": "number", low: lower, high: upper}
        validator = jsonschema.Draft202012Validator(schema)
        constraint = compiler.compile("schema", schema)
        for text in NUMBERS:
            tokens = tokenizer.wrapper.encode(text, add_special_tokens=False)
            state = constraint.start()
            if state._matcher.try_consume_tokens(tokens) == len(tokens) and state.accepting:
                assert validator.is_valid(json.loads(text)), (schema, text)
