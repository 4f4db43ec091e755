"""The launchd agent with a fake launchctl."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mlxd.launchd.agent import GIVE_UP_S, INPUT_OUTPUT_GIVE_UP_S, RETRY_S, LaunchdService
from mlxd.launchd.service import ManagerUnreachable, Outcome, ServiceError, run_command
from mlxd.launchd.spec import ServiceSpec

FAKE_LAUNCHCTL = Path(__file__).with_name("launchctl")
JOB = "gui/501/mlxd.daemon"


@cache
def stand_in() -> Any:
    """Return the stand-in launchctl as a module: a process for each of its answers is slow."""
    loader = SourceFileLoader("stand_in_launchctl", str(FAKE_LAUNCHCTL))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module


class FakeLaunchd:
    """The state of the fake launchctl, and a clock that advances only in `sleep`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now_s = 0.0
        root.mkdir()

    def run(self, command: Sequence[str]) -> Outcome:
        """Run the stand-in in this process. These tests call it some 700 times."""
        assert command[0] == "launchctl"
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            status = stand_in().main(*command[1:])
        return Outcome(status, said.getvalue().strip())

    def run_program(self, command: Sequence[str]) -> Outcome:
        """Run the stand-in as a program, as the agent runs launchctl."""
        return run_command([sys.executable, "-I", "-S", str(FAKE_LAUNCHCTL), *command[1:]])

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def now(self) -> float:
        return self.now_s

    def set(self, **state: Any) -> None:
        self.file.write_text(json.dumps({**self.state, **state}))

    @property
    def file(self) -> Path:
        return self.root / "state.json"

    @property
    def state(self) -> dict[str, Any]:
        state = json.loads(self.file.read_text()) if self.file.exists() else {}
        assert isinstance(state, dict)
        return state

    def calls(self) -> list[str]:
        return (self.root / "calls").read_text().splitlines()


@pytest.fixture
def launchd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLaunchd:
    monkeypatch.setenv("FAKE_LAUNCHD", str(tmp_path / "launchd"))
    monkeypatch.setenv("FAKE_UID", "501")
    return FakeLaunchd(tmp_path / "launchd")


def service(spec: ServiceSpec, launchd: FakeLaunchd) -> LaunchdService:
    agents = spec.paths.state_dir.parent / "LaunchAgents"
    return LaunchdService(spec, agents, 501, launchd.run, sleep=launchd.sleep, now=launchd.now)


@pytest.fixture
def agent(spec: ServiceSpec, launchd: FakeLaunchd) -> LaunchdService:
    return service(spec, launchd)


def everything_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_install_loads_a_job_that_starts_on_demand(
    agent: LaunchdService, launchd: FakeLaunchd
) -> None:
    assert agent.install()
    assert launchd.state["jobs"] == {JOB: {"leaving": None, "runs": 0}}
    assert agent.plist_path.stat().st_mode & 0o777 == 0o644
    state = agent.state()
    assert (state.installed, state.loaded, state.at_login) == (True, True, False)


def test_the_stand_in_answers_alike_as_a_program(
    agent: LaunchdService, launchd: FakeLaunchd
) -> None:
    agent.install()
    for command in (["launchctl", "print", JOB], ["launchctl", "kickstart", f"{JOB}.other"]):
        assert launchd.run_program(command) == launchd.run(command)
    assert launchd.run_program(["launchctl", "bootout", JOB]) == Outcome(0)
    assert launchd.state["jobs"][JOB]["leaving"] == 0


def test_install_at_login_starts_the_job_at_once(spec: ServiceSpec, launchd: FakeLaunchd) -> None:
    agent = service(dataclasses.replace(spec, at_login=True), launchd)
    agent.install()
    assert launchd.state["jobs"][JOB]["runs"] == 1
    assert agent.state().at_login


def test_a_second_install_changes_nothing(agent: LaunchdService, launchd: FakeLaunchd) -> None:
    agent.install()
    written = agent.plist_path.stat().st_mtime_ns
    assert not agent.install()
    assert agent.plist_path.stat().st_mtime_ns == written
    assert len([call for call in launchd.calls() if call.startswith("bootstrap")]) == 1


def test_an_upgrade_waits_until_the_old_job_has_ended(
    agent: LaunchdService, spec: ServiceSpec, launchd: FakeLaunchd
) -> None:
    agent.install()
    launchd.set(leaving=5)
    newer = service(dataclasses.replace(spec, at_login=True), launchd)
    assert newer.install()
    assert launchd.state["jobs"][JOB] == {"leaving": None, "runs": 1}
    assert launchd.now_s > 0


