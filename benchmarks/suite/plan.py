"""The extent of a run: sizes and times, chosen by the machine and by --quick."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from suite import places
from suite.recipes import ALL, Model
from suite.records import Record


@dataclass(frozen=True)
class Plan:
    """`case_s` is the time for one case of one model. Rounds are repeated until it is spent."""

    quick: bool
    case_s: float
    least_rounds: int
    most_rounds: int
    without: frozenset[str] = frozenset()
    """Names of contenders to leave out."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Reasons why contenders were not available, recorded during the run."""
    device: str = field(default_factory=places.device)

    @property
    def main_models(self) -> list[Model]:
        """The models with which everything is measured."""
        return [ALL["pocket"]] if self.quick else [ALL["pocket"], ALL["random-25m"]]

    @property
    def more_models(self) -> list[Model]:
        """The models with which only throughput and first token are measured."""
        if self.quick:
            return []
        more = [ALL["random-60m"], ALL["random-25m-4bit"], ALL["random-60m-4bit"]]
        # Models with seconds per token. On a CPU, one of them is enough.
        return more[:2] if self.device == "cpu" else more

    def is_slow(self, model: Model) -> bool:
        """Whether tokens take so long that answers must be short: 4-bit weights on a CPU."""
        return self.device == "cpu" and model.bits is not None

    def answer_tokens(self, model: Model) -> int:
        """Return a number of tokens that takes about a second on this machine."""
        if self.is_slow(model):
            return 3
        if self.device != "cpu" or model.parameters < 10_000_000:
            return 64
        return 32 if model.parameters < 40_000_000 else 24

    def streams(self, model: Model) -> list[int]:
        return [1, 2, 4, 8, 16] if model in self.main_models else [1, 8]

    def prompt_tokens(self, model: Model) -> list[int]:
        if self.is_slow(model):
            return []
        return [16, 256, 2000] if model in self.main_models else [16]

    def in_time(self, models: Iterable[Model], limit_s: float) -> Iterator[Model]:
        """Yield models until the time for one measurement is spent, and print those left out."""
        started = time.monotonic()
        for model in models:
            self.skipped.pop(model.name, None)
            if time.monotonic() - started > limit_s:
                self.skipped[model.name] = f"no time was left for it after {limit_s:g} s"
                continue
            yield model

    def each(
        self, models: Iterable[Model], one: Callable[[Plan, Model], Iterable[Record]]
    ) -> Iterator[Record]:
        """Measure the models in order. A failure does not affect the others."""
        errors = []
        for model in models:
            try:
                yield from one(self, model)
            except Exception as exc:
                traceback.print_exc()
                errors.append(f"{model.name}: {type(exc).__name__}: {exc}")
        if errors:
            raise RuntimeError("; ".join(errors))


def make(quick: bool, without: frozenset[str] = frozenset()) -> Plan:
    if quick:
        return Plan(True, case_s=4.0, least_rounds=2, most_rounds=5, without=without)
    return Plan(False, case_s=7.0, least_rounds=3, most_rounds=15, without=without)
