"""Prompts that cannot fit are refused before tokenization; long ones delay no other request."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from mlxd.daemon.engine.cancellation import Cancellation
from mlxd.daemon.engine.link import Inbox
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.prompt import ChatPrompt, characters
from mlxd.daemon.engine.tokenization.light_tokenizer import LightTokenizer
from mlxd.daemon.engine.tokenization.prompt_size import prompt_bound
from mlxd.daemon.engine.tokenization.prompts import prepare
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer as Prompts
from mlxd.daemon.engine.tokenization.worker import Preparer
from mlxd.protocol.errors import ContextOverflow
from support.engine_process import POCKET, EngineProcess, running_engine
from support.requests import asking

LETTERS = pre_tokenizers.ByteLevel.alphabet()
HUGE = "red green blue " * 540_000
"""8 MB, which take many seconds to tokenize."""


class Wrapped:
    """A tokenizer backend wrapped as in the Hugging Face classes."""

    def __init__(self, backend: Tokenizer) -> None:
        self.backend_tokenizer = backend

    def count(self, text: str) -> int:
        return len(self.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def small(*, without: str = "", nfc: bool = False, strips: bool = False) -> Wrapped:
    """Return a byte-level tokenizer with a few merges."""
    letters = sorted(set(LETTERS) - set(without))
    merges = [("e", "e"), ("ee", "ee"), ("a", "b")]
    words = [*letters, *("".join(merge) for merge in merges)]
    backend = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if nfc:
        backend.normalizer = normalizers.NFC()
    backend.add_special_tokens([AddedToken("<|end|>", lstrip=strips, rstrip=strips)])
    return Wrapped(backend)


def from_folder(folder: Path) -> Wrapped:
    return Wrapped(Tokenizer.from_file(str(folder / "tokenizer.json")))


TEXTS = st.text(
    st.sampled_from("eabc <|end|>\n\u0301\u1112\u1161\u11abé漢🦊")
    | st.characters(exclude_categories=["Cs"]),
    max_size=60,
) | st.lists(st.sampled_from(["<|end|>", "   ", "eeee", "e\u0301" * 9, "ab"])).map("".join)


@pytest.mark.parametrize(
    "tokenizer",
    [small(), small(without="cĊ"), small(nfc=True), small(strips=True), from_folder(POCKET)],
    ids=["plain", "bytes missing", "NFC", "stripping", "pocket"],
)
def test_the_lower_bound_never_exceeds_the_token_count(tokenizer: Wrapped) -> None:
    bound = prompt_bound(tokenizer, 100)
    assert bound is not None
    assert bound.tokens_at_least("ab" * 10_000) > 100

    @given(TEXTS)
    @settings(deadline=None, max_examples=300)
    def check(text: str) -> None:
        assert bound.tokens_at_least(text) <= tokenizer.count(text)

    check()


@pytest.mark.real
def test_the_lower_bound_holds_for_the_longest_tokens_of_a_real_model(real_model: Path) -> None:
    tokenizer = from_folder(real_model)
    bound = prompt_bound(tokenizer, 8192)
    assert bound is not None
    for text in ("#" * 80 * 50, "=" * 6500, "\x04" * 4000, " " * 4000, "word " * 900):
        assert bound.tokens_at_least(text) <= tokenizer.count(text)


def test_no_prompt_is_refused_by_size_without_a_byte_level_vocabulary() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    assert prompt_bound(Wrapped(words), 100) is None
    blanks = small()
    blanks.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert prompt_bound(blanks, 100) is None
    assert prompt_bound(object(), 100) is None
    assert prompt_bound(small(), None) is None, "a model with an unknown context size"


def test_a_huge_prompt_is_refused_before_it_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = Prompts(ModelRef("pocket", str(POCKET)), None)  # type: ignore[arg-type]

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("tokenized")

    monkeypatch.setattr(LightTokenizer, "encode", refuse)
    system = {"role": "system", "content": HUGE}
    user = {"role": "user", "content": HUGE}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("chat", {"messages": [user]}),
        ("chat", {"messages": [system, {**user, "content": "a"}]}),
        ("generate", {"prompt": HUGE}),
        ("fill", {"prefix": HUGE, "suffix": "a"}),
    ]  # fmt: skip
    for method, params in asked:
        with pytest.raises(ContextOverflow, match="at least") as refused:
            prepare(prompts, asking(method, params))
        assert refused.value.data["prompt_tokens"] >= refused.value.data["context_tokens"]


def test_huge_prompts_do_not_delay_a_small_one() -> None:
    with running_engine() as engine:
        huge = [submit(engine, HUGE, conn=n + 2) for n in range(20)]
        small = submit(engine, "hello", conn=1)
        assert engine.result(small)["usage"]["completion_tokens"] == 1
        for request_id in huge:
            error = engine.result(request_id)["error"]
            assert error["code"] == "context_overflow"
            assert "at least" in error["message"]


def submit(engine: EngineProcess, text: str, conn: int) -> int:
    messages = [{"role": "user", "content": text}]
    return engine.submit(messages=messages, max_tokens=1, conn=conn)


def test_characters_counts_texts_at_any_depth() -> None:
    value = {"a": [{"content": "four"}, {"content": [{"text": "xy"}]}], "b": [1, 2, 3]}
    assert characters(value) == 4 + 2 + 2 + 1 + 3
    call = {"name": "f", "arguments": {"text": "abc"}}
    said = [{"role": "user", "content": "four"}, {"role": "assistant", "tool_calls": [call]}]
    assert ChatPrompt.from_map({"messages": said}).characters == 4 + 3


def test_a_long_text_does_not_delay_short_ones_and_gone_callers_are_skipped() -> None:
    inbox: Inbox = queue.SimpleQueue()
    preparer, pocket = Preparer(inbox), ModelRef("pocket", str(POCKET))
    free, begun = threading.Event(), threading.Event()

    def hold(_: Any) -> None:
        begun.set()
        assert free.wait(60)

    preparer.answer(hold, pocket, lambda *_: None, len(HUGE))
    assert begun.wait(60)
    gone, waiting, short = (
        asking("generate", {"prompt": text}, request_id)
        for request_id, text in enumerate(["gone " * 20_000, "long " * 20_000, "short"])
    )
    left = Cancellation()
    preparer.prepare(gone, left)
    for request in (waiting, short):
        preparer.prepare(request, Cancellation())
    assert inbox.get(timeout=60).request_id == short.request_id, "it did not wait for the long one"
    left.cancel()
    free.set()
    assert inbox.get(timeout=60).request_id == waiting.request_id, "nothing was done for who left"
