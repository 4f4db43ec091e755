"""The cost of the front: per token, per idle connection, and for a ping under load."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from suite import recipes
from suite.contenders.daemon import Mlxd
from suite.figures import in_turn, quantile, rounds
from suite.machine import cpu_seconds, resident_bytes
from suite.plan import Plan
from suite.records import Collector, Record
from suite.traffic import Traffic, drive
from suite.wire import MlxdCall
from support.daemon_process import Daemon, running_daemon

CLIENTS = Path(__file__).parents[1] / "clients"
ENGINE = [sys.executable, str(CLIENTS / "token_engine.py")]
NAME = "mlxd"
CONNECTIONS = (1, 10, 100, 1000, 2000)
MANY = 1000
STREAMS = 16
PING_S, PAUSE_S = 2.5, 0.004


def measure(plan: Plan) -> Iterator[Record]:
    _allow_sockets(max(CONNECTIONS))
    found = Collector("front")
    settings = {"MLXD_ENGINE_COMMAND": json.dumps(ENGINE), "MLXD_PRELOAD": "false"}
    with running_daemon(**settings) as daemon:
        for turn in rounds(plan.case_s, plan.least_rounds, 10):
            for streams in in_turn((1, 8, STREAMS), turn):
                per_token(found, daemon, streams, 500 if plan.quick else 1500)
    for turn in rounds(2 * plan.case_s, 1 if plan.quick else 3, 5):
        with running_daemon(MLXD_PRELOAD="false") as daemon:
            per_connection(found, daemon, turn)
    yield from found.records()
    yield from while_decoding(plan)


def per_token(found: Collector, daemon: Daemon, streams: int, steps: int) -> None:
    """Measure the front's CPU time, messages and bytes per token."""
    assert daemon.process is not None
    pid, prompt = daemon.process.pid, f"{streams} {steps}"
    calls = [MlxdCall(daemon.socket_path, prompt, steps) for _ in range(streams)]
    before_s = cpu_seconds(pid)
    drive(calls)
    tokens = streams * steps
    case = f"{streams} streams" if streams > 1 else "1 stream"
    found.add(case, NAME, "s", (cpu_seconds(pid) - before_s) / tokens, "processor time per token")
    for unit, total in (
        ("messages", sum(call.messages_read for call in calls)),
        ("bytes", sum(call.bytes_read for call in calls)),
    ):
        found.add(case, f"{NAME}, {unit} per token", f"{unit} per token", total / tokens)


def per_connection(found: Collector, daemon: Daemon, turn: int) -> None:
    """Open idle connections. At each number, measure the front's memory and ping it."""
    assert daemon.process is not None
    pid = daemon.process.pid
    alone = 0
    with ExitStack() as stack:
        count = 0
        for wanted in CONNECTIONS:
            for _ in range(wanted - count):
                stack.enter_context(_idle(daemon.socket_path))
            count = wanted
            trips = _pings(daemon.socket_path, 0.6, 0.0005)
            case = f"{wanted} idle"
            weight = resident_bytes(pid)
            alone = alone or weight
            found.add(case, f"{NAME}, front", "bytes", weight)
            found.add(case, f"{NAME}, front, more than with one", "bytes", weight - alone)
            found.add(case, f"{NAME}, ping p50", "s", quantile(trips, 0.5))
            found.add(case, f"{NAME}, ping p99", "s", quantile(trips, 0.99))


def while_decoding(plan: Plan) -> Iterator[Record]:
    """Ping while sixteen answers are decoded, with and without a thousand idle connections."""
    model = recipes.ALL["pocket"]
    recipes.build(model)
    found = Collector("front", model.name)
    with Mlxd(model) as mlxd:
        for turn in rounds(3 * plan.case_s, 2 if plan.quick else 4, 8):
            for idle in in_turn((1, MANY), turn):
                _one_decoding(found, mlxd, idle, turn)
    yield from found.records()


def _one_decoding(found: Collector, mlxd: Mlxd, idle: int, turn: int) -> None:
    case = f"{STREAMS} decode, {idle} idle"
    prompts = [mlxd.model.prompt(16, f"{idle}.{turn}.{number}") for number in range(STREAMS)]
    with ExitStack() as stack:
        for _ in range(idle):
            stack.enter_context(_idle(mlxd.daemon.socket_path))
        calls = [mlxd.call(prompt, 4000) for prompt in prompts]
        traffic = stack.enter_context(Traffic())
        traffic.start(*calls)
        traffic.run_until(lambda: all(call.trace.arrivals_s for call in calls))
        pinger = _pinger(mlxd.daemon.socket_path, PING_S, PAUSE_S)
        traffic.run_until(lambda: pinger.poll() is not None, tick_s=0.05)
        trips = json.loads(pinger.communicate()[0])
        traffic.hang_up(calls)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        found.add(case, f"{NAME}, ping {name}", "s", quantile(trips, share))
    mlxd.daemon.wait_idle()  # the next round must begin on an idle machine


def _pings(path: str, seconds: float, pause_s: float) -> list[float]:
    trips: list[float] = json.loads(_pinger(path, seconds, pause_s).communicate()[0])
    return trips


def _pinger(path: str, seconds: float, pause_s: float) -> subprocess.Popen[bytes]:
    """Start a process that pings, because this one is busy reading answers."""
    command = [sys.executable, str(CLIENTS / "pinger.py"), path, str(seconds), str(pause_s)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


@contextmanager
def _idle(path: str) -> Iterator[None]:
    """Open a connection that sends one request and then stays idle."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(path)
        sock.sendall(b"\x94\x00\x01\xa4ping\x90")
        assert sock.recv(4096)
        yield


def _allow_sockets(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 200
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
