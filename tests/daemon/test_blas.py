from __future__ import annotations

from pathlib import Path

import pytest

from mlxd.daemon.blas import blas_kind, find_blas, preloaded_blas, with_blas


def test_the_first_existing_blas_is_used(tmp_path: Path) -> None:
    there = tmp_path / "libblis.so.4"
    there.touch()
    candidates = (str(tmp_path / "none"), str(there))
    assert find_blas("linux", candidates) == there
    assert find_blas("darwin", candidates) is None
    assert find_blas("linux", candidates[:1]) is None


def test_the_blas_is_prepended_to_ld_preload() -> None:
    env = with_blas({"LD_PRELOAD": "/lib/other.so"}, Path("/lib/libblis.so.4"))
    assert env["LD_PRELOAD"] == "/lib/libblis.so.4 /lib/other.so"


@pytest.mark.parametrize(
    ("library", "variable"),
    [
        ("/lib/libblis.so.4", "BLIS_NUM_THREADS"),
        ("/lib/libopenblas.so.0", "OPENBLAS_NUM_THREADS"),
        ("/lib/libmkl_rt.so", "MKL_NUM_THREADS"),
    ],
)
def test_a_spinning_blas_gets_one_thread_unless_configured(library: str, variable: str) -> None:
    assert with_blas({}, Path(library))[variable] == "1"
    assert with_blas({"LD_PRELOAD": Path(library).name}, None)[variable] == "1"
    assert with_blas({variable: "6"}, Path(library))[variable] == "6"


def test_a_blas_chosen_by_the_user_is_kept(tmp_path: Path) -> None:
    for name, variable in (("libopenblas.so", "OPENBLAS"), ("libblis.so", "BLIS")):
        (tmp_path / name).touch()
        chosen = {"LD_PRELOAD": str(tmp_path / name), f"{variable}_NUM_THREADS": "2"}
        assert with_blas(chosen, Path("/lib/libmkl_rt.so")) == chosen


def test_a_chosen_blas_that_does_not_exist_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "libopenblas.so").touch()
    missing, there = str(tmp_path / "none" / "libopenblas.so"), str(tmp_path / "libopenblas.so")
    env = with_blas({"LD_PRELOAD": missing}, Path("/lib/libblis.so.4"))
    assert env["LD_PRELOAD"] == f"/lib/libblis.so.4 {missing}"
    assert env["BLIS_NUM_THREADS"] == "1"
    assert preloaded_blas({"LD_PRELOAD": f"{missing}:/lib/other.so:{there}"}) == there
    assert preloaded_blas({"LD_PRELOAD": missing}) == ""


def test_without_a_blas_the_environment_is_unchanged() -> None:
    assert with_blas({"HOME": "/"}, None) == {"HOME": "/"}


def test_blas_kind_recognises_libraries_by_path() -> None:
    assert blas_kind("/usr/lib/x86_64-linux-gnu/blis-pthread/libblis.so.4") == "blis"
    assert blas_kind("/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0") == "openblas"
    assert blas_kind("/usr/lib/libc.so.6") == ""
