"""The byte-level BPE tokenizer: 512 entries, and single digits so that copying takes short steps.

python tools/pocket/tokenizer.py runs/tokenizer.json
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

from corpus import samples
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>",
    "<|fim_middle|>", "<|fim_pad|>", "<think>", "</think>", "<tool_call>", "</tool_call>",
)  # fmt: skip
VOCABULARY = 512
TRAINING_SAMPLES = 20_000
# Splits into words with their leading space, single digits, runs of line breaks, and single
# punctuation marks.
SPLIT = r" ?[A-Za-z]+|[0-9]|\n+| ?[^\sA-Za-z0-9]|\s+"


def train(seed: int = 0) -> Tokenizer:
    """Return a tokenizer trained on the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (sample.text for sample in islice(samples(seed), TRAINING_SAMPLES))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    train().save(str(target))
