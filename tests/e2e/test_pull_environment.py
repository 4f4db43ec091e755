"""`mlx models pull` uses the endpoint, token and proxy of the shell that runs it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxd.daemon.models.catalog import BUILTIN_DIR
from support.commands import Run, runner
from support.daemon_process import Daemon, running_daemon
from support.fake_hub import Hub, fake_hub

REPO = "acme/Pocket-8bit"
TOKEN = "hf_verysecrettoken"
PASSWORD = "proxypassword77"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with fake_hub() as hub:
        hub.add(REPO, BUILTIN_DIR)
        yield hub


@pytest.fixture(scope="module")
def own_daemon() -> Iterator[Daemon]:
    with running_daemon(MLXD_PRELOAD="0", MLXD_LOG_LEVEL="debug") as running:
        yield running
        kept = b"".join(one.read_bytes() for one in running.folder.rglob("*") if one.is_file())
        assert TOKEN.encode() not in kept
        assert PASSWORD.encode() not in kept


@pytest.fixture
def mlx(own_daemon: Daemon) -> Iterator[Run]:
    run = runner(own_daemon.environ)
    yield run
    run("models", "rm", "-y", REPO)


def test_pull_uses_the_endpoint_and_token_of_the_shell(mlx: Run, hub: Hub) -> None:
    hub.credentials.clear()
    done = mlx("models", "pull", REPO, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert f"Bearer {TOKEN}" in hub.credentials


def test_pull_uses_the_proxy_of_the_shell_and_stores_no_password(mlx: Run, hub: Hub) -> None:
    hub.credentials.clear()
    proxy = hub.url.replace("//", f"//me:{PASSWORD}@")
    settings = {"HF_ENDPOINT": "http://hub.example", "http_proxy": proxy, "HF_TOKEN": TOKEN}
    done = mlx("models", "pull", REPO, **settings)
    assert done.returncode == 0, done.stderr
    basic = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert f"Basic {basic}" in hub.credentials


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"HF_ENDPOINT": f"http://me:{PASSWORD}@127.0.0.1:1"}, 7),
        (
            {"http_proxy": f"http://me:{PASSWORD}@127.0.0.1:1", "HF_ENDPOINT": "http://hub.x"},
            7,
        ),
        ({"http_proxy": f"nonsense://me:{PASSWORD}@x", "HF_ENDPOINT": "http://hub.x"}, 5),
    ],
)
def test_a_failed_pull_prints_no_secrets(mlx: Run, settings: dict[str, str], code: int) -> None:
    done = mlx("models", "pull", "acme/none", HF_TOKEN=TOKEN, **settings)
    assert done.returncode == code, done.stderr
    assert TOKEN not in done.stderr
    assert PASSWORD not in done.stderr


def test_pull_refuses_other_environment_variables_by_name(own_daemon: Daemon) -> None:
    answer = own_daemon.ask("models.pull", model=REPO, environment={"LD_PRELOAD": PASSWORD})
    assert answer["error"]["code"] == "invalid_params"
    assert "LD_PRELOAD" in answer["error"]["message"]
    assert PASSWORD not in str(answer)
    assert own_daemon.ask("models.pull", model=REPO, environment={"HF_HUB_CACHE": "/x"})["error"]


def test_the_secret_scan_covers_log_files(own_daemon: Daemon) -> None:
    assert any(Path(own_daemon.folder).rglob("*.log"))
