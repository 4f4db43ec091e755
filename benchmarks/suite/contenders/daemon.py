"""mlxd itself: a daemon with its own folders."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from suite.contenders.base import START_PATIENCE_S, SocketContender
from suite.machine import resident_bytes
from suite.places import MODELS
from suite.recipes import Model
from suite.wire import MlxdCall
from support.daemon_process import Daemon, Peer


class Mlxd(SocketContender):
    name = "mlxd"

    def __init__(self, model: Model, **settings: str) -> None:
        super().__init__(model)
        self._settings = {"MLXD_PRELOAD": "false", "MLXD_UPGRADE_CHECK_S": "0", **settings}
        self.folder = Path(tempfile.mkdtemp(prefix="mlxd-"))
        self.daemon = Daemon(self.folder, self._settings)
        # As for a user, without the source roots that tests put into PYTHONPATH.
        self.daemon.environ.pop("PYTHONPATH")
        if libraries := os.environ.get("LD_LIBRARY_PATH"):
            self.daemon.environ["LD_LIBRARY_PATH"] = libraries

    @property
    def environ(self) -> dict[str, str]:
        return self.daemon.environ

    @property
    def command(self) -> str:
        """Path of the installed `mlx`."""
        return str(Path(sys.executable).with_name("mlx"))

    def start(self) -> None:
        self.configure()
        self.run_daemon()

    def configure(self) -> None:
        """Write a configuration with the suite's models."""
        config = self.folder / "config"
        config.mkdir(exist_ok=True)
        (config / "config.toml").write_text(
            f'default_model = "{self.model.name}"\n'
            f'[models."{self.model.name}"]\npath = "{self.model.path}"\n'
            + "".join(
                f'[models."{path.name}"]\npath = "{path}"\n'
                for path in MODELS.iterdir()
                if path.is_dir() and path.name not in (self.model.name, "pocket")
            )
        )

    def run_daemon(self) -> None:
        """Start the process and load the model."""
        try:
            self.daemon.start()
        finally:
            self.process = self.daemon.process
        answer = self.ask("load")
        if "error" in answer:
            raise RuntimeError(answer["error"])

    def restart(self) -> None:
        """Stop the daemon as `mlxd restart` does, start another, and load the model."""
        self.daemon.stop()
        self.run_daemon()

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, prompt: str, max_tokens: int, **params: Any) -> MlxdCall:
        return MlxdCall(self.daemon.socket_path, prompt, max_tokens, **params)

    def ask(self, method: str, **params: Any) -> Any:
        with self.daemon.peer() as peer:
            peer.sock.settimeout(START_PATIENCE_S)  # importing MLX takes long on a busy machine
            return peer.call(method, **params)

    def peer(self) -> Peer:
        return self.daemon.peer()

    def engine_pid(self) -> int:
        pid: int = self.ask("status")["engine"]["pid"]
        return pid

    def front_pid(self) -> int:
        assert self.daemon.process is not None
        return self.daemon.process.pid

    def memory(self) -> dict[str, int]:
        return {
            "mlxd front": resident_bytes(self.front_pid()),
            "mlxd engine": resident_bytes(self.engine_pid()),
        }
