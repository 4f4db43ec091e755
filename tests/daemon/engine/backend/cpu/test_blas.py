from __future__ import annotations

import mlx.nn as nn

from mlxd.daemon.engine.backend.cpu.blas import THREADS_FROM, Threads, widest


def test_small_products_take_one_thread_and_large_ones_all():
    put: list[int] = []
    threads = Threads(put.append, 6)
    for products in (THREADS_FROM, THREADS_FROM - 1, 1, THREADS_FROM, 2 * THREADS_FROM):
        threads.fit(products)
    assert put == [1, 6], "told once per change; all of them from the start"


def test_a_library_without_that_setting_is_left_alone():
    Threads(None, 4).fit(1)


def test_the_largest_matrix_counts():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 64), nn.RMSNorm(1000))
    assert widest(model) == 256