@pytest.mark.parametrize("status", [5, 36, 37])
def test_bootstrap_is_retried_while_the_old_job_ends(
    agent: LaunchdService, launchd: FakeLaunchd, status: int
) -> None:
    launchd.set(lingers=[status, status])
    agent.install()
    assert launchd.state["lingers"] == []
    assert launchd.now_s == pytest.approx(2 * RETRY_S)
    assert agent.state().loaded


@pytest.mark.parametrize("status", [36, 37])
def test_bootstrap_is_given_up_after_30_seconds(
    agent: LaunchdService, spec: ServiceSpec, launchd: FakeLaunchd, status: int
) -> None:
    launchd.set(lingers=[status] * 100)
    with pytest.raises(ServiceError, match=f"status {status}") as caught:
        agent.install()
    assert "Try again in a minute" in caught.value.hint
    assert launchd.now_s == pytest.approx(GIVE_UP_S)
    assert everything_below(spec.paths.state_dir.parent) == set()


def test_where_bootstrap_keeps_answering_5_the_agent_is_loaded_the_old_way(
    agent: LaunchdService, launchd: FakeLaunchd
) -> None:
    launchd.set(stubborn=True)
    assert agent.install()
    assert launchd.now_s == pytest.approx(INPUT_OUTPUT_GIVE_UP_S)
    assert agent.state().loaded
    launchd.set(jobs={})
    agent.start()
    assert launchd.state["jobs"][JOB]["runs"] == 1


def test_where_nothing_loads_the_agent_the_next_step_is_told(
    agent: LaunchdService, spec: ServiceSpec, launchd: FakeLaunchd
) -> None:
    launchd.set(stubborn=True, session="user")  # `load` from an ssh session is for another domain
    with pytest.raises(ServiceError, match="status 5") as caught:
        agent.install()
    assert "Login Items" in caught.value.hint
    assert caught.value.hint.endswith("launchctl print-disabled gui/501")
    assert everything_below(spec.paths.state_dir.parent) == set()


def test_a_permanent_bootstrap_error_is_reported_at_once(
    agent: LaunchdService, launchd: FakeLaunchd
) -> None:
    launchd.set(lingers=[22])
    with pytest.raises(ServiceError, match="status 22"):
        agent.install()
    assert launchd.now_s == 0


def test_uninstall_waits_for_a_bootout_already_in_progress(
    agent: LaunchdService, launchd: FakeLaunchd
) -> None:
    agent.install()
    launchd.set(jobs={JOB: {"leaving": 3, "runs": 0}})  # bootout answers 36
    assert agent.uninstall()
    assert launchd.state["jobs"] == {}
    assert launchd.now_s > 0


@pytest.mark.parametrize("verb", ["bootout", "kill"])
def test_uninstall_and_stop_ignore_a_job_that_disappeared(
    agent: LaunchdService, launchd: FakeLaunchd, verb: str
) -> None:
    agent.install()
    launchd.set(vanishing=True)  # bootout answers 3, kill 113
    if verb == "bootout":
        assert agent.uninstall()
    else:
        agent.stop()
    assert launchd.state["jobs"] == {}
    assert [call for call in launchd.calls() if call.startswith(verb)]


def test_start_reloads_a_job_that_disappeared(agent: LaunchdService, launchd: FakeLaunchd) -> None:
    agent.install()
    launchd.set(vanishing=True)  # kickstart answers 113
    agent.start()
    assert launchd.state["jobs"][JOB]["runs"] == 1


def test_a_job_that_never_ends_is_reported_after_the_timeout(
    agent: LaunchdService, spec: ServiceSpec, launchd: FakeLaunchd
) -> None:
    agent.install()
    before = agent.plist_path.read_bytes()
    launchd.set(stuck=True)
    newer = service(dataclasses.replace(spec, at_login=True), launchd)
    with pytest.raises(ServiceError, match="bootout"):
        newer.install()
    assert launchd.now_s >= GIVE_UP_S
    assert agent.plist_path.read_bytes() == before


@pytest.mark.parametrize("status", [5, 119])
def test_install_does_not_enable_a_job_disabled_by_the_user(
    agent: LaunchdService, spec: ServiceSpec, launchd: FakeLaunchd, status: int
) -> None:
    launchd.set(disabled=[JOB], switched_off_in_settings=True, disabled_status=status)
    with pytest.raises(ServiceError, match=f"status {status}") as caught:
        agent.install()
    assert "Login Items" in caught.value.hint
    assert everything_below(spec.paths.state_dir.parent) == set()


