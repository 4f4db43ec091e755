"""Tool descriptions, and questions that need a call of a tool."""

from __future__ import annotations

import random
from typing import Any

import skills
import words

VERBS = "get find send set show open play delete make read check start stop buy book call".split()
OBJECTS = (
    "weather email song file light door timer note message user order ticket price map photo news "
    "alarm task recipe stock flight hotel".split()
)


def function(rng: random.Random) -> dict[str, Any]:
    """Return a function description with one or two string parameters."""
    verb, thing = rng.choice(VERBS), rng.choice(OBJECTS)
    if rng.random() < 0.3:
        thing = skills.invented(rng, 3, 7)
    names = rng.sample(
        ["city", "name", "title", "text", "path", "user", "query", "place", "to", "subject", "id"],
        rng.choice([1, 1, 1, 2]),
    )
    if rng.random() < 0.2:
        names[0] = skills.invented(rng, 3, 6)
    return {
        "type": "function",
        "function": {
            "name": f"{verb}_{thing}",
            "description": f"{verb.capitalize()} the {thing}.",
            "parameters": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in names},
                "required": names,
            },
        },
    }


def offer(rng: random.Random) -> list[dict[str, Any]]:
    """Return one to three functions with different names."""
    offered: dict[str, dict[str, Any]] = {}
    for _ in range(rng.choice([1, 2, 2, 3])):
        one = function(rng)
        offered[one["function"]["name"]] = one
    return list(offered.values())


def value(rng: random.Random) -> str:
    """Return a string argument."""
    pick = rng.random()
    if pick < 0.3:
        return rng.choice(words.CITIES)
    if pick < 0.6:
        return skills.any_name(rng)
    return " ".join(skills.any_word(rng) for _ in range(rng.randint(1, 2)))


def request(rng: random.Random, offered: list[dict[str, Any]]) -> tuple[str, str, dict[str, str]]:
    """Return (question, function name, arguments) for one of the functions."""
    chosen = rng.choice(offered)["function"]
    verb, thing = chosen["name"].split("_", 1)
    arguments = {name: value(rng) for name in chosen["parameters"]["properties"]}
    listed = list(arguments.items())
    if len(listed) == 1:
        key, text = listed[0]
        natural = [f"What is the {thing} in {text}?", f"What is the {thing} for {text}?"]
        question = rng.choice(
            (
                *(natural if verb in ("get", "check", "find") else ()),
                f"{verb.capitalize()} the {thing} for {text}.",
                f"{verb.capitalize()} the {thing} with {key} {text}.",
                f"Please {verb} the {thing} for {text}.",
                f"{verb.capitalize()} {thing} {text}",
                f"Can you {verb} the {thing} for {text}?",
            )
        )
    else:
        said = " and ".join(f"{key} {text}" for key, text in listed)
        question = rng.choice(
            (
                f"{verb.capitalize()} the {thing} with {said}.",
                f"Please {verb} the {thing} with {said}.",
            )
        )
    return question, chosen["name"], arguments


def outcome(rng: random.Random) -> str:
    """Return a possible result of a tool."""
    return rng.choice(
        (
            f"{rng.randint(-9, 40)} degrees",
            skills.any_word(rng),
            f"{rng.randint(1, 500)}",
            f"{rng.choice(words.ADJECTIVES)} and {rng.choice(words.ADJECTIVES)}",
            f"{skills.any_name(rng)}",
        )
    )
