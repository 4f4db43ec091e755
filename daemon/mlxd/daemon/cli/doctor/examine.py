"""Runs the checks."""

from __future__ import annotations

from collections.abc import Sequence

from mlxd.daemon.cli.doctor.check import SEVERITY, Check, Finding, Machine, Verdict
from mlxd.daemon.cli.doctor.table import CHECKS
from mlxd.protocol.errors import MlxdError


def examine(machine: Machine) -> list[Finding]:
    """Run every check. A check that raises is reported as a finding."""
    return [_run(name, check, machine) for name, check in CHECKS.items()]


def _run(name: str, check: Check, machine: Machine) -> Finding:
    try:
        return check(machine)
    except MlxdError as exc:
        return Finding(name, "fail", exc.message, exc.hint)
    except Exception as exc:
        return Finding(name, "fail", f"The check itself failed: {exc!r}", "Please report this.")


def worst(findings: Sequence[Finding]) -> Verdict:
    """Return the most severe verdict."""
    return max((finding.verdict for finding in findings), key=SEVERITY.__getitem__, default="ok")
