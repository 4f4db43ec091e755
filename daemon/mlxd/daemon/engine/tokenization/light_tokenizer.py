"""A tokenizer without transformers, whose import takes most of the engine's start-up time.

It supports the common case: a `tokenizer.json` that transformers would use unchanged, and a Jinja
chat template. For other folders `load` returns None. Methods that are not implemented here use the
folder's transformers tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import AddedToken, Tokenizer

from mlxd.daemon.engine.tokenization.chat_template import (
    RENDER_TIME_LIMIT_S,
    compile_template,
)
from mlxd.daemon.engine.tokenization.time_limit import time_limit

TRANSFORMERS_MAJOR = "5"
"""These rules match this version. With another version, transformers loads all tokenizers."""
CLASSES = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})
"""Classes in `tokenizer_config.json` for which transformers uses `tokenizer.json` unchanged."""
MODEL_TYPES = frozenset(
    {
        "apertus", "cohere2", "ernie4_5", "exaone", "exaone4", "falcon_h1", "gemma3_text", "glm",
        "glm4", "glm4_moe", "gpt_oss", "granite", "granitemoe", "hunyuan_v1_dense", "lfm2",
        "lfm2_moe", "llama", "llama4", "olmo2", "olmo3", "qwen3", "qwen3_moe", "qwen3_next",
        "seed_oss", "smollm3", "stablelm",
    }
)  # fmt: skip
"""Model types for which transformers honours `CLASSES`. For some others it replaces the class."""
NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
KNOWN_KEYS = frozenset(
    {
        *(f"{name}_token" for name in NAMED), "add_bos_token", "add_eos_token", "add_prefix_space",
        "added_tokens_decoder", "additional_special_tokens", "backend", "chat_template",
        "chat_template_type", "clean_up_tokenization_spaces", "extra_special_tokens", "is_local",
        "legacy", "local_files_only", "model_input_names", "model_max_length", "name_or_path",
        "padding_side", "processor_class", "tokenizer_class", "tool_parser_type", "truncation_side",
        "use_default_system_prompt",
    }
)  # fmt: skip
"""Keys of `tokenizer_config.json` that are supported here, or have no effect on these classes."""


class LightTokenizer:
    """The part of transformers' `PreTrainedTokenizerFast` that mlx-lm and the engine use.

    `whole` returns the transformers tokenizer of the same folder.
    """

    def __init__(
        self, backend: Tokenizer, config: dict[str, Any], whole: Callable[[], Any]
    ) -> None:
        self.backend_tokenizer = backend
        self.init_kwargs = {key: value for key, value in config.items() if key != "tokenizer_class"}
        self.chat_template: str | None = config.get("chat_template")
        # As in transformers, tokenizer.json decides.
        self.add_bos_token = self.add_eos_token = False
        self.special_tokens_map = {
            f"{name}_token": text for name in NAMED if (text := _text(config.get(f"{name}_token")))
        }
        for name in NAMED:
            text = self.special_tokens_map.get(f"{name}_token")
            setattr(self, f"{name}_token", text)
            setattr(self, f"{name}_token_id", backend.token_to_id(text) if text else None)
        self._load_whole = whole
        self._whole: Any = None
        self._template: jinja2.Template | None = None

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def __getattr__(self, name: str) -> Any:
        """Use transformers for everything that is missing here.

        Called for unknown attributes only.
        """
        if name.startswith("__") or "_load_whole" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.whole(), name)

    def whole(self) -> Any:
        """Return the transformers tokenizer of the folder. Loads it at the first call."""
        if self._whole is None:
            self._whole = self._load_whole()
        return self._whole

    def get_vocab(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    def encode(self, text: str, add_special_tokens: bool = True, **options: Any) -> list[int]:
        if options or not isinstance(text, str):
            return list(self.whole().encode(text, add_special_tokens=add_special_tokens, **options))
        # A batch of one, because `encode` would hold the GIL and block the compute thread for a
        # second per megabyte.
        encoded = self.backend_tokenizer.encode_batch_fast(
            [text], add_special_tokens=add_special_tokens
        )
        return list(encoded[0].ids)

    def decode(
        self, token_ids: int | Sequence[int], skip_special_tokens: bool = False, **options: Any
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        if options or not all(type(token) is int for token in ids):
            return str(self.whole().decode(token_ids, skip_special_tokens, **options))
        return self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def convert_ids_to_tokens(self, ids: int | Sequence[int], *options: Any, **more: Any) -> Any:
        if options or more:
            return self.whole().convert_ids_to_tokens(ids, *options, **more)
        token_of = self.backend_tokenizer.id_to_token
        return token_of(ids) if isinstance(ids, int) else [token_of(int(each)) for each in ids]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        return self._id_of(tokens) if isinstance(tokens, str) else [*map(self._id_of, tokens)]

    def _id_of(self, token: str) -> int | None:
        found = self.backend_tokenizer.token_to_id(token)
        unknown: int | None = self.__dict__["unk_token_id"]
        return unknown if found is None else found

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        **options: Any,
    ) -> Any:
        """Render the conversation with the folder's template, as transformers does.

        Raises:
            jinja2.TemplateError: the template refuses the conversation or is invalid.
        """
        text = None
        source = options.get("chat_template") or self.chat_template
        if isinstance(source, str) and not options.get("tokenize", True):
            text = self._render(source, conversation, tools, options)
        if text is None:
            whole = self.whole()
            with time_limit(RENDER_TIME_LIMIT_S):
                return whole.apply_chat_template(conversation, tools, **options)
        return text

    def _render(
        self, source: str, conversation: Any, tools: Any, options: dict[str, Any]
    ) -> str | None:
        """Return the text, or None if transformers must render it or report an error."""
        variables = {key: value for key, value in options.items() if key not in SWITCHES}
        opens, continues = (bool(options.get(key)) for key in SWITCHES[:2])
        if not _plain(conversation, tools, variables) or (opens and continues):
            return None
        messages = [_message(each) for each in conversation]
        final = messages[-1].get("content")
        if continues:
            if not isinstance(final, str) or "content" not in source:
                return None
            messages[-1]["content"] = final + CONTINUE_TAG
        with time_limit(RENDER_TIME_LIMIT_S):
            text: str = self._compiled(source).render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=opens,
                **{**self.special_tokens_map, **variables},
            )
        return _before_tag(text, str(final)) if continues else text

    def _compiled(self, source: str) -> jinja2.Template:
        """Return the template. The folder's template is compiled once, a caller's at every call."""
        if source != self.chat_template:
            return compile_template(source)
        if self._template is None:
            self._template = compile_template(source)
        return self._template


SWITCHES = (
    "add_generation_prompt", "continue_final_message", "tokenize", "return_dict", "chat_template",
)  # fmt: skip
"""Options that are not variables of the template."""
OTHER_OPTIONS = frozenset(
    {
        "conversations", "documents", "max_length", "padding",
        "return_assistant_tokens_mask", "return_tensors", "sanitize_control_tokens",
        "tokenizer_kwargs", "truncation",
    }
)  # fmt: skip
"""Options that only transformers supports."""
CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
"""Marks the end of the last message. The final space shows whether the template trims it."""


def _plain(conversation: Any, tools: Any, variables: dict[str, Any]) -> bool:
    """Return whether these are JSON values, which transformers passes to the template unchanged."""
    return (
        isinstance(conversation, list)
        and bool(conversation)
        and all(isinstance(message, dict) for message in conversation)
        and (tools is None or all(isinstance(tool, dict) for tool in tools))
        and OTHER_OPTIONS.isdisjoint(variables)
        and _is_json([conversation, tools, variables])
    )


def _is_json(value: Any) -> bool:
    if type(value) is dict:
        return all(type(key) is str and _is_json(each) for key, each in value.items())
    if type(value) is list:
        return all(map(_is_json, value))
    return value is None or type(value) in (str, int, float, bool)


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message in the form for templates: no empty fields, and reasoning under both
    names."""
    given = {key: value for key, value in message.items() if value is not None}
    for field in ("reasoning_content", "thinking", "reasoning"):
        if field in given:
            return {"thinking": given[field], **given, "reasoning_content": given[field]}
    return given


