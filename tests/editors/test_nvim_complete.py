"""Completion while typing, in a real Neovim with a real daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.daemon_process import Daemon
from support.neovim import SETUP, Neovim, neovim, spy
from support.waiting import until

COMPLETE = {"complete": {"auto": True, "debounce_ms": 10, "budget_ms": 20_000}}
SHOWN = "require('mlxd.complete').shown()"
COUNTS = "require('mlxd.complete').counts"


def start_typing(vim: Neovim, text: str = "def add(a, b):<CR>    return ") -> None:
    vim.lua(SETUP, COMPLETE)
    vim.command("set noautoindent")
    vim.keys("i" + text)
    vim.wait(f"({SHOWN} or ''):find('a %+ b')")
    vim.wait("not require('mlxd.complete').busy()")


def test_a_completion_is_shown_after_the_cursor_and_accepted_completely(vim: Neovim) -> None:
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


def test_accepting_a_word_keeps_the_rest(vim: Neovim) -> None:
    start_typing(vim)
    vim.keys("<M-w>")
    vim.wait("vim.api.nvim_get_current_line() == '    return a'")
    assert vim.lua(f"return {SHOWN}") == " + b"
    vim.keys("<M-j>")
    vim.wait("vim.api.nvim_get_current_line() == '    return a + b'")
    assert vim.lua(f"return {SHOWN}") is None


def test_typing_the_suggested_text_keeps_the_completion_and_other_text_drops_it(
    vim: Neovim,
) -> None:
    start_typing(vim)
    asked = vim.lua("return require('mlxd.complete').counts.asked")
    vim.keys("a ")
    vim.wait(f"{SHOWN} == '+ b'")
    assert vim.lua("return require('mlxd.complete').counts.asked") == asked
    vim.keys("x")
    vim.wait(f"not ({SHOWN} or ''):find('^%+ b')")


def test_leaving_insert_mode_hides_the_completion(vim: Neovim) -> None:
    start_typing(vim)
    vim.keys("<Esc>")
    vim.wait(f"{SHOWN} == nil")


def test_a_late_completion_is_never_shown(vim: Neovim) -> None:
    vim.lua(SETUP, COMPLETE)
    spy(vim, answers=True)
    vim.keys("ix = ")
    vim.wait("#_G.sent == 1")
    vim.keys("1")
    vim.wait("vim.api.nvim_get_current_line() == 'x = 1'")
    vim.lua("_G.sent[1].delta('stale')")
    assert vim.lua(f"return {SHOWN}") is None
    assert vim.lua("return require('mlxd.complete').counts.stale") == 1


def test_an_existing_key_mapping_is_kept(vim: Neovim) -> None:
    vim.command("inoremap <M-l> mine")
    vim.lua(SETUP, COMPLETE)
    vim.keys("i<M-l>")
    vim.wait("vim.api.nvim_get_current_line() == 'mine'")


def test_the_start_of_the_prefix_moves_in_large_steps(vim: Neovim) -> None:
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


def type_and_complete(vim: Neovim, text: str, typed: str = "x = ") -> None:
    """Type `typed`, and let the daemon suggest `text`."""
    vim.lua(SETUP, COMPLETE)
    spy(vim, answers=True)
    vim.keys("i" + typed)
    vim.wait("#_G.sent == 1")
    vim.lua("_G.sent[1].delta(...)", text)
    assert vim.lua(f"return {SHOWN}") == text


@pytest.mark.parametrize("word", ["größe", "漢字", "((", "\n\tif"])
def test_a_word_can_be_unicode_punctuation_or_start_with_a_newline(vim: Neovim, word: str) -> None:
    type_and_complete(vim, word + " = 1")
    vim.keys("<M-w>")
    vim.wait(f"{SHOWN} == ' = 1'")
    assert "\n".join(vim.lines()) == "x = " + word


def test_accepting_a_line_keeps_the_rest(vim: Neovim) -> None:
    type_and_complete(vim, "1\ny = 2\nz = 3")
    for lines, rest in ((["x = 1"], "\ny = 2\nz = 3"), (["x = 1", "y = 2"], "\nz = 3")):
        vim.keys("<M-j>")
        vim.wait(f"{SHOWN} == a[1]", rest)
        assert vim.lines() == lines


@pytest.mark.parametrize("key", ["<C-c>", "<Esc>", "<C-n>", "<Left>", "<CR>"])
def test_a_completion_that_no_longer_fits_is_hidden(vim: Neovim, key: str) -> None:
    vim.command("set complete=.")
    type_and_complete(vim, "1 + 2", "xylophone<CR>xylem<CR>xy")
    vim.keys(key)
    vim.wait(f"{SHOWN} == nil")


def test_completion_has_one_request_per_buffer_and_a_time_limit(vim: Neovim) -> None:
    vim.lua(SETUP, {"complete": {"auto": True, "debounce_ms": 0, "budget_ms": 50}})
    spy(vim, answers=True)
    vim.keys("ia = ")
    vim.wait("#_G.sent > 0 and _G.sent[#_G.sent].cancelled")
    assert not vim.lua("return require('mlxd.complete').busy()")
    count = vim.lua("return #_G.sent")
    vim.keys("<Esc>")
    vim.command("enew!")
    vim.keys("ib = ")
    vim.wait("#_G.sent > a[1]", count)
    sent = vim.lua("return vim.tbl_map(function(one) return one.params end, _G.sent)")
    assert {one["deadline_s"] for one in sent if "max_tokens" in one} == {0.05}
    keys = {(one["prefix"][0], one["supersede"]) for one in sent if "max_tokens" in one}
    assert {letter for letter, _ in keys} == {"a", "b"}
    assert len({key for _, key in keys}) == len(keys) == 2


def test_entering_insert_mode_prefills_the_buffer(vim: Neovim, daemon: Daemon) -> None:
    before = daemon.logged(method="prefill")
    vim.lua(SETUP, COMPLETE)
    vim.fill("def add(a, b):", "    return")
    vim.keys("GA")
    vim.wait(f"{COUNTS}.warmed == 1")
    until(lambda: daemon.logged(method="prefill") > before, "the prompt is computed")


def test_the_context_is_never_cut_inside_a_character(vim: Neovim) -> None:
    vim.lua(SETUP, {"complete": {"prefix_chars": 100, "suffix_chars": 21}})
    for count in range(40, 120):
        vim.fill("é" * count + "z" + "漢" * 40)
        vim.lua("vim.api.nvim_win_set_cursor(0, { 1, ... })", 2 * count + 1)
        # Decoding the RPC message fails if a string is not valid UTF-8.
        prefix, suffix = vim.lua("return { require('mlxd.complete').context() }")
        assert len(prefix.encode()) <= 100
        assert prefix.endswith("éz")
        assert suffix == "漢" * 7


def test_mlxcomplete_turns_completion_off_and_on(vim: Neovim) -> None:
    vim.lua(SETUP, COMPLETE)
    spy(vim)
    vim.command("MlxComplete off")
    vim.keys("ix = ")
    vim.wait("vim.api.nvim_get_current_line() == 'x = '")
    vim.keys("<Esc>")
    vim.command("MlxComplete")
    vim.keys("Sy = ")
    vim.wait(f"{COUNTS}.asked > 0")
    assert vim.lua("return _G.sent[1].params.prefix")[0] == "y"


def test_an_unreachable_daemon_is_tried_and_reported_once(
    environ: dict[str, str], tmp_path: Path, program: str | None
) -> None:
    with neovim({**environ, "MLXD_SOCKET": str(tmp_path / "s"), "MLXD_AUTOSTART": "0"},
                tmp_path, program) as editor:  # fmt: skip
        editor.lua(SETUP, COMPLETE)
        editor.keys("ix = ")
        editor.wait("vim.api.nvim_exec('messages', true):find('mlxd start')")
        for letter in "abc":
            editor.keys(letter)
            editor.wait("vim.api.nvim_get_current_line():sub(-1) == a[1]", letter)
            # Longer than the debounce time, after which it would send a request.
            editor.lua("vim.wait(40)")
        assert editor.lua(f"return {COUNTS}.asked") == 1
        assert editor.messages().count("mlxd start") == 1
