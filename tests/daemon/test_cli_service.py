"""`mlxd install` and `uninstall` as commands, with a fake systemctl on the PATH."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxd.daemon import lock, starter
from mlxd.daemon.cli.lifecycle import stop_daemon
from mlxd.daemon.config import read_config_file
from mlxd.daemon.version import version
from mlxd.protocol.paths import Paths
from support import needs
from support.places import FAKE_DAEMON, mlxd

pytestmark = needs.linux_only  # on macOS the real launchd would be changed

SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$HOME/calls"
if [ -e "$HOME/no-bus" ]; then
  echo "Failed to connect to bus: No medium found" >&2
  exit 1
fi
case "$*" in
  "--user enable --now"*)
    if [ -e "$HOME/refuses" ]; then echo "Unit mlxd.socket is masked." >&2; exit 1; fi ;;
esac
case "$*" in
  "--user is-active --quiet mlxd.socket") [ -e "$HOME/active" ] ;;
  "--user is-enabled --quiet mlxd.service") [ -e "$HOME/at-login" ] ;;
  "--user enable --now mlxd.socket") touch "$HOME/active" ;;
  "--user enable --now mlxd.service") touch "$HOME/at-login" ;;
  "--user disable mlxd.service") rm -f "$HOME/at-login" ;;
  "--user disable --now"*) rm -f "$HOME/active" "$HOME/at-login" ;;
esac
"""


