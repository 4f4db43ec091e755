"""The compute thread never waits for the compiler: a separate builder compiles kernels."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlxd.daemon.engine.backend.cpu.compiling import compile_nothing, kernel
from support import kernels
from support.engine_process import POCKET, EngineProcess
from support.needs import linux_only
from support.real_model import as_ref
from support.waiting import until

pytestmark = linux_only
COMPILER = """#!{python} -IS
import os, sys
if "--version" in sys.argv:  # MLX asks once whether there is a compiler
    raise SystemExit(0)
def of(pid, what):
    with open(f"/proc/{{pid}}/{{what}}", "rb") as file:
        return file.read().decode()
pid, above = os.getpid(), []
while pid > 1:
    pid = int(of(pid, "stat").rpartition(")")[2].split()[1])
    above.append(of(pid, "cmdline").replace("\\0", " "))
policy = os.sched_getscheduler(0)
with open({log!r}, "a") as log:
    log.write(f"{{policy == os.SCHED_IDLE}} {{' < '.join(above)}}".replace(chr(10), " ") + chr(10))
raise SystemExit(1)
"""


@pytest.fixture
def compiler(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """Return an environment whose g++ logs its caller and fails, and the path of the log."""
    notes = tmp_path / "calls"
    notes.touch()
    program = tmp_path / "bin" / "g++"
    program.parent.mkdir()
    program.write_text(COMPILER.format(python=sys.executable, log=str(notes)))
    program.chmod(0o700)
    return {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}, notes


@contextmanager
def engine_with(environ: dict[str, str]) -> Iterator[EngineProcess]:
    engine = EngineProcess(timeout_s=110, environ=environ)
    try:
        yield engine
    finally:
        engine.close()


def ask_in_all_shapes(engine: EngineProcess, ref: dict[str, Any]) -> None:
    """Send one sequence and several, short and long prompts, greedy and sampled requests."""
    long = "red green blue " * 60
    sampled = {"n": 3, "temperature": 0.7, "top_p": 0.9, "min_p": 0.01, "top_k": 9}
    ways: list[dict[str, Any]] = [{}, sampled]
    asked = [
        engine.submit(messages=[{"role": "user", "content": text}], model=ref, max_tokens=3, **more)
        for text in ("hello", long)
        for more in ways
    ]
    for request_id in asked:
        assert "error" not in engine.result(request_id)


def test_only_the_kernel_builder_calls_the_compiler_at_idle_priority(
    compiler: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    environ, notes = compiler
    fresh = tmp_path / "kernels"
    fresh.mkdir(mode=0o700)
    with engine_with({**environ, "TMPDIR": str(fresh)}) as engine:
        ask_in_all_shapes(engine, {"name": "pocket", "path": str(POCKET)})
        until(lambda: notes.read_text() != "", "no kernel was built", timeout_s=100)
    calls = notes.read_text().splitlines()
    assert all(kernels.BUILDER in call for call in calls), (
        "the engine's own thread waited for a compiler"
    )
    assert all(call.startswith("True ") for call in calls)


@pytest.mark.parametrize("which", ["pocket", pytest.param("real", marks=pytest.mark.real)])
def test_no_process_calls_the_compiler_once_kernels_are_built(
    which: str, compiler: tuple[dict[str, str], Path], request: pytest.FixtureRequest
) -> None:
    kernels.main()
    folder = POCKET if which == "pocket" else request.getfixturevalue("real_model")
    environ, notes = compiler
    with engine_with(environ) as engine:
        ask_in_all_shapes(engine, as_ref(folder))
    assert notes.read_text() == ""


def test_kernels_are_compiled_even_if_mlx_compile_is_disabled(tmp_path: Path) -> None:
    def twice(x: mx.array) -> mx.array:
        return mx.abs(x) + mx.abs(x)

    def is_compiled(function: Any) -> bool:
        graph = tmp_path / "graph"
        mx.export_to_dot(str(graph), function(mx.ones((2,))))
        return "Compiled" in graph.read_text()

    compile_nothing()
    try:
        assert is_compiled(kernel(twice))
        assert not is_compiled(mx.compile(twice, shapeless=True))
    finally:
        mx.enable_compile()
