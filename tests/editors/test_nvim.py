"""The Neovim plugin in a real Neovim, with a real daemon."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import msgpack
import pytest

from support.daemon_process import Daemon
from support.neovim import SETUP, Neovim, neovim, spy, wait_idle
from support.waiting import until

VECTORS = Path(__file__).parents[2] / "protocol" / "golden" / "valid.json"


def other_buffer(vim: Neovim) -> int:
    """Return the buffer that contains the answer."""
    found: int = vim.lua("return vim.api.nvim_list_bufs()[#vim.api.nvim_list_bufs()]")
    return found


def test_an_answer_opens_in_a_split_and_the_current_window_stays(vim: Neovim) -> None:
    window = vim.lua("return vim.api.nvim_get_current_win()")
    vim.command("Mlx Count from 3 to 7.")
    wait_idle(vim)
    assert vim.lines(other_buffer(vim)) == ["3, 4, 5, 6, 7"]
    assert vim.lua("return vim.api.nvim_get_current_win()") == window
    assert vim.lines() == [""]


def test_only_the_selection_is_sent(vim: Neovim, daemon: Daemon) -> None:
    vim.fill("one", "two", "three")
    spy(vim)
    vim.command("2,3Mlx hello")
    wait_idle(vim)
    asked = vim.lua("return _G.sent[1].params.messages[1].content")
    assert asked == "```\ntwo\nthree\n```\n\nhello"


FENCED = "```lua\nlocal a = 1\n\nlocal b = '```'\n```\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_the_code_fence_of_an_answer_is_removed_for_any_chunking(vim: Neovim, size: int) -> None:
    code = """
      local text, size = ...
      local fence, found = require('mlxd.fence').new(), ''
      for at = 1, #text, size do found = found .. fence:feed(text:sub(at, at + size - 1)) end
      return found .. fence:finish()
    """
    assert vim.lua(code, FENCED, size) == "local a = 1\n\nlocal b = '```'"
    for plain in ("no fence", "`x` is one", "``", "a\n```\nb\n```\nc", "```inline``` only"):
        assert vim.lua(code, plain, size) == plain


def test_an_answer_in_place_has_no_code_fence(vim: Neovim) -> None:
    vim.fill("keep", "old", "keep too")
    spy(vim, answers=True)
    vim.command("2Mlx! shorter")
    vim.lua("for piece in (...):gmatch('..?') do _G.sent[1].delta(piece) end", FENCED)
    vim.lua("_G.sent[1].done(nil, {})")
    assert vim.lines() == ["keep", "local a = 1", "", "local b = '```'", "keep too"]
    vim.command("undo")
    assert vim.lines() == ["keep", "old", "keep too"]


def test_a_selection_changed_meanwhile_is_not_replaced(vim: Neovim) -> None:
    vim.fill("keep", "old", "keep too")
    spy(vim, answers=True)
    vim.command("2Mlx! shorter")
    vim.call("nvim_buf_set_lines", 0, 1, 2, False, ["older"])
    vim.lua("_G.sent[1].delta('new')")
    assert vim.lines() == ["keep", "older", "keep too"]
    assert "The text changed while" in vim.messages()
    assert vim.lua("return _G.sent[1].cancelled")


def test_an_answer_in_place_is_one_undo_step(vim: Neovim) -> None:
    vim.fill("first", "", "last")
    vim.lua("vim.api.nvim_win_set_cursor(0, { 2, 0 })")
    vim.command("Mlx! Count from 3 to 7.")
    wait_idle(vim)
    # Without a range, the buffer is not part of the question.
    assert vim.lines() == ["first", "3, 4, 5, 6, 7", "last"]
    vim.command("undo")
    assert vim.lines() == ["first", "", "last"]


def test_a_replaced_selection_is_one_undo_step(vim: Neovim) -> None:
    vim.fill("keep", "old", "older", "keep too")
    vim.command("2,3Mlx! hello")
    wait_idle(vim)
    found = vim.lines()
    assert found[0] == "keep"
    assert found[-1] == "keep too"
    assert "old" not in found
    vim.command("undo")
    assert vim.lines() == ["keep", "old", "older", "keep too"]


def test_text_typed_while_an_answer_streams_is_kept(vim: Neovim) -> None:
    vim.fill("a", "", "z")
    vim.lua("vim.api.nvim_win_set_cursor(0, { 2, 0 })")
    vim.command("Mlx! Count from 1 to 60.")
    vim.wait("#table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false)) > 10")
    vim.call("nvim_buf_set_lines", 0, 0, 0, False, ["typed above"])
    wait_idle(vim)
    counted = ", ".join(str(n) for n in range(1, 61))
    assert vim.lines() == ["typed above", "a", counted, "z"]


def test_mlxstop_cancels_the_request(vim: Neovim, daemon: Daemon) -> None:
    vim.lua(SETUP, {"params": {"ignore_eos": True, "max_tokens": 9000}})
    vim.command("Mlx Count from 1 to 99.")
    vim.wait("require('mlxd').statusline():find('%d')")
    vim.command("MlxStop")
    assert vim.lua("return require('mlxd').statusline()") == ""
    daemon.wait_idle()


def test_neovim_shows_an_error_with_the_next_step(vim: Neovim) -> None:
    vim.lua(SETUP, {"model": "no-such"})
    vim.command("Mlx hello")
    wait_idle(vim)
    vim.wait("vim.api.nvim_exec('messages', true):find('no%-such')")
    assert "mlx models list" in vim.messages()


def test_a_chat_buffer_is_the_conversation_history(vim: Neovim) -> None:
    vim.command("MlxChat My name is Ada.")
    wait_idle(vim)
    vim.wait("vim.api.nvim_buf_get_lines(0, -4, -3, false)[1] == '## You'")
    assert any("Ada" in line for line in vim.lines()[3:])
    vim.keys("GiWhat is my name?<Esc><CR>")
    vim.wait("#vim.fn.getbufline('%', 1, '$') > 14")
    wait_idle(vim)
    assert any(line == "Your name is Ada." for line in vim.lines())


def test_typing_in_a_chat_prefills_the_prompt(vim: Neovim, daemon: Daemon) -> None:
    before = daemon.logged(method="prefill")
    vim.command("MlxChat")
    vim.keys("iRepeat after me: the purple fox")

    def warmed() -> bool:
        vim.lua("return vim.wait(20)")
        return daemon.logged(method="prefill") > before

    until(warmed, "the prompt is computed")


def test_typing_a_command_with_a_range_prefills_the_selection(vim: Neovim, daemon: Daemon) -> None:
    vim.fill("one", "two", "three")
    spy(vim)
    vim.keys(":2,3Mlx ")
    vim.wait("#_G.sent == 1")
    vim.keys("hello<CR>")
    vim.wait("#_G.sent == 2")
    wait_idle(vim)
    warmed, asked = vim.lua("return _G.sent")
    assert [warmed["method"], asked["method"]] == ["prefill", "chat"]
    before, whole = (one["params"]["messages"][-1]["content"] for one in (warmed, asked))
    assert before == "```\ntwo\nthree\n```\n\n"
    assert whole == before + "hello"
    assert warmed["params"]["supersede"]


def test_prefill_while_typing_can_be_turned_off(vim: Neovim) -> None:
    vim.lua(SETUP, {"prefill": False})
    vim.fill("one", "two")
    spy(vim)
    vim.keys(":%Mlx hello<CR>")
    vim.wait("#_G.sent == 1")
    wait_idle(vim)
    assert vim.lua("return _G.sent[1].method") == "chat"


def test_checkhealth_reports_the_daemon_and_its_models(vim: Neovim) -> None:
    vim.command("checkhealth mlxd")
    said = "\n".join(vim.lines())
    assert "answers at" in said
    assert "In memory: pocket" in said
    assert "ERROR" not in said


def test_the_neovim_help_defines_its_tags(vim: Neovim, tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "client" / "editors" / "nvim" / "doc"
    copy = tmp_path / "doc"
    copy.mkdir()
    (copy / "mlxd.txt").write_bytes((folder / "mlxd.txt").read_bytes())
    vim.command(f"helptags {copy}")
    tags = (copy / "tags").read_text()
    for name in (":Mlx", ":MlxChat", ":MlxStop", ":MlxComplete", "mlxd-options"):
        assert f"\n{name}\t" in "\n" + tags


def test_neovim_starts_the_daemon_if_none_is_running(
    environ: dict[str, str], tmp_path: Path, program: str | None
) -> None:
    own = {"MLXD_SOCKET": str(tmp_path / "mlxd" / "mlxd.sock")}
    for place in ("STATE", "LOG"):
        own[f"MLXD_{place}_DIR"] = str(tmp_path / place)
    with neovim({**environ, **own}, tmp_path, program) as editor:
        editor.lua(SETUP)
        editor.command("Mlx Count from 3 to 7.")
        wait_idle(editor)
        assert editor.lines(other_buffer(editor)) == ["3, 4, 5, 6, 7"]
        editor.lua("vim.fn.system({ 'mlxd', 'stop' })")


def test_neovim_shows_the_next_step_without_a_daemon(
    environ: dict[str, str], tmp_path: Path, program: str | None
) -> None:
    with neovim({**environ, "MLXD_SOCKET": str(tmp_path / "s"), "MLXD_AUTOSTART": "0"},
                tmp_path, program) as editor:  # fmt: skip
        editor.command("Mlx hello")
        editor.wait("vim.api.nvim_exec('messages', true):find('mlxd start')")


def test_a_request_cancelled_before_the_daemon_runs_is_not_sent(
    environ: dict[str, str], tmp_path: Path, program: str | None
) -> None:
    path, go = tmp_path / "s", tmp_path / "go"
    with (
        neovim({**environ, "MLXD_SOCKET": str(path)}, tmp_path, program) as editor,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        # The command that should start the daemon ends once this test listens in its place.
        editor.lua(SETUP, {"command": ["sh", "-c", f"until test -e {go}; do sleep 0.05; done"]})
        editor.lua("""
          local request = require('mlxd.client').request
          request('fill', { prefix = 'x' }, function() end).cancel()
          request('ping', {}, function() end)
        """)
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(30)
        go.touch()
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(1000) == msgpack.packb([0, 2, "ping", []])


def test_an_invalid_socket_path_is_reported(vim: Neovim) -> None:
    vim.lua(SETUP, {"socket": "/tmp/" + "x" * 200, "command": False})
    vim.command("Mlx hello")
    vim.wait("vim.api.nvim_exec('messages', true):find('mlxd:')")
    wait_idle(vim)


def test_the_neovim_codec_reads_the_golden_vectors_in_any_chunking(vim: Neovim) -> None:
    read = """
      local data, size = ...
      data = data:gsub('..', function(two) return string.char(tonumber(two, 16)) end)
      local decode, found = require('mlxd.codec').decoder(), {}
      for at = 1, #data, size do vim.list_extend(found, decode(data:sub(at, at + size - 1))) end
      return found
    """
    compared = 0
    for vector in json.loads(VECTORS.read_text()):
        meaning, data = vector["meaning"], vector["msgpack_hex"]
        if meaning["kind"] != "response" and meaning.get("method") != "event":
            continue
        for size in (1, 2, 5, len(data)):
            (found,) = vim.lua(read, data, size)
            if meaning["kind"] == "response":
                wanted = {key: meaning.get(key) for key in ("id", "error", "result")}
                got = {"error": None, "result": None, **found["response"]}
                assert got == wanted, vector["name"]
            else:
                assert found["event"] == meaning["params"], vector["name"]
        compared += 1
    assert compared > 2


AS_HEX = """
  local sent = require('mlxd.codec').{}(...)
  return (sent:gsub('.', function(byte) return ('%02x'):format(byte:byte()) end))
"""


def test_the_neovim_codec_writes_the_golden_vectors(vim: Neovim) -> None:
    compared = 0
    for vector in json.loads(VECTORS.read_text()):
        meaning = vector["meaning"]
        params = meaning.get("params")
        # The order of a Lua table's keys is undefined, so only tables with one key are compared.
        if not params or len(params) > 1 or not str(meaning.get("id", 1)).isdigit():
            continue
        if meaning["kind"] == "request":
            sent = vim.lua(AS_HEX.format("request"), meaning["id"], meaning["method"], params)
        elif meaning["method"] == "cancel":
            sent = vim.lua(AS_HEX.format("notification"), "cancel", params)
        else:
            continue
        assert sent == vector["msgpack_hex"], vector["name"]
        compared += 1
    assert compared > 1
