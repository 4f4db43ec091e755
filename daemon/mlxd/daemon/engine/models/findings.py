"""What was measured of a model when it was first loaded, and the file that remembers it.

The probe (`probe.py`) runs once per configuration, version of mlx and mlx-lm, and device.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

PROBE_VERSION = 1
"""Raise it when the probe or `Findings` change: older files are then ignored."""


@dataclass(frozen=True, slots=True)
class KvSize:
    """Bytes of a sequence's KV cache: a fixed part, and parts per token.

    `windows` holds (tokens, bytes per token): such a part stops to grow at that many tokens.
    """

    fixed_bytes: int = 0
    bytes_per_token: int = 0
    windows: tuple[tuple[int, int], ...] = ()

    def of(self, tokens: int) -> int:
        """Return the bytes of a cache that covers so many tokens."""
        windowed = sum(min(tokens, most) * size for most, size in self.windows)
        return self.fixed_bytes + tokens * self.bytes_per_token + windowed


@dataclass(frozen=True, slots=True)
class Findings:
    """How a model may be served. An empty text means that the check succeeded.

    `alone` says why it cannot be batched, `unkept` why its prompts are not cached, `unstored` why
    they are not written to disk, and `original` why mlx-lm's own operations are used.
    """

    alone: str = ""
    unkept: str = ""
    unstored: str = ""
    original: str = ""
    kv: KvSize = KvSize()

    @classmethod
    def from_map(cls, raw: Mapping[str, Any]) -> Findings:
        """Read what `asdict` wrote. Raises TypeError, KeyError or ValueError for anything else."""
        kv = raw["kv"]
        windows = tuple((int(most), int(size)) for most, size in kv["windows"])
        size = KvSize(int(kv["fixed_bytes"]), int(kv["bytes_per_token"]), windows)
        texts = {key: str(raw[key]) for key in ("alone", "unkept", "unstored", "original")}
        return cls(**texts, kv=size)


class FindingsStore:
    """Remembers findings in a folder; without a folder it remembers nothing."""

    def __init__(self, folder: Path | None, device: str) -> None:
        self._folder = folder
        self._made_by = [PROBE_VERSION, version("mlx"), version("mlx-lm"), device]

    def key(self, config: Mapping[str, Any], dtypes: Sequence[str], adapter: bool) -> str:
        """Return the name of the findings for a configuration and the types of its weights."""
        text = json.dumps([self._made_by, config, sorted(dtypes), adapter], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def read(self, key: str) -> Findings | None:
        """Return the findings of an earlier load, or None."""
        if self._folder is None:
            return None
        try:
            return Findings.from_map(json.loads((self._folder / f"{key}.json").read_bytes()))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, key: str, findings: Findings) -> None:
        """Remember findings. Where that fails, the next load measures again."""
        if self._folder is None:
            return
        temporary = self._folder / f"{key}.{os.getpid()}.tmp"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary.write_text(json.dumps(asdict(findings)))
            temporary.replace(self._folder / f"{key}.json")
        except OSError:
            temporary.unlink(missing_ok=True)
