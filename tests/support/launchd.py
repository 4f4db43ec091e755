"""A fake launchd. It listens for a job, and starts it for its first caller or at load.

Like the real one, it gives the job only the environment, PATH, umask and output files of its
property list, and no variables of the shell.
"""

from __future__ import annotations

import os
import plistlib
import select
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
TIMEOUT_S = 60.0


class Launchd:
    """One loaded job. `environ` has the variables that launchd adds, such as HOME."""

    def __init__(self, plist: Path, libxpc: Path, environ: Mapping[str, str]) -> None:
        self.about: dict[str, Any] = plistlib.loads(plist.read_bytes())
        self._libxpc = libxpc
        self._environ = environ
        ((self._name, entry),) = self.about["Sockets"].items()
        self.socket_path = Path(entry["SockPathName"])
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.socket_path))
        self.socket_path.chmod(entry["SockPathMode"])
        self.listener.listen()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Launchd:
        if self.about.get("RunAtLoad"):
            self.run()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def serve_first_caller(self) -> None:
        """Wait for a connection, then start the job, which accepts it."""
        assert select.select([self.listener], [], [], TIMEOUT_S)[0], "no client has connected"
        self.run()

    def run(self) -> None:
        errors = os.open(self.about["StandardErrorPath"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        descriptor = self.listener.fileno()
        self.process = subprocess.Popen(
            self.about["ProgramArguments"],
            env={
                "PATH": SYSTEM_PATH,
                **self._environ,
                **self.about["EnvironmentVariables"],
                "XPC_SERVICE_NAME": self.about["Label"],
                # Stands in for the system library of macOS, whose launch_activate_socket returns
                # this descriptor.
                "LD_PRELOAD": str(self._libxpc),
                "FAKE_XPC_FD": str(descriptor),
            },
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            umask=int(self.about["Umask"], 8),
            cwd="/",
            start_new_session=True,
        )
        os.close(errors)
