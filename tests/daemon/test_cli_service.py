"""`mlxd install` and `uninstall`, as commands, with a stand-in systemctl on the PATH."""

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
def served(environ: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Return an environment in which systemd answers."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "systemctl").write_text(SYSTEMCTL)
    (folder / "systemctl").chmod(0o755)
    return {**environ, "PATH": f"{folder}:{environ['PATH']}"}


def units(environ: dict[str, str]) -> list[str]:
    folder = Path(environ["XDG_CONFIG_HOME"]) / "systemd" / "user"
    return sorted(path.name for path in folder.glob("*")) if folder.exists() else []


def test_install_and_uninstall_leave_nothing_but_the_user_s_own(
    served: dict[str, str], own_paths: Paths
) -> None:
    done = mlxd({**served, "HF_HOME": "/data/hf"}, "install")
    assert done.returncode == 0, done.stderr
    assert "is now a systemd service and starts for the first request" in done.stderr
    assert units(served) == ["mlxd.service", "mlxd.socket"]
    assert read_config_file(own_paths.config_file)["environment"]["HF_HOME"] == "/data/hf"
    starter.start_lock(own_paths).touch()
    done = mlxd(served, "uninstall")
    assert done.returncode == 0, done.stderr
    assert units(served) == []
    assert not own_paths.socket.parent.exists()
    assert not (own_paths.state_dir / "bin").exists()
    assert own_paths.config_file.exists()


def test_the_http_bridge_is_installed_and_removed_by_its_setting(
    served: dict[str, str], own_paths: Paths
) -> None:
    own_paths.config_dir.mkdir(parents=True)
    own_paths.config_file.write_text("http = true\nhttp_port = 7777\n")
    done = mlxd(served, "install")
    assert done.returncode == 0, done.stderr
    assert "http://localhost:7777" in done.stderr
    four = ["mlxd-http.service", "mlxd-http.socket", "mlxd.service", "mlxd.socket"]
    assert units(served) == four
    own_paths.config_file.write_text("")
    assert "Removed the HTTP bridge" in mlxd(served, "install").stderr
    assert units(served) == ["mlxd.service", "mlxd.socket"]
    own_paths.config_file.write_text("http = true\n")
    assert mlxd(served, "install").returncode == 0
    assert mlxd(served, "uninstall").returncode == 0
    assert units(served) == []


def test_installing_again_changes_nothing_and_keeps_the_choice(served: dict[str, str]) -> None:
    assert "at login" in mlxd(served, "install", "--at-login").stderr
    again = mlxd(served, "install")
    assert again.returncode == 0
    assert "is already a systemd service" in again.stderr
    assert "at login" in again.stderr
    assert "for the first request" in mlxd(served, "install", "--on-demand").stderr


def test_uninstall_of_nothing_says_so(served: dict[str, str]) -> None:
    done = mlxd(served, "uninstall")
    assert done.returncode == 0
    assert "is not installed" in done.stderr


def test_uninstall_without_a_service_leaves_a_daemon_alone(
    served: dict[str, str], own_paths: Paths
) -> None:
    starter.start(own_paths, FAKE_DAEMON, served)
    done = mlxd(served, "uninstall")
    assert done.returncode == 0
    assert "is not installed" in done.stderr
    assert "mlxd stop" in done.stderr
    assert mlxd(served, "status").returncode == 0


def test_a_daemon_started_by_hand_makes_room(served: dict[str, str], own_paths: Paths) -> None:
    starter.start(own_paths, FAKE_DAEMON, served)
    done = mlxd(served, "install")
    assert done.returncode == 0, done.stderr
    assert "The service replaces it" in done.stderr
    assert not lock.is_held(own_paths.lock_file)


def test_flags_do_not_go_with_a_service(served: dict[str, str]) -> None:
    mlxd(served, "install")
    done = mlxd(served, "start", "--max-queue", "5")
    assert done.returncode == 2
    assert "config.toml" in done.stderr


def test_status_says_that_the_service_waits(served: dict[str, str]) -> None:
    mlxd(served, "install")
    done = mlxd(served, "status")
    assert done.returncode == 3
    assert "systemd starts it for the first request" in done.stderr


def test_a_damaged_configuration_is_told_before_anything_is_installed(
    served: dict[str, str], own_paths: Paths
) -> None:
    own_paths.config_dir.mkdir()
    own_paths.config_file.write_text("= =")
    assert mlxd(served, "install").returncode == 2
    assert units(served) == []


def test_an_upgrade_replaces_the_old_process(served: dict[str, str], own_paths: Paths) -> None:
    mlxd(served, "install")
    starter.start(own_paths, FAKE_DAEMON, {**served, "FAKE_VERSION": version()})
    assert "restarted" not in mlxd(served, "install").stderr
    assert lock.is_held(own_paths.lock_file)
    stop_daemon(own_paths, 0, force=False)
    starter.start(own_paths, FAKE_DAEMON, {**served, "FAKE_VERSION": "0.0.1"})
    assert "Restarted: 0.0.1" in mlxd(served, "install").stderr
    assert not lock.is_held(own_paths.lock_file)
    assert "start mlxd.socket mlxd.service" in (Path(served["HOME"]) / "calls").read_text()


def test_without_a_session_nothing_is_changed(environ: dict[str, str], own_paths: Paths) -> None:
    """Here systemctl is the real one, or none: no user session answers it."""
    lonely = {key: value for key, value in environ.items() if key != "XDG_RUNTIME_DIR"}
    lonely["DBUS_SESSION_BUS_ADDRESS"] = "unix:path=/nowhere"
    starter.start(own_paths, FAKE_DAEMON, lonely)
    pid = lock.holder(own_paths.lock_file)
    done = mlxd({**lonely, "HF_HOME": "/data/hf"}, "install")
    assert done.returncode == 1
    assert (
        "without a service: mlxd start" in done.stderr or "systemctl does not exist" in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert units(lonely) == []
    assert not own_paths.config_file.exists()
    assert lock.holder(own_paths.lock_file) == pid, "the running daemon is none the worse"


def test_a_service_that_cannot_be_installed_leaves_the_daemon_running(
    served: dict[str, str], own_paths: Paths
) -> None:
    starter.start(own_paths, FAKE_DAEMON, served)
    (Path(served["HOME"]) / "refuses").touch()
    done = mlxd({**served, "MLXD_PRELOAD": "off"}, "install")
    assert done.returncode == 1
    assert "is masked" in done.stderr
    assert units(served) == []
    assert lock.is_held(own_paths.lock_file)
    assert mlxd(served, "status").returncode == 0


def test_start_where_the_session_is_out_of_reach(served: dict[str, str], own_paths: Paths) -> None:
    mlxd(served, "install")
    (Path(served["HOME"]) / "no-bus").touch()
    done = mlxd({**served, "MLXD_PRELOAD": "off"}, "start")
    assert done.returncode == 0, done.stderr
    assert "Starting without the service" in done.stderr
    assert lock.is_held(own_paths.lock_file)


def test_what_is_stopped_by_force_is_not_a_crash_to_systemd(
    served: dict[str, str], own_paths: Paths
) -> None:
    mlxd(served, "install")
    starter.start(own_paths, FAKE_DAEMON, {**served, "FAKE_DAEMON": "deaf"})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in served.items():
            patch.setenv(name, value)
        stop_daemon(own_paths, 0, force=True, margin_s=0.1)
    assert "--user stop mlxd.service" in (Path(served["HOME"]) / "calls").read_text()
    assert not lock.is_held(own_paths.lock_file)


def test_a_daemon_too_old_to_remember_its_models_is_restarted_all_the_same(
    served: dict[str, str], own_paths: Paths
) -> None:
    starter.start(own_paths, FAKE_DAEMON, {**served, "FAKE_DAEMON": "old"})
    old = lock.holder(own_paths.lock_file)
    done = mlxd({**served, "MLXD_PRELOAD": "off"}, "restart")
    assert done.returncode == 0, done.stderr
    assert lock.holder(own_paths.lock_file) not in (None, old)
