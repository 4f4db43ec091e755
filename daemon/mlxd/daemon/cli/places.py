"""The service of this user."""

from __future__ import annotations

import os
import sys

from mlxd.launchd.factory import service_for
from mlxd.launchd.http import HttpService, http_service_for
from mlxd.launchd.service import Service, run_command
from mlxd.launchd.spec import ServiceSpec, stable_python
from mlxd.protocol.paths import Paths


def current_service(paths: Paths, *, at_login: bool = False) -> Service:
    """Return the service for these paths, which need not be installed."""
    spec = ServiceSpec(paths, stable_python(sys.executable, os.path.exists), at_login)
    return service_for(spec, os.environ)


def current_http_service(paths: Paths) -> HttpService:
    """Return the service of the HTTP bridge for these paths, which need not be installed."""
    spec = ServiceSpec(paths, stable_python(sys.executable, os.path.exists))
    return http_service_for(spec, os.environ, platform=sys.platform, runner=run_command)
