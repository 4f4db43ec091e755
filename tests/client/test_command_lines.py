"""Any command line of both programs exits with a documented code and without a traceback."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxd.client.cli import cli
from mlxd.client.cli.failures import run
from mlxd.client.cli.groups import Group
from mlxd.client.fast.options import OPTIONS
from mlxd.daemon.cli import cli as daemon_cli
from mlxd.daemon.cli import main as daemon_main
from mlxd.protocol.errors import EXITS
from support.places import own_environ

LONGEST_S = 20.0
FILES: dict[str, bytes] = {
    "text.txt": b"some text",
    "latin.txt": b"caf\xe9",
    "binary": b"\0\1\2",
    "lines.jsonl": b'"hi"\n{"prompt": 3}\n[]\n{\n"\\ud800"\n{"method": {}}\n',
    "out.jsonl": b'{"line": 1, "hash": [], "result": 4}\n{"line": {}}\n{"line": 1}\n',
}
NAMES = (*FILES, "folder", "folder/x", "missing/x", "loop", "/dev/null", "-", "\udce9")
FLAGS = [flag for _, flags, _, _ in OPTIONS for flag in flags]


def lines_of(group: click.Group) -> list[tuple[str, ...]]:
    """Return every command of a program, those of its groups and its aliases."""
    context = click.Context(group)
    names = group.known_commands(context) if isinstance(group, Group) else group.commands
    lines: list[tuple[str, ...]] = []
    for name in names:
        command = group.get_command(context, name)
        lines.append((name,))
        if isinstance(command, click.Group):
            lines += [(name, *line) for line in lines_of(command)]
    return lines


LINES = lines_of(cli)
DAEMON_LINES = lines_of(daemon_cli)
ACTING = ("run", "start", "restart", "install", "uninstall")
"""Commands of mlxd that start a daemon or change the system. They get an option that is refused."""
ODD = st.sampled_from(["", "0", "-1", "nan", "1e999", "9" * 30, "9" * 5000, "{}", "[1]", "x=y",
                       "/", "explain", "broken", "1h30m", "--", "-h", "-y", "-o", "-j",
                       "out.jsonl", "lines.jsonl"])  # fmt: skip
WORDS = st.sampled_from(NAMES) | st.sampled_from(FLAGS) | ODD | st.text(max_size=3)
ENVIRONMENTS = st.fixed_dictionaries({}, optional={
    "EDITOR": st.sampled_from(["nosuch", "false", '"', "true"]),
    "TERM": st.sampled_from(["dumb", "xterm", ""]),
    "FORCE_COLOR": st.just("1"),
    "COLUMNS": st.sampled_from(["1", "50", "x"]),
    "MLXD_SOCKET": st.sampled_from(["relative", "/" + "x" * 200, "/dev/null"]),
    "HOME": st.sampled_from(["", "/nonexistent", "loop"]),
    "MLXD_STATE_DIR": st.sampled_from(["", "relative", "/dev/null", "/nonexistent"]),
    "MLXD_CONFIG_DIR": st.sampled_from(["", "relative", "/dev/null", "/nonexistent"]),
    "MLXD_LOG_DIR": st.sampled_from(["", "relative", "/dev/null"]),
    "XDG_RUNTIME_DIR": st.sampled_from(["", "relative", "/nonexistent"]),
})  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with files of every kind and a configuration with a broken template."""
    home = tmp_path_factory.mktemp("home")
    for name, raw in FILES.items():
        (home / name).write_bytes(raw)
    (home / "folder").mkdir()
    (home / "loop").symlink_to("loop")
    templates = home / "config" / "templates"
    templates.mkdir(parents=True)
    (templates / "broken.toml").write_text('prompt = 5\noptions = "x"')
    return home


def run_command(
    program: str, line: list[str], folder: Path, environ: dict[str, str], stdin: bytes
) -> tuple[int, str]:
    """Run a command line in this process; return its exit code and its stderr."""
    out, err = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO(), errors="replace")
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(folder)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        for name, value in {**own_environ(folder), "MLXD_AUTOSTART": "0", **environ}.items():
            patch.setenv(name, value)
        if program == "mlx":
            code = run(cli, line)
        else:
            with pytest.raises(SystemExit) as exit_:
                daemon_main(line)
            code = int(exit_.value.code or 0)
    err.flush()
    return code, err.buffer.getvalue().decode(errors="replace")


