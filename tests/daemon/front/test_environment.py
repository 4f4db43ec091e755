"""A daemon in a difficult environment: clock jumps, few descriptors, missing variables."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from mlxd.daemon import lock
from mlxd.daemon.front.server.connection import (
    REFUSED_AT_ONCE,
    RESERVED_DESCRIPTORS,
    connections_that_fit,
)
from mlxd.protocol.paths import resolve_paths
from support import needs
from support.commands import BIN
from support.daemon_process import Daemon, Peer, fake_engine_settings, running_daemon, user
from support.fakeclock import FakeClock
from support.places import MLXD, own_environ
from support.waiting import until

YEAR_S = 400 * 24 * 3600  # more than a year, so that the year of a date changes


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S])
def test_clock_jumps_do_not_affect_requests_models_or_conversations(
    tmp_path: Path, jump_s: int
) -> None:
    clock = FakeClock(tmp_path)
    with (
        running_daemon(**clock.environ, MLXD_UPGRADE_CHECK_S="0.1") as daemon,
        daemon.peer() as peer,
    ):
        pid = daemon.ask("load", keep_alive_s=600) and daemon.engine_pid()
        where = {"conversation": "new", "scope": "dir:/x"}
        long = {"max_tokens": 40, "ignore_eos": True, "deadline_s": 100}
        running = peer.send("generate", prompt="Count", stream=True, **long, **where)
        peer.wait_event("delta")
        clock.jump(jump_s)
        result = peer.answer(running)
        assert result["usage"]["completion_tokens"] == 40
        years = {line["time"][:4] for line in daemon.log_lines()}
        assert len(years) == 2, "the daemon's clock did not jump"
        assert 0 <= result["timing"]["decode_s"] < 100
        last = peer.call("generate", prompt="Count", max_tokens=1, **where)["conversation"]
        assert last != result["conversation"]
        again = peer.call("generate", prompt=" on", max_tokens=1, conversation="last",
                          scope="dir:/x")  # fmt: skip
        assert again["conversation"] == last, "the newest conversation is continued"
        status = daemon.ask("status")
        assert status["uptime_s"] < 600
        assert (status["engine"]["pid"], status["engine"]["restarts"]) == (pid, 0)
        assert [model["keep_alive_s"] for model in status["models"]] == [600]
        clock.jump(0)
        assert peer.call("generate", prompt="Count", max_tokens=2)["choices"]


def test_the_connection_limit_leaves_descriptors_for_engine_and_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for hard, wanted, served in [(100_000, 2048, 2048), (256, 2048, 176), (40, 2048, 1)]:
        limits = (hard, hard)
        monkeypatch.setattr(resource, "getrlimit", lambda _what, limits=limits: limits)
        monkeypatch.setattr(resource, "setrlimit", lambda _what, _limits: None)
        assert connections_that_fit(wanted) == served


def start_with_descriptors(daemon: Daemon, descriptors: int) -> None:
    """Start a daemon with a limit on file descriptors."""
    command = f'ulimit -n {descriptors}; exec "$@"'
    ready, tell = os.pipe()
    daemon.spawn(["sh", "-c", command, "sh", *MLXD, "run"], [tell], MLXD_READY_FD=str(tell))
    os.close(tell)
    assert os.read(ready, 100) == b"ready\n"
    os.close(ready)


def test_connections_over_the_descriptor_limit_are_refused(tmp_path: Path) -> None:
    descriptors = RESERVED_DESCRIPTORS + 12
    daemon = Daemon(tmp_path, fake_engine_settings())
    start_with_descriptors(daemon, descriptors)
    crowd: list[Peer] = []
    try:
        with daemon.peer() as first:
            assert first.call("hello")["limits"]["max_connections"] == 12
            crowd = [daemon.peer() for _ in range(4 * REFUSED_AT_ONCE + 12)]
            # The engine and the database are opened while all descriptors are in use.
            answer = first.call("chat", messages=user("3 tokens"), conversation="new")
            assert answer["usage"]["completion_tokens"] == 3
            assert answer["conversation"]
            assert [peer.call("ping") for peer in crowd[:11]] == [{"pong": True}] * 11
            refused = [outcome(peer) for peer in crowd[11:]]
            assert refused.count("overloaded") >= REFUSED_AT_ONCE
            assert set(refused) <= {"overloaded", "hung up"}
            for peer in crowd:
                peer.sock.close()
            until(lambda: first.call("status")["connections"] == 1, "the others are closed")
            assert daemon.ask("ping") == {"pong": True}
            assert not [line for line in daemon.log_lines() if line["event"] == "unexpected"]
            assert first.call("status")["engine"]["restarts"] == 0
        assert daemon.stop() == 0
    finally:
        for peer in crowd:
            peer.sock.close()
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()


def outcome(peer: Peer) -> str:
    """Return the error code of a refused connection, or "hung up"."""
    with contextlib.suppress(ConnectionError):
        peer.send("ping")
    try:
        message = peer.message()
    except (EOFError, ConnectionError):
        return "hung up"
    assert message.error is not None
    return str(message.error["code"])


def run_as_unknown_user(script: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script as a user without a passwd entry, in the C locale, without other variables."""
    namespace = ["unshare", "--user", "--map-user=12345"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        needs.missing("may not make a user namespace")
    return subprocess.run(
        [*namespace, "sh", "-ec", script],
        env={"PATH": f"{BIN}:/usr/bin:/bin", "LC_ALL": "C", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
        cwd="/",
        encoding="utf-8",
    )


def test_mlxd_works_without_home_user_entry_and_locale(tmp_path: Path) -> None:
    """Without HOME, a passwd entry and a locale, mlxd works if its folders are configured."""
    places = {name: text for name, text in own_environ(tmp_path).items() if name[:5] == "MLXD_"}
    script = """
        mlxd start
        mlx ask "Count from 3 to 5."
        mlx ask --no-stream "größe" >/dev/null
        mlx log search größe
        mlxd status >/dev/null
        mlxd doctor >/dev/null || [ $? = 1 ]
        mlxd logs -n 1 >/dev/null
        mlxd uninstall
        mlxd stop
    """
    try:
        done = run_as_unknown_user(script, places)
    finally:
        left = lock.holder(resolve_paths(places).lock_file)
        if left is not None:
            os.kill(left, signal.SIGKILL)
    assert left is None
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3, 4, 5\n")
    assert "größe" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    ["mlxd status", "mlxd start", "mlxd run", "mlxd doctor", "mlxd install", "mlxd stop",
     "mlxd logs", "mlx ask hi", "mlx ps", "mlx models list"],
)  # fmt: skip
def test_commands_report_a_missing_home_directory(command: str) -> None:
    done = run_as_unknown_user(command, {})
    assert done.returncode == 6
    assert "HOME is not set, and user 12345 has no home directory" in done.stderr
    assert "Set HOME" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("/~").exists()
