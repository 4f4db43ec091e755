"""`mlxd doctor`: what is installed, how it stands, and the next step for whatever is wrong."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap

import click

from mlxd.daemon.cli.doctor import Finding, Machine, Verdict, examine, worst
from mlxd.daemon.cli.doctor.symptoms import SYMPTOMS
from mlxd.daemon.cli.places import current_service
from mlxd.daemon.config import Config, load_config
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.paths import resolve_paths

_SIGNS: dict[Verdict, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "warn": ("warn", "yellow"),
    "fail": ("FAIL", "red"),
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> int:
    """Check the installation and say what to do next.

    Exits with 1 where something is broken.
    """
    findings = examine(_machine())
    verdict = worst(findings)
    if as_json:
        report = {"verdict": verdict, "checks": [finding.to_map() for finding in findings]}
        click.echo(json.dumps(report, indent=2))
    else:
        for finding in findings:
            _show(finding)
        _advise()
    return 1 if verdict == "fail" else 0


def _machine() -> Machine:
    paths = resolve_paths()
    config, error = Config(), None
    try:
        config = load_config(paths)
    except MlxdError as exc:
        error = exc
    return Machine(paths, config, error, current_service(paths))


def _show(finding: Finding) -> None:
    word, colour = _SIGNS[finding.verdict]
    sign = click.style(f"{word:4}", fg=colour)
    detail = _wrapped(f"{finding.check:14} {finding.detail}", "      ", 15)
    click.echo(f"{sign}  {detail.removeprefix('      ')}")
    if finding.next_step:
        click.echo(_wrapped(f"→ {finding.next_step}", " " * 21, 2))


def _advise() -> None:
    click.echo("\nWhat no check can see:")
    for symptom in SYMPTOMS:
        click.echo(_wrapped(f"{symptom.name}: {symptom.remedy}", "  ", 2))


def _wrapped(text: str, lead: str, hang: int) -> str:
    """Return text broken between words on a terminal, and in one line for whatever reads it."""
    if not sys.stdout.isatty():
        return lead + text
    return textwrap.fill(
        text, max(40, shutil.get_terminal_size().columns), initial_indent=lead,
        subsequent_indent=lead + " " * hang, break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
