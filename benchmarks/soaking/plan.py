"""The schedule of faults: many at first, then fewer, and none at the end."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

STORM, DEATHS, STEADY = "storm", "engine deaths", "callers only"
SHARES = {STORM: 0.4, DEATHS: 0.3, STEADY: 0.3}
ACTIONS = {
    STORM: (
        "kill engine",
        "kill front",
        "restart",
        "hang up",
        "stop engine",
        "unload",
        "kill hub worker",
    ),
    DEATHS: (
        "kill engine",
        "hang up",
        "kill engine",
        "unload",
        "stop engine",
        "kill hub worker",
    ),
    STEADY: ("hang up",),
}
PAUSE_S = (6.0, 30.0)
"""Time between two actions, if the run is long enough."""
RESTS_PER_PHASE = 5
SHORT_S = 180.0
"""A run shorter than this leaves out the action that makes the engine hang. Every other action
occurs once."""


@dataclass(frozen=True, slots=True)
class Step:
    """An action, or `rest`, at this second of the run, in a phase."""

    at_s: float
    phase: str
    what: str


def steps(total_s: float, rng: Random) -> list[Step]:
    """Return the plan of a run. Every phase ends with a rest. A short run has shorter intervals."""
    plan: list[Step] = []
    began_s = 0.0
    for phase, share in SHARES.items():
        length_s = share * total_s
        plan += _actions(phase, began_s, length_s, total_s, rng)
        rests = max(1, min(RESTS_PER_PHASE, int(length_s / 60)))
        plan += [Step(began_s + length_s * (n + 1) / rests, phase, "rest") for n in range(rests)]
        began_s += length_s
    # Samples during the last phase's warm-up, with which its engine is compared.
    plan.append(Step(total_s * (1 - 0.75 * SHARES[STEADY]), STEADY, "rest"))
    return sorted(plan, key=lambda step: step.at_s)


def _actions(
    phase: str, began_s: float, length_s: float, total_s: float, rng: Random
) -> list[Step]:
    names = ACTIONS[phase]
    found: list[Step] = []
    if total_s < SHORT_S:
        kept = [name for name in dict.fromkeys(names) if name != "stop engine"]
        gap_s = length_s / (len(kept) + 1)
        return [Step(began_s + gap_s * (n + 1), phase, name) for n, name in enumerate(kept)]
    longest_s = min(PAUSE_S[1], length_s / (len(names) + 1))
    shortest_s = min(PAUSE_S[0], longest_s / 2)
    at_s = began_s
    while (at_s := at_s + rng.uniform(shortest_s, longest_s)) < began_s + length_s:
        if len(found) % len(names) == 0:
            order = rng.sample(names, len(names))
        found.append(Step(at_s, phase, order[len(found) % len(names)]))
    return found
