"""The time to start a daemon, to its first token, and to the first answer of a command."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from suite import recipes
from suite.contenders.base import SocketContender
from suite.contenders.daemon import Mlxd
from suite.contenders.llama import LlamaServer
from suite.contenders.mlx_server import MlxLmServer
from suite.figures import rounds
from suite.measurements.first_byte import QUESTION
from suite.places import NotInstallable
from suite.plan import Plan
from suite.recipes import Model
from suite.records import Collector, Record
from suite.spawning import until_exit, until_output
from support.places import own_environ

ACCEPTS = "exec to a socket that accepts"
ANSWERED = "exec to the first token of a first request"
COMMAND = "a command that finds no daemon, to its first byte"


def measure(plan: Plan) -> Iterator[Record]:
    model = recipes.ALL["pocket"]
    recipes.build(model)
    found = Collector("ready", model.name)
    servers = [kind for kind in (Mlxd, MlxLmServer, LlamaServer) if kind.name not in plan.without]
    for _ in rounds(2 * plan.case_s, plan.least_rounds, 8):
        for kind in list(servers):
            try:
                recipes.build(model, gguf=kind is LlamaServer)
                _one_start(found, kind, model)
            except (NotInstallable, RuntimeError, OSError) as exc:
                if kind is Mlxd:
                    raise
                plan.skipped[kind.name] = str(exc)
                servers.remove(kind)
        _commands(found)
    yield from found.records()


def _one_start(found: Collector, kind: type[SocketContender], model: Model) -> None:
    started = time.perf_counter()
    contender = kind(model)
    if isinstance(contender, Mlxd):
        contender.configure()
        started = time.perf_counter()
        contender.daemon.start()
        contender.process = contender.daemon.process
    else:
        contender.start()
    accepts_s = time.perf_counter() - started
    try:
        trace = contender.run([model.prompt(16, "ready")], 2)[0]
    finally:
        contender.stop()
    found.add(ACCEPTS, contender.name, "s", accepts_s)
    found.add(ANSWERED, contender.name, "s", trace.arrivals_s[0] - started)


def _commands(found: Collector) -> None:
    """Measure `mlxd start`, and `mlx ask` when it must start the daemon."""
    binaries = Path(sys.executable).parent
    start = [str(binaries / "mlxd"), "start"]
    ask = [str(binaries / "mlx"), "ask", "--max-tokens", "8", QUESTION]
    for case, name, measure_one in (
        (ACCEPTS, "mlxd start, to its end", lambda env: until_exit(start, env)),
        (COMMAND, "mlx ask", lambda env: until_output(ask, env)),
    ):
        found.add(case, name, "s", _in_a_new_home(measure_one))


def _in_a_new_home(measure_one: Callable[[dict[str, str]], float]) -> float:
    home = Path(tempfile.mkdtemp(prefix="mlxd-"))
    env = own_environ(home)
    env.pop("PYTHONPATH")
    try:
        return measure_one(env)
    finally:
        stop = [str(Path(sys.executable).with_name("mlxd")), "stop"]
        subprocess.run(stop, env=env, capture_output=True, check=False)
        shutil.rmtree(home, ignore_errors=True)
