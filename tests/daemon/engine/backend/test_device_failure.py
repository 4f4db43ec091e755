"""A failed command buffer ends the engine, and nothing that it may have spoilt is stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache

from mlxd.daemon.engine.__main__ import EXIT_DEVICE_FAILED
from mlxd.daemon.engine.backend.shortages import device_failure, out_of_gpu_memory
from mlxd.daemon.engine.kvcache import prefix_cache
from mlxd.daemon.engine.kvcache.prefix_cache import PrefixCache
from mlxd.daemon.engine.options import EngineOptions
from mlxd.protocol.errors import InvalidParams, ModelLoadFailed
from support.engine_process import POCKET, EngineProcess, engine_environment

MEMORY = (
    "[METAL] Command buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)."
)
TIMEOUT = (
    "[METAL] Command buffer execution failed: Caused GPU Timeout Error "
    "(00000002:kIOGPUCommandBufferCallbackErrorTimeout)."
)
FAULTY = """
import os
import mlx.core as mx

real = mx.eval


def eval_until_the_gpu_fails(*arrays):
    real(*arrays)
    flag = os.environ["GPU_FAILS"]
    if os.path.exists(flag):
        raise RuntimeError(open(flag).read())


mx.eval = eval_until_the_gpu_fails
"""
LONG = "Tell me about rivers, stones and birds, and count all of them from one to nine. " * 4


@pytest.mark.parametrize("text", [MEMORY, TIMEOUT, "CUDA error: an illegal memory access"])
def test_errors_of_a_gpu_are_told_from_others(text: str) -> None:
    wrapped = ModelLoadFailed("pocket cannot be loaded.")
    wrapped.__cause__ = RuntimeError(text)
    assert device_failure(RuntimeError(text))
    assert device_failure(wrapped)
    assert out_of_gpu_memory(RuntimeError(text)) is (text == MEMORY)
    assert not device_failure(ValueError("[reshape] Cannot reshape array of size 6"))
    assert not device_failure(InvalidParams("n", "metal is no number"))


@contextmanager
def faulty_engine(tmp_path: Path) -> Iterator[tuple[EngineProcess, Path, Path]]:
    """Run an engine whose evaluations fail once the flag has the text of an error."""
    (tmp_path / "sitecustomize.py").write_text(FAULTY)
    flag, prompts = tmp_path / "flag", tmp_path / "prompts"
    path = f"{tmp_path}:{engine_environment()['PYTHONPATH']}"
    engine = EngineProcess(
        EngineOptions(prefix_cache_dir=str(prompts)),
        environ={"PYTHONPATH": path, "GPU_FAILS": str(flag)},
    )
    try:
        yield engine, flag, prompts
    finally:
        engine.close()


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_an_engine_whose_gpu_lacks_memory_ends_and_stores_nothing_more(tmp_path: Path) -> None:
    with faulty_engine(tmp_path) as (engine, flag, prompts):
        assert "error" not in engine.ask("hello", max_tokens=2)
        engine.call("stats")  # answered after that prompt is stored
        flag.write_text(MEMORY)
        result = engine.ask(LONG, max_tokens=4)
        assert result["error"]["code"] == "out_of_memory"
        assert "Insufficient Memory" in result["error"]["message"]
        assert engine.process.wait(30) == EXIT_DEVICE_FAILED
        assert files(prompts) == set()


def test_after_another_failure_of_the_gpu_the_front_decides_about_the_requests(
    tmp_path: Path,
) -> None:
    with faulty_engine(tmp_path) as (engine, flag, prompts):
        engine.call("load", model={"name": "pocket", "path": str(POCKET)})
        flag.write_text(TIMEOUT)
        request = engine.submit(messages=[{"role": "user", "content": LONG}], max_tokens=4)
        with pytest.raises(EOFError):
            engine.result(request)
        assert engine.process.wait(30) == EXIT_DEVICE_FAILED
        assert files(prompts) == set()


def test_a_prompt_is_written_only_after_the_gpu_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed() -> None:
        raise RuntimeError(MEMORY)

    monkeypatch.setattr(prefix_cache, "check_device", failed)
    cache = PrefixCache(1 << 24, tmp_path, 1 << 24)
    layer = KVCache()
    layer.update_and_fetch(mx.zeros((1, 1, 80, 4)), mx.zeros((1, 1, 80, 4)))
    cache.store_later("model", list(range(80)), [layer])
    with pytest.raises(RuntimeError, match="Insufficient Memory"):
        cache.store_pending()
    cache.flush(5.0)
    assert files(tmp_path) == set()
