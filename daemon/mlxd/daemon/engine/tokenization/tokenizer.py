"""A model's tokenizer, and the properties that every request needs. Used off the compute thread.

Uses tokenizers only, and no MLX arrays.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import SPMStreamingDetokenizer
from mlx_lm.utils import load_config

from mlxd.daemon.engine.constraints.requested import RequestedConstraints
from mlxd.daemon.engine.mlx_lm_private import hf_tokenizer
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.models.files import vocabulary_size
from mlxd.daemon.engine.models.mlx_lm_imports import load_tokenizer
from mlxd.daemon.engine.request import markers_of
from mlxd.daemon.engine.tokenization.chat_renderer import ChatRenderer, first_line, guarded
from mlxd.daemon.engine.tokenization.control_text import ControlText
from mlxd.daemon.engine.tokenization.prompt_size import prompt_bound
from mlxd.daemon.models.architecture import context_tokens
from mlxd.daemon.prompt_bound import context_overflow
from mlxd.daemon.shortages import is_shortage
from mlxd.protocol.errors import InvalidParams, MlxdError, ModelLoadFailed, OutOfMemory


class Tokenizer:
    """A model's tokenizer, chat template and constraints. `pool` compiles constraints.

    Raises:
        ModelLoadFailed: the tokenizer's files are missing or damaged.
    """

    def __init__(self, ref: ModelRef, pool: ThreadPoolExecutor) -> None:
        self.name = ref.name
        folder = Path(ref.path)
        try:
            self.config: dict[str, Any] = load_config(folder)
            self.wrapper = load_tokenizer(
                folder,
                trust_remote_code=ref.trust_remote_code,
                eos_token_ids=self.config.get("eos_token_id"),
            )
            self._read_vocabulary(folder)
        except BaseException as exc:  # transformers may raise any exception; model code may exit
            raise _tokenizer_failed(ref, exc) from exc
        self.context_tokens = context_tokens(self.config)
        self.chat = ChatRenderer(ref.name, self.wrapper, self._control)
        self.constraints = RequestedConstraints(
            self.wrapper,
            token_ids=max(self.model_tokens, len(self.wrapper)),
            control_tokens=self._control.tokens,
            pool=pool,
        )
        self.prompt_bound = prompt_bound(
            hf_tokenizer(self.wrapper),
            self.context_tokens,
            user_messages=self.chat.renders_user_messages(),
        )

    def _read_vocabulary(self, folder: Path) -> None:
        self.vocabulary: dict[str, int] = self.wrapper.get_vocab()
        self.model_tokens = vocabulary_size(folder, self.config) or len(self.wrapper)
        """Number of the model's token ids. Its tokenizer may have fewer or more."""
        marks = markers_of(self.wrapper)
        self._control = ControlText(
            hf_tokenizer(self.wrapper),
            (marks.think_start, marks.think_end, marks.tool_start, marks.tool_end),
        )
        self._detokenizer = _padded(self.wrapper.detokenizer, self.model_tokens)

    def detokenizer(self) -> Any:
        """Return a streaming detokenizer. All share one table of the vocabulary's texts."""
        fresh = copy.copy(self._detokenizer)
        fresh.reset()
        return fresh

    def encode(self, text: str) -> list[int]:
        """Return the tokens of plain text, after a start token if the model needs one."""
        wrapper = self.wrapper
        has_bos = wrapper.bos_token is not None and text.startswith(wrapper.bos_token)
        return list(wrapper.encode(text, add_special_tokens=not has_bos))

    def encode_chat(self, text: str) -> list[int]:
        """Return the tokens of rendered text, which already contains its special tokens."""
        return self._control.encode(text)

    def guarded(self, prompt: Any, value: Any) -> Any:
        """Return a caller's strings, changed so that control tokens in them remain text, unless
        allowed."""
        return guarded(self._control, prompt, value)

    def check_ids(self, param: str, tokens: Iterable[int]) -> None:
        """Raise InvalidParams for ids that the model does not have.

        MLX does not check indices and would access memory outside of the array.
        """
        worst = max(tokens, default=0)
        if worst >= self.model_tokens:
            raise InvalidParams(
                param,
                f"token {worst} is outside the vocabulary of {self.name}, "
                f"whose ids are 0 to {self.model_tokens - 1}",
                hint='List the ids of a text: mlx rpc tokenize \'{"text": "…"}\'',
            )

    def check_size(self, text: str) -> None:
        """Raise ContextOverflow, without tokenizing, for rendered text that cannot fit."""
        bound = self.prompt_bound
        if bound is None or bound.tokens_at_least(text) < bound.context_tokens:
            return
        tokens = bound.tokens_at_least(self._control.restored(text))
        self.check_context(tokens, "at least ")

    def check_context(self, prompt_tokens: int, bound: str = "") -> None:
        """Raise ContextOverflow for prompts that leave no room for a token.

        `bound` is "at least " if the number of tokens is a lower bound.
        """
        limit = self.context_tokens
        if limit is not None and prompt_tokens >= limit:
            raise context_overflow(self.name, prompt_tokens, limit, bound)


def _padded(detokenizer: Any, model_tokens: int) -> Any:
    """Return the detokenizer with empty texts for ids that only the model has.

    mlx-lm's detokenizers look up tokens in a list. They would raise an error or return "!".
    """
    texts = getattr(detokenizer, "tokenmap", None)
    if isinstance(texts, list):
        blank = b"" if isinstance(detokenizer, SPMStreamingDetokenizer) else ""
        known = [blank if text is None else text for text in texts]
        detokenizer.tokenmap = known + [blank] * max(0, model_tokens - len(known))
    return detokenizer


def _tokenizer_failed(ref: ModelRef, exc: BaseException) -> MlxdError:
    if is_shortage(exc):
        return OutOfMemory(f"The tokenizer of {ref.name} cannot be loaded: {first_line(exc)}")
    hint = ""
    if "trust_remote_code" in str(exc):
        hint = (
            "If you trust the model's own code, allow it in config.toml: trust_remote_code = true "
            f'under [models."{ref.name}"]'
        )
    return ModelLoadFailed(
        f"The tokenizer of {ref.name} cannot be read: {first_line(exc)} ({ref.path})",
        hint=hint or "Restore tokenizer.json, or download the model again: mlx models pull NAME",
    )
