"""Small tokenizers, each built like those of a model family, with a matching chat template."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and <the> dog [sleeps] | all day.",
    "user assistant system tool model start end of turn think call INST TOOL header",
    '{"name": "get_weather", "arguments": {"city": "Paris"}} Hello there! 0123456789\n\n',
] * 4
LOOP = "{% for m in messages %}"
CALLS = "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"


@dataclass(frozen=True)
class Family:
    """A family's tokenizer and its control tokens."""

    build: Callable[[], Tokenizer]
    special: tuple[str, ...]
    template: str
    unmarked: tuple[str, ...] = ()
    """Control tokens that the tokenizer does not mark as special."""
    ordinary: tuple[str, ...] = ()
    """Added tokens that are ordinary text."""
    rstrip: bool = False

    @property
    def control(self) -> tuple[str, ...]:
        return (*self.special, *self.unmarked)


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def _sentencepiece(normalizer: Any, pre_tokenizer: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=pieces,
        show_progress=False,
        initial_alphabet=["▁", *(chr(code) for code in range(33, 127)), "\n"],
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    # Byte pieces are part of the vocabulary and not added tokens.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(state))


def gemma_like() -> Tokenizer:
    return _sentencepiece(
        normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous")
    )


def mistral_like() -> Tokenizer:
    return _sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False))


def llama2_like() -> Tokenizer:
    blanks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    return _sentencepiece(normalizers.Sequence(blanks), None)


def unigram() -> Tokenizer:
    letters = ["▁", "\n", *(chr(code) for code in range(33, 127))]
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((one, -5.0) for one in letters)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return tokenizer


FAMILIES = {
    "chatml": Family(
        byte_level,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        LOOP + "{{ '<|im_start|>' + m.role + '\n' + m.content }}" + CALLS + "{{ '<|im_end|>\n' }}"
        "{% endfor %}" + TOOLS + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% if enable_thinking %}{{ '<think>\n' }}{% endif %}{% endif %}",
        unmarked=("<think>", "</think>", "<tool_call>", "</tool_call>", "<|fim_prefix|>"),
    ),
    "llama3": Family(
        byte_level,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
         "<|python_tag|>", *(f"<|reserved_special_token_{n}|>" for n in range(20))),
        "{{ '<|begin_of_text|>' }}" + TOOLS + LOOP + "{{ '<|start_header_id|>' + m.role + "
        "'<|end_header_id|>\n\n' + m.content | trim }}" + CALLS + "{{ '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        "{% endif %}",
    ),
    "gemma": Family(
        gemma_like,
        ("<bos>", "<eos>"),
        "{{ '<bos>' }}" + TOOLS + LOOP + "{{ '<start_of_turn>' + m.role + '\n' + "
        "m.content | trim }}" + CALLS + "{{ '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        unmarked=("<start_of_turn>", "<end_of_turn>"),
        ordinary=("<b>", "</b>", "\n\n", "▁▁"),
    ),
    "mistral": Family(
        mistral_like,
        ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]"),
        "{{ '<s>' }}" + TOOLS + LOOP + "{% if m.role == 'assistant' %}{{ ' ' + m.content }}"
        "{% if m.tool_calls %}{{ '[TOOL_CALLS]' }}{% endif %}" + CALLS + "{{ '</s>' }}{% else %}"
        "{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}{% endfor %}",
    ),
    "llama2": Family(
        llama2_like,
        ("<s>", "</s>"),
        "{{ '<s>' }}" + TOOLS + LOOP + "{{ m.role + ': ' + m.content }}" + CALLS + "{{ '</s>' }}"
        "{% endfor %}",
    ),
    "harmony": Family(
        byte_level,
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"),
        TOOLS + LOOP + "{{ '<|start|>' + m.role + '<|message|>' + m.content }}" + CALLS +
        "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}"
        "{% endif %}",
    ),
    "stripping": Family(
        byte_level,
        ("<|user|>", "<|assistant|>", "<|end|>"),
        TOOLS + LOOP + "{{ '<|user|>\n' + m.content }}" + CALLS + "{{ '<|end|>\n' }}{% endfor %}"
        "{{ '<|assistant|>\n' }}",
        rstrip=True,
    ),
    "unigram": Family(
        unigram,
        ("<s>", "</s>"),
        TOOLS + LOOP + "{{ m.content }}" + CALLS + "{{ '</s>' }}{% endfor %}",
    ),
}  # fmt: skip


def write(family: Family, folder: Path) -> Path:
    """Write the tokenizer files, and the parts of a model folder that loading them needs."""
    tokenizer = family.build()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, rstrip=family.rstrip) for text in family.special]
    )
    tokenizer.add_tokens(
        [AddedToken(text, normalized=False) for text in (*family.unmarked, *family.ordinary)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=family.special[-1], chat_template=family.template
    )
    fast.save_pretrained(folder)
    config = {"model_type": "llama", "vocab_size": len(fast)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
