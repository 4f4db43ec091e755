"""`mlx models`, against a real daemon, real workers and a fake hub that drops connections."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxd.daemon.models.catalog import BUILTIN_DIR
from support.commands import BIN, Run, runner
from support.daemon_process import Daemon, running_daemon, user
from support.engine_process import engine_environment
from support.fake_hub import COMMIT, Hub, fake_hub
from support.terminal import terminal
from support.waiting import ended, until

REPO = "acme/Pocket-8bit"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with fake_hub() as hub:
        hub.add(REPO, BUILTIN_DIR)
        yield hub


@pytest.fixture(scope="module")
def own_daemon(hub: Hub) -> Iterator[Daemon]:
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", "MLXD_PRELOAD": "0"}
    with running_daemon(**settings) as running:
        yield running


@pytest.fixture(scope="module")
def mlx(own_daemon: Daemon) -> Run:
    return runner(own_daemon.environ)


@pytest.fixture
def pulled(mlx: Run) -> Iterator[None]:
    assert mlx("models", "pull", REPO).returncode == 0
    yield
    mlx("models", "rm", "-y", REPO)


@pytest.mark.usefixtures("pulled")
def test_a_pulled_model_answers_by_its_short_name(mlx: Run) -> None:
    done = mlx("ask", "-m", "pocket-8bit", "--temp", "0", "Count from 3 to 7.")
    assert done.stdout == "3, 4, 5, 6, 7\n"
    assert REPO in mlx("models", "list").stdout
    wrong = mlx("ask", "-m", "pokcet-8bit", "hello")
    assert wrong.returncode == 4
    assert f"Did you mean {REPO}" in wrong.stderr


def test_an_interrupted_download_resumes(mlx: Run, hub: Hub) -> None:
    hub.ranges.clear()
    hub.cut_after[WEIGHTS] = 600_000
    done = mlx("models", "pull", REPO)
    assert done.returncode == 0, done.stderr
    assert [start for file, start in hub.ranges if file == WEIGHTS] == [0, 512 * 1024]
    assert mlx("models", "rm", "-y", REPO).returncode == 0


def test_a_killed_worker_is_replaced_and_the_download_resumes(
    own_daemon: Daemon, mlx: Run, hub: Hub
) -> None:
    hub.ranges.clear()
    hub.hold[WEIGHTS] = threading.Event()
    command = [str(BIN / "mlx"), "models", "pull", REPO]
    process = subprocess.Popen(command, env=own_daemon.environ, stderr=subprocess.PIPE)
    assert hub.held.wait(60)
    os.kill(children(own_daemon)[-1], signal.SIGKILL)
    hub.hold.pop(WEIGHTS).set()
    hub.held.clear()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    starts = [start for file, start in hub.ranges if file == WEIGHTS]
    assert len(starts) == 2
    assert starts[1] > 0, "the downloaded part was fetched again"
    assert mlx("models", "rm", "-y", REPO).returncode == 0


@pytest.mark.parametrize("stopped", [False, True])
def test_a_worker_ends_with_its_daemon(hub: Hub, stopped: bool) -> None:
    hub.hold[WEIGHTS] = threading.Event()
    hub.held.clear()
    with running_daemon(HF_ENDPOINT=hub.url, MLXD_PRELOAD="0") as daemon, daemon.peer() as peer:
        peer.send("models.pull", model=REPO)
        assert hub.held.wait(60)
        [pid] = children(daemon)
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        daemon.stop(signal.SIGKILL)
        until(lambda: ended(pid), "the worker outlived its daemon", 10)
    hub.hold.pop(WEIGHTS).set()
    hub.held.clear()


def children(daemon: Daemon) -> list[int]:
    """Return the process ids of the daemon's child processes."""
    assert daemon.process is not None
    pid = daemon.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_pull_shows_progress_and_ctrl_c_stops_it(own_daemon: Daemon, mlx: Run, hub: Hub) -> None:
    hub.hold[WEIGHTS] = threading.Event()
    with terminal([str(BIN / "mlx"), "models", "pull", REPO], own_daemon.environ) as screen:
        screen.wait(WEIGHTS)
        assert hub.held.wait(60)
        screen.wait("tokenizer.json")
        screen.send("\x03")
        screen.end()
        assert screen.exit_code == 130
    hub.hold.pop(WEIGHTS).set()
    hub.held.clear()
    assert own_daemon.ask("ping") == {"pong": True}
    assert mlx("models", "pull", REPO).returncode == 0
    assert mlx("models", "rm", "-y", REPO).returncode == 0


