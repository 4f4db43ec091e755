"""The built-in model's corpus is reproducible, checked and separate from the evaluation."""

from __future__ import annotations

import ast
import json
import random
import sys
import types
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import fim
import jinja2.sandbox
import pytest
import shell_tasks
import stories
from corpus import (
    Question,
    Sample,
    conversation,
    held_out,
    held_out_questions,
    render,
    samples,
    tool_exchange,
)

RECIPE = Path(__file__).parents[2] / "tools" / "pocket"
SKILLS = (
    "greeting", "about", "cannot", "count", "repeat", "name", "story", "shell", "json", "memory",
    "system prompt", "thinking", "tool call", "tool result", "fim",
)  # fmt: skip
SAMPLES = 3000


@cache
def some_samples() -> tuple[Sample, ...]:
    return tuple(islice(samples(1), SAMPLES))


@cache
def some_questions() -> tuple[Question, ...]:
    return tuple(held_out_questions(7, 20))


@cache
def chat_template() -> str:
    """Return the template from the export script, which cannot be imported without PyTorch."""
    tree = ast.parse((RECIPE / "export.py").read_text(encoding="utf-8"))
    return next(
        str(ast.literal_eval(node.value))
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CHAT_TEMPLATE"
    )


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The evaluation script, with a stub for mlx_lm: its checks need no model."""
    stand_in: Any = types.ModuleType("mlx_lm")
    stand_in.batch_generate = stand_in.load = None
    monkeypatch.setitem(sys.modules, "mlx_lm", stand_in)
    monkeypatch.delitem(sys.modules, "evaluate", raising=False)
    import evaluate

    monkeypatch.delitem(sys.modules, "evaluate")
    return evaluate


@cache
def compiled_template() -> jinja2.Template:
    """Return the chat template, compiled with the settings that transformers uses."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(chat_template())


def templated(messages: Any, tools: Any = None, **more: Any) -> str:
    plain = [{k: v for k, v in message.items() if k != "thought"} for message in messages]
    return compiled_template().render(messages=plain, tools=tools or None, **more)


def right_answer(question: Question) -> str:
    if question.skill == "tool call":
        return f"<tool_call>\n{json.dumps(question.call)}\n</tool_call>"
    if question.thinking:
        return f"I think.\n</think>\n\n{question.answer}"
    return question.answer


def test_the_same_seed_gives_the_same_corpus() -> None:
    first = list(islice(samples(5), 200))
    assert first == list(islice(samples(5), 200))
    assert first != list(islice(samples(6), 200))


def test_held_out_questions_are_reproducible() -> None:
    assert held_out_questions(3, 5) == held_out_questions(3, 5)


def test_the_evaluation_covers_every_skill() -> None:
    assert {question.skill for question in some_questions()} == set(SKILLS)


def test_training_samples_never_end_with_a_held_out_question() -> None:
    for sample in some_samples():
        asked = [text for text, _ in sample.parts if text.startswith("<|im_start|>user\n")]
        if asked and sample.skill not in ("greeting", "about", "name", "tools"):
            last = asked[-1].removeprefix("<|im_start|>user\n").removesuffix("<|im_end|>\n")
            assert not held_out(last)


def test_evaluation_questions_are_held_out() -> None:
    for question in some_questions():
        users = [m["content"] for m in question.messages if m["role"] == "user"]
        if question.skill == "fim":
            body = question.raw.removeprefix("<|fim_prefix|>").removesuffix("<|fim_middle|>")
            assert held_out(body.replace("<|fim_suffix|>", ""))
        elif question.skill not in ("greeting", "about", "memory"):
            assert held_out(users[-1])


@pytest.mark.parametrize("skill", SKILLS)
def test_every_skill_has_a_check_that_rejects_wrong_answers(skill: str, evaluate: Any) -> None:
    asked = [question for question in some_questions() if question.skill == skill]
    assert asked
    for question in asked:
        right = right_answer(question)
        assert evaluate.is_right(question, right), (question, right)
        assert not evaluate.is_right(question, right[:-1])
        assert not evaluate.is_right(question, "")


def test_a_thinking_answer_is_checked_after_its_reasoning(evaluate: Any) -> None:
    question = Question("thinking", answer="3, 4", thinking=True)
    assert evaluate.is_right(question, "I start at 3.\n</think>\n\n3, 4")
    assert not evaluate.is_right(question, "I start at 3, 4")


