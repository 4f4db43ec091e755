"""Paths find their handlers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxd.http.dialects import ROUTES
from mlxd.http.routes import Router

ROUTER = Router(ROUTES)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "http.md"


def test_the_page_lists_every_path() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [route.pattern for route in ROUTES if f"{route.pattern}`" not in page] == []


@pytest.mark.parametrize("name", ["pocket", "mlx-community/Qwen3-4B-4bit", "a/b/c:latest"])
def test_ids_of_models_may_contain_slashes(name: str) -> None:
    route, rest = ROUTER.find("GET", f"/v1/models/{name}")
    assert (route.pattern, rest) == ("/v1/models/{id}", name)


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/chat", "/v1/messages/", "/v1/chat/completions/", "/v2/models"]
)
def test_unknown_paths_are_not_found(path: str) -> None:
    with pytest.raises(Exception, match="does not exist") as caught:
        ROUTER.find("POST", path)
    assert getattr(caught.value, "code", "") == "not_found"


def test_a_wrong_method_is_told_from_an_unknown_path() -> None:
    with pytest.raises(Exception, match="has no method GET") as caught:
        ROUTER.find("GET", "/v1/chat/completions")
    assert getattr(caught.value, "code", "") == "method_not_allowed"


def test_head_is_answered_like_get() -> None:
    assert ROUTER.find("HEAD", "/health")[0].pattern == "/health"
