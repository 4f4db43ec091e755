from __future__ import annotations

from mlxd.daemon.engine.backend.cpu.blas import THREADS_FROM, Threads
from support.checks import raises_nothing


def test_small_products_use_one_blas_thread_and_large_ones_all() -> None:
    put: list[int] = []
    threads = Threads(put.append, 6)
    for products in (THREADS_FROM, THREADS_FROM - 1, 1, THREADS_FROM, 2 * THREADS_FROM):
        threads.fit(products)
    assert put == [1, 6], "set once per change; all threads at the start"


def test_a_blas_without_a_thread_setting_is_left_unchanged() -> None:
    raises_nothing(lambda: Threads(None, 4).fit(1))
