"""`mlx ask`, `generate` and `fill` with all options. The fast path serves the common ones."""

from __future__ import annotations

from typing import Any

import click

from mlxd.client.cli import template_files
from mlxd.client.cli.clipboard import copy
from mlxd.client.cli.daemon import connect
from mlxd.client.cli.failures import Misuse
from mlxd.client.cli.inputs import edited, prompt_of
from mlxd.client.cli.options import NOT_IN_FILL, fill_options, given, params_of, shared_options
from mlxd.client.cli.printer import Printer, texts_of
from mlxd.client.cli.sections import Sectioned
from mlxd.client.cli.terminal import tell
from mlxd.client.fast.text import verdict

# The daemon reports an expired deadline. After this grace time the client stops waiting for it.
GRACE_S = 5.0
METHODS = {"ask": "chat", "generate": "generate", "fill": "fill"}


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
    printer = Printer(values, markdown=command == "ask", several=params.get("n", 1) > 1)
    patience_s = params["deadline_s"] + GRACE_S if "deadline_s" in params else None
    with (
        printer,
        connect(patience_s) as client,
        client.stream(METHODS[command], **params) as stream,
    ):
        for event in stream:
            printer.event(event)
        result = stream.result
    printer.finish(result, "--max-tokens")
    if values.get("copy"):
        put_on_clipboard(result, values)
    return int(verdict(result))


def whole_prompt(command: str, words: tuple[str, ...], values: dict[str, Any]) -> str:
    """Return the prompt: words, files and stdin, put into a template or edited on request."""
    prompt = prompt_of(words, values.get("file", []))
    if "template" in values:
        prompt = template_files.apply(values, prompt)
    elif "param" in values:
        raise click.UsageError("-p sets a template field and needs -t.")
    if values.get("edit"):
        # Editors end a file with a newline, which is not part of the prompt.
        prompt = edited(prompt).rstrip("\n")
    if not prompt.strip() and not (command == "generate" and "continue" in values):
        raise click.UsageError(f'The prompt is empty. Give one: mlx {command} "…"')
    return prompt


def put_on_clipboard(result: dict[str, Any], values: dict[str, Any]) -> None:
    """Copy the printed text to the clipboard.

    Raises:
        Misuse: no clipboard program was found.
    """
    said = copy("\n\n".join(texts_of(result, values)))
    if not said:
        raise Misuse(
            "--copy: no clipboard program was found.", hint="Install wl-copy, xclip or xsel."
        )
    if not values.get("quiet"):
        tell(said)
