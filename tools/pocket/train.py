"""Trains pocket on the corpus.

    python tools/pocket/train.py --minutes 60 [--out tools/pocket/runs]

Stops after `--minutes`, when the learning rate has fallen to zero. `--resume` continues from the
checkpoint with a new schedule.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from corpus import Sample, samples
from model import Config, Pocket
from tokenizer import train as train_tokenizer
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

PEAK = 2.0e-3
FLOOR = 0.02
WARM_UP = 0.02
BATCH_TOKENS = 3072
POOL = 512
"""Number of samples that are sorted by length before they are cut into batches, to reduce
padding."""
MAX_TOKENS = 512
CHECKPOINT_S = 240.0

Batch = tuple[Tensor, Tensor]


def encode(tokenizer: Tokenizer, sample: Sample) -> tuple[list[int], list[bool]]:
    """Return the token ids, and which of them count in the loss."""
    ids: list[int] = []
    learned: list[bool] = []
    # Encoded as one text, because a boundary between parts must not change the tokens.
    encoded = tokenizer.encode(sample.text, add_special_tokens=False)
    spans: list[tuple[int, bool]] = []
    end = 0
    for text, learn in sample.parts:
        end += len(text)
        spans.append((end, learn))
    index = 0
    for token, (start, _) in zip(encoded.ids, encoded.offsets, strict=True):
        while start >= spans[index][0]:
            index += 1
        ids.append(token)
        learned.append(spans[index][1])
    return ids, learned


def batches(tokenizer: Tokenizer, seed: int) -> Iterator[Batch]:
    """Yield (tokens, targets), both of shape (batch, length). Targets outside the loss are -100."""
    rng = random.Random(seed)
    source = samples(seed)
    while True:
        pool: list[tuple[list[int], list[bool]]] = []
        while len(pool) < POOL:
            ids, learned = encode(tokenizer, next(source))
            if len(ids) <= MAX_TOKENS:
                pool.append((ids, learned))
        pool.sort(key=lambda item: len(item[0]))
        ready: list[Batch] = []
        group: list[tuple[list[int], list[bool]]] = []
        for item in pool:
            if group and (len(group) + 1) * len(item[0]) > BATCH_TOKENS:
                ready.append(collate(group))
                group = []
            group.append(item)
        ready.append(collate(group))
        rng.shuffle(ready)
        yield from ready


def collate(group: list[tuple[list[int], list[bool]]]) -> Batch:
    length = max(len(ids) for ids, _ in group)
    tokens = torch.zeros(len(group), length, dtype=torch.long)
    targets = torch.full((len(group), length), -100, dtype=torch.long)
    for row, (ids, learned) in enumerate(group):
        tokens[row, : len(ids)] = torch.tensor(ids)
        wanted = [token if learn else -100 for token, learn in zip(ids, learned, strict=True)]
        targets[row, : len(ids) - 1] = torch.tensor(wanted[1:])
    return tokens, targets


def rate(progress: float) -> float:
    """Return the learning rate at `progress` from 0 to 1: a warm-up, then a cosine down to the
    floor."""
    if progress < WARM_UP:
        return PEAK * (progress / WARM_UP + 0.01)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP))))
    return PEAK * (FLOOR + (1 - FLOOR) * cosine)


def loss_of(model: Pocket, tokens: Tensor, targets: Tensor) -> Tensor:
    hidden = model.hidden(tokens)
    wanted = targets != -100
    logits = functional.linear(hidden[wanted], model.embed_tokens.weight)
    return functional.cross_entropy(logits, targets[wanted])


def run(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer_file = out / "tokenizer.json"
    if not tokenizer_file.exists():
        train_tokenizer().save(str(tokenizer_file))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    model = Pocket(Config(vocab_size=tokenizer.get_vocab_size()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.98), weight_decay=0.05)
    if arguments.resume:
        state = torch.load(out / "checkpoint.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    train(model, optimizer, tokenizer, arguments)


def train(
    model: Pocket,
    optimizer: torch.optim.Optimizer,
    tokenizer: Tokenizer,
    arguments: argparse.Namespace,
) -> None:
    started = saved = time.monotonic()
    seen = learned = step = 0
    average = 0.0
    for tokens, targets in batches(tokenizer, arguments.seed):
        now = time.monotonic()
        progress = (now - started) / (60 * arguments.minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate(progress) * arguments.scale
        # bfloat16 products are 1.7 times as fast on CPUs that support them. Weights stay float32.
        with torch.autocast("cpu", torch.bfloat16, enabled=not arguments.float32):
            loss = loss_of(model, tokens, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        seen += tokens.numel()
        learned += int((targets != -100).sum())
        average = 0.98 * average + 0.02 * loss.item()
        if step % 100 == 0:
            print(f"step {step} loss {average / (1 - 0.98**step):.4f} tokens {seen / 1e6:.2f}M "
                  f"learned {learned / 1e6:.2f}M {seen / (now - started):.0f}/s "
                  f"{100 * progress:.0f}%", flush=True)  # fmt: skip
        if now - saved > CHECKPOINT_S:
            saved = now
            save(model, optimizer, arguments.out)
    save(model, optimizer, arguments.out)
    print(
        f"done: {step} steps, {seen / 1e6:.2f}M tokens, {(time.monotonic() - started) / 60:.1f} min"
    )


def save(model: Pocket, optimizer: torch.optim.Optimizer, out: Path) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, out / "checkpoint.tmp")
    (out / "checkpoint.tmp").rename(out / "checkpoint.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the learning rate")
    parser.add_argument("--float32", action="store_true", help="do not use bfloat16 products")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "runs")
    run(parser.parse_args())
