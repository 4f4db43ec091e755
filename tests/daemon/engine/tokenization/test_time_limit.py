from __future__ import annotations

import time

import pytest

from mlxd.daemon.engine.tokenization.time_limit import TimeLimitExceeded, time_limit
from support.checks import raises_nothing


def loop_for_ever() -> None:
    while True:
        pass


def busy_until(end_s: float) -> None:
    while time.monotonic() < end_s:
        pass


def test_time_limit_interrupts_an_endless_loop() -> None:
    with pytest.raises(TimeLimitExceeded), time_limit(0.05):
        loop_for_ever()


def test_time_limit_does_not_interrupt_code_after_the_block() -> None:
    for _ in range(200):
        try:
            with time_limit(0.002):
                busy_until(time.monotonic() + 0.0019)
        except TimeLimitExceeded:
            continue
        raises_nothing(lambda: sum(range(1000)))
