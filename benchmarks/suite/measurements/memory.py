"""The memory of each process, and that it is given back when a model is unloaded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import psutil

from suite import places, recipes
from suite.contenders.daemon import Mlxd
from suite.contenders.several import warm
from suite.machine import resident_bytes, rss_bytes
from suite.measurements.first_byte import QUESTION
from suite.plan import Plan
from suite.recipes import Model
from suite.records import Collector, Record
from support.daemon_process import running_daemon
from support.waiting import until

FRONT, ENGINE = "mlxd front", "mlxd engine"
UNIT = "bytes"


def measure(plan: Plan) -> Iterator[Record]:
    yield from clients(plan)
    for model in plan.main_models:
        found = Collector("memory", model.name)
        with warm(plan, model) as contenders:
            for contender in contenders:
                contender.run([model.prompt(256, f"memory.{number}") for number in range(8)], 16)
                for process, weight in contender.memory().items():
                    found.add("warm, after eight answers", process, UNIT, weight)
        yield from found.records()
    yield from given_back(plan)


def clients(plan: Plan) -> Iterator[Record]:
    """Record the peak memory of one command."""
    model = recipes.ALL["pocket"]
    recipes.build(model)
    found = Collector("memory", model.name)
    with Mlxd(model) as mlxd:
        ask = [mlxd.command, "ask", "--max-tokens", "8", QUESTION]
        generate = [places.mlx_python(), "-m", "mlx_lm", "generate", "--model", str(model.path)]
        generate += ["--prompt", QUESTION, "--max-tokens", "8"]
        for name, command, env in (
            ("python -c pass", [sys.executable, "-c", "pass"], dict(os.environ)),
            ("mlx ask", ask, mlxd.environ),
            ("mlx_lm.generate", generate, places.mlx_environ()),
        ):
            found.add("a command, at its largest", name, UNIT, peak_bytes(command, env))
    yield from found.records()


def peak_bytes(command: Sequence[str], env: Mapping[str, str]) -> float:
    """Return the peak resident memory of a command, as reported by the system."""
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with status {process.returncode}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def given_back(plan: Plan) -> Iterator[Record]:
    """Load and unload a model, after which only the front is left."""
    model: Model = plan.main_models[-1]
    found = Collector("memory", model.name)
    settings = {"MLXD_PRELOAD": "false", "MLXD_UPGRADE_CHECK_S": "0"}
    with running_daemon(**settings) as daemon:
        assert daemon.process is not None
        front = daemon.process.pid
        daemon.ask("ping")
        found.add("idle, no model", FRONT, UNIT, rss_bytes(front), "resident, shared pages too")
        name = str(model.path)
        for _ in range(1 if plan.quick else 3):
            found.add("before", FRONT, UNIT, resident_bytes(front))
            loaded = daemon.ask("load", model=name)
            if "error" in loaded:
                raise RuntimeError(loaded["error"])
            engine = daemon.ask("status")["engine"]["pid"]
            total = resident_bytes(front) + resident_bytes(engine)
            found.add("with the model", "mlxd, all", UNIT, total)
            daemon.ask("unload", model=name)
            wait_gone(engine)
            found.add("after it was unloaded", "mlxd, all", UNIT, resident_bytes(front))
    yield from found.records()


def wait_gone(pid: int) -> None:
    """Wait until a process that is not a child of this one has gone."""
    until(lambda: not psutil.pid_exists(pid), f"process {pid} is still there")