@pytest.mark.parametrize("status", [5, 119])
def test_start_does_not_enable_a_job_disabled_by_the_user(
    agent: LaunchdService, launchd: FakeLaunchd, status: int
) -> None:
    agent.install()
    launchd.set(jobs={}, disabled=[JOB], disabled_status=status)
    before = len(launchd.calls())
    with pytest.raises(ServiceError, match=f"status {status}") as caught:
        agent.start()
    assert "Login Items" in caught.value.hint
    assert not [call for call in launchd.calls()[before:] if call.startswith(("enable", "load"))]


def test_an_agent_that_somebody_loaded_a_moment_ago_counts_as_loaded(
    agent: LaunchdService, launchd: FakeLaunchd
) -> None:
    agent.install()
    launchd.set(hidden=2)  # not there yet at the first look, in either domain
    agent.start()
    assert launchd.now_s == pytest.approx(INPUT_OUTPUT_GIVE_UP_S)
    assert launchd.state["jobs"][JOB]["runs"] == 1


@pytest.mark.parametrize("status", [113, 125, 1])
def test_the_user_domain_is_used_without_a_desktop(
    agent: LaunchdService, launchd: FakeLaunchd, status: int
) -> None:
    launchd.set(domains=["user"], session="user", no_domain_status=status)
    agent.install()
    assert list(launchd.state["jobs"]) == ["user/501/mlxd.daemon"]
    assert agent.state().current
    assert agent.uninstall()
    assert launchd.state["jobs"] == {}


def test_an_agent_installed_over_ssh_starts_at_the_desktop_and_back(
    agent: LaunchdService, launchd: FakeLaunchd
) -> None:
    launchd.set(domains=["user"])
    agent.install()
    launchd.set(domains=["gui", "user"], jobs={})
    agent.start()
    assert list(launchd.state["jobs"]) == [JOB]
    assert agent.state().current
    launchd.set(domains=["user"], jobs={})
    agent.start()
    assert list(launchd.state["jobs"]) == ["user/501/mlxd.daemon"]


def test_without_a_domain_nothing_is_changed_and_the_error_has_a_hint(
    agent: LaunchdService, spec: ServiceSpec, launchd: FakeLaunchd
) -> None:
    agent.check()
    launchd.set(domains=[])
    for verb in (agent.check, agent.install, agent.start):
        with pytest.raises(ManagerUnreachable, match="125") as caught:
            verb()
        assert "mlxd start" in caught.value.hint
    assert everything_below(spec.paths.state_dir.parent) == set()
    assert not agent.uninstall()


def test_start_runs_the_job_unless_it_is_running(
    agent: LaunchdService, launchd: FakeLaunchd
) -> None:
    agent.install()
    agent.start()
    agent.start()
    assert launchd.state["jobs"][JOB]["runs"] == 1


def test_start_loads_a_job_that_is_not_loaded(agent: LaunchdService, launchd: FakeLaunchd) -> None:
    agent.install()
    launchd.set(jobs={})
    agent.start()
    assert launchd.state["jobs"][JOB]["runs"] == 1


def test_stop_ends_the_process_and_keeps_the_job(
    agent: LaunchdService, launchd: FakeLaunchd
) -> None:
    agent.install()
    agent.stop()
    agent.start()
    agent.stop()
    assert launchd.state["jobs"][JOB]["runs"] == 0
    agent.uninstall()
    agent.stop()


def test_uninstall_waits_for_the_job_and_removes_all_files(
    agent: LaunchdService, spec: ServiceSpec, launchd: FakeLaunchd
) -> None:
    agent.install()
    launchd.set(leaving=3)
    spec.crash_log.touch()
    assert spec.paths.socket.exists()
    assert agent.uninstall()
    assert launchd.state["jobs"] == {}
    assert everything_below(spec.paths.state_dir.parent) == set()


def test_uninstall_keeps_the_users_data(agent: LaunchdService, spec: ServiceSpec) -> None:
    agent.install()
    spec.paths.conversations_db.touch()
    agent.uninstall()
    assert spec.paths.conversations_db.exists()


def test_uninstall_without_an_installation_is_no_error(agent: LaunchdService) -> None:
    assert not agent.uninstall()


def test_a_missing_launchctl_is_reported(spec: ServiceSpec, tmp_path: Path) -> None:
    agent = LaunchdService(spec, tmp_path / "agents", os.getuid(), run_command)
    with pytest.raises(ServiceError, match="launchctl does not exist"):
        agent.install()


def test_files_of_another_installation_are_detected(
    agent: LaunchdService, spec: ServiceSpec, launchd: FakeLaunchd
) -> None:
    agent.install()
    assert agent.state().current
    newer = service(dataclasses.replace(spec, python="/new/python"), launchd)
    assert not newer.state().current
    assert newer.install()
    assert newer.state().current
