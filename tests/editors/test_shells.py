"""The key bindings of `mlx shell-init`, in real shells on a terminal."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support import needs
from support.commands import BIN, runner
from support.daemon_process import Daemon
from support.shells import KEYS, PROMPT, RC, shell
from support.terminal import WAIT_S
from support.waiting import until

SHELLS = [*RC]
LINUX = sys.platform == "linux"


def channels(pid: int) -> list[str]:
    """Return the sockets and pipes that a process has open.

    Other files are not counted: a shell duplicates its own descriptors while it runs a hook.
    """
    return sorted(
        link
        for file in Path(f"/proc/{pid}/fd").iterdir()
        if (link := read_link(file)).startswith(("socket:", "pipe:"))
    )


def read_link(file: Path) -> str:
    try:
        return os.readlink(file)
    except FileNotFoundError:
        return ""  # closed meanwhile


@pytest.mark.parametrize("name", SHELLS)
def test_the_command_key_inserts_a_command_without_running_it(
    name: str, environ: dict[str, str], tmp_path: Path
) -> None:
    with shell(name, environ, tmp_path) as screen:
        screen.wait_prompt(PROMPT)
        screen.send("list files by size")
        screen.wait("list files by size")
        screen.send(KEYS[name][0])
        screen.wait(f"{PROMPT}ls -lS")
        # The command does not run before Enter is pressed.
        screen.send("\x15echo still\\ here\r")
        screen.wait("\nstill here")
        assert "total" not in screen.text()


@pytest.mark.parametrize("name", SHELLS)
def test_the_explain_key_explains_a_command_and_keeps_the_line(
    name: str, environ: dict[str, str], tmp_path: Path
) -> None:
    with shell(name, environ, tmp_path) as screen:
        screen.wait_prompt(PROMPT)
        screen.send("ls -l")
        screen.wait("ls -l")
        screen.send(KEYS[name][1])
        screen.wait("built-in model")
        screen.wait_for(lambda: f"{PROMPT}ls -l" in screen.text(), "the line", WAIT_S)


FAILS = "sh -c 'exit 7'"


@pytest.mark.parametrize("name", ["bash", "fish"])
def test_the_fix_key_sends_the_last_failed_command_with_its_status(
    name: str, environ: dict[str, str], tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    wrapper = tmp_path / "bin" / "mlx"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"{asked}"\nexec {BIN}/mlx "$@"\n')
    wrapper.chmod(0o755)
    own = {**environ, "PATH": f"{wrapper.parent}:{environ['PATH']}"}
    with shell(name, own, tmp_path) as screen:
        screen.wait_prompt(PROMPT)
        screen.send(f"{FAILS}\r")
        screen.wait_for(lambda: screen.text().count(PROMPT) == 2, "a second prompt", WAIT_S)
        screen.wait_prompt(PROMPT)
        screen.send(KEYS[name][2])
        screen.wait_for(lambda: screen.text().splitlines()[-1].strip() != PROMPT, "a line", WAIT_S)
    assert f"status 7: {FAILS}" in asked.read_text()


def test_zsh_sends_the_last_failed_command_with_its_status(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.settimeout(WAIT_S)
        with shell("zsh", {**environ, "MLXD_SOCKET": str(tmp_path / "s")}, tmp_path) as screen:
            screen.wait_prompt(PROMPT)
            screen.send(f"{FAILS}\r")
            screen.wait_for(lambda: screen.text().count(PROMPT) == 2, "a second prompt", WAIT_S)
            screen.wait_prompt(PROMPT)
            screen.send(KEYS["zsh"][2])
            peer, _ = listener.accept()
            with peer, peer.makefile() as lines:
                request = json.loads(lines.readline())
    question = request["params"]["messages"][-1]["content"]
    assert question.endswith(f"status 7: {FAILS}")


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_pressing_the_key_again_cancels_the_request(
    name: str, daemon: Daemon, environ: dict[str, str], tmp_path: Path
) -> None:
    with daemon.peer() as busy:
        # A long-running request delays the answer until it is cancelled.
        one = busy.send("chat", messages=[{"role": "user", "content": "Count from 0 to 99."}],
                        ignore_eos=True, max_tokens=16_000, stream=True)  # fmt: skip
        busy.wait_event("delta")
        with shell(name, environ, tmp_path) as screen:
            screen.wait_prompt(PROMPT)
            screen.send("Tell me a story about a fox.")
            screen.wait("about a fox.")
            screen.send(KEYS[name][1])
            until(lambda: daemon.running() > 1, "the question is asked")
            screen.send(KEYS[name][1])
            until(lambda: daemon.running() == 1, "the question is cancelled")
            screen.wait_for(lambda: "about a fox." in screen.text(), "the line", WAIT_S)
        busy.notify("cancel", id=one)
        busy.answer(one)


@pytest.mark.parametrize("name", ["bash", "fish"])
def test_ctrl_c_cancels_the_request_and_the_shell_continues(
    name: str, daemon: Daemon, environ: dict[str, str], tmp_path: Path
) -> None:
    with shell(name, environ, tmp_path) as screen:
        screen.wait_prompt(PROMPT)
        screen.send("Count from 0 to 99.")
        screen.wait("to 99.")
        screen.send(KEYS[name][1])
        screen.wait("0, 1, 2")
        screen.send("\x03")
        daemon.wait_idle()
        screen.send("\x15echo still\\ here\r")
        screen.wait("\nstill here")


def test_zsh_accepts_input_while_a_request_runs(
    daemon: Daemon, environ: dict[str, str], tmp_path: Path
) -> None:
    with shell("zsh", environ, tmp_path) as screen:
        screen.wait_prompt(PROMPT)
        screen.send("Count from 0 to 99.")
        screen.wait("to 99.")
        screen.send(KEYS["zsh"][0] + " and more")
        screen.wait("to 99. and more")
        with daemon.peer() as peer:
            while peer.call("status")["requests"]["running"]:
                pass
        screen.send("!")
        screen.wait("to 99. and more!")


@pytest.mark.parametrize("pieces", [None, *range(4)])
def test_one_ctrl_c_at_any_moment_gives_a_new_prompt(
    pieces: int | None, daemon: Daemon, environ: dict[str, str], tmp_path: Path
) -> None:
    """Ctrl-C may interrupt the line editor, one of our handlers, or the moment before one.

    One Ctrl-C is enough, the request is cancelled, and the shell leaves nothing open.
    """
    with shell("zsh", environ, tmp_path) as screen:
        screen.wait_prompt(PROMPT)
        before = channels(screen.pid) if LINUX else []
        for turn in range(8):
            if turn:
                screen.wait_prompt(PROMPT)
            screen.send("Count from 0 to 99.")
            screen.wait("to 99.")
            screen.send(KEYS["zsh"][1])
            if pieces:
                begun = "\n0, 1, 2"[: 2 * pieces]
                screen.wait(begun, timeout_s=WAIT_S)
            elif pieces is None and LINUX:
                # While the request is being sent.
                until(lambda: channels(screen.pid) != before, "the work begins", WAIT_S)
            screen.send("\x03")
            screen.wait_prompt(PROMPT)
            screen.send("\x0c")
            daemon.wait_idle()
            if LINUX:
                until(lambda: channels(screen.pid) == before, "all channels closed", WAIT_S)


@pytest.mark.parametrize("name", SHELLS)
def test_an_existing_key_binding_is_kept_and_another_key_can_be_set(
    name: str, environ: dict[str, str], tmp_path: Path
) -> None:
    before = {
        "zsh": "bindkey '^Xk' beginning-of-line; MLXD_KEY_EXPLAIN='^Xq'",
        "bash": "bind '\"\\C-xk\": beginning-of-line'; MLXD_KEY_EXPLAIN='\\C-xq'",
        "fish": "bind \\ek beginning-of-line; set -g MLXD_KEY_EXPLAIN \\eq",
    }
    other = "\x1bq" if name == "fish" else "\x18q"
    with shell(name, environ, tmp_path, before[name]) as screen:
        said = screen.wait_prompt(PROMPT)
        assert "MLXD_KEY_COMMAND" in said
        screen.send("list files by size")
        screen.wait("by size")
        screen.send(KEYS[name][0] + "X")
        screen.wait(f"{PROMPT}Xlist files by size")
        screen.send(other)
        screen.wait("built-in model")


@pytest.mark.parametrize("name", SHELLS)
def test_shell_keys_print_the_next_step_without_a_daemon(
    name: str, environ: dict[str, str], tmp_path: Path
) -> None:
    nobody = {**environ, "MLXD_SOCKET": str(tmp_path / "s"), "MLXD_AUTOSTART": "0"}
    with shell(name, nobody, tmp_path) as screen:
        screen.wait_prompt(PROMPT)
        screen.send("list files by size")
        screen.wait("by size")
        screen.send(KEYS[name][0])
        screen.wait("mlxd start")
        screen.wait_for(lambda: f"{PROMPT}list files by size" in screen.text(), "the line", WAIT_S)


def test_zsh_starts_the_daemon_if_none_is_running(environ: dict[str, str], tmp_path: Path) -> None:
    own = {
        **environ,
        "MLXD_SOCKET": str(tmp_path / "mlxd" / "m"),
        "MLXD_LOG_DIR": str(tmp_path / "l"),
        "MLXD_STATE_DIR": str(tmp_path / "state"),
    }
    with shell("zsh", own, tmp_path) as screen:
        screen.wait_prompt(PROMPT)
        screen.send("list files by size\x18k")
        # The daemon has to start and load a model.
        screen.wait(f"{PROMPT}ls -lS", timeout_s=2 * WAIT_S)
        screen.send("\x15mlxd stop\r")
        screen.wait("has stopped")


# ---- Git


def git(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=settings, capture_output=True, text=True,
        timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture
def repository(environ: dict[str, str], tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    git(folder, "init", "-q", **environ)
    for key, value in (("user.name", "Ada"), ("user.email", "ada@example.org")):
        git(folder, "config", key, value, **environ)
    hook = folder / ".git" / "hooks" / "prepare-commit-msg"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(runner(environ)("shell-init", "git").stdout)
    hook.chmod(0o755)
    (folder / "file").write_text("one\n")
    git(folder, "add", "file", **environ)
    return folder


def message(folder: Path, environ: dict[str, str]) -> str:
    return git(folder, "log", "-1", "--format=%B", **environ).stdout.strip()


def test_the_git_hook_proposes_a_commit_message(repository: Path, environ: dict[str, str]) -> None:
    done = git(repository, "commit", **{**environ, "GIT_EDITOR": "true"})
    assert done.returncode == 0, done.stderr
    assert message(repository, environ)
    assert not (repository / ".git" / "COMMIT_EDITMSG.mlxd").exists()


def test_the_git_hook_keeps_a_given_message(repository: Path, environ: dict[str, str]) -> None:
    assert git(repository, "commit", "-m", "mine", **environ).returncode == 0
    assert message(repository, environ) == "mine"


def test_a_missing_daemon_does_not_block_a_commit(
    repository: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    alone = {**environ, "MLXD_SOCKET": str(tmp_path / "nobody")}
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho by hand > "$1"\n')
    editor.chmod(0o755)
    done = git(repository, "commit", **{**alone, "GIT_EDITOR": str(editor)})
    assert done.returncode == 0, done.stderr
    assert message(repository, environ) == "by hand"
    assert not (tmp_path / "nobody").exists()


def test_a_daemon_that_never_answers_does_not_block_a_commit(
    repository: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        silent = {**environ, "MLXD_SOCKET": str(tmp_path / "s"), "MLXD_COMMIT_TIMEOUT": "1"}
        editor = tmp_path / "editor"
        editor.write_text('#!/bin/sh\necho by hand > "$1"\n')
        editor.chmod(0o755)
        done = git(repository, "commit", **{**silent, "GIT_EDITOR": str(editor)})
    assert done.returncode == 0, done.stderr
    assert message(repository, environ) == "by hand"


def test_the_git_hook_passes_the_diff_on_stdin(
    repository: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    wrapper = tmp_path / "bin" / "mlx"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\ncat >"{asked}"\necho Add a file\n')
    wrapper.chmod(0o755)
    own = {**environ, "PATH": f"{wrapper.parent}:{environ['PATH']}", "GIT_EDITOR": "true"}
    assert git(repository, "commit", **own).returncode == 0
    assert "+one" in asked.read_text()
    assert message(repository, environ) == "Add a file"


BASH_SCRIPT = Path(__file__).parents[2] / "client" / "shell" / "mlxd.bash"


@pytest.mark.parametrize(
    ("version", "fits"), [("3 2 57", False), ("4 2 0", False), ("4 3 0", True)]
)
def test_an_old_bash_such_as_macos_s_is_told_the_way_out(version: str, fits: bool) -> None:
    # BASH_VERSINFO cannot be set, so the script gets another name for it.
    script = BASH_SCRIPT.read_text(encoding="utf-8").replace("BASH_VERSINFO", "FAKE_VERSINFO")
    done = subprocess.run(
        [needs.program("bash"), "--norc", "-c", f"FAKE_VERSINFO=({version})\n{script}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert ("brew install bash" in done.stderr) is not fits
    assert ("zsh" in done.stderr) is not fits
