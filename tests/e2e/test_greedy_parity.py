"""Greedy text from the daemon equals mlx-lm's, token for token, alone and in a batch."""

from __future__ import annotations

import json
import subprocess
import sys

from mlxd.daemon.blas import blas_kind
from support.daemon_process import Daemon, user
from support.engine_process import POCKET, engine_environment

PROMPTS = [
    "hello",
    "who are you?",
    "Count from 3 to 7.",
    "Count from 12 to 31.",
    "Count from 88 to 99.",
    "Repeat after me: the red fox",
    "Repeat after me: qwv zzyx blorp",
    "Repeat after me: One 42 two",
    "My name is Ada.",
    "Tell me a story about a fox.",
    "Tell me a story about a clockmaker.",
    "shell: list files by size",
    "shell: find all py files",
    "shell: delete the folder tmp",
    "Give me a JSON object with name Ada and age 36.",
    "Give me a JSON object with city Oslo.",
    "What is the capital of France?",
    "Summarise: The sun shines. The bird sings.",
    "My name is Zoë.",
    "a",
]
REFERENCE_SCRIPT = """
import json, sys
from mlx_lm import load, generate
model, tokenizer = load(sys.argv[1])
inner = tokenizer._tokenizer
out = []
for text in json.load(sys.stdin):
    prompt = inner.apply_chat_template([{"role": "user", "content": text}], tokenize=False,
                                       add_generation_prompt=True, return_dict=False)
    tokens = tokenizer.encode(prompt, add_special_tokens=False)
    out.append(generate(model, tokenizer, tokens, max_tokens=120))
print(json.dumps(out))
"""


def reference_texts() -> list[str]:
    """Return mlx-lm's own texts, generated in a process with the engine's environment."""
    done = subprocess.run(
        [sys.executable, "-c", REFERENCE_SCRIPT, str(POCKET)],
        input=json.dumps(PROMPTS),
        capture_output=True,
        text=True,
        env=engine_environment(),
        check=True,
        timeout=300,
    )
    texts: list[str] = json.loads(done.stdout.splitlines()[-1])
    return texts


def test_greedy_text_equals_that_of_mlx_lm_alone_and_in_a_batch_of_eight(daemon: Daemon) -> None:
    expected = reference_texts()
    settings = {"temperature": 0, "max_tokens": 120}
    for prompt, text in zip(PROMPTS, expected, strict=True):
        result = daemon.ask("chat", messages=user(prompt), **settings)
        assert result["choices"][0]["text"] == text
    for start in range(0, len(PROMPTS), 8):
        group = PROMPTS[start : start + 8]
        peers = [daemon.peer() for _ in group]
        ids = [
            peer.send("chat", messages=user(prompt), **settings)
            for peer, prompt in zip(peers, group, strict=True)
        ]
        for offset, (peer, request_id) in enumerate(zip(peers, ids, strict=True)):
            text = peer.answer(request_id)["choices"][0]["text"]
            peer.sock.close()
            assert text == expected[start + offset]


def test_the_reference_process_uses_the_engines_blas(daemon: Daemon) -> None:
    preloaded = engine_environment().get("LD_PRELOAD", "")
    assert daemon.ask("status")["engine"]["blas"] == (blas_kind(preloaded) or "reference (slow)")
