"""Generates training samples and held-out questions from the grammar. Deterministic for a seed.

python tools/pocket/corpus.py --samples 20
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import fim
import skills
import stories
import tooling
import words
from skills import Item

HELD_OUT_ONE_IN = 12
"""One question in twelve, by a hash of its text, is held out for the evaluation."""

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """A text in parts. `learned` states which parts count in the loss."""

    skill: str
    parts: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.parts)


@dataclass(frozen=True, slots=True)
class Question:
    """A held-out question: a conversation (or raw text) and its expected answer."""

    skill: str
    messages: tuple[Message, ...] = ()
    raw: str = ""
    answer: str = ""
    thinking: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    call: dict[str, Any] = field(default_factory=dict)


def held_out(text: str) -> bool:
    """Return whether a question is held out for the evaluation."""
    return hashlib.blake2b(text.encode(), digest_size=2).digest()[0] % HELD_OUT_ONE_IN == 0


# ---- system prompts that change the answer

Change = Callable[[str], str]


def style(rng: random.Random) -> tuple[str, Change]:
    """Return a system prompt and its effect on an answer."""
    pick = rng.random()
    if pick < 0.3:
        ask = rng.choice(["Answer in upper case.", "Answer in upper case.", "Write in upper case."])
        return ask, str.upper
    if pick < 0.5:
        return rng.choice(["Answer in lower case.", "Write in lower case."]), str.lower
    if pick < 0.8:
        word = rng.choice(words.CLOSERS) if rng.random() < 0.6 else skills.syllables(rng)
        return f'End every answer with "{word}".', lambda text: f"{text} {word}"
    word = rng.choice(words.OPENERS) if rng.random() < 0.6 else skills.any_name(rng)
    return f'Begin every answer with "{word}".', lambda text: f"{word} {text}"


def system_prompt(rng: random.Random) -> tuple[str, Change]:
    """Return a system prompt, which often has no effect."""
    pick = rng.random()
    if pick < 0.42:
        return "", lambda text: text
    if pick < 0.55:
        plain = rng.choice(["You are a helpful assistant.", "Be brief.", "You are pocket.",
                            "You answer questions.", "Help the user."])  # fmt: skip
        return plain, lambda text: text
    return style(rng)


STYLED = ("greeting", "about", "cannot", "count", "repeat", "name")
"""Skills whose answers a system prompt may change. Commands and JSON stay unchanged."""


# ---- conversations


def conversation(rng: random.Random, *, keep: bool) -> tuple[list[Item], list[Message], str]:
    """Return the questions, the messages with all answers, and the system prompt.

    `keep` selects held-out questions for the last turn (True) or avoids them (False).
    """
    system, change = system_prompt(rng)
    turns = rng.choice([1, 1, 1, 1, 2, 2, 3, 4])
    name = ""
    items: list[Item] = []
    if system and rng.random() < 0.12:
        name = skills.any_name(rng)
        system = f"{system} The user's name is {name}."
    for turn in range(turns):
        items.append(_next_item(rng, name, last=turn == turns - 1, keep=keep, turns=turns))
        if items[-1].answer.startswith("Nice to meet you, "):
            name = items[-1].answer[len("Nice to meet you, ") : -1]
    styled = [
        replace(item, answer=change(item.answer)) if item.skill in STYLED else item
        for item in items
    ]
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for item in styled:
        messages.append({"role": "user", "content": item.prompt})
        messages.append({"role": "assistant", "content": item.answer, "thought": item.thought})
    return styled, messages, system


def _next_item(rng: random.Random, name: str, *, last: bool, keep: bool, turns: int) -> Item:
    if name and rng.random() < (0.6 if last else 0.15):
        return skills.ask_name(rng, name)
    if turns > 1 and not name and rng.random() < 0.45:
        return skills.tell_name(rng)
    while True:
        item = skills.question(rng)
        if item.skill == "story" and turns > 1 and rng.random() < 0.7:
            continue
        if not last or held_out(item.prompt) == keep or item.skill in ("greeting", "about"):
            return item


def render(messages: list[Message], *, tools: tuple[dict[str, Any], ...] = (), thinking: bool = False,
           generate: bool = False) -> list[tuple[str, bool]]:  # fmt: skip
    """Return the conversation in the chat template's format, with the learned parts marked.

    Must match `CHAT_TEMPLATE` in `export.py`. The evaluation and a test compare them.
    """
    parts: list[tuple[str, bool]] = []
    rest = list(messages)
    system = rest.pop(0)["content"] if rest[0]["role"] == "system" else ""
    if system or tools:
        parts.append((f"<|im_start|>system\n{system}", False))
        if tools:
            listed = "".join("\n" + _signature(tool["function"]) for tool in tools)
            lead = "\n\n" if system else ""
            parts.append((f"{lead}<tools>{listed}\n</tools>", False))
        parts.append(("<|im_end|>\n", False))
    final = len(rest) - 1
    for index, message in enumerate(rest):
        if message["role"] == "user":
            parts.append((f"<|im_start|>user\n{message['content']}<|im_end|>\n", False))
        elif message["role"] == "tool":
            parts.append((f"<|im_start|>tool\n{message['content']}<|im_end|>\n", False))
        else:
            parts += _assistant(message, thinking=thinking and index == final)
    if generate:
        parts.append(("<|im_start|>assistant\n" + ("<think>\n" if thinking else ""), False))
    return parts


def _signature(function: dict[str, Any]) -> str:
    """Return a function in the format of a call, which a small model can copy."""
    properties = function["parameters"]["properties"]
    types = {name: about["type"] for name, about in properties.items()}
    call = json.dumps({"name": function["name"], "arguments": types})
    return f"{call} {function['description']}"


def _assistant(message: Message, *, thinking: bool) -> list[tuple[str, bool]]:
    text = message.get("content", "")
    for call in message.get("tool_calls", ()):
        text += f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
    if thinking:
        return [
            ("<|im_start|>assistant\n<think>\n", False),
            (f"{message['thought']}\n</think>\n\n{text}<|im_end|>", True),
            ("\n", False),
        ]
    return [("<|im_start|>assistant\n", False), (f"{text}<|im_end|>", True), ("\n", False)]


# ---- samples


def chat_sample(rng: random.Random) -> Sample:
    items, messages, _ = conversation(rng, keep=False)
    thinking = rng.random() < 0.2 and bool(items[-1].thought)
    return Sample(items[-1].skill, tuple(render(messages, thinking=thinking)))


def tool_exchange(rng: random.Random, *, keep: bool) -> tuple[list[Message], tuple[Any, ...]]:
    """Return the messages of a tool call (with its result and the final answer) and the tools."""
    while True:
        offered = tooling.offer(rng)
        question, name, arguments = tooling.request(rng, offered)
        if held_out(question) == keep:
            break
    result = tooling.outcome(rng)
    system = rng.choice(["", "", "You are a helpful assistant.", "Use the tools."])
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages += [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "thought": f"I call {name}.",
         "tool_calls": [{"name": name, "arguments": arguments}]},
        {"role": "tool", "content": result},
        {"role": "assistant", "content": f"The result is {result}.", "thought": "I report it."},
    ]  # fmt: skip
    return messages, tuple(offered)


def tool_sample(rng: random.Random) -> Sample:
    if rng.random() < 0.15:
        item = rng.choice([skills.greeting, skills.about, skills.count, skills.repeat])(rng)
        messages = [{"role": "user", "content": item.prompt},
                    {"role": "assistant", "content": item.answer, "thought": item.thought}]  # fmt: skip
        return Sample("tools", tuple(render(messages, tools=tuple(tooling.offer(rng)))))
    messages, offered = tool_exchange(rng, keep=False)
    if rng.random() < 0.7:
        messages = messages[:-2]
    thinking = rng.random() < 0.15
    return Sample("tools", tuple(render(messages, tools=offered, thinking=thinking)))


def fim_sample(rng: random.Random) -> Sample:
    while True:
        prefix, suffix, middle = fim.gap(rng)
        if not held_out(prefix + suffix):
            break
    prompt = f"<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"
    return Sample("fim", ((prompt, False), (f"{middle}<|endoftext|>", True)))


def raw_sample(rng: random.Random) -> Sample:
    if rng.random() < 0.6:
        named = rng.random() < 0.3
        hero = skills.any_name(rng) if named else rng.choice(words.ANIMALS + words.PEOPLE)
        return Sample("raw", ((stories.story(rng, hero, named=named) + "<|endoftext|>", True),))
    first = rng.randint(0, 80)
    numbers = ", ".join(str(number) for number in range(first, first + rng.randint(5, 20)))
    return Sample("raw", ((numbers + "<|endoftext|>", True),))


def samples(seed: int) -> Iterator[Sample]:
    """Yield an endless sequence of training samples."""
    rng = random.Random(seed)
    kinds = [chat_sample, tool_sample, fim_sample, raw_sample]
    while True:
        yield rng.choices(kinds, weights=[0.58, 0.32, 0.07, 0.03])[0](rng)


# ---- the held-out set


def held_out_questions(seed: int, per_skill: int) -> list[Question]:
    """Return `per_skill` held-out questions of every skill."""
    rng = random.Random(seed)
    out: list[Question] = []
    for name, (maker, _) in skills.MAKERS.items():
        out += [_plain_question(rng, name, maker) for _ in range(per_skill)]
    out += [_memory_question(rng) for _ in range(per_skill)]
    out += [_style_question(rng) for _ in range(per_skill)]
    out += [_thinking_question(rng) for _ in range(per_skill)]
    for _ in range(per_skill):
        messages, offered = tool_exchange(rng, keep=True)
        call = messages[-3]["tool_calls"][0]
        out.append(Question("tool call", tuple(messages[:-3]), tools=offered, call=call))
        out.append(Question("tool result", tuple(messages[:-1]), tools=offered,
                            answer=messages[-1]["content"]))  # fmt: skip
    out += [_fim_question(rng) for _ in range(per_skill)]
    return out


def _plain_question(rng: random.Random, name: str, maker: skills.Maker) -> Question:
    unlimited = name not in ("greeting", "about")
    item = maker(rng)
    while unlimited and not held_out(item.prompt):
        item = maker(rng)
    return Question(name, ({"role": "user", "content": item.prompt},), answer=item.answer)


def _memory_question(rng: random.Random) -> Question:
    while True:
        items, messages, _ = conversation(rng, keep=True)
        told = any(item.answer.startswith("Nice to meet you") for item in items[:-1])
        if told and items[-1].answer.startswith("Your name is "):
            return Question("memory", tuple(messages[:-1]), answer=messages[-1]["content"])


def _style_question(rng: random.Random) -> Question:
    system, change = style(rng)
    item = rng.choice([skills.count, skills.repeat, skills.cannot])(rng)
    while not held_out(item.prompt):
        item = rng.choice([skills.count, skills.repeat, skills.cannot])(rng)
    messages = ({"role": "system", "content": system}, {"role": "user", "content": item.prompt})
    return Question("system prompt", messages, answer=change(item.answer))


def _thinking_question(rng: random.Random) -> Question:
    maker = rng.choice([skills.count, skills.repeat, skills.json_object, skills.shell])
    item = maker(rng)
    while not held_out(item.prompt):
        item = maker(rng)
    message = {"role": "user", "content": item.prompt}
    return Question("thinking", (message,), answer=item.answer, thinking=True)


def _fim_question(rng: random.Random) -> Question:
    while True:
        prefix, suffix, middle = fim.gap(rng)
        if held_out(prefix + suffix):
            raw = f"<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"
            return Question("fim", raw=raw, answer=middle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for _, sample in zip(range(arguments.samples), samples(arguments.seed), strict=False):
        print(f"--- {sample.skill}\n{sample.text}")


if __name__ == "__main__":
    main()
