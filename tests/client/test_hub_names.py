"""Hub URLs given instead of a model name."""

from __future__ import annotations

import pytest

from mlxd.client.cli.failures import Misuse
from mlxd.client.cli.hub_names import parse_model


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ORG/NAME", ("ORG/NAME", None)),
        ("pocket", ("pocket", None)),
        ("https://huggingface.co/ORG/NAME", ("ORG/NAME", None)),
        ("https://huggingface.co/ORG/NAME/", ("ORG/NAME", None)),
        ("huggingface.co/ORG/NAME/tree/v1", ("ORG/NAME", "v1")),
        ("https://hf.co/ORG/NAME/blob/main/config.json?download=1", ("ORG/NAME", "main")),
        ("https://mirror.example/ORG/NAME#x", ("ORG/NAME", None)),
    ],
)
def test_a_hub_url_is_parsed_into_name_and_revision(
    text: str, found: tuple[str, str | None]
) -> None:
    assert parse_model(text, environ={"HF_ENDPOINT": "https://mirror.example"}) == found


@pytest.mark.parametrize(
    "text",
    ["https://example.com/ORG/NAME", "https://huggingface.co/datasets/ORG/NAME",
     "https://huggingface.co/ORG", "https://hf.co/"],
)  # fmt: skip
def test_a_url_that_is_no_model_is_refused(text: str) -> None:
    with pytest.raises(Misuse, match=r"not (an|the) address"):
        parse_model(text, environ={})


def test_conflicting_revisions_are_refused() -> None:
    with pytest.raises(Misuse, match="revision"):
        parse_model("hf.co/ORG/NAME/tree/v1", "v2", {})
    assert parse_model("hf.co/ORG/NAME/tree/v1", "v1", {}) == ("ORG/NAME", "v1")
