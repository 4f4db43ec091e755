"""Upkeep of the daemon: new code on disk, models over a restart, sleep of the machine."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from mlxd.daemon.config import Config
from mlxd.daemon.front import upkeep
from mlxd.daemon.front.app import Front
from mlxd.daemon.front.server.listener import open_listener
from mlxd.daemon.front.upkeep import ASLEEP_S, SleepWatch, UpgradeWatch, code_folders, code_state
from mlxd.protocol.paths import resolve_paths
from support.daemon_process import FAKE_ENGINE, Daemon, daemon_with_fake_engine, running_daemon
from support.places import mlxd, own_environ
from support.sources import PARTS, copy_sources, touch
from support.waiting import PATIENCE_S, until


def test_an_upgrade_is_due_once_the_code_has_stopped_changing() -> None:
    states = iter(["old", "old", "half", "new", "new", "new", "newer", "newer"])
    watch = UpgradeWatch(lambda: next(states))
    assert [watch.due() for _ in range(4)] == [False, False, False, True]
    watch.refuse()
    assert [watch.due() for _ in range(3)] == [False, False, True]


def test_code_state_covers_every_source_file(tmp_path: Path) -> None:
    names = {folder.parent.name for folder in code_folders()}
    assert set(PARTS) <= names
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.py").write_text("1")
    before = code_state([tmp_path])
    (tmp_path / "deep" / "notes.txt").write_text("no code")
    assert code_state([tmp_path]) == before
    (tmp_path / "deep" / "a.py").write_text("12")
    assert code_state([tmp_path]) != before


def test_a_machine_sleep_is_detected_once() -> None:
    readings = iter([5.0, 5.0, 5.5, 5.5 + ASLEEP_S + 1, 5.5 + ASLEEP_S + 1, 0.0])
    watch = SleepWatch(lambda: next(readings))
    assert [watch.woke() for _ in range(5)] == [False, False, True, False, False]


def test_new_code_replaces_the_daemon_when_it_is_idle(tmp_path: Path) -> None:
    settings = {"PYTHONPATH": copy_sources(tmp_path), "MLXD_UPGRADE_CHECK_S": "0.1"}
    with daemon_with_fake_engine(**settings) as daemon:
        daemon.ask("load", model="pocket")
        before = daemon.ask("status")
        engine = before["engine"]["pid"]
        broken = tmp_path / "daemon" / "mlxd" / "daemon" / "front" / "app.py"
        good = broken.read_text()
        broken.write_text("this is no Python\n")
        daemon.wait_event("upgrade does not start")
        assert daemon.ask("status")["engine"]["pid"] == engine, "broken code was taken"
        broken.write_text(good + "\n# newer\n")
        answers = 0

        def again() -> bool:
            # No request is refused during the upgrade: every one gets an answer.
            nonlocal answers
            assert ask_patiently(daemon)
            answers += 1
            return daemon.logged(event="ready") > 1

        until(again, "the daemon becomes another")
        until(lambda: daemon.ask("status")["models"], "the model is loaded again")
        after = daemon.ask("status")
        assert after["pid"] == before["pid"], "the service manager must see the same process"
        assert after["engine"]["pid"] != engine
        assert [one["model"] for one in after["models"]] == ["pocket"]
        assert daemon.stop() == 0
        assert not Path(daemon.socket_path).exists()


def test_an_upgrade_that_rejects_the_configuration_is_not_applied(tmp_path: Path) -> None:
    settings = {"PYTHONPATH": copy_sources(tmp_path), "MLXD_UPGRADE_CHECK_S": "0.1"}
    with daemon_with_fake_engine(**settings) as daemon:
        config = Path(daemon.environ["MLXD_CONFIG_DIR"]) / "config.toml"
        config.parent.mkdir()
        config.write_text("no_longer_known = 1\n")
        touch(tmp_path, "daemon/mlxd/daemon/version.py")
        daemon.wait_event("upgrade does not start")
        assert daemon.ask("ping") == {"pong": True}
        done = mlxd(daemon.environ, "run", "--check")
        assert done.returncode == 2
        assert "no_longer_known" in done.stderr
        config.unlink()
        assert mlxd(daemon.environ, "run", "--check").returncode == 0


def ask_patiently(daemon: Daemon) -> bool:
    """Ping, once more if the upgrade closed the connection. Connecting never fails."""
    try:
        return bool(daemon.ask("ping")["pong"])
    except (EOFError, ConnectionError):
        return bool(daemon.ask("ping")["pong"])


def test_a_busy_daemon_is_not_replaced(tmp_path: Path) -> None:
    settings = {"PYTHONPATH": copy_sources(tmp_path), "MLXD_UPGRADE_CHECK_S": "0.05"}
    with daemon_with_fake_engine(**settings) as daemon, daemon.peer() as peer:
        one = peer.send("generate", prompt="endless", stream=True)
        peer.wait_event("delta")
        touch(tmp_path, "daemon/mlxd/daemon/version.py")
        for _ in range(200):
            peer.wait_event("delta")
        assert sum(line["event"] == "ready" for line in daemon.log_lines()) == 1
        peer.notify("cancel", id=one)
        until(
            lambda: ask_patiently(daemon) and daemon.logged(event="ready") > 1,
            "the daemon becomes another",
        )


def test_a_restart_loads_the_same_models(tmp_path: Path) -> None:
    with running_daemon(tmp_path, MLXD_PRELOAD="false") as daemon:
        daemon.ask("load", model="pocket", keep_alive_s=77.0, pin=True)
        assert mlxd(daemon.environ, "restart").returncode == 0
        assert daemon.process is not None
        assert daemon.process.wait(20) == 0
        try:
            until(lambda: daemon.ask("ps")["models"], "the model is loaded again")
            models = daemon.ask("ps")["models"]
            assert [(m["model"], m["keep_alive_s"], m["pinned"]) for m in models] == [
                ("pocket", 77.0, True)
            ]
        finally:
            assert mlxd(daemon.environ, "stop").returncode == 0
        daemon.start()
        assert daemon.ask("ps")["models"] == [], "only a restart loads models again"


def front_that_slept(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run a front whose machine sleeps once; return the engine's pids and the states seen."""
    environ = own_environ(tmp_path)
    (tmp_path / "config").mkdir()
    command = [*FAKE_ENGINE, "--script", script]
    monkeypatch.setenv("MLXD_ENGINE_COMMAND", str(command).replace("'", '"'))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr("mlxd.daemon.front.duties.CANARY_TIMEOUT_S", 0.3)
    monkeypatch.setattr("mlxd.daemon.front.upkeep.WAKE_CHECK_S", 0.02)
    slept = 0.0
    paths = resolve_paths(environ)
    listener = open_listener(paths)
    seen: list[str] = []

    async def story() -> None:
        nonlocal slept
        front = Front(Config(preload=False), paths, listener, SleepWatch(lambda: slept))
        supervisor, lifecycle = front.services.supervisor, front.services.lifecycle
        running = asyncio.ensure_future(front.run(None))
        ref = front.services.catalog.resolve("pocket").to_map()
        load = {"model": ref, "keep_alive_s": None, "pin": False}
        await supervisor.call("load", load)
        seen.append(str(supervisor.pid))
        slept += 3600
        async with asyncio.timeout(PATIENCE_S):
            while not (lifecycle.state() == "checking" or supervisor.restarts):
                await asyncio.sleep(0)
            seen.append(lifecycle.state())
            while lifecycle.state() == "checking":
                await asyncio.sleep(0)
        await supervisor.call("load", load)
        seen.append(str(supervisor.pid))
        seen.append(lifecycle.state())
        lifecycle.begin_shutdown(0.0)
        await running

    asyncio.run(asyncio.wait_for(story(), 30))
    listener.close()
    return seen


