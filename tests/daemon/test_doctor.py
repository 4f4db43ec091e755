"""`mlxd doctor`: every check on a simulated machine, and the command on this one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mlxd.daemon.cli.doctor import places, running, software
from mlxd.daemon.cli.doctor.check import Finding, Machine
from mlxd.daemon.cli.doctor.command import conclusion, problems
from mlxd.daemon.cli.doctor.examine import examine
from mlxd.daemon.cli.doctor.symptoms import SYMPTOMS
from mlxd.daemon.cli.doctor.table import CHECKS
from mlxd.daemon.config import Config, ConfigError
from mlxd.daemon.conversations.store import Store, Turn
from mlxd.daemon.models.catalog import BUILTIN_DIR
from mlxd.launchd.service import Outcome, ServiceState
from mlxd.protocol.paths import Paths
from support.places import MLXD, mlxd
from support.terminal import terminal


@dataclass
class FakeService:
    """A service manager with a given state."""

    current: ServiceState
    manager: str = "systemd"

    def state(self) -> ServiceState:
        return self.current

    def check(self) -> None:
        """It answers."""

    def install(self) -> bool:
        raise AssertionError("a doctor changes nothing")

    uninstall = install

    def start(self) -> None:
        raise AssertionError("a doctor changes nothing")

    stop = start


def fake_commands(**answers: str) -> Callable[[Sequence[str], Mapping[str, str]], Outcome]:
    """Return a fake command runner, from a word of the command to its output. Others fail."""

    def run(command: Sequence[str], _environ: Mapping[str, str]) -> Outcome:
        line = " ".join(command)
        return next((Outcome(0, out) for word, out in answers.items() if word in line), Outcome(1))

    return run


def probe(**about: Any) -> str:
    return json.dumps({"device": "cpu", "metal": False, "gflops": 70.0, **about})


@pytest.fixture
def machine(own_paths: Paths, environ: dict[str, str]) -> Machine:
    return Machine(
        paths=own_paths,
        config=Config(),
        config_error=None,
        service=FakeService(ServiceState("systemd", installed=False)),
        environ=environ,
        platform="linux",
        run=fake_commands(mlx=probe()),
        free_bytes=lambda _path: 10**11,
        total_memory_bytes=lambda: 16 * 10**9,
    )


def test_check_names_match_the_table(machine: Machine) -> None:
    assert [finding.check for finding in examine(machine)] == list(CHECKS)


def test_every_finding_that_is_not_ok_has_a_next_step(machine: Machine) -> None:
    for finding in examine(machine):
        assert finding.verdict == "ok" or finding.next_step, finding


def test_a_check_that_raises_is_reported_as_failed(machine: Machine) -> None:
    def broken(_path: Path) -> int:
        raise RuntimeError("oh")

    found = {f.check: f for f in examine(replace(machine, free_bytes=broken))}
    assert found["disk"].verdict == "fail"
    assert "oh" in found["disk"].detail


def test_doctor_fails_if_the_engine_cannot_start(machine: Machine) -> None:
    def run(_command: Sequence[str], _environ: Mapping[str, str]) -> Outcome:
        return Outcome(1, "Traceback\nImportError: libmlx.so")

    finding = software.backend(replace(machine, run=run))
    assert finding.verdict == "fail"
    assert "libmlx.so" in finding.detail


def test_a_small_limit_of_the_shell_is_no_concern_since_the_daemon_raises_its_own(
    machine: Machine,
) -> None:
    mac = replace(machine, platform="darwin")
    assert running.open_files(replace(mac, file_limits=lambda: (256, 10_240))).verdict == "ok"
    finding = running.open_files(replace(mac, file_limits=lambda: (256, 256)))
    assert (finding.verdict, finding.next_step.split()[1]) == ("warn", "launchctl")
    on_linux = running.open_files(replace(machine, file_limits=lambda: (256, 256)))
    assert "limits.conf" in on_linux.next_step


def test_a_gpu_passes_the_backend_check(machine: Machine) -> None:
    run = fake_commands(mlx=probe(device="gpu", metal=True, gflops=3000))
    finding = software.backend(replace(machine, platform="darwin", run=run))
    assert finding.verdict == "ok"
    assert "Metal" in finding.detail


def test_a_mac_without_a_gpu_gets_a_warning(machine: Machine) -> None:
    finding = software.backend(replace(machine, platform="darwin"))
    assert finding.verdict == "warn"
    assert "arm64" in finding.next_step


def test_a_cpu_with_the_reference_blas_gets_a_warning(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software, "find_blas", lambda _platform: None)
    finding = software.backend(machine)
    assert finding.verdict == "warn"
    assert "libblis4-pthread" in finding.next_step


def test_the_backend_probe_preloads_the_same_blas_as_the_engine(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []
    library = tmp_path / "libblis.so.4"
    library.touch()

    def run(_command: Sequence[str], environ: Mapping[str, str]) -> Outcome:
        seen.append(environ.get("LD_PRELOAD"))
        return Outcome(0, probe())

    monkeypatch.setattr(software, "find_blas", lambda _platform: library)
    assert software.backend(replace(machine, run=run)).verdict == "ok"
    assert seen == [str(library)]


def test_wired_limit_and_memory_pressure_of_a_mac_are_read(machine: Machine) -> None:
    run = fake_commands(wired_limit="12000", pressure_level="1")
    finding = software.memory(replace(machine, platform="darwin", run=run))
    assert (finding.verdict, finding.detail) == ("ok", "16.0 GB, wired limit 12.6 GB")
    run = fake_commands(wired_limit="0", pressure_level="4")
    finding = software.memory(replace(machine, platform="darwin", run=run))
    assert finding.verdict == "warn"
    assert "critical" in finding.detail


def test_a_memory_budget_over_the_machines_memory_gets_a_warning(machine: Machine) -> None:
    config = Config(memory_budget_bytes=64 * 10**9)
    assert software.memory(replace(machine, config=config)).verdict == "warn"


def test_little_memory_gets_a_warning(machine: Machine) -> None:
    small = replace(machine, total_memory_bytes=lambda: 4 * 10**9)
    assert software.memory(small).verdict == "warn"


def test_a_damaged_configuration_fails_with_the_line(machine: Machine) -> None:
    error = ConfigError("config.toml, line 3: preload must be true or false.")
    finding = places.configuration(replace(machine, config_error=error))
    assert finding.verdict == "fail"
    assert "line 3" in finding.detail


def test_a_misspelt_variable_gets_a_suggestion(machine: Machine) -> None:
    finding = places.configuration(replace(machine, environ={"MLXD_PRELAOD": "0"}))
    assert finding.verdict == "warn"
    assert finding.next_step == "Did you mean MLXD_PRELOAD?"


def test_the_socket_folder_must_be_private(machine: Machine) -> None:
    folder = machine.paths.socket.parent
    assert places.socket_folder(machine).verdict == "ok"
    folder.mkdir()
    folder.chmod(0o755)
    assert places.socket_folder(machine).verdict == "ok", "the daemon accepts it too"
    folder.chmod(0o777)
    finding = places.socket_folder(machine)
    assert finding.verdict == "fail"
    # Not mlxd's own folder: other programs may share it, like /tmp.
    assert finding.next_step == "Set MLXD_SOCKET to a path in a folder of your own"
    own = folder / "mlxd"
    own.mkdir()
    own.chmod(0o777)
    ours = replace(machine, paths=replace(machine.paths, socket=own / "s"))
    assert places.socket_folder(ours).next_step == f"Make it yours alone: chmod 700 {own}"
    folder.chmod(0o700)
    assert places.socket_folder(machine).verdict == "ok"
    assert places.socket_folder(replace(machine, uid=os.getuid() + 1)).verdict == "fail"
    machine.paths.socket.touch()
    machine.paths.socket.chmod(0o666)
    assert places.socket_folder(machine).verdict == "warn"


def test_a_symlink_in_place_of_the_socket_folder_fails(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    machine.paths.socket.parent.symlink_to(tmp_path / "elsewhere")
    assert places.socket_folder(machine).verdict == "fail"


def test_an_incomplete_model_gets_a_warning(machine: Machine) -> None:
    (Path(machine.environ["HF_HUB_CACHE"]) / "models--org--half" / "snapshots" / "a").mkdir(
        parents=True
    )
    finding = places.models(machine)
    assert finding.verdict == "warn"


def test_models_of_other_tools_are_suggested_for_import(machine: Machine, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(BUILTIN_DIR, home / ".lmstudio" / "models" / "acme" / "Small-8bit")
    at_home = replace(machine, environ={**machine.environ, "HOME": str(home)})
    finding = places.other_tools(at_home)
    assert (finding.verdict, finding.next_step) == ("ok", "mlx models import")
    assert finding.detail == "MLX models of LM Studio: 1"


def test_a_missing_default_model_fails(machine: Machine) -> None:
    gone = replace(machine, config=Config(default_model="org/gone"))
    found = {finding.check: finding for finding in examine(gone)}
    assert found["default model"].verdict == "fail"
    assert "mlx models pull org/gone" in found["default model"].next_step


@pytest.mark.parametrize(("free", "verdict"), [(10**11, "ok"), (10**9, "warn"), (10**6, "fail")])
def test_the_disk_check_depends_on_the_free_space(
    machine: Machine, free: int, verdict: str
) -> None:
    assert places.disk(replace(machine, free_bytes=lambda _path: free)).verdict == verdict


def test_output_in_mlxd_err_gets_a_warning(machine: Machine) -> None:
    machine.paths.log_dir.mkdir()
    (machine.paths.log_dir / "mlxd.err").write_text("Fatal Python error\n")
    assert places.crashes(machine).verdict == "warn"


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        (ServiceState("launchd", installed=False), "ok"),
        (ServiceState("launchd", installed=True, loaded=True), "ok"),
        (ServiceState("launchd", installed=True, loaded=False), "warn"),
        (ServiceState("launchd", installed=True, loaded=True, current=False), "warn"),
    ],
)
def test_the_service_check_depends_on_the_service_state(
    machine: Machine, state: ServiceState, verdict: str
) -> None:
    assert running.service(replace(machine, service=FakeService(state))).verdict == verdict


def test_the_daemon_check_passes_if_a_service_starts_on_demand(machine: Machine) -> None:
    assert running.daemon(machine).verdict == "warn"
    waiting = FakeService(ServiceState("systemd", installed=True, loaded=True))
    assert running.daemon(replace(machine, service=waiting)).verdict == "ok"


def test_doctor_prints_the_findings_and_sets_the_exit_code(environ: dict[str, str]) -> None:
    done = mlxd(environ, "doctor", "--all")
    assert "Python 3." in done.stdout
    assert "Traceback" not in done.stderr
    report = json.loads(mlxd(environ, "doctor", "--json").stdout)
    assert [check["check"] for check in report["checks"]] == list(CHECKS)
    assert (done.returncode == 1) == (report["verdict"] == "fail")


def test_the_report_lists_failures_first_and_counts_passed_checks() -> None:
    findings = [
        Finding("packages", "ok", "mlxd 1.0 and more", summary="mlxd 1.0"),
        Finding("daemon", "warn", "It is not running", "mlxd start"),
        Finding("disk", "fail", "It is full", "mlx models rm"),
    ]
    assert [finding.check for finding in problems(findings)] == ["disk", "daemon"]
    assert conclusion(findings) == "1 of 3 checks passed. See all: mlxd doctor --all"


def test_the_report_is_one_line_if_every_check_passes() -> None:
    findings = [
        Finding("packages", "ok", "mlxd 1.0 and more", summary="mlxd 1.0"),
        Finding("disk", "ok", "plenty"),
        Finding("default model", "ok", "pocket, /path", summary="default model pocket"),
    ]
    assert problems(findings) == []
    assert conclusion(findings).startswith("No problems found: mlxd 1.0, default model pocket.")


def test_doctor_without_all_prints_the_problems_and_one_line(environ: dict[str, str]) -> None:
    report = json.loads(mlxd(environ, "doctor", "--json").stdout)
    wrong = {check["check"] for check in report["checks"] if check["verdict"] != "ok"}
    said = mlxd(environ, "doctor").stdout.splitlines()
    assert "daemon" in wrong  # none is running
    shown = {line.split()[1] for line in said if line.startswith(("warn", "FAIL"))}
    # The speed of a busy machine may be a problem in one of the two runs only.
    assert shown - {"backend"} == wrong - {"backend"}
    assert said[-1].endswith("mlxd doctor --all")


def test_the_troubleshooting_page_lists_every_symptom_and_check() -> None:
    page = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text("utf-8")
    for symptom in SYMPTOMS:
        assert f"## {symptom.name}" in page
    for name in CHECKS:
        assert f"| {name} |" in page


def test_doctor_all_prints_the_remedy_of_every_symptom(environ: dict[str, str]) -> None:
    said = mlxd(environ, "doctor", "--all").stdout
    for symptom in SYMPTOMS:
        assert f"{symptom.name}: {symptom.remedy}" in said


def test_the_conversations_check_covers_count_mode_and_damage(machine: Machine) -> None:
    assert places.conversations(machine).verdict == "ok"
    store = Store(machine.paths.conversations_db)
    store.begin(Turn("chat", "aaaa", "", None, "pocket", [{"role": "user", "content": "x"}]))
    assert places.conversations(machine).detail.startswith("1 in ")
    store.close()
    machine.paths.conversations_db.chmod(0o644)
    assert places.conversations(machine).next_step.startswith("chmod 600")
    machine.paths.conversations_db.write_bytes(b"no database" * 999)
    machine.paths.conversations_db.chmod(0o600)
    found = places.conversations(machine)
    assert (found.verdict, "under another name" in found.next_step) == ("fail", True)
    off = replace(machine, config=replace(machine.config, conversations=False))
    assert places.conversations(off).verdict == "ok"


def test_newer_and_damaged_conversation_databases_are_reported(machine: Machine) -> None:
    Store(machine.paths.conversations_db).close()
    machine.paths.conversations_db.with_name("conversations.db.damaged-1").touch()
    assert "damaged" in places.conversations(machine).detail
    with contextlib.closing(sqlite3.connect(machine.paths.conversations_db)) as database:
        database.execute("PRAGMA user_version = 99")
    assert "newer" in places.conversations(machine).detail


def test_doctor_breaks_no_word_on_a_narrow_terminal(environ: dict[str, str]) -> None:
    with terminal([*MLXD, "doctor", "--all"], environ, columns=46) as screen:
        shown = screen.end().split()
    for symptom in SYMPTOMS:
        for word in (*symptom.name.split(), *symptom.remedy.split()):
            assert word in shown or f"{word}:" in shown
