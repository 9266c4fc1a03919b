"""Fits the table of serving engines' costs to published speedups, with a prior for each level.

    parameters of a generation = those of an unknown engine + a deviation        (logarithms)

Graph replay and eager launching are two families that share nothing. A generation with rows gets
its own estimate; an engine with rows of other generations one near the family's mean, for an
engine's name alone tells little.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medusa_bench.compare.serving import (
    TOKEN_S,
    Costs,
    CostTable,
    EngineCost,
    Known,
    Launches,
    Parameter,
    Steps,
    launches_of,
)
from medusa_bench.predict.calibration import NORMAL_90
from medusa_bench.specs.columns import FloatArray

# What was expected before a row was seen, in seconds: layer, step, draft_pass. Ten small kernels
# of 1 to 2 us lie between the products of a layer replayed; eagerly, each costs a Python call.
_EXPECTED = {
    Launches.GRAPHS: np.log([17e-6, 1.5e-3, 0.15e-3]),
    Launches.EAGER: np.log([700e-6, 4e-3, 1e-3]),
}
_SIGMAS = np.array([0.3, 1.0, 0.7])  # of those, in logarithms
_DEVIATIONS = np.array([0.15, 0.7, 0.4])  # of a generation from its family
# Of ln(speedup): acceptance borrowed, tables rounded; and where the size of the tree or chain is
# not printed and the method's usual one stands for it.
_NOISE, _NOISE_OF_USUAL_SIZE = 0.12, 0.36
_FULL_ROWS = 4  # more rows of one setting count no more than so many: they err together
_UNKNOWN = {
    Launches.GRAPHS: "a serving engine of unknown name",
    Launches.EAGER: "an eager engine of unknown name",
}
_FAMILY_WEIGHT = 3  # of the family's mean beside one generation of an engine


@dataclass(frozen=True, slots=True)
class Evidence:
    """Published speedups as columns: what was simulated of each, and what was reported."""

    steps: Steps
    engine: NDArray[np.str_]
    generation: NDArray[np.str_]
    setting: NDArray[np.str_]
    acceleration_rate: FloatArray
    speedup: FloatArray
    has_size: NDArray[np.bool_]  # whether the row prints its draft length or candidates

    def __len__(self) -> int:
        return len(self.speedup)

    def __getitem__(self, rows: NDArray[np.generic]) -> "Evidence":
        return Evidence(*(getattr(self, name)[rows] for name in Evidence.__slots__))


def fit(evidence: Evidence) -> CostTable:
    """The table that the rows and the priors give."""
    rows: dict[tuple[str, str], EngineCost] = {}
    launches = np.array([launches_of(engine) for engine in evidence.engine])
    for family in Launches:
        rows |= _fit_family(evidence[launches == family], family)
    return CostTable(rows)


def _fit_family(evidence: Evidence, family: Launches) -> dict[tuple[str, str], EngineCost]:
    from scipy.optimize import least_squares

    keys = list(zip(evidence.engine.tolist(), evidence.generation.tolist(), strict=True))
    members = sorted(set(keys))
    member = np.array([members.index(key) for key in keys], dtype=np.int64)
    counts = Counter(evidence.setting.tolist())
    weight = np.array([min(1.0, _FULL_ROWS / counts[each]) for each in evidence.setting]) ** 0.5
    truth = np.log(evidence.speedup / evidence.acceleration_rate)
    weight = weight / np.where(evidence.has_size, _NOISE, _NOISE_OF_USUAL_SIZE)
    eager = np.array(family is Launches.EAGER)

    def residuals(logs: FloatArray) -> FloatArray:
        mean, deviations = logs[:3], logs[3:].reshape(-1, 3)
        values = np.exp(mean + deviations[member]) if len(member) else np.empty((0, 3))
        layer_s, step_s, draft_pass_s = values.T
        costs = Costs(eager, layer_s, step_s, draft_pass_s, np.array(TOKEN_S))
        ratio = costs.vanilla_s(evidence.steps) / costs.step_latency_s(evidence.steps)
        return np.concatenate(
            [
                weight * (np.log(ratio) - truth),
                (mean - _EXPECTED[family]) / _SIGMAS,
                (deviations / _DEVIATIONS).ravel(),
            ]
        )

    start = np.concatenate([_EXPECTED[family], np.zeros(3 * len(members))])
    found = least_squares(residuals, start)
    covariance = np.linalg.inv(found.jac.T @ found.jac)
    mean, deviations = found.x[:3], found.x[3:].reshape(-1, 3)
    anyone = np.sqrt(np.diag(covariance)[:3] + _DEVIATIONS**2)
    settings = _settings(evidence, member, members)
    every = sorted({name for names in settings.values() for name in names})
    unknown = ("", family.value)
    rows = {unknown: _cost(unknown, Known.NOTHING, mean, anyone, every)}
    for index, key in enumerate(members):
        if key[1]:
            own = slice(3 + 3 * index, 6 + 3 * index)
            variance = covariance[:3, :3] + covariance[own, own] + 2 * covariance[:3, own]
            spread = np.sqrt(np.diag(variance))
            rows[key] = _cost(key, Known.VERSION, mean + deviations[index], spread, settings[key])
    for engine in sorted({engine for engine, _ in members if engine}):
        own_rows = [index for index, key in enumerate(members) if key[0] == engine]
        logs = mean + deviations[own_rows].sum(axis=0) / (len(own_rows) + _FAMILY_WEIGHT)
        named = sorted({name for index in own_rows for name in settings[members[index]]})
        rows[engine, ""] = _cost((engine, ""), Known.ENGINE, logs, anyone, named)
    return rows


def _settings(
    evidence: Evidence, member: NDArray[np.int64], members: Sequence[tuple[str, str]]
) -> Mapping[tuple[str, str], list[str]]:
    return {
        key: sorted(set(evidence.setting[member == index].tolist()))
        for index, key in enumerate(members)
    }


def _cost(
    key: tuple[str, str], known: Known, logs: FloatArray, spread: FloatArray, settings: list[str]
) -> EngineCost:
    engine, generation = key
    launches = launches_of(engine) if engine else Launches(generation)
    ends = np.exp([logs, logs - NORMAL_90 * spread, logs + NORMAL_90 * spread])
    layer_s, step_s, draft_pass_s = (Parameter(*values) for values in ends.T.tolist())
    evidence = f"fitted to {', '.join(settings)}" if settings else "expected, fitted to nothing"
    name = f"{engine} {generation}".strip() if engine else _UNKNOWN[launches]
    return EngineCost(name, launches, layer_s, step_s, draft_pass_s, known, evidence)
