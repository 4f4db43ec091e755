"""Models of LM Studio, oMLX and other tools are found in the folders of those tools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxd.daemon.models.other_tools import find_models, gguf_refusal, known_roots
from support.model_folders import bare_model


def roots(home: Path) -> list[tuple[str, str]]:
    return [(root.tool, str(root.path.relative_to(home))) for root in known_roots(home)]


def test_default_model_folders_of_other_tools_are_found(tmp_path: Path) -> None:
    assert roots(tmp_path) == []
    for folder in (".lmstudio/models", ".cache/lm-studio/models", ".omlx/models"):
        (tmp_path / folder).mkdir(parents=True)
    assert roots(tmp_path) == [
        ("LM Studio", ".lmstudio/models"),
        ("LM Studio", ".cache/lm-studio/models"),
        ("oMLX", ".omlx/models"),
    ]


def test_configured_model_folders_of_other_tools_are_found(tmp_path: Path) -> None:
    for folder in ("elsewhere/models", "downloads", "external", ".omlx"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".lmstudio-home-pointer").write_text(f"{tmp_path}/elsewhere\n")
    settings = {"downloadsFolder": str(tmp_path / "downloads")}
    (tmp_path / "elsewhere" / "settings.json").write_text(json.dumps(settings))
    dirs = [str(tmp_path / "external"), 7, "relative", str(tmp_path / "unmounted")]
    (tmp_path / ".omlx" / "settings.json").write_text(json.dumps({"model": {"model_dirs": dirs}}))
    assert roots(tmp_path) == [
        ("LM Studio", "downloads"), ("LM Studio", "elsewhere/models"), ("oMLX", "external")
    ]  # fmt: skip


@pytest.mark.parametrize("content", [b"\xff", b"[]", b'{"model": 3}', b'{"downloadsFolder": []}'])
def test_damaged_settings_of_other_tools_are_ignored(tmp_path: Path, content: bytes) -> None:
    for file in (".lmstudio-home-pointer", ".lmstudio/settings.json", ".omlx/settings.json"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(content)
    assert roots(tmp_path) == []


def test_models_are_found_in_every_layout(tmp_path: Path) -> None:
    bare_model(tmp_path / "flat")
    bare_model(tmp_path / "org" / "two-levels")
    bare_model(tmp_path / "volume" / "org" / "three-levels")
    bare_model(tmp_path / "models--acme--cached" / "snapshots" / "abc")
    (tmp_path / "org" / "loop").symlink_to(tmp_path)
    (tmp_path / ".hidden").mkdir()
    found = {one.name: one.problem for one in find_models(tmp_path)}
    assert found == {"flat": None, "acme/cached": None, "org/two-levels": None,
                     "org/three-levels": None}  # fmt: skip
    assert [one.name for one in find_models(tmp_path / "flat")] == ["flat"]


def test_an_incomplete_model_is_listed_with_its_problem(tmp_path: Path) -> None:
    bare_model(tmp_path / "partly").joinpath("model.safetensors").unlink()
    [one] = find_models(tmp_path)
    assert "no weights" in str(one.problem)


@pytest.mark.parametrize(
    ("file", "given", "search"),
    [
        ("Qwen3-4B-Q4_K_M.gguf", "Qwen3-4B-Q4_K_M.gguf", "search Qwen3-4B"),
        ("a/Qwen3-4B-IQ4_XS.gguf", "a", "search Qwen3-4B"),
        ("models/org/x/Phi-4-f16.gguf", "models", "search Phi-4"),
        ("models/manifests/registry.ollama.ai/library/llama3.2/3b", ".", "search llama3.2"),
        (f"blobs/sha256-{'a' * 64}", f"blobs/sha256-{'a' * 64}", "suggest"),
    ],
)
def test_gguf_weights_are_refused_with_a_search_command(
    tmp_path: Path, file: str, given: str, search: str
) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_bytes(b"GGUF")
    refusal = gguf_refusal(tmp_path / given)
    assert refusal is not None
    assert refusal.hint == f"Get the same model in MLX format: mlx models {search}"


def test_folders_without_gguf_files_are_not_refused(tmp_path: Path) -> None:
    assert gguf_refusal(bare_model(tmp_path / "mlx")) is None
    assert gguf_refusal(tmp_path / "nothing") is None
