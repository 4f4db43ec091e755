"""What tests of every part may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.leftovers import (
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
from support.real_model import real_model_folder

__all__ = ["pytest_configure", "pytest_sessionfinish", "pytest_terminal_summary", "real_model"]


@pytest.fixture(scope="session")
def real_model() -> Path:
    """Return the folder of SmolLM2-135M-Instruct. Mark its tests `real`."""
    return real_model_folder()
