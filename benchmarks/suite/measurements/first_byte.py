"""Measures the time from exec to the first byte on the terminal: the wait of a user."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgpack

from suite import places, recipes
from suite.contenders.daemon import Mlxd
from suite.contenders.mlx_server import MlxLmServer
from suite.figures import in_turn, rounds
from suite.plan import Plan
from suite.recipes import Model
from suite.records import Collector, Record
from suite.spawning import until_output

CLIENTS = Path(__file__).parents[1] / "clients"
QUESTION = "Count from 3 to 7."
CASE, LOADING = "exec to first byte", "exec to first byte, beside what loads first"
Measure = Callable[[], float]


def measure(plan: Plan) -> Iterator[Record]:
    model = recipes.ALL["pocket"]
    recipes.build(model)
    found = Collector("first_byte", model.name)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mlxd, server = Mlxd(model), MlxLmServer(model)
        stack.enter_context(mlxd)
        stack.enter_context(server)
        fast = {**own_clients(mlxd, folder), **server_clients(server)}
        # Commands that import or load much take seconds, and get fewer rounds of their own.
        slow = {"openai client to mlx_lm.server": openai_client(server)}
        slow["mlx_lm.generate"] = generate(model)
        if not plan.quick:
            slow["llm with a local plugin"] = llm_command(model, folder)
        _rounds(found, fast, rounds(plan.case_s, 5, 60))
        slow = {"mlx ask": fast["mlx ask"], **slow}
        _rounds(found, slow, rounds(3 * plan.case_s, plan.least_rounds, 10), case=LOADING)
    yield from found.records()


def _rounds(
    found: Collector, contenders: dict[str, Measure], turns: Iterator[int], case: str = CASE
) -> None:
    for one in contenders.values():
        one()
    for turn in turns:
        for name in in_turn(list(contenders), turn):
            found.add(case, name, "s", contenders[name]())


def own_clients(mlxd: Mlxd, folder: Path) -> dict[str, Measure]:
    """Return the clients of mlxd to measure."""
    env = mlxd.environ
    ask = [mlxd.command, "ask", "--max-tokens", "16", "--temp", "0", QUESTION]
    client = [
        str(Path(mlxd.command).with_name("python")),
        str(CLIENTS / "mlxd_client.py"),
        QUESTION,
    ]
    found: dict[str, Measure] = {
        "mlx ask": lambda: until_output(ask, env),
        "mlxd's Python client": lambda: until_output(client, env),
    }
    if program := c_client(folder):
        request = folder / "request"
        params = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16}
        request.write_bytes(
            msgpack.packb([0, 1, "chat", [{**params, "temperature": 0.0, "stream": True}]])
        )
        command = [program, mlxd.daemon.socket_path, str(request)]
        found["C program on mlxd's socket"] = lambda: until_output(command, env)
    return found


def c_client(folder: Path) -> str | None:
    """Compile the C client. Returns None if there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("clang") or shutil.which("gcc")
    if compiler is None:
        return None
    program = str(folder / "client")
    subprocess.run([compiler, "-O2", "-o", program, str(CLIENTS / "client.c")], check=True)
    return program


def server_clients(server: MlxLmServer) -> dict[str, Measure]:
    """Return the command that asks mlx_lm.server with curl, if it is installed."""
    curl = shutil.which("curl")
    if curl is None:
        return {}
    body = (
        '{"model": "default_model", "max_tokens": 16, "stream": true, '
        f'"messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
    )
    url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
    command = [curl, "-sN", url, "-H", "Content-Type: application/json", "-d", body]
    return {"curl to mlx_lm.server": lambda: until_output(command, dict(os.environ), b"data: ")}


def openai_client(server: MlxLmServer) -> Measure:
    script = [places.mlx_python(), str(CLIENTS / "openai_client.py"), str(server.port), QUESTION]
    return lambda: until_output(script, dict(os.environ))


def generate(model: Model) -> Measure:
    """Return the command `mlx_lm.generate`, which prints a line before the answer."""
    command = [places.mlx_python(), "-m", "mlx_lm", "generate", "--model", str(model.path)]
    command += ["--prompt", QUESTION, "--max-tokens", "16"]
    return lambda: until_output(command, places.mlx_environ(), b"==========")


def llm_command(model: Model, folder: Path) -> Measure:
    """Return the command `llm` with a plugin that loads the model in its own process."""
    env = {**places.mlx_environ(), "LLM_USER_PATH": str(folder), "LLM_MLX_MODEL": str(model.path)}
    command = [str(Path(places.mlx_python()).with_name("llm")), "-m", "mlx-in-process", QUESTION]
    return lambda: until_output(command, env)
