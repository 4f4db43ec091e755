"""Finds the running HTTP bridge of this user, or starts one."""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from mlxd.protocol.errors import DaemonUnreachable, MlxdError, ModelNotFound
from mlxd.protocol.paths import Paths

READY_FD = "MLXD_READY_FD"
START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 60.0
NO_KEY = "mlxd"
"""Sent where the bridge needs no key, because many tools insist on one."""


class BridgeFailed(MlxdError):
    """The HTTP bridge did not start."""

    code = "start_failed"
    exit_code = 3
    default_hint = "Read its messages in the foreground: mlxd http"


def running(paths: Paths) -> str | None:
    """Return the URL of the running bridge. The file is its owner's, so no stranger wrote it."""
    try:
        descriptor = os.open(paths.http_file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.read(descriptor, 256).decode("ascii", "replace").strip() or None
    else:
        return None  # nobody holds the lock: the bridge has ended
    finally:
        os.close(descriptor)


def start(paths: Paths) -> str:
    """Start a bridge in the background and return its URL.

    Raises:
        BridgeFailed: it did not start.
    """
    beside = Path(sys.executable).with_name("mlxd")
    command = [str(beside)] if beside.exists() else [sys.executable, "-I", "-m", "mlxd.daemon.cli"]
    paths.log_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    said = os.open(paths.log_dir / "http.err", flags, 0o600)
    ready, tell = os.pipe()
    try:
        process = subprocess.Popen(
            [*command, "http"],
            env={**os.environ, READY_FD: str(tell)},
            pass_fds=(tell,),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(tell)
    try:
        return _url(process, ready, said)
    finally:
        os.close(ready)
        os.close(said)


def _url(process: subprocess.Popen[bytes], ready: int, said: int) -> str:
    url = ""
    if select.select([ready], [], [], START_TIMEOUT_S)[0]:
        url = os.read(ready, 256).decode().strip()
    if not url:
        process.kill()
        process.wait()
        text = os.pread(said, 4096, 0).decode(errors="replace").strip()
        raise BridgeFailed(f"The HTTP bridge did not start. {text.removeprefix('mlxd: ')}")
    process.returncode = 0  # it lives on after this process
    return url


def key_of(paths: Paths) -> str:
    """Return the API key, or a word where none was ever needed."""
    try:
        return paths.http_key_file.read_text("ascii").strip() or NO_KEY
    except OSError:
        return NO_KEY


def ask(url: str, key: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send a request to the bridge and return its JSON.

    Raises:
        ModelNotFound: the bridge does not know the model.
        DaemonUnreachable: the bridge does not answer.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}{path}", data, {"authorization": f"Bearer {key}"})
    # Not through a proxy of the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_TIMEOUT_S) as response:
            found = json.load(response)
    except urllib.error.HTTPError as exc:
        with exc:
            text = str(json.load(exc).get("error"))
        kind = ModelNotFound if exc.code == 404 else DaemonUnreachable
        raise kind(text, hint="List the models: mlx models list") from None
    except OSError as exc:
        raise DaemonUnreachable(f"The HTTP bridge at {url} does not answer: {exc}.") from exc
    assert isinstance(found, dict)
    return found
