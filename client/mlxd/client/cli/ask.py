"""`mlx ask`, `generate` and `fill` with all options. The fast path serves the common ones."""

from __future__ import annotations

import re
from typing import Any

import click

from mlxd.client.cli import templates
from mlxd.client.cli.clipboard import copy
from mlxd.client.cli.daemon import connect
from mlxd.client.cli.failures import Misuse
from mlxd.client.cli.inputs import edited, prompt_of
from mlxd.client.cli.options import NOT_IN_FILL, fill_options, given, params_of, shared_options
from mlxd.client.cli.sections import Sectioned
from mlxd.client.cli.terminal import Answer, print_json, tell
from mlxd.client.fast.text import Aside, introduce, remarks, verdict

# The daemon reports an expired deadline. After this grace time the client stops waiting for it.
GRACE_S = 5.0
METHODS = {"ask": "chat", "generate": "generate", "fill": "fill"}
FENCE = re.compile(r"^(`{3,})[^\n]*\n(.*?)(?:^\1\s*$|\Z)", re.S | re.M)


@click.command(
    cls=Sectioned,
    epilog="\b\nExamples:\n"
    '  mlx ask "Why is the sky blue?"\n'
    '  git diff | mlx ask -s "You are terse." Summarise\n'
    '  mlx ask --preset precise --schema "name, age int" "Invent a person"\n'
    '  mlx ask -f main.py -x "Add type hints"\n'
    '  mlx ask -c "And in French?"\n'
    "  git diff --staged | mlx ask -t commit\n",
)
@click.argument("words", nargs=-1, metavar="[PROMPT]...")
@shared_options
def ask(words: tuple[str, ...], **values: Any) -> int:
    """Ask a question. Stdin is appended to the prompt, or used as the prompt."""
    return run("ask", words, given(values))


@click.command(cls=Sectioned, epilog='\b\nExample:\n  mlx generate "Once upon a time"\n')
@click.argument("words", nargs=-1, metavar="[PROMPT]...")
@shared_options
def generate(words: tuple[str, ...], **values: Any) -> int:
    """Continue a text. No chat template is applied."""
    return run("generate", words, given(values))


@click.command(
    cls=Sectioned,
    without=NOT_IN_FILL,
    epilog="\b\nExample:\n  mlx fill --prefix 'def add(a, b): return ' --suffix ''\n",
)
@fill_options
def fill(**values: Any) -> int:
    """Fill the gap between --prefix and --suffix."""
    found = given(values)
    if "prefix" not in found:
        raise click.UsageError("Give the text before the gap: --prefix TEXT")
    return run("fill", (), found)


def run(command: str, words: tuple[str, ...], values: dict[str, Any]) -> int:
    """Send the request and print the answer as it arrives. Return the exit code."""
    prompt = "" if command == "fill" else whole_prompt(command, words, values)
    params = params_of(command, values, prompt)
    if values.get("events") and not values.get("json"):
        raise click.UsageError("--stream needs --json.")
    if "logprobs" in values and not values.get("json"):
        raise click.UsageError("--logprobs needs --json, which prints them.")
    several = params.get("n", 1) > 1
    silent = bool(values.get("json") or values.get("no_stream") or values.get("extract") or several)
    answer = Answer(plain=bool(values.get("plain")) or command != "ask")
    # The reasoning of several answers would be mixed.
    aside = Aside(False if several else values.get("thinking"), values.get("quiet"))
    try:
        patience = params["deadline_s"] + GRACE_S if "deadline_s" in params else None
        with connect(patience) as client, client.stream(METHODS[command], **params) as stream:
            for event in stream:
                if values.get("events"):
                    print_json(event)
                else:
                    show(event, answer, aside, silent=silent)
            result = stream.result
    finally:
        aside.settle()
        answer.close()
    return finish(result, values, silent=silent)


def whole_prompt(command: str, words: tuple[str, ...], values: dict[str, Any]) -> str:
    """Return the prompt: words, files and stdin, put into a template or edited on request."""
    prompt = prompt_of(words, values.get("file", []))
    if "template" in values:
        prompt = templates.apply(values, prompt)
    elif "param" in values:
        raise click.UsageError("-p sets a template field and needs -t.")
    if values.get("edit"):
        # Editors end a file with a new line; which is not part of the prompt.
        prompt = edited(prompt).rstrip("\n")
    if not prompt.strip() and not (command == "generate" and "continue" in values):
        raise click.UsageError(f'The prompt is empty. Give one: mlx {command} "…"')
    return prompt


def show(event: dict[str, Any], answer: Answer, aside: Aside, *, silent: bool) -> None:
    """Print an event. With `silent`, do not print the answer."""
    if event["type"] != "delta" or event["channel"] != "answer":
        aside.event(event)
    elif not silent:
        aside.settle()
        answer.write(event["text"])


def finish(result: dict[str, Any], values: dict[str, Any], *, silent: bool) -> int:
    """Print the result where it was not streamed, then notes on stderr. Return the exit code."""
    if values.get("json"):
        print_json(result)
    elif silent:
        print_whole(result, values)
    if values.get("copy"):
        put_on_clipboard(result, values)
    for line in remarks(result, values, "--max-tokens"):
        tell(line)
    if result["applied"]["model"] == "pocket" and not values.get("quiet"):
        introduce()
    return int(verdict(result))


def put_on_clipboard(result: dict[str, Any], values: dict[str, Any]) -> None:
    """Copy what is printed.

    Raises:
        Misuse: there is no clipboard.
    """
    said = copy("\n\n".join(texts_of(result, values)))
    if not said:
        raise Misuse(
            "--copy: no clipboard program was found.", hint="Install wl-copy, xclip or xsel."
        )
    if not values.get("quiet"):
        tell(said)


def texts_of(result: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """Return the answers of a result, or their code blocks."""
    texts: list[str] = [choice["text"] for choice in result["choices"]]
    return [code_block(text) for text in texts] if values.get("extract") else texts


def print_whole(result: dict[str, Any], values: dict[str, Any]) -> None:
    """Print the answers of a result, or their code blocks."""
    texts = texts_of(result, values)
    if len(texts) > 1:
        texts = [f"{number}. {text.rstrip()}\n" for number, text in enumerate(texts, 1)]
    answer = Answer(plain=bool(values.get("plain") or values.get("extract")) or len(texts) > 1)
    for text in texts:
        answer.write(text)
    answer.close()


def code_block(text: str) -> str:
    """Return the first fenced code block, or the whole text if there is none."""
    found = FENCE.search(text)
    return found.group(2) if found else text
