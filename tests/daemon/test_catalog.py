"""Finding models by name, folder and hub cache, whatever the state of the cache."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mlxd.daemon.config import Config, ModelConfig
from mlxd.daemon.models import names
from mlxd.daemon.models.architecture import context_tokens
from mlxd.daemon.models.cache import hub_cache_dir
from mlxd.daemon.models.catalog import Catalog
from mlxd.protocol.errors import ModelLoadFailed, ModelNotFound, PermissionDenied


def write_weights(path: Path, tensors: Mapping[str, tuple[str, list[int], int]]) -> None:
    """Write a safetensors file; a tensor is its type, shape and size in bytes."""
    header, end = dict[str, Any](), 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"\0" * end)


def make_model(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True)
    about = {"model_type": "qwen3", "max_position_embeddings": 4096, **config}
    (folder / "config.json").write_text(json.dumps(about))
    write_weights(folder / "model.safetensors", {"embed.weight": ("F32", [10, 4], 160)})
    return folder


def make_cached(hub: Path, name: str, commit: str = "abc", main: str | None = "abc") -> Path:
    repo = hub / ("models--" + name.replace("/", "--"))
    if main is not None:
        (repo / "refs").mkdir(parents=True, exist_ok=True)
        (repo / "refs" / "main").write_text(main)
    return make_model(repo / "snapshots" / commit)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    return tmp_path / "hub"


def catalog(tmp_path: Path, **settings: Any) -> Catalog:
    builtin = tmp_path / "builtin" / "pocket"
    if not builtin.exists():
        make_model(builtin)
    environ = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    return Catalog(Config(**settings), environ, builtin_dir=builtin)


def test_without_a_name_the_default_model_is_used(tmp_path: Path) -> None:
    assert catalog(tmp_path).resolve().name == "pocket"
    assert Path(catalog(tmp_path).resolve().path).is_absolute()


def test_a_repository_is_found_in_the_hub_cache(tmp_path: Path, hub: Path) -> None:
    snapshot = make_cached(hub, "org/Some-1B-4bit")
    ref = catalog(tmp_path).resolve("org/Some-1B-4bit")
    assert (ref.name, ref.path, ref.revision) == ("org/Some-1B-4bit", str(snapshot), "abc")


def test_a_repository_without_an_organisation_is_found(tmp_path: Path, hub: Path) -> None:
    make_cached(hub, "gpt2")
    assert catalog(tmp_path).resolve("gpt2").name == "gpt2"


@pytest.mark.parametrize("short", ["some-1b-4bit", "Some-1B", "some", "org/some-1b"])
def test_an_unambiguous_short_name_is_resolved(tmp_path: Path, hub: Path, short: str) -> None:
    make_cached(hub, "org/Some-1B-4bit")
    make_cached(hub, "org/Other-2B-8bit")
    assert catalog(tmp_path).resolve(short).name == "org/Some-1B-4bit"


def test_an_ambiguous_short_name_lists_its_models(tmp_path: Path, hub: Path) -> None:
    make_cached(hub, "org/Some-1B-4bit")
    make_cached(hub, "org/Some-1B-8bit")
    with pytest.raises(ModelNotFound, match="may mean several") as caught:
        catalog(tmp_path).resolve("some-1b")
    assert caught.value.data["nearest"] == ["org/Some-1B-4bit", "org/Some-1B-8bit"]


def test_a_misspelled_model_name_gets_the_nearest_names(tmp_path: Path, hub: Path) -> None:
    make_cached(hub, "org/Some-1B-4bit")
    with pytest.raises(ModelNotFound) as caught:
        catalog(tmp_path).resolve("smoe-1b")
    assert caught.value.data["nearest"] == ["org/Some-1B-4bit"]
    assert "org/Some-1B-4bit" in caught.value.hint


def test_an_unknown_repository_gets_a_pull_command_as_hint(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        catalog(tmp_path).resolve("mlx-community/Nothing-Like-It")
    assert caught.value.hint == "Get it: mlx models pull mlx-community/Nothing-Like-It"


def test_a_model_pulled_meanwhile_is_found(tmp_path: Path, hub: Path) -> None:
    models = catalog(tmp_path)
    with pytest.raises(ModelNotFound):
        models.resolve("org/new")
    make_cached(hub, "org/new")
    assert models.resolve("org/new").name == "org/new"


def test_a_branch_of_a_missing_snapshot_falls_back_to_another_snapshot(
    tmp_path: Path, hub: Path
) -> None:
    snapshot = make_cached(hub, "org/a", commit="old", main="gone")
    assert catalog(tmp_path).resolve("org/a").path == str(snapshot)


def test_a_repository_without_snapshots_must_be_pulled_again(tmp_path: Path, hub: Path) -> None:
    (hub / "models--org--a" / "refs").mkdir(parents=True)
    (hub / "models--org--a" / "refs" / "main").write_text("abc")
    with pytest.raises(ModelLoadFailed) as caught:
        catalog(tmp_path).resolve("org/a")
    assert caught.value.hint == "Download the rest: mlx models pull org/a"


def test_a_snapshot_without_a_configuration_must_be_pulled_again(tmp_path: Path, hub: Path) -> None:
    (make_cached(hub, "org/a") / "config.json").unlink()
    with pytest.raises(ModelLoadFailed, match=r"no config\.json"):
        catalog(tmp_path).resolve("org/a")


def test_a_config_json_that_is_not_json_is_reported(tmp_path: Path, hub: Path) -> None:
    (make_cached(hub, "org/a") / "config.json").write_text("{")
    with pytest.raises(ModelLoadFailed, match="not valid JSON"):
        catalog(tmp_path).resolve("org/a")


def test_missing_shards_are_counted_and_must_be_pulled_again(tmp_path: Path, hub: Path) -> None:
    snapshot = make_cached(hub, "org/a")
    (snapshot / "model.safetensors").unlink()
    shards = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    index = {"weight_map": {f"w{n}": shard for n, shard in enumerate(shards)}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    write_weights(snapshot / shards[0], {"w0": ("F32", [1], 4)})
    with pytest.raises(ModelLoadFailed, match="2 of 3 weight files are missing") as caught:
        catalog(tmp_path).resolve("org/a")
    assert "mlx models pull org/a" in caught.value.hint
    assert catalog(tmp_path).show("org/a").problem is not None


def test_weights_that_are_a_dangling_symlink_count_as_missing(tmp_path: Path, hub: Path) -> None:
    weights = make_cached(hub, "org/a") / "model.safetensors"
    weights.unlink()
    weights.symlink_to("../../blobs/gone")
    with pytest.raises(ModelLoadFailed, match="does not exist"):
        catalog(tmp_path).resolve("org/a")


def test_weights_of_another_format_are_reported_with_a_hint(tmp_path: Path) -> None:
    folder = tmp_path / "torch"
    make_model(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadFailed, match="PyTorch") as caught:
        catalog(tmp_path).resolve(str(folder))
    assert "safetensors only" in caught.value.hint


def test_a_folder_path_is_resolved_as_a_model(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "mine")
    assert catalog(tmp_path).resolve(str(folder)).path == str(folder)


def test_a_missing_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no folder"):
        catalog(tmp_path).resolve(str(tmp_path / "nothing"))


def test_an_alias_resolves_to_its_model_and_its_settings(tmp_path: Path, hub: Path) -> None:
    make_cached(hub, "org/a")
    settings = ModelConfig(name="org/a", keep_alive_s=5, pin=True)
    models = catalog(tmp_path, aliases={"x": "y", "y": "org/a"}, models={"org/a": settings})
    ref = models.resolve("x")
    assert (ref.name, ref.keep_alive_s, ref.pin) == ("org/a", 5, True)


def test_an_alias_of_a_missing_model_is_an_error(tmp_path: Path) -> None:
    models = catalog(tmp_path, aliases={"p-1": "q", "q-1": "p"})
    with pytest.raises(ModelNotFound):
        models.resolve("p")


def test_a_configured_model_that_was_not_pulled_gets_a_pull_command(tmp_path: Path) -> None:
    models = catalog(tmp_path, models={"big": ModelConfig(name="big", repo="org/big")})
    with pytest.raises(ModelNotFound) as caught:
        models.resolve("big")
    assert caught.value.hint == "Get it: mlx models pull org/big"
    assert [record.name for record in models.list()] == ["pocket"]


def test_a_configured_revision_selects_its_snapshot(tmp_path: Path, hub: Path) -> None:
    make_cached(hub, "org/a", commit="one")
    two = make_cached(hub, "org/a", commit="two", main="one")
    (hub / "models--org--a" / "refs" / "v2").write_text("two")
    settings = ModelConfig(name="second", repo="org/a", revision="v2")
    models = catalog(tmp_path, models={"second": settings})
    assert models.resolve("second").path == str(two)
    assert models.resolve("org/a").revision == "one"


def test_a_revision_cannot_leave_the_cache_folder(tmp_path: Path, hub: Path) -> None:
    make_cached(hub, "org/a")
    settings = ModelConfig(name="bad", repo="org/a", revision="../../../etc")
    with pytest.raises(ModelLoadFailed):
        catalog(tmp_path, models={"bad": settings}).resolve("bad")


def test_a_name_cannot_leave_the_cache_folder(tmp_path: Path, hub: Path) -> None:
    make_cached(hub, "org/a")
    far = ("org/../a", "a/b/c/../..", "models--org--a")
    odd = ("x" * 5000, "/" + "x" * 5000, "a\0b", "/a\0b", "~nobody-here/x", "\udc80", "a\n")
    for name in (*far, *odd):
        with pytest.raises(ModelNotFound):
            catalog(tmp_path).resolve(name)


def test_trust_remote_code_requires_permission_in_the_configuration(
    tmp_path: Path, hub: Path
) -> None:
    make_cached(hub, "org/a")
    with pytest.raises(PermissionDenied, match="does not allow"):
        catalog(tmp_path).resolve("org/a", trust_remote_code=True)
    allowed = {"org/a": ModelConfig(name="org/a", trust_remote_code=True)}
    assert catalog(tmp_path, models=allowed).resolve("org/a").trust_remote_code


def test_an_adapter_folder_needs_an_adapter_config(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="adapter_config"):
        catalog(tmp_path).resolve(adapter=str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    assert catalog(tmp_path).resolve(adapter=str(tmp_path)).adapter == str(tmp_path)


def test_a_draft_model_is_resolved_to_its_folder(tmp_path: Path, hub: Path) -> None:
    snapshot = make_cached(hub, "org/small")
    settings = ModelConfig(name="pocket", draft="small")
    assert catalog(tmp_path, models={"pocket": settings}).resolve().draft == str(snapshot)


def test_the_model_list_contains_every_model_once(tmp_path: Path, hub: Path) -> None:
    make_cached(hub, "org/a")
    make_model(tmp_path / "dir" / "flat")
    make_model(tmp_path / "dir" / "org" / "deep")
    mine = make_model(tmp_path / "mine")
    models = catalog(
        tmp_path,
        model_dirs=(str(tmp_path / "dir"), str(tmp_path / "missing")),
        models={
            "mine": ModelConfig(name="mine", path=str(mine)),
            "org/a": ModelConfig(name="org/a"),
        },
    )
    assert [(record.name, record.source) for record in models.list()] == [
        ("pocket", "builtin"),
        ("mine", "config"),
        ("org/a", "config"),
        ("flat", "folder"),
        ("org/deep", "folder"),
    ]
    assert models.resolve("deep").path == str(tmp_path / "dir" / "org" / "deep")


def test_a_model_record_contains_size_context_and_parameters(tmp_path: Path, hub: Path) -> None:
    snapshot = make_cached(hub, "org/a")
    (snapshot / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    record = catalog(tmp_path).show("org/a")
    assert record.bytes == (snapshot / "model.safetensors").stat().st_size
    assert (record.architecture, record.context_tokens) == ("qwen3", 4096)
    assert (record.parameters, record.dtype, record.bits) == (40, "F32", None)
    assert record.chat_template
    assert record.problem is None


def test_quantised_weights_are_counted_as_unpacked_parameters(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "q", quantization={"bits": 4, "group_size": 64})
    write_weights(
        folder / "model.safetensors",
        {
            "up.weight": ("U32", [64, 16], 64 * 16 * 4),
            "up.scales": ("BF16", [64, 2], 256),
            "up.biases": ("BF16", [64, 2], 256),
            "norm.weight": ("BF16", [64], 128),
        },
    )
    record = catalog(tmp_path).show(str(folder))
    assert (record.parameters, record.bits, record.group_size) == (64 * 128 + 64, 4, 64)
    assert record.dtype == "BF16"


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1])
def test_a_truncated_weight_file_is_reported_as_a_problem(tmp_path: Path, keep: int) -> None:
    folder = make_model(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert catalog(tmp_path).show(str(folder)).problem is not None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HF_HUB_CACHE": "/x"}, "/x"),
        ({"HF_HOME": "/y", "XDG_CACHE_HOME": "/z"}, "/y/hub"),
        ({"XDG_CACHE_HOME": "/z"}, "/z/huggingface/hub"),
        ({"HOME": "/home/a"}, "/home/a/.cache/huggingface/hub"),
    ],
)
def test_the_cache_folder_is_that_of_the_hub_library(
    environ: dict[str, str], expected: str
) -> None:
    assert hub_cache_dir(environ) == Path(expected)


def test_the_cache_folder_follows_the_configured_environment(tmp_path: Path) -> None:
    config = Config(environment={"HF_HOME": str(tmp_path / "hf")})
    assert Catalog(config, {}).cache_dir == tmp_path / "hf" / "hub"


def test_an_exact_name_takes_precedence_over_a_partial_match() -> None:
    known = ["a/qwen3-0.6b", "b/Qwen3-0.6B-4bit"]
    assert names.matches("qwen3-0.6b", known) == ["a/qwen3-0.6b"]
    assert names.matches("QWEN3", known) == known


def test_a_resolved_model_is_cached_until_a_file_changes(tmp_path: Path) -> None:
    folder = make_cached(tmp_path / "hub", "org/tiny")
    models = catalog(tmp_path)
    assert models.known("org/tiny") is None
    found = models.resolve("org/tiny")
    assert models.known("org/tiny") == found
    assert models.known("org/tiny", trust_remote_code=True) is None
    for change in (
        lambda: (folder / "config.json").write_text('{"model_type": "other"}'),
        lambda: (folder / "model.safetensors").unlink(),
        lambda: make_cached(tmp_path / "hub", "org/tiny", commit="def", main="defgh"),
        lambda: make_cached(tmp_path / "hub", "org/tiny-too"),
    ):
        write_weights(folder / "model.safetensors", {"a": ("F32", [1], 4)})
        models.resolve("org/tiny")
        assert models.known("org/tiny") is not None
        change()
        assert models.known("org/tiny") is None


def test_a_loaded_model_is_found_by_name_after_its_files_were_deleted(tmp_path: Path) -> None:
    models = catalog(tmp_path, aliases={"mine": "org/tiny-4bit"})
    loaded = {"org/tiny-4bit": "/snapshots/tiny", "/models/gone": "/models/gone"}
    assert models.loaded_as("mine", loaded).name == "org/tiny-4bit"
    assert models.loaded_as("tiny", loaded).path == "/snapshots/tiny"
    assert models.loaded_as("/models/../models/gone", loaded).name == "/models/gone"
    assert models.loaded_as(None, loaded).name == "pocket"
    with pytest.raises(ModelNotFound):
        models.loaded_as("huge", loaded)


def test_every_spelling_of_a_folder_is_the_same_model(tmp_path: Path) -> None:
    folder = make_cached(tmp_path / "hub", "org/tiny")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "loft").symlink_to(tmp_path)
    models = catalog(tmp_path, models={"mine": ModelConfig("mine", path=f"{tmp_path}/link")})
    spellings = [
        "org/tiny", "mine", str(folder), f"{folder}/", f"{folder}/../abc", f"{tmp_path}/link",
        f"{tmp_path}/loft/link", f"{tmp_path}//hub/../link/.",
    ]  # fmt: skip
    assert {models.resolve(one).path for one in spellings} == {str(folder)}
    assert {models.loaded_as(one, {}).path for one in spellings} == {str(folder)}


def test_a_symlink_with_a_new_target_is_another_model(tmp_path: Path) -> None:
    folders = [make_model(tmp_path / name) for name in ("one", "two")]
    link = tmp_path / "link"
    link.symlink_to(folders[0])
    models = catalog(tmp_path)
    assert models.resolve(str(link)).path == str(folders[0])
    link.unlink()
    link.symlink_to(folders[1])
    assert models.known(str(link)) is None
    assert models.resolve(str(link)).path == str(folders[1])


YARN = {"factor": 4.0, "original_max_position_embeddings": 4096, "rope_type": "yarn"}


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({}, 4096),
        ({"rope_scaling": YARN}, 16384),
        ({"rope_parameters": YARN}, 16384),
        ({"rope_scaling": {**YARN, "original_max_position_embeddings": 1024}}, 4096),
        ({"rope_scaling": {**YARN, "factor": float("inf")}}, 4096),
        ({"text_config": {"max_position_embeddings": 8192}}, 8192),
        (
            {"text_config": {"max_position_embeddings": 4096, "rope_scaling": YARN}},
            16384,
        ),
        ({"max_position_embeddings": 10**30}, None),
        ({"max_position_embeddings": True}, None),
        ({"max_position_embeddings": None, "max_sequence_length": 512}, 512),
    ],
)
def test_the_catalog_and_the_engine_compute_the_same_context_length(
    tmp_path: Path, settings: dict[str, Any], tokens: int | None
) -> None:
    folder = make_model(tmp_path / "model", **settings)
    assert catalog(tmp_path).show(str(folder)).context_tokens == tokens
    assert context_tokens(json.loads((folder / "config.json").read_text())) == tokens
