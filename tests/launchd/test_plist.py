"""The property list, key by key, and the launcher that it starts."""

from __future__ import annotations

import dataclasses
import plistlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlxd.launchd.plist import agent, agent_bytes, moved
from mlxd.launchd.service import prepare
from mlxd.launchd.spec import ServiceSpec, stable_python

GUI, USER = "gui/501", "user/501"

# launchd.plist(5): every key in use, with its type.
KEYS: dict[str, type] = {
    "Label": str,
    "ProgramArguments": list,
    "EnvironmentVariables": dict,
    "ProcessType": str,
    "Sockets": dict,
    "ExitTimeOut": int,
    "Umask": str,
    "LimitLoadToSessionType": str,
    "SoftResourceLimits": dict,
    "StandardOutPath": str,
    "StandardErrorPath": str,
    "RunAtLoad": bool,
}


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


@pytest.fixture
def about(spec: ServiceSpec) -> dict[str, Any]:
    return agent(spec, GUI)


def test_every_plist_key_is_known_and_has_its_type(spec: ServiceSpec) -> None:
    for key, value in agent(dataclasses.replace(spec, at_login=True), USER).items():
        assert type(value) is KEYS[key]


def test_the_plist_survives_xml_serialisation(spec: ServiceSpec) -> None:
    assert plistlib.loads(agent_bytes(spec, USER)) == agent(spec, USER)


def test_the_plist_contains_exactly_the_expected_keys_and_values(spec: ServiceSpec) -> None:
    state, log = spec.paths.state_dir, spec.paths.log_dir
    assert plistlib.loads(agent_bytes(spec, GUI)) == {
        "Label": "mlxd.daemon",
        "ProgramArguments": [f"{state}/bin/mlxd", "run"],
        "EnvironmentVariables": {
            "MLXD_SOCKET": f"{state}/mlxd.sock",
            "MLXD_CONFIG_DIR": str(spec.paths.config_dir),
            "MLXD_STATE_DIR": str(state),
            "MLXD_DATA_DIR": str(spec.paths.data_dir),
            "MLXD_CACHE_DIR": str(spec.paths.cache_dir),
            "MLXD_LOG_DIR": str(log),
        },
        "ProcessType": "Interactive",
        "Sockets": {"Listener": {"SockPathName": f"{state}/mlxd.sock", "SockPathMode": 0o600}},
        "ExitTimeOut": 20,
        "Umask": "077",
        "SoftResourceLimits": {"NumberOfFiles": 8192},
        "StandardOutPath": f"{log}/mlxd.err",
        "StandardErrorPath": f"{log}/mlxd.err",
    }


def test_the_job_is_not_throttled(about: dict[str, Any]) -> None:
    assert about["ProcessType"] == "Interactive"


def test_the_job_is_neither_kept_alive_nor_run_at_load(about: dict[str, Any]) -> None:
    assert "KeepAlive" not in about
    assert "RunAtLoad" not in about


def test_at_login_sets_run_at_load(spec: ServiceSpec) -> None:
    assert agent(dataclasses.replace(spec, at_login=True), GUI)["RunAtLoad"] is True


def test_the_socket_of_launchd_is_private(spec: ServiceSpec, about: dict[str, Any]) -> None:
    listener = {"SockPathName": str(spec.paths.socket), "SockPathMode": 384}
    assert about["Sockets"] == {"Listener": listener}
    assert about["Umask"] == "077"


def test_the_job_has_20_seconds_to_stop(about: dict[str, Any]) -> None:
    assert about["ExitTimeOut"] == 20


def test_login_items_shows_the_name_mlxd(about: dict[str, Any]) -> None:
    assert Path(about["ProgramArguments"][0]).name == "mlxd"
    assert about["ProgramArguments"][1:] == ["run"]


def test_it_is_for_one_session_the_desktop_s_or_the_background(spec: ServiceSpec) -> None:
    assert "LimitLoadToSessionType" not in agent(spec, GUI)
    assert agent(spec, USER)["LimitLoadToSessionType"] == "Background"


def test_a_list_moves_between_domains_and_keeps_the_rest(spec: ServiceSpec) -> None:
    at_login = dataclasses.replace(spec, at_login=True)
    assert moved(agent_bytes(at_login, GUI), USER) == agent_bytes(at_login, USER)
    assert moved(agent_bytes(at_login, USER), GUI) == agent_bytes(at_login, GUI)


def test_no_plist_value_needs_expansion(about: dict[str, Any]) -> None:
    assert not [text for text in strings(about) if text.startswith("~") or "$" in text]


def test_the_plist_environment_contains_only_paths(about: dict[str, Any]) -> None:
    names = {"SOCKET", "CONFIG_DIR", "STATE_DIR", "DATA_DIR", "CACHE_DIR", "LOG_DIR"}
    assert set(about["EnvironmentVariables"]) == {f"MLXD_{name}" for name in names}
    assert all(Path(value).is_absolute() for value in about["EnvironmentVariables"].values())


def test_the_launcher_execs_the_interpreter(spec: ServiceSpec, tmp_path: Path) -> None:
    python = tmp_path / "odd 'name"
    python.write_text('#!/bin/sh\necho "$$ $@"\n')
    python.chmod(0o755)
    odd = dataclasses.replace(spec, python=str(python))
    prepare(odd)
    with subprocess.Popen([odd.launcher, "run"], stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate()
    assert said == f"{process.pid} -I -m mlxd.daemon.cli run\n"


def test_the_launcher_reports_a_missing_interpreter(spec: ServiceSpec) -> None:
    gone = dataclasses.replace(spec, python="/nowhere/python")
    prepare(gone)
    done = subprocess.run([gone.launcher], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "/nowhere/python is gone" in done.stderr
    assert "mlxd install" in done.stderr


@pytest.mark.parametrize(
    ("executable", "stable"),
    [
        (
            "/opt/homebrew/Cellar/python@3.12/3.12.4/bin/python3.12",
            "/opt/homebrew/opt/python@3.12/bin/python3.12",
        ),
        (
            "/usr/local/Cellar/mlxd/0.1.0_1/libexec/bin/python",
            "/usr/local/opt/mlxd/libexec/bin/python",
        ),
        ("/home/a/.venv/bin/python", "/home/a/.venv/bin/python"),
    ],
)
def test_homebrew_interpreters_get_a_path_that_survives_upgrades(
    executable: str, stable: str
) -> None:
    assert stable_python(executable, lambda path: True) == stable


def test_a_cellar_path_without_a_stable_symlink_is_kept() -> None:
    executable = "/opt/homebrew/Cellar/x/1/bin/python"
    assert stable_python(executable, lambda path: False) == executable
