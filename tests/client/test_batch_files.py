"""Where `mlx batch -o` writes, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlxd.client.cli.batch import verdict_of
from mlxd.client.cli.batch_files import output_of, read_items
from mlxd.client.cli.failures import Misuse


def loop(folder: Path) -> str:
    (folder / "one").symlink_to(folder / "two")
    (folder / "two").symlink_to(folder / "one")
    return str(folder / "one")


def below_a_loop(folder: Path) -> str:
    return loop(folder) + "/out.jsonl"


def below_a_file(folder: Path) -> str:
    (folder / "file").touch()
    return str(folder / "file" / "out.jsonl")


def itself(folder: Path) -> str:
    return str(folder)


def in_no_folder(folder: Path) -> str:
    return str(folder / "nope" / "out.jsonl")


def too_long(folder: Path) -> str:
    return str(folder / ("x" * 300))


def with_a_nul(folder: Path) -> str:
    return str(folder / "a\0b")


def a_closed_descriptor(_: Path) -> str:
    return "/dev/fd/973"


@pytest.mark.parametrize(
    "make",
    [loop, below_a_loop, below_a_file, itself, in_no_folder, too_long, with_a_nul,
     a_closed_descriptor],
)  # fmt: skip
def test_an_output_that_cannot_be_written_is_misuse_with_advice(
    make: object, tmp_path: Path
) -> None:
    assert callable(make)
    with pytest.raises(Misuse) as caught, output_of(make(tmp_path)).opened():
        pass
    assert caught.value.hint


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out.jsonl")
    with output_of(str(tmp_path / "link")).opened() as file:
        file.write("x")
    assert (tmp_path / "out.jsonl").read_text() == "x"
    assert os.path.islink(tmp_path / "link")


def test_the_summary_ends_its_sentences_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text("{nonsense\n")
    (item,) = read_items(str(tmp_path / "in.jsonl"), {}, [])
    assert item.error is not None
    verdict_of([item.error], 1, tmp_path / "out.jsonl")
    said = capsys.readouterr().err
    assert "is not JSON" in said
    assert said.endswith("(char 1). The same command retries them.\n")
