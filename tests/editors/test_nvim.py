"""The Neovim plugin in a real Neovim, against a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon_process import Daemon
from support.neovim import Neovim, neovim

SETUP = """
require('mlxd').setup(vim.tbl_deep_extend('force', { params = { temperature = 0 } }, ... or {}))
"""
COMPLETE = {"complete": {"auto": True, "debounce_ms": 10, "budget_ms": 20_000}}
IDLE = "require('mlxd').statusline() == ''"
SHOWN = "require('mlxd.complete').shown()"


@pytest.fixture
def vim(environ: dict[str, str], tmp_path: Path) -> Iterator[Neovim]:
    with neovim(environ, tmp_path) as editor:
        editor.lua(SETUP)
        yield editor


def wait_idle(vim: Neovim) -> None:
    vim.wait(IDLE)


def other_buffer(vim: Neovim) -> int:
    """Return the buffer that the answer came into."""
    found: int = vim.lua("return vim.api.nvim_list_bufs()[#vim.api.nvim_list_bufs()]")
    return found


def test_an_answer_comes_into_a_split_and_the_window_stays(vim: Neovim):
    window = vim.lua("return vim.api.nvim_get_current_win()")
    vim.command("Mlx Count from 3 to 7.")
    wait_idle(vim)
    assert vim.lines(other_buffer(vim)) == ["3, 4, 5, 6, 7"]
    assert vim.lua("return vim.api.nvim_get_current_win()") == window
    assert vim.lines() == [""]


def test_the_selection_and_nothing_else_is_sent(vim: Neovim, daemon: Daemon):
    vim.fill("one", "two", "three")
    vim.lua("""
      local client = require('mlxd.client')
      local real = client.request
      client.request = function(method, params, ...)
        _G.sent = params
        return real(method, params, ...)
      end
    """)
    vim.command("2,3Mlx hello")
    wait_idle(vim)
    asked = vim.lua("return _G.sent.messages[1].content")
    assert asked == "hello\n\n```\ntwo\nthree\n```"


def test_an_answer_in_place_is_one_undo_step(vim: Neovim):
    vim.fill("first", "", "last")
    vim.lua("vim.api.nvim_win_set_cursor(0, { 2, 0 })")
    vim.command("Mlx! Count from 3 to 7.")
    wait_idle(vim)
    # The buffer is no part of the question where there is no range.
    assert vim.lines() == ["first", "3, 4, 5, 6, 7", "last"]
    vim.command("undo")
    assert vim.lines() == ["first", "", "last"]


def test_a_selection_is_replaced_when_the_answer_comes_and_undone_in_one(vim: Neovim):
    vim.fill("keep", "old", "older", "keep too")
    vim.command("2,3Mlx! hello")
    wait_idle(vim)
    found = vim.lines()
    assert found[0] == "keep"
    assert found[-1] == "keep too"
    assert "old" not in found
    vim.command("undo")
    assert vim.lines() == ["keep", "old", "older", "keep too"]


def test_what_is_typed_meanwhile_stays(vim: Neovim):
    vim.fill("a", "", "z")
    vim.lua("vim.api.nvim_win_set_cursor(0, { 2, 0 })")
    vim.command("Mlx! Count from 1 to 60.")
    vim.wait("#table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false)) > 10")
    vim.call("nvim_buf_set_lines", 0, 0, 0, False, ["typed above"])
    wait_idle(vim)
    counted = ", ".join(str(n) for n in range(1, 61))
    assert vim.lines() == ["typed above", "a", counted, "z"]


def test_stopping_stops_the_work(vim: Neovim, daemon: Daemon):
    vim.lua(SETUP, {"params": {"ignore_eos": True, "max_tokens": 9000}})
    vim.command("Mlx Count from 1 to 99.")
    vim.wait("require('mlxd').statusline():find('%d')")
    vim.command("MlxStop")
    assert vim.lua("return require('mlxd').statusline()") == ""
    with daemon.peer() as peer:
        while peer.call("status")["requests"]["running"]:
            pass


def test_an_error_is_said_with_the_next_step(vim: Neovim):
    vim.lua(SETUP, {"model": "no-such"})
    vim.command("Mlx hello")
    wait_idle(vim)
    vim.wait("vim.api.nvim_exec('messages', true):find('no%-such')")
    assert "mlx models list" in vim.messages()


def test_a_chat_remembers_and_what_the_buffer_says_counts(vim: Neovim):
    vim.command("MlxChat My name is Ada.")
    wait_idle(vim)
    vim.wait("vim.api.nvim_buf_get_lines(0, -4, -3, false)[1] == '## You'")
    assert any("Ada" in line for line in vim.lines()[3:])
    vim.keys("GiWhat is my name?<Esc><CR>")
    vim.wait("#vim.fn.getbufline('%', 1, '$') > 14")
    wait_idle(vim)
    assert any(line == "Your name is Ada." for line in vim.lines())


def test_typing_in_a_chat_warms_the_prompt(vim: Neovim, daemon: Daemon):
    before = sum(line.get("method") == "prefill" for line in daemon.log_lines())
    vim.command("MlxChat")
    vim.keys("iRepeat after me: the purple fox")
    with daemon.peer() as peer:
        while before == sum(line.get("method") == "prefill" for line in daemon.log_lines()):
            peer.call("ping")
            vim.lua("return vim.wait(20)")


def start_typing(vim: Neovim, text: str = "def add(a, b):<CR>    return ") -> None:
    vim.lua(SETUP, COMPLETE)
    vim.command("set noautoindent")
    vim.keys("i" + text)
    vim.wait(f"({SHOWN} or ''):find('a %+ b')")
    vim.wait("not require('mlxd.complete').busy()")


def test_a_completion_is_shown_behind_the_cursor_and_accepted_whole(vim: Neovim):
    start_typing(vim)
    marks = vim.lua("""
      local space = vim.api.nvim_get_namespaces()['mlxd.complete']
      return vim.api.nvim_buf_get_extmarks(0, space, 0, -1, { details = true })
    """)
    assert marks[0][3]["virt_text"][0][0] == "a + b"
    assert vim.lines()[1] == "    return "
    vim.keys("<M-l>")
    vim.wait("vim.api.nvim_get_current_line() == '    return a + b'")
    vim.keys("<Esc>u")
    vim.wait("vim.api.nvim_get_current_line() == '    return '")


def test_a_word_is_accepted_and_the_rest_stays(vim: Neovim):
    start_typing(vim)
    vim.keys("<M-w>")
    vim.wait("vim.api.nvim_get_current_line() == '    return a'")
    assert vim.lua(f"return {SHOWN}") == " + b"
    vim.keys("<M-j>")
    vim.wait("vim.api.nvim_get_current_line() == '    return a + b'")
    assert vim.lua(f"return {SHOWN}") is None


def test_typing_what_it_says_keeps_it_and_anything_else_drops_it(vim: Neovim):
    start_typing(vim)
    asked = vim.lua("return require('mlxd.complete').counts.asked")
    vim.keys("a ")
    vim.wait(f"{SHOWN} == '+ b'")
    assert vim.lua("return require('mlxd.complete').counts.asked") == asked
    vim.keys("x")
    vim.wait(f"not ({SHOWN} or ''):find('^%+ b')")


def test_leaving_insert_mode_shows_nothing_and_cancels(vim: Neovim):
    start_typing(vim)
    vim.keys("<Esc>")
    vim.wait(f"{SHOWN} == nil")


def test_a_late_answer_is_never_shown(vim: Neovim):
    vim.lua(SETUP, COMPLETE)
    vim.lua("""
      local client = require('mlxd.client')
      client.request = function(method, params, done, event)
        _G.late = function() event({ type = 'delta', text = 'stale', channel = 'answer' }) end
        return { cancel = function() end }
      end
    """)
    vim.keys("ix = ")
    vim.wait("_G.late ~= nil")
    vim.keys("1")
    vim.wait("vim.api.nvim_get_current_line() == 'x = 1'")
    vim.lua("_G.late()")
    assert vim.lua(f"return {SHOWN}") is None
    assert vim.lua("return require('mlxd.complete').counts.stale") == 1


def test_a_key_that_is_taken_is_left_alone(vim: Neovim):
    vim.command("inoremap <M-l> mine")
    vim.lua(SETUP, COMPLETE)
    vim.keys("i<M-l>")
    vim.wait("vim.api.nvim_get_current_line() == 'mine'")


def test_the_prefix_moves_in_jumps(vim: Neovim):
    vim.lua(SETUP, {"complete": {"prefix_chars": 400}})
    starts = set()
    for count in range(60, 90):
        vim.fill(*[f"line {n:03}" for n in range(count)])
        vim.lua("vim.api.nvim_win_set_cursor(0, { vim.fn.line('$'), 0 })")
        prefix = vim.lua("return (require('mlxd.complete').context())")
        assert len(prefix) <= 400
        assert prefix.startswith("line ")
        starts.add(prefix[:8])
    assert len(starts) <= 3


def test_checkhealth_says_what_is_there(vim: Neovim):
    vim.command("checkhealth mlxd")
    said = "\n".join(vim.lines())
    assert "answers at" in said
    assert "In memory: pocket" in said
    assert "ERROR" not in said


def test_the_help_has_its_tags(vim: Neovim, tmp_path: Path):
    folder = Path(__file__).parents[2] / "client" / "editors" / "nvim" / "doc"
    copy = tmp_path / "doc"
    copy.mkdir()
    (copy / "mlxd.txt").write_bytes((folder / "mlxd.txt").read_bytes())
    vim.command(f"helptags {copy}")
    tags = (copy / "tags").read_text()
    for name in (":Mlx", ":MlxChat", ":MlxStop", ":MlxComplete", "mlxd-options"):
        assert f"\n{name}\t" in "\n" + tags


def test_a_daemon_is_started_where_none_runs(environ: dict[str, str], tmp_path: Path):
    own = {"MLXD_SOCKET": str(tmp_path / "s" / "mlxd.sock")}
    for place in ("STATE", "LOG"):
        own[f"MLXD_{place}_DIR"] = str(tmp_path / place)
    with neovim({**environ, **own}, tmp_path) as editor:
        editor.lua(SETUP)
        editor.command("Mlx Count from 3 to 7.")
        wait_idle(editor)
        assert editor.lines(other_buffer(editor)) == ["3, 4, 5, 6, 7"]
        editor.lua("vim.fn.system({ 'mlxd', 'stop' })")


def test_without_a_daemon_the_next_step_is_said(environ: dict[str, str], tmp_path: Path):
    with neovim({**environ, "MLXD_SOCKET": str(tmp_path / "s"), "MLXD_AUTOSTART": "0"},
                tmp_path) as editor:  # fmt: skip
        editor.command("Mlx hello")
        editor.wait("vim.api.nvim_exec('messages', true):find('mlxd start')")
