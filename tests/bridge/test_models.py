"""Lists of models: ids, times and context lengths in the forms of OpenAI and Anthropic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlxd.http.dialects import models

LISTED: dict[str, Any] = {
    "models": [
        {"name": "a/b", "path": "/", "context_tokens": 4096, "parameters": 7, "bytes": 9},
        {"name": "broken", "path": "/", "problem": "incomplete"},
        {"name": "z", "path": "/", "context_tokens": 8},
    ],
    "default": "z",
    "aliases": {"small": "a/b", "lost": "gone"},
}


def test_the_default_is_first_and_broken_models_are_left_out() -> None:
    assert [name for name, _ in models.usable(LISTED)] == ["z", "a/b", "small"]


def test_every_name_of_the_context_length_is_there() -> None:
    first = models.openai_list(models.usable(LISTED))["data"][1]
    assert (first["id"], first["object"], first["owned_by"]) == ("a/b", "model", "mlxd")
    lengths = (first["context_length"], first["max_model_len"], first["meta"]["n_ctx_train"])
    assert lengths == (4096, 4096, 4096)


def test_the_time_is_that_of_the_models_folder(tmp_path: Path) -> None:
    expected = int(tmp_path.stat().st_mtime)
    assert models.openai_model("x", {"path": str(tmp_path)})["created"] == expected
    assert models.openai_model("x", {"path": "/does/not/exist"})["created"] == 0


def test_anthropics_list_is_one_page() -> None:
    found = models.anthropic_list(models.usable(LISTED))
    assert (found["first_id"], found["last_id"], found["has_more"]) == ("z", "small", False)
    assert found["data"][0]["created_at"].endswith("Z")
    assert models.anthropic_list([])["first_id"] is None
