"""Shortages of memory, threads and descriptors are distinguished from other errors."""

from __future__ import annotations

import pytest

from mlxd.daemon.engine.backend.shortages import as_error
from mlxd.protocol.errors import InvalidParams, ModelLoadFailed


@pytest.mark.parametrize(
    "exc",
    [
        MemoryError(),
        OSError(24, "Too many open files"),
        BlockingIOError(11, "Resource temporarily unavailable"),
        RuntimeError("can't start new thread"),
        RuntimeError("[malloc_or_wait] Unable to allocate 4096 bytes."),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_resource_shortages_become_out_of_memory(exc: Exception) -> None:
    assert as_error(exc).code == "out_of_memory"


def test_other_exceptions_become_internal_and_known_errors_are_kept() -> None:
    assert as_error(KeyError("layers")).code == "internal"
    assert as_error(OSError(2, "No such file")).code == "internal"
    assert as_error(InvalidParams("n", "must be 1")).code == "invalid_params"


def test_a_load_error_caused_by_missing_descriptors_is_out_of_memory() -> None:
    error = ModelLoadFailed("config.json cannot be read.")
    error.__cause__ = OSError(24, "Too many open files")
    assert as_error(error).code == "out_of_memory"
    error.__cause__ = OSError(13, "Permission denied")
    assert as_error(error) is error
