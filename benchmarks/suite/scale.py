"""The tables of docs/scale.md: measured costs, and calculated limits of larger machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from suite.figures import summary
from suite.records import Results
from suite.tables import number, table

BEGIN, END = "<!-- {0}: made by benchmarks/run -->", "<!-- end of {0} -->"
GB = 10**9
SHARE_OF_MEMORY = 0.75 * 0.85
"""The share of memory that macOS recommends for the GPU, times mlxd's share of that."""
CONTEXT_TOKENS = 4096
STREAMS = (1, 8, 32)


@dataclass(frozen=True, slots=True)
class Family:
    """A published model: its parameters, the active parameters per token, and the shape of its KV
    cache."""

    name: str
    parameters: float
    active: float
    layers: int
    kv_heads: int
    head_dim: int
    bits: float = 4.5
    """Bits per weight, including the scales of groups of 64."""

    @property
    def weight_bytes(self) -> float:
        return self.parameters * self.bits / 8

    @property
    def step_bytes(self) -> float:
        """Return the bytes of weights that one token of one stream reads."""
        return self.active * self.bits / 8

    @property
    def kv_bytes(self) -> float:
        """Return the bytes of 16-bit keys and values per token."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Mac:
    name: str
    memory_bytes: float
    bytes_per_s: float

    @property
    def budget_bytes(self) -> float:
        return self.memory_bytes * SHARE_OF_MEMORY


FAMILIES = (
    Family("Qwen3-4B", 4.0e9, 4.0e9, 36, 8, 128),
    Family("Qwen3-30B-A3B", 30.5e9, 3.3e9, 48, 4, 128),
    Family("Llama-3.3-70B", 70.6e9, 70.6e9, 80, 8, 128),
    Family("Qwen3-235B-A22B", 235e9, 22e9, 94, 4, 128),
)
MACS = (Mac("128 GB, 546 GB/s", 128 * GB, 546 * GB), Mac("512 GB, 819 GB/s", 512 * GB, 819 * GB))


def update(results: Results, page: Path) -> None:
    """Replace the tables between the markers of the page, if it exists."""
    if not page.exists():
        return
    text = page.read_text()
    for name, made in (("costs", costs(results)), ("macs", macs())):
        begin, end = BEGIN.format(name), END.format(name)
        before, mark, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        if mark and made:
            text = f"{before}{begin}\n\n{made}\n\n{end}{after}"
    page.write_text(text)


def costs(results: Results) -> str:
    """Return a table of the cost of one caller, or an empty text if nothing was measured."""
    lines = list(_costs(results))
    return table([["cost", "measured", "at 10", "at 100", "at 1,000"], *lines]) if lines else ""


def _costs(results: Results) -> Iterator[list[str]]:
    more = results.find("front", "1000 idle", "mlxd, front, more than with one")
    if more:
        each = summary(more.values).median / 999
        yield _row(
            "memory of an idle connection", each, "bytes", lambda n: number(n * each, "bytes")
        )
    token = results.find("front", "16 streams", "mlxd", unit="s")
    if token:
        each = summary(token.values).median
        yield _row(
            "the front's processor time for a token", each, "s",
            lambda n: f"{100 * n * each * 20:.3g} % of a core at 20 tokens/s each",
        )  # fmt: skip
    for model in ("pocket", "random-25m"):
        found = [results.find("streams", str(n), "mlxd", model) for n in (1, 16)]
        if found[0] and found[1]:
            alone, many = (summary(one.values).median for one in found if one)
            yield [
                f"{model}: tokens/s of one stream, of sixteen together",
                f"{number(alone, 'tokens/s')}, {number(many, 'tokens/s')}",
                *(f"{number(many / n, 'tokens/s')} each" for n in (10, 100, 1000)),
            ]


def _row(name: str, each: float, unit: str, at: object) -> list[str]:
    assert callable(at)
    return [name, number(each, unit), *(at(n) for n in (10, 100, 1000))]


def macs() -> str:
    """Return a table of published models on two Macs: what fits, and the bandwidth limit."""
    head = ["machine, 4-bit model", "weights", f"streams of {CONTEXT_TOKENS:,} tokens that fit"]
    head += [f"tokens/s, all of {n}" if n > 1 else "tokens/s, one" for n in STREAMS]
    return table([head, *(line for mac in MACS for line in _on(mac))])


def _on(mac: Mac) -> Iterator[list[str]]:
    for model in FAMILIES:
        left = mac.budget_bytes - model.weight_bytes
        name = f"{mac.name}: {model.name}"
        weights = f"{model.weight_bytes / GB:.3g} GB"
        if left <= 0:
            yield [name, weights, "does not fit", *("–" for _ in STREAMS)]
            continue
        fit = int(left / (model.kv_bytes * CONTEXT_TOKENS))
        rates = (f"{_rate(mac, model, n):,.0f}" if n <= fit else "waits" for n in STREAMS)
        yield [name, weights, f"{fit:,}", *rates]


def _rate(mac: Mac, model: Family, streams: int) -> float:
    """Return tokens per second of all streams, limited only by reading weights and KV caches.

    With more streams, a mixture of experts reads more of its weights, at most all of them.
    """
    weights = min(model.weight_bytes, streams * model.step_bytes)
    dense = model.active == model.parameters
    read = (model.step_bytes if dense else weights) + streams * CONTEXT_TOKENS * model.kv_bytes
    return streams * mac.bytes_per_s / read
