"""Writes docs/benchmarks/README.md from the records: goals, tables, machine and versions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from suite import added, places, scale
from suite.goals import answers
from suite.places import NotInstallable
from suite.records import Record, Results
from suite.sections import SECTIONS, Section
from suite.tables import comparison, table

PLOTTER = Path(__file__).with_name("plot_worker.py")
HEAD = """# Benchmarks

<!-- Made by `benchmarks/run`; results.json has every single value. -->

mlxd beside what one would use instead, in the same run, on the same machine, with the same weights.
To measure again, on a Mac, on Linux, or with CUDA:

```sh
scripts/setup
.venv/bin/python benchmarks/run                       # everything
.venv/bin/python benchmarks/run --quick --only gaps   # a look at one thing
```

The contenders are installed below the cache folder of the user, each into an environment of its
own; what cannot be had is named below. Figures are medians with the quartiles in parentheses; the
contenders take turns round by round, and a figure in bold is the median of the ratios of each
round: what mlxd has as a multiple of the contender. So **0.50** is half the time, and of tokens
per second it is half the speed. What a page like this says holds for its machine only;
ratios travel better than times.
"""
CONTENDERS = """## Contenders

- **in-process mlx-lm**: `stream_generate` and `BatchGenerator` in a process with nothing around
  them. The limit.
- **mlx_lm.server**: mlx-lm's own server, its answers streamed over HTTP.
- **vllm-mlx**: vLLM's interface on MLX, where it can be installed.
- **llama.cpp server**: another engine, by `llama-cpp-python[server]`, with the same weights
  as a GGUF file in float32. Read its absolute figures as those of its engine, and compare what
  its server adds to **in-process llama.cpp**, the same package without a server.
- **C program**: connects to mlxd's socket, sends a request that was packed before, prints
  what comes.
- **llm**: the `llm` command with a plugin that calls mlx-lm in its process.

All of those that use MLX run the project's versions of it, except vllm-mlx, which brings its
own; on a processor they use the same BLAS as mlxd's engine. mlxd and the in-process limit choose
the number of BLAS threads by the size of a product; the servers cannot, and have one thread for
pocket (which slows their long prompts) and all cores for the larger models.

Models: *pocket*, the one built in; *random-…*, Qwen3's shape with random float32 weights, also in
4 bits: the fast type on a Mac, and so slow a one on a processor that only the smaller of the two
is measured there, by a few tokens.
"""


def write(results: Results, folder: Path) -> None:
    """Write the page, the plots, and the table of docs/scale.md."""
    plots = draw(results, folder)
    parts = [HEAD, goals(results), CONTENDERS]
    parts += [text for one in SECTIONS if (text := section(one, results, plots))]
    parts += [added.section(results), failures(results), machine(results)]
    (folder / "README.md").write_text("\n".join(part for part in parts if part).rstrip() + "\n")
    scale.update(results, folder.parent / "scale.md")


def draw(results: Results, folder: Path) -> set[str]:
    """Draw what there is to draw; without matplotlib the tables must do."""
    try:
        command = [places.plot_python(), str(PLOTTER), str(results.path), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (NotInstallable, subprocess.CalledProcessError, OSError) as exc:
        print(f"No plots: {getattr(exc, 'stderr', '') or exc}", file=sys.stderr, flush=True)
        return set()
    return set(json.loads(done.stdout))


def goals(results: Results) -> str:
    lines = [["goal", "model", "measured", ""]]
    for one in answers(results):
        lines.append([one.goal, one.where, one.measured, "met" if one.met else "**missed**"])
    return f"## Goals\n\nRatios of one run unless a unit is named.\n\n{table(lines)}\n"


def section(about: Section, results: Results, plots: set[str]) -> str:
    records = [one for one in results if one.measurement == about.measurement]
    if not records:
        return ""
    parts = [f"## {about.title}\n", about.text + "\n"]
    if about.plot in plots:
        parts.append(f"![{about.title}]({about.plot})\n")
    for heading, some in _groups(about, records):
        parts += [f"{heading}\n" if heading else "", comparison(some, about.reference) + "\n"]
    return "\n".join(part for part in parts if part)


def _groups(about: Section, records: list[Record]) -> Iterator[tuple[str, list[Record]]]:
    """A table for each model, and for each set of contenders, that cells be not mostly empty."""
    for model in dict.fromkeys(one.model for one in records):
        of_model = [one for one in records if one.model == model]
        sets: dict[str, set[str]] = {}
        for one in of_model:
            sets.setdefault(one.case, set()).add(one.contender)
        heading = f"**{model}**" if model else ""
        left = list(sets)
        while left:
            together = [case for case in left if sets[case] & sets[left[0]]]
            yield heading, [one for one in of_model if one.case in together]
            left = [case for case in left if case not in together]
            heading = ""


def failures(results: Results) -> str:
    lines = []
    for name, run in results.runs.items():
        if run.get("error"):
            lines.append(f"- *{name}* failed: {_one_line(run['error'])}")
        lines += [f"- *{name}* without {who}: {_one_line(why)}"
                  for who, why in run.get("skipped", {}).items()]  # fmt: skip
    return "## Not measured\n\n" + "\n".join(lines) + "\n" if lines else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def machine(results: Results) -> str:
    lines = [["measurement", "date", "took", "load before", "commit"]]
    seen: dict[str, Any] = {}
    for name, run in results.runs.items():
        about, versions = run["machine"], dict(run["versions"])
        lines.append([
            name + (" (quick)" if run["quick"] else ""), run["date"], f"{run['seconds']} s",
            str(about["load_before"][0]), versions.pop("commit"),
        ])  # fmt: skip
        known = ", ".join(f"{key} {value}" for key, value in versions.items())
        memory = f"{about['memory_bytes'] / 2**30:.0f} GB"
        seen[f"- {about['processor']}, {about['cores']} cores, {memory}, {about['system']}; MLX "
             f"on {about['device']}{about.get('blas', '')}; {known}"] = None  # fmt: skip
    return "## Machine\n\n" + "\n".join(seen) + f"\n\n{table(lines)}\n"
