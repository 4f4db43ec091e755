"""Freed memory stays with the process until `give_back` returns it to the system."""

from __future__ import annotations

import subprocess
import sys

from support.needs import linux_only

RESIDENT = """
import mlx.core as mx
from mlxd.daemon.engine.backend.cpu import malloc

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

malloc.keep_freed()
before = resident()
arrays = [mx.zeros((2**20,)) + number for number in range(32)]  # of 4 MiB each
mx.eval(arrays)
held = resident()
del arrays
kept = resident()
malloc.give_back()
print(before, held, kept, resident())
"""


@linux_only
def test_freed_memory_is_kept_until_give_back() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True, timeout=60
    )
    before, held, kept, left = map(float, ran.stdout.split())
    assert held - before > 120
    assert kept - before > 120
    assert left - before < 32
