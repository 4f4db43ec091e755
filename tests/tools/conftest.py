"""Makes the recipe of the built-in model importable; it is a folder of scripts, not a package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tools" / "pocket"))
