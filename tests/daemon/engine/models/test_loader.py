from __future__ import annotations

import mlx.nn as nn

from mlxd.daemon.engine.models.loader import largest_matrix


def test_the_largest_matrix_counts() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 64), nn.RMSNorm(1000))
    assert largest_matrix(model) == 256