@settings(deadline=None, max_examples=300, suppress_health_check=[*HealthCheck])
@given(
    line=st.sampled_from(LINES),
    words=st.lists(WORDS, max_size=5),
    environ=ENVIRONMENTS,
    stdin=st.sampled_from([b"", b"hi", b"/save text.txt\n/hlep\n/file binary\n", b"\xff\xfe\0"]),
)
def test_any_mlx_command_line_exits_with_a_documented_code(
    line: tuple[str, ...],
    words: list[str],
    environ: dict[str, str],
    stdin: bytes,
    folder: Path,
) -> None:
    started = time.monotonic()
    code, said = run_command("mlx", [*line, *words], folder, environ, stdin)
    assert code in EXITS
    assert "Traceback" not in said
    assert "Unexpected" not in said
    assert time.monotonic() - started < LONGEST_S
    if code not in (0, 130) and line[0] != "chat":
        assert said.startswith("mlx: ") or "Usage" in said, said


@settings(deadline=None, max_examples=120, suppress_health_check=[*HealthCheck])
@given(
    line=st.sampled_from([*DAEMON_LINES, ("nosuch",)]),
    words=st.lists(WORDS, max_size=3),
    environ=ENVIRONMENTS,
)
def test_any_mlxd_command_line_exits_with_a_documented_code(
    line: tuple[str, ...], words: list[str], environ: dict[str, str], folder: Path
) -> None:
    words = [word for word in words if word not in ("-f", "--follow")]  # never ends
    if line[0] in ACTING:
        words.insert(0, "--refused")
    code, said = run_command("mlxd", [*line, *words], folder, environ, b"")
    assert code in EXITS
    assert "Traceback" not in said
    assert "Unexpected" not in said


@pytest.mark.parametrize(("program", "lines"), [("mlx", LINES), ("mlxd", DAEMON_LINES)])
def test_every_command_has_help_that_fits_a_terminal(
    program: str, lines: list[tuple[str, ...]], folder: Path
) -> None:
    for line in lines:
        code, said = run_command(program, [*line, "--help"], folder, {"COLUMNS": "80"}, b"")
        assert (code, said) == (0, ""), line


@pytest.mark.parametrize("words", [("-o", "out.jsonl"), ("-o", "folder"), ("-o", "loop")])
def test_batch_with_invalid_files_exits_with_a_documented_code(
    words: tuple[str, ...], folder: Path
) -> None:
    for source in NAMES:
        code, said = run_command("mlx", ["batch", source, *words], folder, {}, b"\xff")
        assert code in (2, 3)
        assert said.startswith("mlx: ")
        assert "Unexpected" not in said


@pytest.mark.parametrize("program", ["mlx", "mlxd"])
def test_mlx_and_mlxd_report_mistakes_in_the_same_format(program: str, folder: Path) -> None:
    code, said = run_command(program, ["nosuch"], folder, {}, b"")
    assert code == 2
    indent = " " * len(f"{program}: ")
    assert said.startswith(f"{program}: There is no command 'nosuch'.")
    assert said.splitlines()[1] == f"{indent}See: {program} --help"


def test_a_broken_template_does_not_prevent_listing_templates(folder: Path) -> None:
    code, said = run_command("mlx", ["templates", "list"], folder, {}, b"")
    assert (code, said) == (0, "")
    code, said = run_command("mlx", ["ask", "-t", "broken", "hi"], folder, {}, b"")
    assert code == 2
    assert "prompt must be a string" in said


def test_a_missing_editor_is_a_usage_error(folder: Path) -> None:
    code, said = run_command("mlx", ["ask", "-e", "hi"], folder, {"EDITOR": "nosuch"}, b"")
    assert code == 2
    assert "Set EDITOR" in said


def test_a_users_template_can_be_removed_and_a_built_in_one_cannot(folder: Path) -> None:
    mine = folder / "config" / "templates" / "mine.toml"
    mine.write_text('prompt = "{input}"')
    assert run_command("mlx", ["templates", "rm", "-y", "mine"], folder, {}, b"")[0] == 0
    assert not mine.exists()
    code, said = run_command("mlx", ["templates", "rm", "-y", "explain"], folder, {}, b"")
    assert code == 2
    assert "built in" in said
