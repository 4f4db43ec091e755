"""Fixtures and hooks for all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.leftovers import (
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
from support.order import pytest_collection_modifyitems
from support.real_model import real_model_folder

__all__ = [
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "real_model",
]

# A shell that runs the tests in the background makes them and their children ignore SIGINT.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_model() -> Path:
    """Return the folder of SmolLM2-135M-Instruct. Mark its tests `real`."""
    return real_model_folder()
