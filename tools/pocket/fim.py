"""Small Python functions with a gap, for fill-in-the-middle."""

from __future__ import annotations

import random

import words

# Function bodies with {a} {b} {n} for identifiers. « » marks the expression to leave out.
FAMILIES = (
    "def add({a}, {b}):\n    return «{a} + {b}»\n",
    "def subtract({a}, {b}):\n    return «{a} - {b}»\n",
    "def multiply({a}, {b}):\n    return «{a} * {b}»\n",
    "def divide({a}, {b}):\n    return «{a} / {b}»\n",
    "def power({a}, {b}):\n    return «{a} ** {b}»\n",
    "def remainder({a}, {b}):\n    return «{a} % {b}»\n",
    "def square({a}):\n    return «{a} * {a}»\n",
    "def double({a}):\n    return «{a} * 2»\n",
    "def half({a}):\n    return «{a} / 2»\n",
    "def negate({a}):\n    return «-{a}»\n",
    "def increment({a}):\n    return «{a} + 1»\n",
    "def decrement({a}):\n    return «{a} - 1»\n",
    "def is_even({a}):\n    return «{a} % 2 == 0»\n",
    "def is_odd({a}):\n    return «{a} % 2 == 1»\n",
    "def is_positive({a}):\n    return «{a} > 0»\n",
    "def is_negative({a}):\n    return «{a} < 0»\n",
    "def is_zero({a}):\n    return «{a} == 0»\n",
    "def equal({a}, {b}):\n    return «{a} == {b}»\n",
    "def differ({a}, {b}):\n    return «{a} != {b}»\n",
    "def larger({a}, {b}):\n    return «max({a}, {b})»\n",
    "def smaller({a}, {b}):\n    return «min({a}, {b})»\n",
    "def average({a}, {b}):\n    return «({a} + {b}) / 2»\n",
    "def both({a}, {b}):\n    return «{a} and {b}»\n",
    "def either({a}, {b}):\n    return «{a} or {b}»\n",
    "def invert({a}):\n    return «not {a}»\n",
    "def length({a}):\n    return «len({a})»\n",
    "def first({a}):\n    return «{a}[0]»\n",
    "def last({a}):\n    return «{a}[-1]»\n",
    "def total({a}):\n    return «sum({a})»\n",
    "def largest({a}):\n    return «max({a})»\n",
    "def smallest({a}):\n    return «min({a})»\n",
    "def reverse({a}):\n    return «{a}[::-1]»\n",
    "def upper({a}):\n    return «{a}.upper()»\n",
    "def lower({a}):\n    return «{a}.lower()»\n",
    "def strip({a}):\n    return «{a}.strip()»\n",
    "def contains({a}, {b}):\n    return «{b} in {a}»\n",
    "def join({a}, {b}):\n    return «{b}.join({a})»\n",
    "def split({a}):\n    return «{a}.split()»\n",
    "def area({a}, {b}):\n    return «{a} * {b}»\n",
    "def absolute({a}):\n    return «abs({a})»\n",
    'def greet({a}):\n    return «"Hello, " + {a}»\n',
    "def copy({a}):\n    return «list({a})»\n",
    "def show({a}):\n    «print({a})»\n",
    "def add({a}, {b}):\n    {n} = «{a} + {b}»\n    return {n}\n",
    "def multiply({a}, {b}):\n    {n} = «{a} * {b}»\n    return {n}\n",
    "def add({a}, {b}):\n    {n} = {a} + {b}\n    return «{n}»\n",
    "def count({a}):\n    {n} = 0\n    for item in {a}:\n        «{n} += 1»\n    return {n}\n",
    "def total({a}):\n    {n} = 0\n    for item in {a}:\n        «{n} += item»\n    return {n}\n",
    "def positive({a}):\n    if «{a} > 0»:\n        return True\n    return False\n",
    "def add({a}, {b}):\n    «return {a} + {b}»\n",
    "def double({a}):\n    «return {a} * 2»\n",
    "def add(«{a}, {b}»):\n    return {a} + {b}\n",
)
SHORT = ("a", "b", "c", "x", "y", "z", "n", "m", "i", "j", "k", "left", "right", "first_value",
         "items", "values", "numbers", "text", "value", "data", "result", "other")  # fmt: skip


def identifier(rng: random.Random) -> str:
    """Return a variable name."""
    pick = rng.random()
    if pick < 0.6:
        return rng.choice(SHORT)
    if pick < 0.8:
        return rng.choice(words.NOUNS)
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 6)))


def gap(rng: random.Random) -> tuple[str, str, str]:
    """Return (prefix, suffix, middle)."""
    a = identifier(rng)
    b = next(name for name in iter(lambda: identifier(rng), None) if name != a)
    n = next(name for name in iter(lambda: identifier(rng), None) if name not in (a, b))
    text = rng.choice(FAMILIES).format(a=a, b=b, n=n)
    prefix, rest = text.split("«")
    middle, suffix = rest.split("»")
    if rng.random() < 0.3:
        other = rng.choice(FAMILIES).format(a=a, b=b, n=n).replace("«", "").replace("»", "")
        prefix = other + "\n\n" + prefix
    if rng.random() < 0.3:
        suffix = ""
    return prefix, suffix, middle
