"""The version of mlxd. Imports nothing, so that the build can read it."""

from __future__ import annotations

VERSION = "0.2.0"
"""The version of this release. `tests/packaging/test_version.py` holds the manifests to it."""