def _before_tag(text: str, final: str) -> str | None:
    """Return the text up to the end of the last message, or None if the text does not contain
    it."""
    word = CONTINUE_TAG.strip()
    if final.strip() not in text or word not in text:
        return None
    before, _, after = text.rpartition(word)
    return before if after.startswith(" ") else before.rstrip()


def load(folder: Path, whole: Callable[[], Any]) -> LightTokenizer | None:
    """Return the folder's tokenizer, or None if transformers must load it.

    The latter includes every folder with an error, which transformers reports. `whole` returns the
    transformers tokenizer of the folder.
    """
    try:
        if version("transformers").partition(".")[0] != TRANSFORMERS_MAJOR:
            return None
        config = _config(folder)
        if config is None:
            return None
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        if not _as_it_is(backend, config):
            return None
        return LightTokenizer(backend, config, whole)
    except Exception:  # tokenizers raises no narrower class
        return None


def _config(folder: Path) -> dict[str, Any] | None:
    """Return `tokenizer_config.json` with the chat template, or None if it needs transformers."""
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    model = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if (
        config.get("tokenizer_class") not in CLASSES
        or model.get("model_type") not in MODEL_TYPES
        or model.keys() & {"auto_map", "model_name", "tokenizer_class"}
        or not config.keys() <= KNOWN_KEYS
        or (folder / "additional_chat_templates").exists()
    ):
        return None
    legacy = ("special_tokens_map.json", "added_tokens.json")
    if "added_tokens_decoder" not in config and any((folder / name).exists() for name in legacy):
        return None
    template = folder / "chat_template.jinja"
    if template.exists():
        config["chat_template"] = template.read_text(encoding="utf-8")
    return config if isinstance(config.get("chat_template", ""), str | None) else None


def _as_it_is(backend: Tokenizer, config: Mapping[str, Any]) -> bool:
    """Return whether transformers would use the tokenizer in `tokenizer.json` unchanged."""
    if backend.truncation is not None or backend.padding is not None:
        return False
    if config.get("clean_up_tokenization_spaces") and type(backend.model).__name__ != "BPE":
        return False
    added = backend.get_added_tokens_decoder()
    for index, token in (config.get("added_tokens_decoder") or {}).items():
        if repr(added.get(int(index))) != repr(AddedToken(**token)):
            return False
    special = {token.content for token in added.values() if token.special}
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    named = [config.get(f"{name}_token") for name in NAMED]
    texts = [_text(token) for token in [*named, *extra] if token is not None]
    return isinstance(extra, list) and special.issuperset(texts)


def _text(token: Any) -> str | None:
    """Return the text of a special token, or "" if transformers would refuse it."""
    if isinstance(token, dict):
        return str(token["content"]) if token.get("__type") == "AddedToken" else ""
    return token if token is None or isinstance(token, str) else ""
