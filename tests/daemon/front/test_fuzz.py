"""Arbitrary parameters for every method, and the corpus of the fuzzer (`tools/fuzz`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxd.protocol.methods import METHODS
from support import fuzz_targets
from support.daemon_process import open_files
from support.fuzz_targets import FrontTarget

NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": st.text()}
    ),
    min_size=1,
    max_size=3,
)
# Nearly valid values reach more code than random ones.
NEARLY_VALID = {
    "integer": st.integers(-2, 2**20) | st.floats(),
    "number": NUMBERS,
    "boolean": st.booleans(),
    "string": st.text(max_size=8),
    "messages": MESSAGES,
    "text or token ids": st.text() | st.lists(st.integers(-1, 2**31)),
    "token ids": st.lists(st.integers(-1, 2**31)),
    "strings": st.text() | st.lists(st.text()),
    "map": st.dictionaries(st.text(), VALUES, max_size=3),
    "schema": st.booleans() | st.dictionaries(st.text(), VALUES, max_size=3),
    "logit bias": st.dictionaries(st.integers() | st.text(), NUMBERS, max_size=3),
    "logprobs": st.booleans() | st.integers(-2, 30),
    "message id": st.integers(-1, 2**32) | st.text(max_size=4),
}


@st.composite
def parameters(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    """A method with some of its parameters, and sometimes an unknown one."""
    method = METHODS[draw(st.sampled_from(sorted(METHODS)))]
    chosen = [param for param in method.params if param.required or draw(st.booleans())]
    given: dict[str, object] = {
        param.name: draw(NEARLY_VALID.get(param.kind, VALUES) | VALUES) for param in chosen
    }
    if draw(st.integers(0, 9)) == 0:
        given[draw(st.text(max_size=8))] = draw(VALUES)
    return method.name, given


@settings(deadline=None, max_examples=400)
@given(parameters())
def test_arbitrary_parameters_are_normalised_or_refused_by_name(
    call: tuple[str, dict[str, object]],
) -> None:
    fuzz_targets.check_method(*call)


@pytest.mark.parametrize("name", ["codec", "methods"])
def test_the_fuzz_corpus_does_not_break_codec_or_methods(name: str) -> None:
    inputs = fuzz_targets.kept(name)
    assert len(inputs) > 30
    for data in inputs:
        fuzz_targets.target(name)(data)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[FrontTarget]:
    before = dict(os.environ)
    target = FrontTarget(tmp_path)
    yield target
    target.close()
    os.environ.clear()
    os.environ.update(before)


def test_the_fuzz_corpus_leaves_the_front_working_and_leaks_no_descriptors(
    front: FrontTarget,
) -> None:
    inputs = fuzz_targets.kept("front")
    assert len(inputs) > 30
    held = []
    for _ in range(2):  # the first round opens what stays open: the engine's link, the database
        for data in inputs:
            front(data)
        held.append(open_files(os.getpid()))
    assert held[1] <= held[0]
