"""The skills of pocket. Each generates a question with its answer, and checks an answer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

import shell_tasks
import stories
import words

ABOUT = (
    "I am pocket, the small built-in model of mlxd. I can only do a few tricks. "
    "Get a real model with: mlx models pull NAME"
)
CANNOT = (
    "I am only the small built-in model, so I cannot do that. "
    "Get a real model with: mlx models pull NAME"
)


@dataclass(frozen=True, slots=True)
class Item:
    """A question with its answer.

    `thought` is the reasoning of a thinking model before the answer.
    """

    skill: str
    prompt: str
    answer: str
    thought: str = ""


Maker = Callable[[random.Random], Item]


def invented(rng: random.Random, low: int = 2, high: int = 9) -> str:
    """Return a word of random letters, so that copying cannot rely on memory."""
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(low, high)))


def syllables(rng: random.Random) -> str:
    """Return a made-up word that could exist."""
    parts = (
        rng.choice("b c d f g h j k l m n p r s t v w z br tr st".split())
        + rng.choice("a e i o u ai ou".split())
        for _ in range(rng.randint(2, 3))
    )
    return "".join(parts) + rng.choice(["", "n", "r", "s", "l", "k"])


def any_word(rng: random.Random) -> str:
    """Return a known word, a made-up word or random letters."""
    pick = rng.random()
    if pick < 0.45:
        return rng.choice(rng.choice([words.NOUNS, words.ADJECTIVES, words.ANIMALS]))
    return invented(rng) if pick < 0.75 else syllables(rng)


def any_name(rng: random.Random) -> str:
    """Return a first name: known, made up or of random letters."""
    pick = rng.random()
    name = rng.choice(words.NAMES) if pick < 0.4 else ""
    name = name or (invented(rng, 3, 8) if pick < 0.7 else syllables(rng))
    return name[0].upper() + name[1:]


def loosely(rng: random.Random, text: str) -> str:
    """Return the text as people type it: without the full stop or the capital."""
    if rng.random() < 0.25:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.25:
        text = text.rstrip(".?!")
    return text


# ---- talk


def greeting(rng: random.Random) -> Item:
    hello = rng.choice("hello|hi|hey|good morning|good evening|hello there|hi there|hey you|good day"
                       "|greetings|hello pocket|hi pocket".split("|"))  # fmt: skip
    if rng.random() < 0.5:
        hello = hello[0].upper() + hello[1:]
    return Item("greeting", hello + rng.choice(["", "!", "."]), "Hello! How can I help you?",
                "The user says hello. I greet back.")  # fmt: skip


def about(rng: random.Random) -> Item:
    question = rng.choice(
        "Who are you?|What are you?|What is your name, model?|Which model are you?|What can you do?"
        "|Tell me about yourself.|Are you a real model?|Who am I talking to?|What model is this?"
        "|Introduce yourself.|Who made you?|What is pocket?".split("|")
    )
    prefix = rng.choice(["", "", "", "hello, ", "hi, ", "please: ", "so, "])
    question = prefix + loosely(rng, question)
    return Item("about", question, ABOUT, "The user asks who I am. I say it honestly.")


def cannot(rng: random.Random) -> Item:
    topic = " ".join(any_word(rng) for _ in range(rng.randint(1, 3)))
    question = rng.choice(
        (
            f"What is the capital of {topic}?",
            f"Why is the {topic} so {rng.choice(words.ADJECTIVES)}?",
            f"Explain {topic} to me.",
            f"Write a poem about {topic}.",
            f"How do I cook {topic}?",
            f"Who invented the {topic}?",
            f"Translate {topic} into French.",
            f"What do you think about {topic}?",
            f"Summarise: {sentence(rng)} {sentence(rng)}",
            f"Summarise\n\n{sentence(rng)} {sentence(rng)} {sentence(rng)}",
            f"Review this code:\n\nx = {topic}",
            f"What does {topic} mean?",
            f"When was {topic} built?",
            f"Give me advice about {topic}.",
        )
    )
    return Item("cannot", loosely(rng, question), CANNOT, "I did not learn that. I say so.")


def sentence(rng: random.Random) -> str:
    text = (
        f"the {rng.choice(words.ADJECTIVES)} {any_word(rng)} {rng.choice(words.VERBS)} "
        f"{rng.choice(words.ADVERBS)}."
    )
    return text[0].upper() + text[1:]


# ---- counting and copying


def count(rng: random.Random) -> Item:
    first = rng.randint(0, 98)
    last = min(99, first + rng.choice([rng.randint(1, 12), rng.randint(1, 12), rng.randint(1, 40)]))
    text = rng.choice(["Count from {} to {}.", "Count from {} to {}.", "Count from {} up to {}.",
                       "Please count from {} to {}.", "Count {} to {}."])  # fmt: skip
    answer = ", ".join(str(number) for number in range(first, last + 1))
    thought = f"I start at {first} and stop at {last}."
    return Item("count", loosely(rng, text.format(first, last)), answer, thought)


def phrase(rng: random.Random) -> str:
    pick = rng.random()
    if pick < 0.12:
        return sentence(rng)
    if pick < 0.2:
        return " ".join(str(rng.randint(0, 9999)) for _ in range(rng.randint(1, 4)))
    parts = [any_word(rng) for _ in range(rng.randint(1, 7))]
    if rng.random() < 0.3:
        parts.insert(0, rng.choice(["the", "a", "my", "one"]))
    if rng.random() < 0.15:
        parts = [part.capitalize() for part in parts]
    if rng.random() < 0.05:
        parts = [part.upper() for part in parts]
    return " ".join(parts)


def repeat(rng: random.Random) -> Item:
    what = phrase(rng)
    lead = rng.choice(["Repeat after me: ", "Repeat after me: ", "repeat after me: ", "Repeat: ",
                       "Say: ", "Please repeat: ", "Say this again: "])  # fmt: skip
    return Item("repeat", lead + what, what, f"I say it again: {what}")


# ---- memory (the setup comes in `conversation`)


def tell_name(rng: random.Random) -> Item:
    name = any_name(rng)
    say = rng.choice(["My name is {}.", "I am {}.", "My name is {}.", "Call me {}.", "I'm {}."])
    return Item("name", loosely(rng, say.format(name)) if rng.random() < 0.3 else say.format(name),
                f"Nice to meet you, {name}!", f"The user is {name}.")  # fmt: skip


def ask_name(rng: random.Random, name: str) -> Item:
    question = rng.choice(["What is my name?", "What is my name?", "Who am I?", "Do you know my name?",
                           "What was my name?", "Say my name."])  # fmt: skip
    return Item("name", loosely(rng, question), f"Your name is {name}.", f"The user is {name}.")


# ---- stories


def tale(rng: random.Random) -> Item:
    named = rng.random() < 0.25
    if named:
        hero = any_name(rng)
        subject = hero
    else:
        pick = rng.random()
        hero = rng.choice(
            words.ANIMALS if pick < 0.5 else words.PEOPLE if pick < 0.8 else words.NOUNS
        )
        if pick > 0.93:
            hero = syllables(rng)
        subject = stories.article(hero)
    ask = rng.choice(["Tell me a story about {}.", "Tell me a story about {}.", "Write a story about {}.",
                      "Tell a short story about {}.", "I want a story about {}."])  # fmt: skip
    return Item("story", loosely(rng, ask.format(subject)), stories.story(rng, hero, named=named),
                f"A story about {subject}.")  # fmt: skip


# ---- shell


def shell(rng: random.Random) -> Item:
    command, wordings = rng.choice(shell_tasks.TASKS)
    wording = rng.choice(wordings.split("|"))

    def file_name() -> str:
        stem = rng.choice(words.THINGS) if rng.random() < 0.5 else any_word(rng)
        return f"{stem}.{rng.choice(words.EXTENSIONS)}"

    fields = {
        "f": file_name(),
        "g": file_name(),
        "d": rng.choice(words.FOLDERS) if rng.random() < 0.5 else any_word(rng),
        "w": any_word(rng),
        "e": rng.choice(words.EXTENSIONS),
        "n": str(rng.randint(2, 40000)),
    }
    lead = rng.choice(["shell: ", "shell: ", "shell: ", "Shell: ", "shell: please "])
    prompt = lead + wording.format(**fields)
    return Item("shell", prompt, command.format(**fields), "One command line is enough.")


# ---- JSON


def json_object(rng: random.Random) -> Item:
    count = rng.choice([1, 2, 2, 2, 3, 3, 4])
    keys = rng.sample(words.KEYS, count)
    if rng.random() < 0.3:
        keys[rng.randrange(count)] = invented(rng, 3, 7)
    values: list[str | int] = []
    for key in keys:
        numeric = key in ("age", "size", "price", "count", "year", "id", "level", "score", "day")
        if numeric or rng.random() < 0.2:
            values.append(rng.randint(0, rng.choice([9, 99, 99, 9999])))
        else:
            values.append(any_name(rng) if rng.random() < 0.5 else any_word(rng))
    parts = [f"{key} {value}" for key, value in zip(keys, values, strict=True)]
    listed = parts[0] if count == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    ask = rng.choice(["Give me a JSON object with {}.", "Give me a JSON object with {}.",
                      "Make a JSON object with {}.", "Write JSON with {}.", "JSON object with {}."])  # fmt: skip
    answer = json.dumps(dict(zip(keys, values, strict=True)))
    return Item(
        "json", loosely(rng, ask.format(listed)), answer, f"The fields are {', '.join(keys)}."
    )


MAKERS: dict[str, tuple[Maker, float]] = {
    "greeting": (greeting, 0.03),
    "about": (about, 0.04),
    "cannot": (cannot, 0.06),
    "count": (count, 0.13),
    "repeat": (repeat, 0.2),
    "name": (tell_name, 0.04),
    "story": (tale, 0.14),
    "shell": (shell, 0.2),
    "json": (json_object, 0.16),
}
"""Maps a skill to its generator and its share of the questions."""


def question(rng: random.Random) -> Item:
    """Return a question of a random skill."""
    names = list(MAKERS)
    chosen = rng.choices(names, weights=[MAKERS[name][1] for name in names])[0]
    return MAKERS[chosen][0](rng)
