"""The service of this user, as the commands need it."""

from __future__ import annotations

import os
import sys

from mlxd.launchd.factory import service_for
from mlxd.launchd.service import Service
from mlxd.launchd.spec import ServiceSpec, stable_python
from mlxd.protocol.paths import Paths


def current_service(paths: Paths, *, at_login: bool = False) -> Service:
    """Return this platform's service for these paths, installed or not."""
    spec = ServiceSpec(paths, stable_python(sys.executable, os.path.exists), at_login)
    return service_for(spec, os.environ)