def test_a_failed_update_keeps_the_old_model_usable(mlx: Run, hub: Hub) -> None:
    assert mlx("models", "pull", REPO).returncode == 0
    hub.commits[REPO] = "f" * 40
    hub.claimed_bytes[WEIGHTS] = 10**16
    hub.repos[REPO][WEIGHTS] += b"\0" * 8
    try:
        done = mlx("models", "pull", REPO)
        assert done.returncode == 5
        assert "Not enough space" in done.stderr
        assert mlx("ask", "-m", REPO, "--temp", "0", "Count from 3 to 7.").returncode == 0
        assert json.loads(mlx("models", "show", "--json", REPO).stdout)["revision"] == COMMIT
    finally:
        hub.commits[REPO] = COMMIT
        del hub.claimed_bytes[WEIGHTS]
        hub.repos[REPO][WEIGHTS] = hub.repos[REPO][WEIGHTS][:-8]
        mlx("models", "rm", "-y", REPO)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("acme/nothing",), 4, "or it is private"),
        ((REPO, "--revision", "v9"), 4, "has no revision 'v9'"),
        (("acme/secret",), 6, "accepted its terms"),
        (("acme/torch",), 5, "no weights that MLX can load"),
        (("pocket",), 6, "not a Hugging Face id"),
        (("not a name",), 6, "not a Hugging Face id"),
    ],
)
def test_pull_reports_why_it_failed(
    mlx: Run, hub: Hub, words: tuple[str, ...], code: int, said: str
) -> None:
    hub.gated.add("acme/secret")
    hub.repos["acme/torch"] = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    hub.commits["acme/torch"] = COMMIT
    done = mlx("models", "pull", *words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize(
    "settings",
    [{"HF_ENDPOINT": "http://127.0.0.1:1"}, {"HF_HUB_OFFLINE": "1"}],
)
def test_pull_exits_with_7_if_the_hub_is_unreachable(mlx: Run, settings: dict[str, str]) -> None:
    done = mlx("models", "pull", REPO, **settings)
    assert done.returncode == 7, done.stderr
    assert f"mlx models pull {REPO}" in done.stderr


def test_pull_exits_with_7_if_the_download_is_damaged(mlx: Run, hub: Hub) -> None:
    hub.damaged.add(WEIGHTS)
    try:
        done = mlx("models", "pull", REPO)
    finally:
        hub.damaged.clear()
    assert done.returncode == 7, done.stderr
    assert "damaged on the way" in done.stderr
    assert mlx("models", "rm", "-y", REPO).returncode == 0


def test_convert_quantises_a_model_and_the_result_answers(own_daemon: Daemon, mlx: Run) -> None:
    done = mlx("models", "convert", "pocket", "--bits", "8", "--group-size", "32")
    assert done.returncode == 0, done.stderr
    shown = json.loads(mlx("models", "show", "--json", "pocket-8bit").stdout)
    assert (shown["bits"], shown["group_size"]) == (8, 32)
    assert "became" in done.stderr
    answer = mlx("ask", "-m", "pocket-8bit", "--temp", "0", "Count from 3 to 7.")
    assert answer.stdout == "3, 4, 5, 6, 7\n"
    again = mlx("models", "convert", "pocket", "--bits", "8")
    assert again.returncode == 6
    assert "exists" in again.stderr
    assert mlx("models", "rm", "-y", "pocket-8bit").returncode == 0
    assert mlx("models", "show", "pocket-8bit").returncode == 4


WIDTHS = (2, 3, 4, 6)
CONVERT = """
import json, sys
from mlxd.daemon.engine.models.convert import convert
for job in json.load(sys.stdin):
    convert(job, lambda _report: None)
"""


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pocket in every width, converted in one process as the worker does."""
    folder = tmp_path_factory.mktemp("converted")
    job = {"name": "pocket", "path": str(BUILTIN_DIR), "group_size": 32, "mode": None,
           "dtype": None, "expected_bytes": 0, "trust_remote_code": False}  # fmt: skip
    jobs = [{**job, "bits": bits, "output": str(folder / str(bits))} for bits in WIDTHS]
    subprocess.run(
        [sys.executable, "-c", CONVERT], input=json.dumps(jobs), env=engine_environment(),
        text=True, check=True, timeout=120,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("bits", WIDTHS)
def test_convert_supports_every_bit_width(
    own_daemon: Daemon, mlx: Run, converted: Path, bits: int
) -> None:
    out = str(converted / str(bits))
    assert json.loads(mlx("models", "show", "--json", out).stdout)["bits"] == bits
    assert own_daemon.ask("chat", model=out, messages=user("hello"), max_tokens=2)["choices"]


def test_a_failed_conversion_leaves_no_files(mlx: Run, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    done = mlx("models", "convert", "pocket", "-o", out, "-b", "4", "--mode", "mxfp4",
               "--group-size", "128")  # fmt: skip
    assert done.returncode == 6
    assert mlx("models", "convert", "pocket", "-o", out, "--group-size", "32").returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_load_unload_and_eviction_are_reported(
    own_daemon: Daemon, mlx: Run, tmp_path: Path
) -> None:
    mlx("unload", "--all")
    own_daemon.wait_idle()
    copy = tmp_path / "copy"
    shutil.copytree(BUILTIN_DIR, copy)
    assert "stays pinned" in mlx("load", "pocket", "--pin").stdout
    assert "never (pinned)" in mlx("ps").stdout
    unpinned = mlx("load", "pocket", "--no-pin", "--keep-alive", "30m").stdout
    assert "was already in memory. It stays for 30 minutes after its last use." in unpinned
    mlx("load", str(copy), "--keep-alive", "0")
    until(lambda: len(own_daemon.ask("ps")["models"]) == 1, "the copy is evicted")
    shown = mlx("ps")
    assert "in 30 minutes" in shown.stdout
    assert f"{copy} was evicted" in shown.stderr
    assert "its keep-alive time ended" in shown.stderr
    [*_, evicted] = own_daemon.ask("status")["evicted"]
    assert (evicted["model"], evicted["reason"]) == (str(copy), "its keep-alive time ended")
    assert (
        own_daemon.logged(event="evicted", model=str(copy), reason="its keep-alive time ended") == 1
    )
    assert mlx("unload", "--all").stdout == "Unloaded pocket.\n"
    assert mlx("unload", "--all").stdout == "Not in memory. List the loaded models: mlx ps\n"
    assert mlx("unload", "--all", "pocket").returncode == 2


@pytest.fixture
def searchable(hub: Hub) -> Iterator[None]:
    """Add repositories: one that fits, one too large, one without MLX weights, one gated."""
    hub.add("mlx-community/Huge-4bit", BUILTIN_DIR)
    hub.add("mlx-community/Tiny-4bit", BUILTIN_DIR)
    hub.repos["mlx-community/Huge-4bit"]["model-2.safetensors"] = b"huge"
    hub.claimed_bytes["model-2.safetensors"] = 10**16
    hub.repos["mlx-community/Torch"] = {"config.json": b"{}"}
    hub.commits["mlx-community/Torch"] = COMMIT
    hub.gated.add("mlx-community/Closed")
    hub.add("mlx-community/Closed", BUILTIN_DIR)
    hub.downloads.update({"mlx-community/Huge-4bit": 9_000, "mlx-community/Tiny-4bit": 4_000})
    yield
    for name in [name for name in hub.repos if name.startswith("mlx-community/")]:
        del hub.repos[name]
    hub.claimed_bytes.clear()


@pytest.mark.usefixtures("searchable")
def test_search_shows_sizes_and_which_models_fit(mlx: Run, hub: Hub) -> None:
    done = mlx("models", "search", "4bit", "mlx-community")
    assert done.returncode == 0, done.stderr
    [header, huge, tiny] = [line.split() for line in done.stdout.splitlines()]
    assert header == ["MODEL", "SIZE", "FITS", "DOWNLOADS", "NOTE"]
    assert (huge[0], huge[3:]) == ("mlx-community/Huge-4bit", ["no", "9,000"])
    assert (tiny[0], tiny[3:]) == ("mlx-community/Tiny-4bit", ["yes", "4,000"])
    assert hub.searches[-1]["filter"] == ["mlx"]
    assert "mlx models pull MODEL" in done.stderr
    nothing = mlx("models", "search", "nothing-of-that-name")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "Try fewer words" in nothing.stderr


@pytest.mark.usefixtures("searchable")
def test_suggest_lists_models_that_fit_into_memory(mlx: Run) -> None:
    done = mlx("models", "suggest", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [model["name"] for model in found["models"]] == ["mlx-community/Tiny-4bit"]
    assert found["models"][0]["bytes"] < found["memory_budget_bytes"]


@pytest.mark.parametrize("command", [["search", "qwen"], ["suggest"]])
@pytest.mark.parametrize(
    "settings", [{"HF_ENDPOINT": "http://127.0.0.1:1"}, {"HF_HUB_OFFLINE": "1"}]
)
def test_search_exits_with_7_if_the_hub_is_unreachable(
    mlx: Run, settings: dict[str, str], command: list[str]
) -> None:
    done = mlx("models", *command, **settings)
    assert done.returncode == 7, done.stderr
    assert f"mlx models {' '.join(command)}" in done.stderr


def test_removing_an_imported_model_keeps_its_files(mlx: Run, tmp_path: Path) -> None:
    theirs = tmp_path / "models" / "acme" / "Small-8bit"
    shutil.copytree(BUILTIN_DIR, theirs)
    done = mlx("models", "import", str(tmp_path / "models"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"acme/Small-8bit → {theirs}\n"
    answer = mlx("ask", "-m", "small-8bit", "--temp", "0", "Count from 3 to 7.")
    assert answer.stdout == "3, 4, 5, 6, 7\n", answer.stderr
    again = mlx("models", "import", str(theirs))
    assert (again.returncode, again.stdout) == (0, "")
    assert "1 model already known" in again.stderr
    removed = mlx("models", "rm", "-y", "acme/Small-8bit")
    assert f"The model remains at {theirs}" in removed.stderr.replace(
        str(theirs.resolve()), str(theirs)
    )
    assert (theirs / WEIGHTS).exists()
    assert mlx("models", "show", "acme/Small-8bit").returncode == 4


@pytest.mark.parametrize("command", [["models", "import"], ["ask", "hi", "-m"]])
def test_a_gguf_file_is_refused_with_a_search_command(
    mlx: Run, tmp_path: Path, command: list[str]
) -> None:
    file = tmp_path / "Llama-3.2-1B-Instruct-Q4_K_M.gguf"
    file.write_bytes(b"GGUF")
    done = mlx(*command, str(file))
    assert done.returncode == 5, done.stderr
    assert "mlx models search Llama-3.2-1B-Instruct" in done.stderr


def test_rm_refuses_models_that_mlxd_did_not_store(mlx: Run) -> None:
    for name in ("pocket", str(BUILTIN_DIR)):
        done = mlx("models", "rm", "-y", name)
        assert done.returncode == 6
        assert (BUILTIN_DIR / WEIGHTS).exists()


def test_an_alias_and_the_default_apply_at_once_and_survive_a_restart(
    own_daemon: Daemon, mlx: Run
) -> None:
    config = Path(own_daemon.environ["MLXD_CONFIG_DIR"]) / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("# mine\n")
    assert mlx("models", "alias", "tiny", "pocket").returncode == 0
    assert mlx("ask", "-m", "tiny", "--temp", "0", "Count from 3 to 7.").stdout[0] == "3"
    assert mlx("models", "alias").stdout == "tiny → pocket\n"
    assert mlx("models", "default", "tiny").returncode == 0
    assert "# mine" in config.read_text()
    assert own_daemon.ask("status")["default_model"] == "pocket", "stored by its full name"
    assert mlx("models", "default").stdout == "pocket\n"
    own_daemon.stop()
    own_daemon.start()
    assert own_daemon.ask("status")["default_model"] == "pocket"
    assert mlx("models", "default", "pocket").returncode == 0
    assert mlx("models", "alias", "--delete", "tiny").returncode == 0
    assert mlx("models", "alias", "--delete", "tiny").returncode == 6
    assert mlx("models", "default", "no-such").returncode == 4
