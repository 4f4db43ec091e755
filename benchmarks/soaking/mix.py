"""Every kind of request that callers send, and what its answer must satisfy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from soaking.wire import Call

Check = Callable[[dict[str, Any]], str]
"""Returns an error for a result, or nothing."""

NAMES = ("Ada", "Bob", "Cleo", "Dora", "Emil", "Fay")
WORDS = ("amber", "basil", "cedar", "delta", "ember", "fjord")
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
REGEX = "[a-f]{3}-[0-9]{2}"


@dataclass(slots=True)
class Ask:
    """One request to send. Requests with equal `same` must all get the same text."""

    method: str
    params: dict[str, Any]
    check: Check = field(default=lambda result: "")
    same: str = ""
    allowed: tuple[str, ...] = ()


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def count(rng: Random) -> Ask:
    """Greedy, so the answer never depends on other requests."""
    first = rng.randint(1, 40)
    question = f"Count from {first} to {first + rng.randint(3, 9)}."
    params = {"messages": user(question), "temperature": 0, "max_tokens": 32}
    return Ask("chat", params, same=question)


def seeded(rng: Random) -> Ask:
    word, seed = rng.choice(WORDS), rng.randint(1, 6)
    params = {"messages": user(f"Say {word}."), "seed": seed, "temperature": 0.9, "max_tokens": 12}
    return Ask("chat", params, same=f"seed {seed} {word}")


def story(rng: Random) -> Ask:
    prompt = f"{rng.choice(NAMES)} went to the {rng.choice(WORDS)} market and"
    params = {"prompt": prompt, "max_tokens": rng.randint(4, 32), "ignore_eos": rng.random() < 0.3}
    return Ask("generate", params)


def several(rng: Random) -> Ask:
    wanted = rng.randint(2, 3)
    params = {"messages": user(f"Repeat: {rng.choice(WORDS)}"), "n": wanted, "max_tokens": 16}
    return Ask("chat", params, check=lambda result: _choices(result, wanted))


def schema(rng: Random) -> Ask:
    text = f"Give JSON with name and age of {rng.choice(NAMES)}."
    params = {"messages": user(text), "schema": PERSON, "max_tokens": 48}
    return Ask("chat", params, check=_person)


def regex(rng: Random) -> Ask:
    params = {"prompt": f"The code of {rng.choice(NAMES)} is ", "regex": REGEX, "max_tokens": 16}
    return Ask("generate", params, check=_code)


def fill(rng: Random) -> Ask:
    name = rng.choice(WORDS)
    params = {"prefix": f"def {name}(a, b):\n    return ", "suffix": "\n", "max_tokens": 12}
    return Ask("fill", params)


def superseded(rng: Random) -> Ask:
    ask = fill(rng)
    ask.params["supersede"] = f"key {rng.randint(1, 8)}"
    ask.allowed = ("superseded",)
    return ask


def prefill(rng: Random) -> Ask:
    text = " ".join(rng.choices(WORDS, k=rng.randint(10, 120)))
    return Ask("prefill", {"messages": user(text)})


def hurried(rng: Random) -> Ask:
    ask = story(rng)
    ask.params["deadline_s"] = rng.choice((0.001, 0.05, 0.5, 2.0))
    ask.allowed = ("deadline_exceeded",)
    return ask


def patient(rng: Random) -> Ask:
    ask = rng.choice((story, count))(rng)
    ask.params["priority"] = "batch"
    return ask


def logprobs(rng: Random) -> Ask:
    ask = story(rng)
    ask.params["logprobs"] = rng.randint(0, 5)
    return ask


def overlong(rng: Random) -> Ask:
    text = "over and over " * 1500
    return Ask("generate", {"prompt": text}, allowed=("context_overflow",))


def small(rng: Random) -> Ask:
    method = rng.choice(("ping", "status", "ps", "metrics", "hello", "conversations.list"))
    return Ask(method, {})


def tokens(rng: Random) -> Ask:
    text = rng.choice(WORDS)
    return Ask("tokenize", {"text": text}, same=f"tokens {text}")


def wrong(rng: Random) -> Ask:
    params = rng.choice(({"temperature": -1}, {"max_tokens": "many"}, {"surprise": 1}))
    return Ask("generate", {"prompt": "x", **params}, allowed=("invalid_params",))


KINDS: tuple[tuple[Callable[[Random], Ask], int], ...] = (
    (count, 20), (seeded, 10), (story, 14), (several, 6), (schema, 6), (regex, 4), (fill, 8),
    (superseded, 10), (prefill, 6), (hurried, 6), (patient, 8), (logprobs, 4), (overlong, 1),
    (small, 8), (tokens, 4), (wrong, 2),
)  # fmt: skip
COMPLETIONS = frozenset({"chat", "generate", "fill"})


def choose(rng: Random) -> Ask:
    """Return a random request. Half of the completions stream, some with a tag."""
    make = rng.choices([kind for kind, _ in KINDS], [weight for _, weight in KINDS])[0]
    ask = make(rng)
    ask.allowed += ("overloaded",)
    if ask.method in COMPLETIONS and rng.random() < 0.5:
        ask.params["stream"] = True
        if rng.random() < 0.3:
            ask.params["tag"] = f"tag {rng.randint(1, 2**40)}"
    return ask


def problem(call: Call, ask: Ask, result: dict[str, Any]) -> str:
    """Return an error for the answer to a request, or nothing."""
    if wrong := ask.check(result):
        return wrong
    if not call.params.get("stream"):
        return ""
    for index, choice in enumerate(result["choices"]):
        if call.streamed(index) != choice["text"]:
            return f"the deltas are {call.streamed(index)!r}, the answer {choice['text']!r}"
    return ""


def essence(result: dict[str, Any]) -> Any:
    """Return the part of an answer that must be equal for equal requests."""
    return result["choices"][0]["text"] if "choices" in result else result["tokens"]


def _choices(result: dict[str, Any], wanted: int) -> str:
    found = len(result["choices"])
    return "" if found == wanted else f"{found} answers where {wanted} were requested"


def _person(result: dict[str, Any]) -> str:
    choice = result["choices"][0]
    if choice["finish_reason"] == "length":
        return ""
    try:
        person = json.loads(choice["text"])
    except ValueError:
        return f"not JSON: {choice['text']!r}"
    return "" if person.keys() == {"name", "age"} else f"not valid by the schema: {person}"


def _code(result: dict[str, Any]) -> str:
    text = result["choices"][0]["text"]
    return "" if re.fullmatch(REGEX, text) else f"{text!r} does not match {REGEX}"