def test_a_tool_call_may_have_any_whitespace_but_no_other_text(evaluate: Any) -> None:
    question = Question("tool call", call={"name": "f", "arguments": {"a": "x"}})
    call = '<tool_call>{"arguments":{"a":"x"},"name":"f"}</tool_call>'
    assert evaluate.is_right(question, call)
    assert not evaluate.is_right(question, call.replace('"f"', '"g"'))
    assert not evaluate.is_right(question, "<tool_call>{</tool_call>")
    assert not evaluate.is_right(question, f"Sure. {call}")


def test_a_story_names_its_hero_and_ends(evaluate: Any) -> None:
    asked = {"role": "user", "content": "Tell me a story about a fox."}
    question = Question("story", (asked,))
    text = stories.story(random.Random(2), "fox", named=False)
    other = {"role": "user", "content": "Tell me a story about a giraffe."}
    assert evaluate.is_right(question, text)
    assert not evaluate.is_right(question, text[:-1])
    assert not evaluate.is_right(question, text * 5)
    assert not evaluate.is_right(replace(question, messages=(other,)), text)


def test_the_evaluation_table_has_one_line_per_skill(evaluate: Any) -> None:
    table = evaluate.table({"count": (19, 20), "json": (20, 20)})
    assert "| count | 19 | 20 | 95 % |" in table
    assert table.count("\n") == 3


def test_the_chat_template_renders_conversations_as_in_training() -> None:
    rng = random.Random(9)
    for _ in range(100):
        _, messages, _ = conversation(rng, keep=False)
        assert templated(messages) == "".join(text for text, _ in render(messages))


def test_the_chat_template_renders_tool_calls_as_in_training() -> None:
    rng = random.Random(9)
    for _ in range(50):
        messages, tools = tool_exchange(rng, keep=False)
        trained = "".join(text for text, _ in render(messages, tools=tools))
        assert templated(messages, tools) == trained


@pytest.mark.parametrize("thinking", [False, True])
def test_the_chat_template_opens_the_answer_as_in_training(thinking: bool) -> None:
    messages = [{"role": "user", "content": "hi"}]
    trained = "".join(text for text, _ in render(messages, thinking=thinking, generate=True))
    assert templated(messages, add_generation_prompt=True, enable_thinking=thinking) == trained


def test_reasoning_follows_the_opening_of_the_chat_template() -> None:
    answer = {"role": "assistant", "content": "Hello!", "thought": "A greeting."}
    messages = [{"role": "user", "content": "hi"}, answer]
    opened = templated(messages[:1], add_generation_prompt=True, enable_thinking=True)
    whole = "".join(text for text, _ in render(messages, thinking=True))
    assert whole == f"{opened}A greeting.\n</think>\n\nHello!<|im_end|>\n"


def test_the_prompt_of_a_turn_starts_with_the_previous_turn() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello!"}]
    first = templated(messages[:1], add_generation_prompt=True)
    assert templated(messages).startswith(f"{first}Hello!<|im_end|>")


def test_the_chat_template_accepts_tool_calls_in_client_formats() -> None:
    arguments = {"city": "Oslo"}
    function = {"name": "get_weather", "arguments": arguments}
    user = {"role": "user", "content": "weather in Oslo"}
    message = {"role": "assistant", "content": None}
    wrapped = {**message, "tool_calls": [{"type": "function", "function": function}]}
    as_text = {**message, "tool_calls": [{**function, "arguments": json.dumps(arguments)}]}
    assert templated([user, wrapped]) == templated([user, as_text])
    assert '{"name": "get_weather", "arguments": {"city": "Oslo"}}' in templated([user, wrapped])


def test_training_includes_the_end_token_of_an_answer() -> None:
    for sample in some_samples():
        last = [text for text, learned in sample.parts if learned][-1]
        assert last.endswith(("<|im_end|>", "<|endoftext|>")), sample


def test_fill_in_the_middle_samples_compile() -> None:
    rng = random.Random(3)
    gaps = [fim.gap(rng) for _ in range(300)]
    # Without a suffix the code may stop in the middle of a line.
    whole = [f"{prefix}{middle}{suffix}" for prefix, suffix, middle in gaps if suffix]
    assert len(whole) > 100
    for code in whole:
        compile(code, "gap", "exec")


def test_there_are_sixty_shell_tasks_with_unique_wordings() -> None:
    wordings = [wording for _, said in shell_tasks.TASKS for wording in said.split("|")]
    assert len(shell_tasks.TASKS) >= 60
    assert len(set(wordings)) == len(wordings)
