"""The index of cached prompts, compared with a naive implementation on random histories."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from mlxd.daemon.engine.kvcache.prefix_index import Entry, PrefixIndex, as_tokens, common_length


def naive_length(first: list[int], second: list[int]) -> int:
    count = 0
    while count < min(len(first), len(second)) and first[count] == second[count]:
        count += 1
    return count


def random_prompt(rng: random.Random) -> list[int]:
    """Return a short prompt of two tokens, which likely shares a prefix with others."""
    return [rng.randrange(2) for _ in range(rng.randrange(1, 9))]


def naive_best(entries: list[Entry], key: str, wanted: list[int], most: int) -> int:
    best = 0
    for entry in entries:
        if entry.key == key:
            size = min(naive_length(entry.tokens.tolist(), wanted), most)
            if entry.trimmable or size == len(entry.tokens):
                best = max(best, size)
    return best


@settings(max_examples=1000, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_index_stays_within_its_limit_and_finds_the_longest_prefix(seed: int) -> None:
    rng = random.Random(seed)
    index = PrefixIndex(max_bytes=rng.randrange(20, 120))
    used: list[Entry] = []  # least recently used first
    for _ in range(rng.randrange(1, 40)):
        key, tokens = rng.choice("ab"), random_prompt(rng)
        deed = rng.random()
        if deed < 0.5:
            used.append(
                index.add(
                    key, as_tokens(tokens), rng.randrange(1, 40), trimmable=rng.random() < 0.6
                )
            )
            gone = index.over_budget()
            assert gone == used[: len(gone)], "the least recently used is evicted first"
            for entry in gone:
                index.remove(entry.id)
            used = used[len(gone) :]
        elif deed < 0.9:
            most = rng.randrange(0, len(tokens) + 1)
            found = index.longest(key, as_tokens(tokens), most=most)
            assert (found.tokens if found else 0) == naive_best(used, key, tokens, most)
            if found is not None:
                index.touch(found.entry.id)
                used.remove(found.entry)
                used.append(found.entry)
        elif used:
            entry = used.pop(rng.randrange(len(used)))
            assert index.remove(entry.id) is entry
            assert index.remove(entry.id) is None
        assert index.nbytes == sum(entry.nbytes for entry in used) <= index.max_bytes
        assert len(index) == len(used)


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_entries_replaced_by_a_new_prompt_are_covered_by_it(seed: int) -> None:
    rng = random.Random(seed)
    index = PrefixIndex(10**6)
    entries = [
        index.add(rng.choice("ab"), as_tokens(random_prompt(rng)), 1, trimmable=rng.random() < 0.6)
        for _ in range(rng.randrange(1, 12))
    ]
    key, tokens = rng.choice("ab"), random_prompt(rng)
    for entry in index.contained(key, as_tokens(tokens)):
        assert entry.trimmable
        assert entry.key == key
        assert tokens[: len(entry.tokens)] == entry.tokens.tolist() != tokens
    covered = index.covered(key, as_tokens(tokens))
    able = [
        entry
        for entry in entries
        if entry.key == key
        and entry.tokens.tolist()[: len(tokens)] == tokens
        and (entry.trimmable or len(entry.tokens) == len(tokens))
    ]
    assert (covered is not None) == bool(able)
    assert covered is None or covered in able


def test_common_length_counts_the_shared_prefix() -> None:
    assert common_length(as_tokens([]), as_tokens([1])) == 0
    assert common_length(as_tokens([1, 2, 3]), as_tokens([1, 2, 4])) == 2
    assert common_length(as_tokens([1, 2]), as_tokens([1, 2, 3])) == 2
    assert common_length(as_tokens([2]), as_tokens([1])) == 0


def test_entries_of_different_models_are_separate() -> None:
    index = PrefixIndex(100)
    mine = index.add("a", as_tokens([1, 2]), 5, trimmable=True)
    index.add("b", as_tokens([1, 2, 3]), 5, trimmable=True)
    assert index.of_key("a") == [mine]
    found = index.longest("a", as_tokens([1, 2, 3]), most=3)
    assert found is not None
    assert (found.entry, found.tokens) == (mine, 2)
    assert index.over_budget(5) == [mine]
