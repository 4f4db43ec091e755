"""Measured values as flat records, and the file that stores them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_NUMBERS = re.compile(r"\[[-+.,\deE\s]*\]")


@dataclass(frozen=True, slots=True)
class Record:
    """The values of one contender in one case.

    Values with the same index belong to the same round, so that two records of one case can be
    compared pair by pair. `unit` is `s`, `tokens/s`, `bytes` or `calls`.
    """

    measurement: str
    case: str
    model: str
    contender: str
    unit: str
    values: tuple[float, ...]
    note: str = ""


@dataclass(slots=True)
class Collector:
    """Collects values round by round and returns them as records, in order of appearance."""

    measurement: str
    model: str = ""
    _values: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    _notes: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def add(self, case: str, contender: str, unit: str, value: float, note: str = "") -> None:
        key = (case, contender, unit)
        self._values.setdefault(key, []).append(value)
        if note:
            self._notes[key] = note

    def records(self) -> list[Record]:
        return [
            Record(
                self.measurement, case, self.model, contender, unit, tuple(values),
                self._notes.get((case, contender, unit), ""),
            )
            for (case, contender, unit), values in self._values.items()
        ]  # fmt: skip


class Results:
    """Records with the machine and the date of each measurement, in one JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, dict[str, Any]] = {}
        self._read()

    def _read(self) -> None:
        if self.path.exists():
            self.runs = json.loads(self.path.read_text())["measurements"]

    def put(self, measurement: str, about: dict[str, Any], records: Iterable[Record]) -> None:
        """Replace the records of an earlier run of this measurement, and save the file."""
        self._read()  # another run may have added records
        found = [asdict(record) for record in records]
        for one in found:
            one["values"] = [float(f"{value:.6g}") for value in one["values"]]
        self.runs[measurement] = {**about, "records": found}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One line per record, so that changes of the file are readable in version control.
        text = json.dumps({"measurements": self.runs}, indent=1)
        self.path.write_text(_NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n")

    def __iter__(self) -> Iterator[Record]:
        for run in self.runs.values():
            for one in run["records"]:
                yield Record(**{**one, "values": tuple(one["values"])})

    def find(
        self,
        measurement: str,
        case: str,
        contender: str,
        model: str | None = None,
        unit: str | None = None,
    ) -> Record | None:
        """Return the first matching record, or None."""
        for record in self:
            if (record.measurement, record.case, record.contender) != (
                measurement, case, contender,
            ):  # fmt: skip
                continue
            if (model is None or record.model == model) and unit in (None, record.unit):
                return record
        return None
