"""The wheel and the sdist contain everything needed and no other files."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ".data/data/share/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def built(folder: Path) -> tuple[set[str], set[str]]:
    """Return the file names in the wheel and in the sdist, relative to its top folder."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    with tarfile.open(sdist) as tar:
        sources = {name.partition("/")[2] for name in tar.getnames()}
    return names, sources


def test_links_on_the_package_index_page_are_absolute(folder: Path) -> None:
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        page = archive.read(name).decode()
    targets = re.findall(r"\]\(([^)#]+)", page)
    assert any(target.endswith(".svg") for target in targets)
    assert all(target.startswith("https://") for target in targets), targets


def test_the_wheel_has_every_module_and_program(built: tuple[set[str], set[str]]) -> None:
    names, _ = built
    for part in ("protocol", "client", "daemon", "launchd"):
        modules = {str(p.relative_to(ROOT / part)) for p in (ROOT / part / "mlxd").rglob("*.py")}
        assert modules <= names
        assert f"mlxd/{part}/py.typed" in names
    assert any(name.endswith(".data/scripts/mlx") for name in names)


def test_the_wheel_has_manual_pages_completions_and_shell_keys(
    built: tuple[set[str], set[str]],
) -> None:
    names, _ = built
    shared = {name.partition(DATA)[2] for name in names if DATA in name}
    assert {
        "man/man1/mlx.1",
        "man/man1/mlxd.1",
        "bash-completion/completions/mlx",
        "zsh/site-functions/_mlxd",
        "fish/vendor_completions.d/mlx.fish",
    } <= shared
    assert "mlxd/client/shell/mlxd.zsh" in names


def test_the_distributions_contain_no_unwanted_files(built: tuple[set[str], set[str]]) -> None:
    names, sources = built
    for name in names | sources:
        assert not name.endswith((".pyc", ".log", ".tmp", "~")), name
        assert "node_modules/" not in name, name
    assert {name.partition("/")[0] for name in names if DATA not in name} <= {
        "mlxd",
        *(n.partition("/")[0] for n in names if ".dist-info/" in n or ".data/" in n),
    }
    assert not any(name.startswith((".ci/", "docs/benchmarks/")) for name in sources)
    assert {"LICENSE", "README.md", "pyproject.toml", "tests/test_imports.py"} <= sources
