"""Endpoint, token and proxy of the shell in which `mlx models pull` is typed hold for that pull."""

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
def own() -> Iterator[Daemon]:
    with running_daemon(MLXD_PRELOAD="0", MLXD_LOG_LEVEL="debug") as running:
        yield running
        kept = b"".join(one.read_bytes() for one in running.folder.rglob("*") if one.is_file())
        assert TOKEN.encode() not in kept
        assert PASSWORD.encode() not in kept


@pytest.fixture
def mlx(own: Daemon) -> Iterator[Run]:
    run = runner(own.environ)
    yield run
    run("models", "rm", "-y", REPO)


def test_endpoint_and_token_of_the_shell_are_used_for_the_pull(mlx: Run, hub: Hub) -> None:
    hub.credentials.clear()
    done = mlx("models", "pull", REPO, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert f"Bearer {TOKEN}" in hub.credentials


def test_a_proxy_of_the_shell_is_used_and_its_password_said_nowhere(mlx: Run, hub: Hub) -> None:
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
def test_a_pull_that_fails_says_no_secret(mlx: Run, settings: dict[str, str], code: int) -> None:
    done = mlx("models", "pull", "acme/none", HF_TOKEN=TOKEN, **settings)
    assert done.returncode == code, done.stderr
    assert TOKEN not in done.stderr
    assert PASSWORD not in done.stderr


def test_other_variables_are_refused_by_name(own: Daemon) -> None:
    answer = own.ask("models.pull", model=REPO, environment={"LD_PRELOAD": PASSWORD})
    assert answer["error"]["code"] == "invalid_params"
    assert "LD_PRELOAD" in answer["error"]["message"]
    assert PASSWORD not in str(answer)
    assert own.ask("models.pull", model=REPO, environment={"HF_HUB_CACHE": "/x"})["error"]


def test_tests_look_where_secrets_could_lie(own: Daemon) -> None:
    assert any(Path(own.folder).rglob("*.log"))