def test_after_a_sleep_the_engine_computes_a_token_before_it_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, during, after, state = front_that_slept(tmp_path, "", monkeypatch)
    assert (during, state) == ("checking", "ready")
    assert after == before


def test_an_engine_that_fails_after_a_sleep_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, during, after, state = front_that_slept(tmp_path, "dead-after-sleep", monkeypatch)
    assert (during, state) == ("checking", "ready")
    assert after != before


def test_the_real_engine_computes_the_canary_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = resolve_paths(own_environ(tmp_path))
    listener = open_listener(paths)

    async def story() -> int:
        front = Front(Config(), paths, listener)
        ref = front.services.catalog.resolve("pocket").to_map()
        load = {"model": ref, "keep_alive_s": None, "pin": False}
        await front.services.supervisor.call("load", load)
        answer = await front.services.supervisor.call("canary", {})
        await front.services.supervisor.stop()
        return int(answer["models"])

    (tmp_path / "log").mkdir(exist_ok=True)
    assert asyncio.run(asyncio.wait_for(story(), 60)) == 1
    listener.close()


def test_a_failing_upkeep_task_does_not_stop_the_others() -> None:
    done: list[str] = []
    failed: list[Exception] = []

    async def fails() -> None:
        raise OSError(24, "too many open files")

    async def woke() -> None:
        done.append("woke")

    async def watch() -> None:
        readings = iter([0.0, *(ASLEEP_S * 10 * number for number in range(1, 100))])
        task = asyncio.ensure_future(
            upkeep.watch(
                upgrade_check_s=0.01,
                idle=lambda: True,
                upgrade=lambda: None,
                refused=lambda: None,
                woke=woke,
                failed=failed.append,
                sleep=SleepWatch(lambda: next(readings)),
                upgrades=UpgradeWatch(lambda: "same"),
                also=fails,
            )
        )
        while len(done) < 2:
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(watch())
    assert len(failed) >= 2
    assert all(isinstance(one, OSError) for one in failed)
