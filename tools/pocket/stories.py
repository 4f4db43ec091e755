"""A seeded grammar of short stories."""

from __future__ import annotations

import random

import words

WISHES = (
    ("wanted to see the sea", "reached the shore", "The water was wide and blue"),
    ("was looking for a friend", "met a stranger", "They talked until the stars came out"),
    ("had lost a golden key", "looked under every stone", "The key lay in the grass and shone"),
    ("wished to learn a song", "listened to the wind", "Soon the tune was easy to remember"),
    ("was always hungry", "found a tree full of apples", "There was enough for everyone"),
    ("was afraid of the dark", "lit a small lamp", "The night did not look so deep any more"),
    ("dreamed of flying", "built wings of paper", "For one moment the ground was far away"),
    ("could not sleep", "counted the stars", "There were more than anybody could count"),
    ("wanted to build a boat", "gathered wood for a week", "The boat was crooked, but it floated"),
    ("was late every day", "bought an old clock", "It ticked louder than the rain"),
    ("had a secret map", "followed the dotted line", "It led to a door in the rock"),
    ("liked to ask questions", "went to the wise owl", "The owl answered with another question"),
)
TROUBLES = (
    "But then a storm came up and the path was gone.",
    "But the bridge was broken and the water was cold.",
    "But a proud wolf stood in the way and would not move.",
    "But snow began to fall, and every track disappeared.",
    "But nobody wanted to help, and the day was nearly over.",
    "But the road was long, and the bag was heavy.",
    "But a thick fog came down from the mountain.",
    "But the gate was locked, and the guard was asleep.",
)
HELPERS = (
    "a small bird showed the way",
    "an old woman gave good advice",
    "a friendly mouse shared its bread",
    "a tired traveller offered a hand",
    "the moon came out and lit the path",
    "a child laughed and opened the door",
    "a turtle said that slow steps also count",
    "the wind grew calm at last",
)
FEELINGS = "happy|proud|tired but glad|quiet and content|surprised|full of joy".split("|")
MORALS = (
    "From that day on, nobody in the valley was alone.",
    "And if you listen well, you can still hear the laughter.",
    "It was a small thing, but it was enough.",
    "Since then the door has always been open.",
    "Sometimes the longest way home is the best one.",
    "And that is how a bad day became a good story.",
    "Everyone agreed that courage can be quiet.",
    "The next morning everything looked new.",
)
TIMES = (
    "The next morning|One evening|After three days|Early one day|One winter night|At noon".split(
        "|"
    )
)
OPENINGS = "Once upon a time|Long ago|One day|Many years ago|Once".split("|")
SHE, HE, IT = ("she", "her"), ("he", "his"), ("it", "its")
PRONOUNS = {"king": HE, "boy": HE, "wizard": HE, "queen": SHE, "girl": SHE, "witch": SHE}
KINDS = (
    "small brave shy clever lazy young old quiet happy sad gentle lonely tiny curious wise".split()
)


def article(noun_phrase: str) -> str:
    """Return the phrase with its indefinite article."""
    return ("an " if noun_phrase[0] in "aeiou" else "a ") + noun_phrase


def story(rng: random.Random, hero: str, *, named: bool) -> str:
    """Return a story of six to nine sentences about `hero` (a noun, or a name)."""
    wish, effort, result = rng.choice(WISHES)
    person = named or hero in words.PEOPLE
    they, their = PRONOUNS.get(hero) or (rng.choice((SHE, HE)) if person else IT)
    adjective = rng.choice(KINDS)
    if named:
        the_hero = hero
        first = f"{rng.choice(OPENINGS)}, {hero} lived {rng.choice(words.PLACES)}."
    else:
        the_hero = f"the {hero}"
        kind = article(f"{adjective} {hero}")
        opening = rng.choice(OPENINGS)
        first = rng.choice(
            (
                f"{opening}, there was {kind} who lived {rng.choice(words.PLACES)}.",
                f"{opening}, {kind} lived {rng.choice(words.PLACES)}.",
            )
        )
    cap = the_hero[0].upper() + the_hero[1:]
    return " ".join(_middle(rng, first, cap, the_hero, they, their, wish, effort, result))


def _middle(
    rng: random.Random,
    first: str,
    cap: str,
    the_hero: str,
    they: str,
    their: str,
    wish: str,
    effort: str,
    result: str,
) -> list[str]:
    feeling = rng.choice(FEELINGS)
    sentences = [first, f"{cap} {wish}."]
    if rng.random() < 0.6:
        sentences.append(
            rng.choice(
                (
                    f"Every day {they} thought of nothing else.",
                    f"The neighbours shook their heads and smiled at {the_hero}.",
                    f"But {they} did not know how to begin.",
                    f"It was {their} greatest wish.",
                )
            )
        )
    sentences.append(f"{rng.choice(TIMES)}, {the_hero} set out and {effort}.")
    sentences.append(rng.choice(TROUBLES))
    if rng.random() < 0.5:
        sentences.append(
            rng.choice(
                (
                    f"{cap} sat down and took a deep breath.",
                    f'"I will not give up," said {the_hero}.',
                    f"For a while {the_hero} did not know what to do.",
                )
            )
        )
    sentences.append(f"Then {rng.choice(HELPERS)}.")
    sentences.append(f"{result}.")
    sentences.append(f"In the end, {the_hero} went home and felt {feeling}.")
    if rng.random() < 0.7:
        sentences.append(rng.choice(MORALS))
    return sentences