@pytest.fixture
def with_systemd(environ: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Return an environment with a fake systemctl."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "systemctl").write_text(SYSTEMCTL)
    (folder / "systemctl").chmod(0o755)
    return {**environ, "PATH": f"{folder}:{environ['PATH']}"}


def units(environ: dict[str, str]) -> list[str]:
    folder = Path(environ["XDG_CONFIG_HOME"]) / "systemd" / "user"
    return sorted(path.name for path in folder.glob("*")) if folder.exists() else []


def test_uninstall_removes_everything_but_the_configuration(
    with_systemd: dict[str, str], own_paths: Paths
) -> None:
    done = mlxd({**with_systemd, "HF_HOME": "/data/hf"}, "install")
    assert done.returncode == 0, done.stderr
    assert "is now a systemd service and starts for the first request" in done.stderr
    assert units(with_systemd) == ["mlxd.service", "mlxd.socket"]
    assert read_config_file(own_paths.config_file)["environment"]["HF_HOME"] == "/data/hf"
    starter.start_lock(own_paths).touch()
    done = mlxd(with_systemd, "uninstall")
    assert done.returncode == 0, done.stderr
    assert units(with_systemd) == []
    assert not own_paths.socket.parent.exists()
    assert not (own_paths.state_dir / "bin").exists()
    assert own_paths.config_file.exists()


def test_the_http_bridge_is_installed_and_removed_by_its_setting(
    with_systemd: dict[str, str], own_paths: Paths
) -> None:
    own_paths.config_dir.mkdir(parents=True)
    own_paths.config_file.write_text("http = true\nhttp_port = 7777\n")
    done = mlxd(with_systemd, "install")
    assert done.returncode == 0, done.stderr
    assert "http://localhost:7777" in done.stderr
    four = ["mlxd-http.service", "mlxd-http.socket", "mlxd.service", "mlxd.socket"]
    assert units(with_systemd) == four
    own_paths.config_file.write_text("")
    assert "Removed the HTTP bridge" in mlxd(with_systemd, "install").stderr
    assert units(with_systemd) == ["mlxd.service", "mlxd.socket"]
    own_paths.config_file.write_text("http = true\n")
    assert mlxd(with_systemd, "install").returncode == 0
    assert mlxd(with_systemd, "uninstall").returncode == 0
    assert units(with_systemd) == []


def test_installing_again_keeps_the_chosen_start_mode(with_systemd: dict[str, str]) -> None:
    assert "at login" in mlxd(with_systemd, "install", "--at-login").stderr
    again = mlxd(with_systemd, "install")
    assert again.returncode == 0
    assert "is already a systemd service" in again.stderr
    assert "at login" in again.stderr
    assert "for the first request" in mlxd(with_systemd, "install", "--on-demand").stderr


def test_uninstall_reports_that_no_service_is_installed(with_systemd: dict[str, str]) -> None:
    done = mlxd(with_systemd, "uninstall")
    assert done.returncode == 0
    assert "is not installed" in done.stderr


def test_uninstall_without_a_service_does_not_stop_the_daemon(
    with_systemd: dict[str, str], own_paths: Paths
) -> None:
    starter.start(own_paths, FAKE_DAEMON, with_systemd)
    done = mlxd(with_systemd, "uninstall")
    assert done.returncode == 0
    assert "is not installed" in done.stderr
    assert "mlxd stop" in done.stderr
    assert mlxd(with_systemd, "status").returncode == 0


def test_install_replaces_a_daemon_that_was_started_by_hand(
    with_systemd: dict[str, str], own_paths: Paths
) -> None:
    starter.start(own_paths, FAKE_DAEMON, with_systemd)
    done = mlxd(with_systemd, "install")
    assert done.returncode == 0, done.stderr
    assert "The service replaces it" in done.stderr
    assert not lock.is_held(own_paths.lock_file)


def test_start_refuses_flags_if_a_service_is_installed(with_systemd: dict[str, str]) -> None:
    mlxd(with_systemd, "install")
    done = mlxd(with_systemd, "start", "--max-queue", "5")
    assert done.returncode == 2
    assert "config.toml" in done.stderr


def test_status_reports_that_the_service_starts_on_demand(with_systemd: dict[str, str]) -> None:
    mlxd(with_systemd, "install")
    done = mlxd(with_systemd, "status")
    assert done.returncode == 3
    assert "systemd starts it for the first request" in done.stderr


def test_install_refuses_a_damaged_configuration(
    with_systemd: dict[str, str], own_paths: Paths
) -> None:
    own_paths.config_dir.mkdir()
    own_paths.config_file.write_text("= =")
    assert mlxd(with_systemd, "install").returncode == 2
    assert units(with_systemd) == []


def test_install_restarts_a_daemon_of_another_version(
    with_systemd: dict[str, str], own_paths: Paths
) -> None:
    mlxd(with_systemd, "install")
    starter.start(own_paths, FAKE_DAEMON, {**with_systemd, "FAKE_VERSION": version()})
    assert "restarted" not in mlxd(with_systemd, "install").stderr
    assert lock.is_held(own_paths.lock_file)
    stop_daemon(own_paths, 0, force=False)
    starter.start(own_paths, FAKE_DAEMON, {**with_systemd, "FAKE_VERSION": "0.0.1"})
    assert "Restarted: 0.0.1" in mlxd(with_systemd, "install").stderr
    assert not lock.is_held(own_paths.lock_file)
    assert "start mlxd.socket mlxd.service" in (Path(with_systemd["HOME"]) / "calls").read_text()


def test_install_changes_nothing_without_a_user_session(
    environ: dict[str, str], own_paths: Paths
) -> None:
    """Uses the real systemctl, if any, without a user session."""
    without_session = {key: value for key, value in environ.items() if key != "XDG_RUNTIME_DIR"}
    without_session["DBUS_SESSION_BUS_ADDRESS"] = "unix:path=/nowhere"
    starter.start(own_paths, FAKE_DAEMON, without_session)
    pid = lock.holder(own_paths.lock_file)
    done = mlxd({**without_session, "HF_HOME": "/data/hf"}, "install")
    assert done.returncode == 1
    assert (
        "without a service: mlxd start" in done.stderr or "systemctl does not exist" in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert units(without_session) == []
    assert not own_paths.config_file.exists()
    assert lock.holder(own_paths.lock_file) == pid, "the daemon still runs"


def test_a_failed_install_leaves_the_daemon_running(
    with_systemd: dict[str, str], own_paths: Paths
) -> None:
    starter.start(own_paths, FAKE_DAEMON, with_systemd)
    (Path(with_systemd["HOME"]) / "refuses").touch()
    done = mlxd({**with_systemd, "MLXD_PRELOAD": "off"}, "install")
    assert done.returncode == 1
    assert "is masked" in done.stderr
    assert units(with_systemd) == []
    assert lock.is_held(own_paths.lock_file)
    assert mlxd(with_systemd, "status").returncode == 0


def test_start_works_if_systemd_cannot_be_reached(
    with_systemd: dict[str, str], own_paths: Paths
) -> None:
    mlxd(with_systemd, "install")
    (Path(with_systemd["HOME"]) / "no-bus").touch()
    done = mlxd({**with_systemd, "MLXD_PRELOAD": "off"}, "start")
    assert done.returncode == 0, done.stderr
    assert "Starting without the service" in done.stderr
    assert lock.is_held(own_paths.lock_file)


def test_stop_by_force_also_stops_the_systemd_service(
    with_systemd: dict[str, str], own_paths: Paths
) -> None:
    mlxd(with_systemd, "install")
    starter.start(own_paths, FAKE_DAEMON, {**with_systemd, "FAKE_DAEMON": "deaf"})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in with_systemd.items():
            patch.setenv(name, value)
        stop_daemon(own_paths, 0, force=True, margin_s=0.1)
    assert "--user stop mlxd.service" in (Path(with_systemd["HOME"]) / "calls").read_text()
    assert not lock.is_held(own_paths.lock_file)


def test_restart_works_with_a_daemon_that_cannot_save_its_models(
    with_systemd: dict[str, str], own_paths: Paths
) -> None:
    starter.start(own_paths, FAKE_DAEMON, {**with_systemd, "FAKE_DAEMON": "old"})
    old = lock.holder(own_paths.lock_file)
    done = mlxd({**with_systemd, "MLXD_PRELOAD": "off"}, "restart")
    assert done.returncode == 0, done.stderr
    assert lock.holder(own_paths.lock_file) not in (None, old)
