"""Asks the exported model every held-out question with greedy decoding, and reports by skill.

    python tools/pocket/evaluate.py [--per-skill 100] [--write]

`--write` puts the table into the model card.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from corpus import Question, held_out_questions
from mlx_lm import batch_generate, load

HERE = Path(__file__).parent
MODEL = HERE.parents[1] / "daemon" / "mlxd" / "daemon" / "models" / "pocket"
SEED = 7
CARD_BEGIN, CARD_END = "<!-- scores -->", "<!-- end of scores -->"


def prompt_of(tokenizer: Any, question: Question) -> list[int]:
    """Return the tokens of the question, rendered with the model's chat template."""
    if question.raw:
        tokens: list[int] = tokenizer.encode(question.raw, add_special_tokens=False)
        return tokens
    messages = [
        {key: value for key, value in message.items() if key != "thought"}
        for message in question.messages
    ]
    text = tokenizer.apply_chat_template(
        messages,
        tools=list(question.tools) or None,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=question.thinking,
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


def is_right(question: Question, text: str) -> bool:
    """Return whether an answer is correct for its skill."""
    if question.skill == "tool call":
        found = re.fullmatch(r"<tool_call>\s*(\{.*\})\s*</tool_call>", text.strip(), re.S)
        try:
            return found is not None and bool(json.loads(found.group(1)) == question.call)
        except ValueError:
            return False
    if question.thinking:
        _, _, text = text.partition("</think>")
        text = text.strip()
    if question.skill == "story":
        return is_story(question, text)
    return text == question.answer


def is_story(question: Question, text: str) -> bool:
    """Return whether a story names its hero, has whole sentences and a sensible length.

    Style is judged by reading.
    """
    asked = question.messages[-1]["content"].rstrip(".").split()[-1].lower()
    whole = text[-1:] in {".", '"'} and text.count(".") >= 5
    return asked in text.lower() and whole and 200 <= len(text) <= 900


def evaluate(per_skill: int) -> tuple[dict[str, tuple[int, int]], list[tuple[Question, str]]]:
    """Return (correct, asked) for every skill, and the wrong answers."""
    model, tokenizer = load(str(MODEL))
    questions = held_out_questions(SEED, per_skill)
    prompts = [prompt_of(tokenizer, question) for question in questions]
    answers = batch_generate(model, tokenizer, prompts, max_tokens=400).texts
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    wrong: list[tuple[Question, str]] = []
    for question, text in zip(questions, answers, strict=True):
        asked[question.skill] += 1
        if is_right(question, text):
            right[question.skill] += 1
        else:
            wrong.append((question, text))
    return {skill: (right[skill], asked[skill]) for skill in asked}, wrong


def table(scores: dict[str, tuple[int, int]]) -> str:
    lines = ["| skill | right | asked | share |", "|---|---|---|---|"]
    for skill, (right, asked) in scores.items():
        lines.append(f"| {skill} | {right} | {asked} | {100 * right / asked:.0f} % |")
    return "\n".join(lines)


def write_card(text: str) -> None:
    card = MODEL / "README.md"
    content = card.read_text(encoding="utf-8")
    head, _, rest = content.partition(CARD_BEGIN)
    _, _, tail = rest.partition(CARD_END)
    card.write_text(f"{head}{CARD_BEGIN}\n{text}\n{CARD_END}{tail}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-skill", type=int, default=100)
    parser.add_argument("--write", action="store_true")
    parser.add_argument(
        "--wrong", type=int, default=3, help="number of wrong answers to show for each skill"
    )
    arguments = parser.parse_args()
    scores, wrong = evaluate(arguments.per_skill)
    print(table(scores))
    shown: defaultdict[str, int] = defaultdict(int)
    for question, text in wrong:
        shown[question.skill] += 1
        if shown[question.skill] <= arguments.wrong:
            asked = question.raw or question.messages[-1]["content"]
            print(f"\n[{question.skill}] {asked!r}\n  expected {question.answer or question.call!r}"
                  f"\n  got      {text!r}")  # fmt: skip
    if arguments.write:
        write_card(table(scores))


if __name__ == "__main__":
    main()
