"""Client and daemon of different versions work together; one line advises an upgrade."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxd.client import Client
from mlxd.client.fast.text import VERSION, skew
from support.commands import Run, runner
from support.daemon_process import Daemon, fake_engine_settings, running_daemon
from support.sources import copy_sources

COUNT = "Count from 3 to 5."
FAST: list[str] = []
FULL = ["--template", "plain"]

# What a later version may add within one protocol number: keys, events and notifications.
NEWER_ENCODER = '''

def _more(value):
    """Return maps with an unknown key, at every depth."""
    if isinstance(value, dict):
        return {**{key: _more(one) for key, one in value.items()}, "later": {"a": [1, None]}}
    return [_more(one) for one in value] if isinstance(value, list) else value


def _to_callers(message):
    return isinstance(message, Response) or message.method == "event"


_encode = encode


def encode(message, encoding):
    """Encode a message as a later version may."""
    if isinstance(message, Request) or not _to_callers(message):
        return _encode(message, encoding)
    if isinstance(message, Response):
        return _encode(Response(message.id, message.error, _more(message.result)), encoding)
    about = {"id": message.params["id"], "type": "later", "what": 1}
    return (
        _encode(Notification("later", {}), encoding)
        + _encode(Notification("event", about), encoding)
        + _encode(Notification("event", _more(message.params)), encoding)
    )
'''


def change(folder: Path, file: str, pattern: str, replacement: str) -> None:
    path = folder / file
    text, count = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.S)
    assert count == 1, f"{file} has no {pattern}"
    path.write_text(text)


def copy_program(folder: Path, version: str) -> str:
    """Copy the sources with another version number; return their PYTHONPATH."""
    place = copy_sources(folder)
    (folder / "daemon" / "mlxd" / "daemon" / "version.py").write_text(
        f'"""Another version."""\n\n\ndef version() -> str:\n    return "{version}"\n'
    )
    return place


def with_template(daemon: Daemon) -> Run:
    templates = Path(daemon.environ["MLXD_CONFIG_DIR"]) / "templates"
    templates.mkdir(parents=True)
    (templates / "plain.toml").write_text('prompt = "{input}"\n')
    return runner({name: text for name, text in daemon.environ.items() if name != "PYTHONPATH"})


@pytest.fixture(params=[("9.9.9", "Upgrade this one when convenient."), ("0.0.1", "mlxd restart")])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Run, str, str]]:
    version, step = request.param
    place = copy_program(tmp_path, version)
    home = tmp_path / "home"
    home.mkdir()
    with running_daemon(home, PYTHONPATH=place) as daemon:
        yield with_template(daemon), version, step


def test_the_version_advice_depends_on_which_side_is_older() -> None:
    assert skew(VERSION) == ""
    assert skew("999.0").endswith("Upgrade this one when convenient.")
    assert skew("0.0.99").endswith("mlxd restart")
    assert skew(f"{VERSION}.dev1").endswith("mlxd restart")


def test_requests_work_across_versions_and_the_client_prints_advice_once(
    other: tuple[Run, str, str],
) -> None:
    mlx, version, step = other
    for options in (FAST, FULL):
        done = mlx("ask", *options, COUNT)
        assert (done.returncode, done.stdout) == (0, "3, 4, 5\n")
        (advice,) = [line for line in done.stderr.splitlines() if version in line]
        assert advice.endswith(step)
    done = mlx("chat", stdin=f"{COUNT}\n{COUNT}\nq\n")
    assert done.stdout.count("3, 4, 5") == 2
    assert done.stderr.count(version) == 1, "once is enough"


def test_an_option_unknown_to_an_older_daemon_is_reported_with_advice(tmp_path: Path) -> None:
    place = copy_program(tmp_path, "0.0.1")
    min_p = r'    Param\(\s*"min_p".*?\),\n'
    change(tmp_path, "protocol/mlxd/protocol/parameters.py", min_p, "")
    home = tmp_path / "home"
    home.mkdir()
    with running_daemon(home, PYTHONPATH=place, **fake_engine_settings()) as daemon:
        mlx = with_template(daemon)
        for options in (FAST, FULL):
            done = mlx("ask", *options, "--min-p", "0.1", COUNT)
            assert (done.returncode, done.stdout) == (6, "")
            assert "--min-p" in done.stderr
            assert done.stderr.splitlines()[-1].endswith("0.0.1, this is "
                f"{VERSION}. When convenient: mlxd restart")  # fmt: skip
            done = mlx("ask", *options, "--temperature", "99", COUNT)
            assert done.returncode in (2, 6)
        assert mlx("ask", "3 tokens").stdout == "w0 w1 w2 \n"


def test_a_method_unknown_to_an_older_daemon_is_reported_with_advice(tmp_path: Path) -> None:
    place = copy_program(tmp_path, "0.0.1")
    change(tmp_path, "protocol/mlxd/protocol/methods.py", r'"models\.show"', '"models.other"')
    handlers = "daemon/mlxd/daemon/front/handlers/models.py"
    change(tmp_path, handlers, r'"models\.show"', '"models.other"')
    home = tmp_path / "home"
    home.mkdir()
    with running_daemon(home, PYTHONPATH=place, **fake_engine_settings()) as daemon:
        done = with_template(daemon)("models", "show", "pocket")
    assert done.returncode == 6
    assert "models.show" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("mlxd restart")


def test_clients_ignore_unknown_fields_and_events_of_a_newer_daemon(tmp_path: Path) -> None:
    place = copy_program(tmp_path, VERSION)
    codec = tmp_path / "protocol" / "mlxd" / "protocol" / "codec.py"
    codec.write_text(codec.read_text() + NEWER_ENCODER)
    home = tmp_path / "home"
    home.mkdir()
    with running_daemon(home, PYTHONPATH=place) as daemon:
        mlx = with_template(daemon)
        for options in (FAST, FULL, ["--json"], ["-v"]):
            done = mlx("ask", *options, COUNT)
            assert done.returncode == 0, done.stderr
            assert "3, 4, 5" in done.stdout
        assert "later" in mlx("ask", "--json", COUNT).stdout, "the daemon does not say more"
        assert "3, 4, 5" in mlx("chat", stdin=f"{COUNT}\nq\n").stdout
        for command in (["ps"], ["models", "list"], ["models", "show", "pocket"], ["log", "list"]):
            done = mlx(*command)
            assert (done.returncode, done.stderr) == (0, ""), command
        with Client(daemon.socket_path) as client:
            with client.stream("chat", messages=[{"role": "user", "content": COUNT}]) as stream:
                kinds = {event["type"] for event in stream}
            assert {"later", "delta"} <= kinds
            assert stream.result["choices"][0]["text"] == "3, 4, 5"
        for command in (["status"], ["restart"], ["stop"]):
            done = runner(daemon.environ, "mlxd")(*command)
            assert done.returncode == 0, done.stderr
