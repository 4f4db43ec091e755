"""The configuration in force, and the catalogue of models that results from it."""

from __future__ import annotations

from mlxd.daemon.config import Config
from mlxd.daemon.models.catalog import Catalog
from mlxd.protocol.paths import Paths


class Configuration:
    """Holds one `Config` and its `Catalog`; `replace` changes both together."""

    def __init__(self, config: Config, paths: Paths) -> None:
        self.paths = paths
        self.config = config
        self.catalog = Catalog(config, own_dir=paths.models_dir)

    def replace(self, config: Config) -> None:
        """Use a configuration with other aliases or another default model."""
        self.config = config
        self.catalog = Catalog(config, own_dir=self.paths.models_dir)
