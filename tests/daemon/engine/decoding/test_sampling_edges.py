"""The table of edge values in the protocol's specification, line by line."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlxd.daemon.engine.decoding.sampling import BatchSampler, SequenceSampling
from mlxd.daemon.engine.decoding.sequences import logits_processors
from mlxd.daemon.engine.generation import SamplingParams
from mlxd.protocol.errors import InvalidParams
from mlxd.protocol.methods import validate
from mlxd.protocol.parameters import SAMPLING

SPEC = Path(__file__).parents[4] / "protocol" / "SPEC.md"
WIDTH, DRAWS = 12, 2000
LOGITS = np.linspace(0, 0.6, WIDTH, dtype=np.float32)
"""Close to each other, so that every token is drawn. The last one is the most likely."""


def specified_edge_values() -> list[tuple[str, Any, str]]:
    section = SPEC.read_text(encoding="utf-8").partition("## Edge values of sampling")[2]
    rows = []
    for line in section.partition("\n## ")[0].splitlines():
        if line.startswith("| `"):
            name, value, effect = (cell.strip() for cell in line.strip("|").split("|"))
            rows.append((name.strip("`"), json.loads(value.strip("`")), effect))
    return rows


def drawn_tokens(params: dict[str, Any]) -> set[int]:
    known = {field.name for field in fields(SequenceSampling)} - {"seed"}
    sampling = SequenceSampling(**{name: params[name] for name in known & params.keys()}, seed=3)
    logits = mx.array(LOGITS)[None]
    for processor in logits_processors(SamplingParams.from_map(params)):
        logits = processor(mx.array([1, 1, 2]), logits)
    logits = mx.broadcast_to(logits, (DRAWS, WIDTH))
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    tokens = BatchSampler([sampling] * DRAWS)(logprobs, list(range(DRAWS)))
    return {int(token) for token in np.array(tokens)}


@pytest.mark.parametrize(("name", "value", "effect"), specified_edge_values(), ids=str)
def test_edge_values_of_sampling_act_as_specified(name: str, value: Any, effect: str) -> None:
    neutral = {"temperature": 1, "top_p": 1}
    helpers = {
        # These two have an effect only together with the given parameter.
        "min_tokens_to_keep": {"min_p": 1},
        "xtc_threshold": {"xtc_probability": 1},
    }
    given = {"prompt": "a", **neutral, **helpers.get(name, {}), name: value}
    if effect == "refused":
        with pytest.raises(InvalidParams) as refusal:
            validate("generate", given)
        assert refusal.value.data["param"] == name
        return
    params = validate("generate", given)
    if effect == "random seed":
        assert params[name] is None
        return
    everything = set(range(WIDTH))
    assert (
        drawn_tokens(params) == {"all tokens": everything, "most likely token": {WIDTH - 1}}[effect]
    )


def test_the_specification_lists_every_numeric_sampling_parameter() -> None:
    numbers = {p.name for p in SAMPLING if p.kind in ("number", "integer", "logit bias")}
    assert numbers <= {name for name, _, _ in specified_edge_values()}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), "0.5", True, [], {}])
def test_a_sampling_parameter_that_is_no_number_is_refused_by_name(bad: Any) -> None:
    for param in SAMPLING:
        if param.kind in ("number", "integer"):
            with pytest.raises(InvalidParams) as refusal:
                validate("generate", {"prompt": "a", param.name: bad})
            assert refusal.value.data["param"] == param.name
