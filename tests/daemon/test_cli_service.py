"""`mlxd install` and `uninstall`, as commands, with a stand-in systemctl on the PATH."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlxd.daemon import lock, starter
from mlxd.daemon.cli.lifecycle import stop_daemon
from mlxd.daemon.config import read_config_file
from mlxd.daemon.version import version
from mlxd.protocol.paths import Paths
from support.places import FAKE_DAEMON, mlxd

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="on macOS the real launchd would be changed"
)

SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$HOME/calls"
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
    assert "is installed as a systemd service and starts for the first request" in done.stderr
    assert units(served) == ["mlxd.service", "mlxd.socket"]
    assert read_config_file(own_paths.config_file)["environment"]["HF_HOME"] == "/data/hf"
    starter.start_lock(own_paths).touch()
    done = mlxd(served, "uninstall")
    assert done.returncode == 0, done.stderr
    assert units(served) == []
    assert not own_paths.socket.parent.exists()
    assert not (own_paths.state_dir / "bin").exists()
    assert own_paths.config_file.exists()


def test_installing_again_changes_nothing_and_keeps_the_choice(served: dict[str, str]) -> None:
    assert "at login" in mlxd(served, "install", "--at-login").stderr
    again = mlxd(served, "install")
    assert again.returncode == 0
    assert "was installed already" in again.stderr
    assert "at login" in again.stderr
    assert "for the first request" in mlxd(served, "install", "--on-demand").stderr


def test_uninstall_of_nothing_says_so(served: dict[str, str]) -> None:
    done = mlxd(served, "uninstall")
    assert done.returncode == 0
    assert "was not installed" in done.stderr


def test_a_daemon_started_by_hand_makes_room(served: dict[str, str], own_paths: Paths) -> None:
    starter.start(own_paths, FAKE_DAEMON, served)
    done = mlxd(served, "install")
    assert done.returncode == 0, done.stderr
    assert "the service takes over" in done.stderr
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
    assert "It was restarted: 0.0.1" in mlxd(served, "install").stderr
    assert not lock.is_held(own_paths.lock_file)
    assert "start mlxd.socket mlxd.service" in (Path(served["HOME"]) / "calls").read_text()
