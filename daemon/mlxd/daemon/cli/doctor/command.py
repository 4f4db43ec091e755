"""`mlxd doctor`: check the installation, and show the next step for each problem."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence

import click

from mlxd.daemon.cli.doctor.check import SEVERITY, Finding, Machine, Verdict
from mlxd.daemon.cli.doctor.examine import examine, worst
from mlxd.daemon.cli.doctor.symptoms import SYMPTOMS
from mlxd.daemon.cli.places import current_service
from mlxd.daemon.config import Config, load_config
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.paths import resolve_paths
from mlxd.protocol.wrapping import wrapped

_SIGNS: dict[Verdict, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "warn": ("warn", "yellow"),
    "fail": ("FAIL", "red"),
}


@click.command()
@click.option("--all", "show_all", is_flag=True, help="Show the checks that pass, too.")
@click.option("--json", "as_json", is_flag=True, help="Print every check as one JSON object.")
def doctor(show_all: bool, as_json: bool) -> int:
    """Check the installation, and show problems with their next steps.

    Exits with 1 if something is broken.
    """
    findings = examine(_machine())
    verdict = worst(findings)
    if as_json:
        report = {"verdict": verdict, "checks": [finding.to_map() for finding in findings]}
        click.echo(json.dumps(report, indent=2))
        return _status(verdict)
    for finding in findings if show_all else problems(findings):
        _show(finding)
    if show_all:
        _advise()
    else:
        click.echo(_wrapped(conclusion(findings), "", 0))
    return _status(verdict)


def _status(verdict: Verdict) -> int:
    return 1 if verdict == "fail" else 0


def problems(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that need attention, failures first."""
    wrong = [finding for finding in findings if finding.verdict != "ok"]
    return sorted(wrong, key=lambda finding: -SEVERITY[finding.verdict])


def conclusion(findings: Sequence[Finding]) -> str:
    """Return the last line: how many checks pass, and how to see them."""
    passed = sum(finding.verdict == "ok" for finding in findings)
    if passed < len(findings):
        return f"{passed} of {len(findings)} checks passed. See all: mlxd doctor --all"
    about = ", ".join(finding.summary for finding in findings if finding.summary)
    return f"No problems found: {about}. See all checks: mlxd doctor --all"


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
    sign = f"{word:4}" if os.environ.get("NO_COLOR") else click.style(f"{word:4}", fg=colour)
    detail = _wrapped(f"{finding.check:14} {finding.detail}", "      ", 15)
    click.echo(f"{sign}  {detail.removeprefix('      ')}")
    if finding.next_step:
        click.echo(_wrapped(f"→ {finding.next_step}", " " * 21, 2))


def _advise() -> None:
    click.echo("\nCommon problems:")
    for symptom in SYMPTOMS:
        click.echo(_wrapped(f"{symptom.name}: {symptom.remedy}", "  ", 2))


def _wrapped(text: str, lead: str, hang: int) -> str:
    """Return text wrapped between words on a terminal, and in one line elsewhere."""
    if not sys.stdout.isatty():
        return lead + text
    width = max(40, shutil.get_terminal_size().columns)
    return wrapped(text, width, first=lead, rest=lead + " " * hang)
