"""The objects that handlers use. Only `app.py` constructs it."""

from __future__ import annotations

from dataclasses import dataclass

from mlxd.daemon.config import Config
from mlxd.daemon.front.awake import Awake
from mlxd.daemon.front.configuration import Configuration
from mlxd.daemon.front.engine.supervisor import Supervisor
from mlxd.daemon.front.finder import Finder
from mlxd.daemon.front.hub import HubWorkers
from mlxd.daemon.front.lifecycle import Lifecycle
from mlxd.daemon.front.log import Log
from mlxd.daemon.front.metrics import Metrics
from mlxd.daemon.front.recorder import Recorder
from mlxd.daemon.front.requests import Requests
from mlxd.daemon.front.server.admission import Connections
from mlxd.daemon.models.catalog import Catalog
from mlxd.protocol.paths import Paths


@dataclass(frozen=True, slots=True)
class Services:
    """The front's parts, complete when constructed."""

    configuration: Configuration
    lifecycle: Lifecycle
    connections: Connections
    models: Finder
    requests: Requests
    supervisor: Supervisor
    recorder: Recorder
    hub: HubWorkers
    metrics: Metrics
    awake: Awake
    log: Log

    @property
    def config(self) -> Config:
        return self.configuration.config

    @property
    def catalog(self) -> Catalog:
        return self.configuration.catalog

    @property
    def paths(self) -> Paths:
        return self.configuration.paths
