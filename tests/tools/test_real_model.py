from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tokenizer_utils import load as load_tokenizer

from support.engine_process import EngineProcess
from support.real_model import TOOL, as_ref

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def tokenizer(real_model: Path) -> TokenizerWrapper:
    return load_tokenizer(real_model)


def test_the_real_model_answers_a_question(real_model: Path) -> None:
    engine = EngineProcess(timeout_s=110)
    try:
        ref = as_ref(real_model)
        result = engine.ask("What is the capital of France?", model=ref, max_tokens=16)
        assert result["choices"][0]["text"] == "The capital of France is Paris."
        assert result["choices"][0]["finish_reason"] == "stop"
        assert result["usage"]["prompt_tokens"] == 37
    finally:
        engine.close()


def test_tokenizing_and_decoding_returns_the_text(tokenizer: TokenizerWrapper) -> None:
    # The vocabulary lacks some control characters and rarely used planes. Lone surrogates have no
    # UTF-8 form, which the tokenizer needs.
    letters = st.characters(min_codepoint=0x20, max_codepoint=0x1FFFF, exclude_categories=["Cs"])

    @given(st.text(letters | st.just("\n")))
    @settings(deadline=None)
    def check(text: str) -> None:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(tokens) == text

    check()


def test_every_digit_and_every_control_token_is_one_token(tokenizer: TokenizerWrapper) -> None:
    tokens = tokenizer.encode("<|im_start|>user\n2026<|im_end|>", add_special_tokens=False)
    assert [tokenizer.decode([token]) for token in tokens] == [
        "<|im_start|>", "user", "\n", "2", "0", "2", "6", "<|im_end|>",
    ]  # fmt: skip
    assert tokenizer.eos_token == "<|im_end|>"


def test_downloading_the_real_model_again_changes_nothing(real_model: Path) -> None:
    before = (real_model / "model.safetensors").stat().st_mtime_ns
    done = subprocess.run([sys.executable, TOOL], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(real_model)
    assert (real_model / "model.safetensors").stat().st_mtime_ns == before
