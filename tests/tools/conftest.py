"""Make the scripts of the built-in model's recipe importable: they are not a package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tools" / "pocket"))
