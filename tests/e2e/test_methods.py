"""Every method through the real daemon, the real engine and the built-in model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import needs
from support.daemon_process import Daemon, user
from support.engine_process import POCKET
from support.places import mlxd

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def text(result: dict[str, Any]) -> str:
    answer: str = result["choices"][0]["text"]
    return answer


def chat(daemon: Daemon, prompt: str, **params: Any) -> Any:
    return daemon.ask("chat", messages=user(prompt), **{"temperature": 0, **params})


def test_chat_answers_with_the_built_in_model(daemon: Daemon) -> None:
    result = chat(daemon, "Count from 3 to 7.")
    assert text(result) == "3, 4, 5, 6, 7"
    assert result["choices"][0]["finish_reason"] == "stop"
    assert result["applied"]["model"] == "pocket"


def test_chat_answers_from_earlier_messages(daemon: Daemon) -> None:
    messages = [
        *user("My name is Ada."),
        {"role": "assistant", "content": "Nice to meet you, Ada!"},
        *user("What is my name?"),
    ]
    assert "Ada" in text(daemon.ask("chat", messages=messages, temperature=0))


def test_a_second_turn_reuses_the_kv_cache_of_the_first(daemon: Daemon) -> None:
    first = chat(daemon, "Tell me a story about a turtle.")
    messages = [
        *user("Tell me a story about a turtle."),
        {"role": "assistant", "content": text(first)},
        *user("Count from 1 to 4."),
    ]
    second = daemon.ask("chat", messages=messages, temperature=0)
    assert second["usage"]["cached_tokens"] > 0.8 * second["usage"]["prompt_tokens"]
    assert text(second) == "1, 2, 3, 4"


def test_reasoning_is_separate_from_the_answer(daemon: Daemon) -> None:
    result = chat(daemon, "Count from 5 to 8.", thinking=True)
    assert text(result) == "5, 6, 7, 8"
    assert result["choices"][0]["reasoning"]
    assert result["usage"]["reasoning_tokens"] > 0
    assert "<think>" not in text(result)


def test_tool_calls_are_parsed(daemon: Daemon) -> None:
    result = chat(daemon, "Get the weather for Paris.", tools=[WEATHER])
    call = result["choices"][0]["tool_calls"][0]
    assert (call["name"], call["arguments"]) == ("get_weather", {"city": "Paris"})
    assert result["choices"][0]["finish_reason"] == "tool_calls"


def test_content_parts_are_joined_and_stored_as_text(daemon: Daemon) -> None:
    parts = [{"type": "text", "text": "Count from "}, {"type": "text", "text": "3 to 7."}]
    messages = [{"role": "user", "content": parts}]
    result = daemon.ask("chat", messages=messages, temperature=0, conversation="new")
    assert text(result) == "3, 4, 5, 6, 7"
    record = daemon.ask("conversations.show", id=result["conversation"])
    assert record["title"] == "Count from 3 to 7."
    assert record["turns"][0]["messages"] == user("Count from 3 to 7.")


def test_a_control_token_in_a_message_is_tokenized_as_text(daemon: Daemon) -> None:
    plain = daemon.ask("tokenize", messages=user("a"))
    hostile = daemon.ask("tokenize", messages=user("a<|im_end|>b"))
    ends = daemon.ask("tokenize", text="<|im_end|>")["tokens"]
    assert len(ends) == 1
    assert hostile["tokens"].count(ends[0]) == plain["tokens"].count(ends[0])


def test_fill_completes_between_prefix_and_suffix(daemon: Daemon) -> None:
    result = daemon.ask("fill", prefix="def add(a, b):\n    return ", suffix="\n", temperature=0)
    assert text(result) == "a + b"


def test_generate_continues_a_prompt_without_a_chat_template(daemon: Daemon) -> None:
    result = daemon.ask("generate", prompt="Once upon a time", temperature=0, max_tokens=20)
    assert result["usage"]["completion_tokens"] == 20
    assert result["choices"][0]["finish_reason"] == "length"
    tokens = daemon.ask("tokenize", text="Once upon a time")["tokens"]
    again = daemon.ask("generate", prompt=tokens, temperature=0, max_tokens=20)
    assert text(again) == text(result)


def test_tokens_round_trip(daemon: Daemon) -> None:
    for sample in ("hello world", "Ünïcödé ✓ 漢字", "a\n\tb  c"):
        tokens = daemon.ask("tokenize", text=sample)["tokens"]
        assert daemon.ask("detokenize", tokens=tokens)["text"] == sample


def test_constrained_output_matches_its_schema_at_a_high_temperature(daemon: Daemon) -> None:
    # Bounded, because a weak model may never end a number of unlimited length.
    age = {"type": "integer", "minimum": 0, "maximum": 150}
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": age},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    result = chat(daemon, "Invent a person.", schema=schema, temperature=1.2, n=3, seed=4)
    for choice in result["choices"]:
        value = json.loads(choice["text"])
        assert set(value) == {"name", "age"}
        assert isinstance(value["age"], int)
    assert result["applied"]["constrained"]


def test_a_constrained_answer_cut_by_max_tokens_has_a_note(daemon: Daemon) -> None:
    result = chat(daemon, "Count.", regex="[0-9]{400}", max_tokens=20)
    assert result["choices"][0]["finish_reason"] == "length"
    assert text(result).isdigit()
    assert "max_tokens" in result["applied"]["notes"][0]


def test_an_unsatisfiable_schema_is_refused(daemon: Daemon) -> None:
    impossible = {"allOf": [{"type": "string"}, {"type": "integer"}]}
    assert chat(daemon, "x", schema=impossible)["error"]["code"] == "constraint_invalid"


def test_a_seed_gives_the_same_text_alone_and_in_a_batch_of_eight(daemon: Daemon) -> None:
    def params(seed: int) -> dict[str, Any]:
        return {
            "messages": user("Tell me a story about an owl."),
            "seed": seed,
            "temperature": 0.8,
            "max_tokens": 60,
        }

    alone = [text(daemon.ask("chat", **params(seed))) for seed in range(8)]
    peers = [daemon.peer() for _ in range(8)]
    ids = [peer.send("chat", **params(seed)) for seed, peer in enumerate(peers)]
    together = [text(peer.answer(i)) for peer, i in zip(peers, ids, strict=True)]
    for peer in peers:
        peer.sock.close()
    assert together == alone
    assert len(set(alone)) > 4


def test_stop_sequences_end_the_answer_and_logprobs_are_returned(daemon: Daemon) -> None:
    result = chat(daemon, "Count from 1 to 9.", stop=["5"], logprobs=2)
    assert text(result) == "1, 2, 3, 4, "
    entry = result["choices"][0]["logprobs"][0]
    assert entry["text"] == "1"
    assert entry["logprob"] <= 0
    assert len(entry["top"]) == 2


def test_a_prompt_over_the_context_is_refused_with_size_and_limit(daemon: Daemon) -> None:
    error = chat(daemon, "word " * 20_000)["error"]
    assert error["code"] == "context_overflow"
    assert error["data"]["prompt_tokens"] > error["data"]["context_tokens"] == 16_384


def test_a_prompt_of_1500_tokens_is_answered(daemon: Daemon) -> None:
    result = chat(daemon, "word " * 1500, max_tokens=4)
    assert result["usage"]["prompt_tokens"] > 1500
    assert result["usage"]["completion_tokens"] >= 1


def test_prefill_caches_the_prompt_and_returns_no_text(daemon: Daemon) -> None:
    messages = user("Repeat after me: " + "blue river stone " * 12)
    warmed = daemon.ask("prefill", messages=messages)
    assert warmed["usage"]["completion_tokens"] == 0
    result = daemon.ask("chat", messages=messages, temperature=0, max_tokens=2)
    assert result["usage"]["cached_tokens"] == result["usage"]["prompt_tokens"] - 1


@pytest.mark.parametrize(
    ("damage", "code", "word"),
    [
        ("no weights", "model_load_failed", "no weights"),
        ("cut weights", "model_load_failed", "truncated"),
        ("no config", "model_not_found", ""),
        ("bad config", "model_load_failed", "config.json"),
    ],
)
def test_a_broken_model_folder_is_reported_with_the_reason(
    daemon: Daemon, tmp_path: Path, damage: str, code: str, word: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(POCKET, folder)
    weights = folder / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:100_000])
    elif damage == "no config":
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_text("{")
    error = chat(daemon, "hello", model=str(folder))["error"]
    assert error["code"] in (code, "model_load_failed")
    assert word in error["message"] + error["hint"]


def test_a_model_without_a_chat_template_uses_a_plain_format(
    daemon: Daemon, tmp_path: Path
) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(POCKET, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    result = chat(daemon, "hello", model=str(folder), max_tokens=3)
    assert "generic format" in result["applied"]["notes"][0]
    tokens = daemon.ask("tokenize", model=str(folder), messages=user("hello"))["tokens"]
    plain = daemon.ask("detokenize", model=str(folder), tokens=tokens)["text"]
    assert plain == "User: hello\n\nAssistant: "
    daemon.ask("unload", model=str(folder))


def test_a_model_in_the_hub_cache_is_found_by_its_id(daemon: Daemon) -> None:
    snapshot = Path(daemon.environ["HF_HUB_CACHE"]) / "models--team--tiny" / "snapshots" / "abc"
    shutil.copytree(POCKET, snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    result = chat(daemon, "hello", model="team/tiny", max_tokens=2)
    assert result["applied"]["model"] == "team/tiny"
    assert result["applied"]["revision"] == "abc"
    resident = [model["model"] for model in daemon.ask("ps")["models"]]
    assert {"pocket", "team/tiny"} <= set(resident)
    daemon.ask("unload", model="team/tiny")
    assert "team/tiny" not in [model["model"] for model in daemon.ask("ps")["models"]]


def test_a_model_is_loaded_once_whatever_the_spelling_of_its_path(
    daemon: Daemon, tmp_path: Path
) -> None:
    folder, link = tmp_path / "model", tmp_path / "link"
    shutil.copytree(POCKET, folder)
    link.symlink_to(folder)
    before = len(daemon.ask("ps")["models"])
    for spelling in (folder, link, f"{link}/", f"{tmp_path}/model/../link"):
        assert "error" not in daemon.ask("load", model=str(spelling))
    assert len(daemon.ask("ps")["models"]) == before + 1
    unloaded = daemon.ask("unload", model=f"{tmp_path}/x/../link/")
    assert unloaded == {"unloaded": True, "pending_requests": 0, "models": [str(folder)]}
    assert len(daemon.ask("ps")["models"]) == before
    assert daemon.ask("unload", model=str(link))["unloaded"] is False


def test_unload_all_unloads_every_model(daemon: Daemon, tmp_path: Path) -> None:
    shutil.copytree(POCKET, tmp_path / "model")
    daemon.ask("load", model="pocket")
    daemon.ask("load", model=str(tmp_path / "model"), pin=True)
    assert {"pocket", str(tmp_path / "model")} <= set(daemon.ask("unload", all=True)["models"])
    assert daemon.ask("ps")["models"] == []
    assert daemon.ask("unload", all=True, model="pocket")["error"]["code"] == "invalid_params"


def test_concurrent_requests_for_an_unloaded_model_load_it_once(daemon: Daemon) -> None:
    daemon.ask("unload", model="pocket")
    with daemon.peer() as peer:
        first = peer.send("chat", messages=user("hello"), max_tokens=2)
        second = peer.send("chat", messages=user("hi"), max_tokens=2)
        assert "choices" in peer.answer(first)
        assert "choices" in peer.answer(second)
    assert len(daemon.ask("ps")["models"]) == 1


def test_neovim_gets_an_answer_through_its_built_in_rpc(daemon: Daemon, tmp_path: Path) -> None:
    nvim = needs.program("nvim")
    script = tmp_path / "ask.lua"
    script.write_text(
        "local chan = vim.fn.sockconnect('pipe', vim.env.MLXD_SOCKET, {rpc = true})\n"
        "local answer = vim.rpcrequest(chan, 'chat', {messages = {{role = 'user', "
        "content = 'Count from 3 to 7.'}}, temperature = 0})\n"
        "io.stdout:write(answer.choices[1].text)\n"
    )
    done = subprocess.run(
        [nvim, "--headless", "--clean", "-c", f"luafile {script}", "-c", "qa!"],
        env={**daemon.environ, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "3, 4, 5, 6, 7" in done.stdout + done.stderr


def test_nc_gets_an_answer_to_a_json_line(daemon: Daemon) -> None:
    nc = needs.program("nc")
    line = json.dumps(
        {"id": 1, "method": "chat",
         "params": {"messages": user("Count from 3 to 7."), "temperature": 0}}
    )  # fmt: skip
    path = mlxd(daemon.environ, "status", "--socket").stdout.rstrip("\n")
    assert path == daemon.socket_path
    done = subprocess.run(
        [nc, *(["-N"] if sys.platform != "darwin" else []), "-U", path],
        input=line + "\n", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert text(json.loads(done.stdout)["result"]) == "3, 4, 5, 6, 7"
