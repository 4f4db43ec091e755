"""`mlx launch`: sets a tool up for this one process, and hands over to it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from mlxd.client.cli.completion import complete_models
from mlxd.client.cli.launch import bridge
from mlxd.client.cli.launch.tools import TOOLS, Candidate, Setup, Target, Tool, problem_of
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.paths import resolve_paths


class ToolMissing(MlxdError):
    """The tool is not installed."""

    code = "tool_missing"
    exit_code = 2


class ModelUnfit(MlxdError):
    """The model cannot serve the tool."""

    code = "model_unfit"
    exit_code = 6


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="\b\nExamples:\n"
    "  mlx launch claude\n"
    "  mlx launch -m qwen3-coder codex -- exec 'Add a test'\n"
    "  mlx launch --print aider\n",
)
@click.option("-m", "--model", shell_complete=complete_models, help="Model to use.")
@click.option("--print", "print_only", is_flag=True, help="Print what would be set, and exit.")
@click.option("--force", is_flag=True, help="Start the tool even if the model does not fit.")
@click.argument("tool", type=click.Choice([*TOOLS]))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def launch(
    model: str | None, print_only: bool, force: bool, tool: str, arguments: tuple[str, ...]
) -> int:
    """Start TOOL with the models of mlxd. ARGUMENTS go to the tool.

    Starts the HTTP bridge if none runs. The settings apply to this process only; no file of yours
    is changed.
    """
    chosen = TOOLS[tool]
    program = shutil.which(chosen.program)
    if program is None and not print_only:
        raise ToolMissing(
            f"{chosen.title} is not installed: there is no program {chosen.program}.",
            hint=f"Install it, or see what it would need: mlx launch --print {tool}",
        )
    paths = resolve_paths()
    url = bridge.running(paths) or bridge.start(paths)
    key = bridge.key_of(paths)
    fit = _candidate(url, key, model or _default(url, key))
    if (problem := problem_of(chosen, fit)) and not force:
        raise ModelUnfit(problem, hint=_others(url, key, chosen))
    setup = chosen.setup(Target(url, key, fit.name, fit.context_tokens))
    words = [program or chosen.program, *setup.arguments, *_without_dashes(arguments)]
    if print_only:
        _print(setup, words)
        return 0
    return _run(setup, words)


def _without_dashes(arguments: tuple[str, ...]) -> tuple[str, ...]:
    return arguments[1:] if arguments[:1] == ("--",) else arguments


def _default(url: str, key: str) -> str:
    models = bridge.ask(url, key, "/v1/models")["data"]
    if not models:
        raise ModelUnfit("No model is on this machine.", hint="Get one: mlx models search")
    return str(models[0]["id"])


def _candidate(url: str, key: str, name: str) -> Candidate:
    shown = bridge.ask(url, key, "/api/show", {"model": name})
    family = shown["details"]["family"]
    context = shown["model_info"].get(f"{family}.context_length") or 0
    return Candidate(name, int(context), "tools" in shown["capabilities"])


def _others(url: str, key: str, tool: Tool) -> str:
    """Return a hint that names models that would do."""
    names = [str(one["id"]) for one in bridge.ask(url, key, "/v1/models")["data"]]
    fit = [name for name in names if problem_of(tool, _candidate(url, key, name)) is None]
    if fit:
        return f"Use another model: mlx launch -m {shlex.quote(fit[0])} {tool.program}"
    return "No model on this machine would do. Find one: mlx models search"


def _print(setup: Setup, words: list[str]) -> None:
    for name, value in setup.variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    if setup.file is not None:
        click.echo(f"cat >mlxd{setup.suffix} <<'END'\n{setup.file}\nEND")
    click.echo(shlex.join(word.replace("{file}", f"mlxd{setup.suffix}") for word in words))


def _run(setup: Setup, words: list[str]) -> int:
    environ = {**os.environ, **setup.variables}
    if setup.file is None:
        sys.stdout.flush()
        os.execve(words[0], words, environ)
    with tempfile.TemporaryDirectory(prefix="mlx-") as folder:
        path = Path(folder) / f"config{setup.suffix}"
        path.write_text(setup.file or "", encoding="utf-8")
        # Ctrl-C is the tool's: the terminal sends it to both. A handler and not SIG_IGN, which the
        # tool would inherit.
        signal.signal(signal.SIGINT, lambda *_: None)
        command = [word.replace("{file}", str(path)) for word in words]
        status = subprocess.run(command, env=environ, check=False).returncode
    return status if status >= 0 else 128 - status
