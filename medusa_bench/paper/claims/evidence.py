"""What a claim is, and the numbers that its check looks at."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from medusa_bench.compare.comparisons import Comparison
from medusa_bench.paper.reproduction import Cell, Reproduction
from medusa_bench.predict import latency, priors
from medusa_bench.results.rows import Timing
from medusa_bench.specs import models, profiles
from medusa_bench.specs.columns import FloatArray, Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import Operator, Point, points, select
from medusa_bench.specs.paper_grid import PAPER_GPU, SIMULATED_MODEL
from medusa_bench.specs.profiles import DeviceProfile
from medusa_bench.specs.settings import Phase, Setting, settings

FLAT = 1.05  # "nearly unchanged": within 5 %
SIMILAR = 1.5  # "very similar positions": 4 % of the four decades that the axes span


class ClaimVerdict(StrEnum):
    """What became of a sentence."""

    REPRODUCED = "reproduced"
    DIFFERS = "differs"
    NOT_REPRODUCED = "not reproduced"
    NOT_TESTED = "not tested"  # no number that it could be held against


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """A sentence, its verdict, and the numbers that it rests on, in words and by name."""

    section: str
    sentence: str
    verdict: ClaimVerdict
    evidence: str
    numbers: Mapping[str, float]


Judgement = tuple[ClaimVerdict, str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence and how it is judged."""

    section: str
    sentence: str
    check: Callable[["Evidence"], Judgement]


@dataclass(frozen=True, slots=True)
class Predicted:
    """Points of one model and operator on one GPU, as columns of shape (num_points,)."""

    settings: tuple[Setting, ...]
    operational_intensity: FloatArray
    flops_per_s: FloatArray
    roof_fraction: FloatArray
    bound: NDArray[np.str_]

    def along(self, name: str) -> list[NDArray[np.intp]]:
        """Indices of the points that differ in this setting alone, in its order."""
        groups: dict[tuple[int, ...], list[int]] = {}
        others = [each for each in ("batch_size", "seq_len", "num_candidates") if each != name]
        for index, setting in enumerate(self.settings):
            groups.setdefault(tuple(getattr(setting, o) for o in others), []).append(index)
        return [np.array(group) for group in groups.values() if len(group) > 1]


class Evidence:
    """What the checks look at: the reproduction, and predictions in the paper's 49 settings."""

    def __init__(self, reproduction: Reproduction) -> None:
        self.reproduction = reproduction

    @cached_property
    def profile(self) -> DeviceProfile:
        return profiles.load(PAPER_GPU)

    @property
    def ridge_point(self) -> float:
        return self.profile.ridge_point(Dtype.FLOAT16)

    def rows(self, batch_size: int, seq_len: int = 1024) -> list[Comparison]:
        """The simulated points of one curve of figure 22 or 23, by candidates."""
        return [
            row
            for row in self.reproduction.speedups
            if (row.batch_size, row.seq_len) == (batch_size, seq_len)
        ]

    def overhead(self, operators: str, batch_size: int, seq_len: int, num_candidates: int) -> float:
        """Of these operators of Llama-7B together: Medusa's latency over vanilla's."""
        medusa_s, vanilla_s = (
            self.latency_s(operators, batch_size, seq_len, count) for count in (num_candidates, 1)
        )
        return medusa_s / vanilla_s

    def latency_s(
        self, operators: str, batch_size: int, seq_len: int, num_candidates: int
    ) -> float:
        """Of these operators of Llama-7B together, one after the other."""
        setting = Setting(Phase.MEDUSA, batch_size, seq_len, num_candidates)
        return float(
            _predict(PAPER_GPU, SIMULATED_MODEL, select(operators.split()), (setting,))[0].sum()
        )

    @staticmethod
    def predicted(
        operator: str, phase: Phase, gpu: str = PAPER_GPU, model: str = SIMULATED_MODEL
    ) -> Predicted:
        """One operator in the paper's settings of a phase, those that fit in the GPU's memory."""
        return _in_all_settings(operator, phase, gpu, model)


@cache
def _in_all_settings(operator: str, phase: Phase, gpu: str, model: str) -> Predicted:
    profile = profiles.load(gpu)
    found = points([models.load(model)], select([operator]), settings([phase]), [Dtype.FLOAT16])
    fitting = [p for p in found if p.product.bytes_moved(p.dtype) <= profile.memory_bytes]
    chosen = tuple(point.setting for point in fitting)
    latency_s, bound = _predict(gpu, model, select([operator]), chosen)
    intensity = np.array([p.product.operational_intensity(p.dtype) for p in fitting])
    flops_per_s = np.array([p.product.flops for p in fitting]) / latency_s
    roof = [profile.attainable_flops_per_s(x, Dtype.FLOAT16) for x in intensity.tolist()]
    return Predicted(chosen, intensity, flops_per_s, flops_per_s / np.array(roof), bound)


def _predict(
    gpu: str, model: str, operators: Sequence[Operator], in_settings: Sequence[Setting]
) -> tuple[FloatArray, NDArray[np.str_]]:
    """Latencies in seconds as the paper's harness would time them, and what binds them."""
    shape = models.load(model)
    found = [
        Point(shape, operator, setting, Dtype.FLOAT16)
        for operator in operators
        for setting in in_settings
    ]
    predicted = _model(gpu).predict(Products.of([p.product for p in found]), Dtype.FLOAT16)
    return predicted.latency_s, predicted.bound


@cache
def _model(gpu: str) -> latency.Calibrated:
    return priors.calibrated(profiles.load(gpu), Timing.EAGER)


def verdict_of(reproduced: bool, differs: bool = False) -> ClaimVerdict:
    """differs: the numbers say something of the sentence, not all of it."""
    if reproduced:
        return ClaimVerdict.REPRODUCED
    return ClaimVerdict.DIFFERS if differs else ClaimVerdict.NOT_REPRODUCED


def spread(values: Iterable[float] | FloatArray) -> float:
    """The largest over the smallest."""
    column = np.array(list(values))
    return float(column.max() / column.min())


def slope(cells: Sequence[Cell]) -> float:
    """Of FLOP/s over intensity in logarithms, both as printed: 1 along a memory roof."""
    return float(
        np.polyfit(
            np.log([cell.printed.operational_intensity for cell in cells]),
            np.log([cell.printed.flops_per_s for cell in cells]),
            1,
        )[0]
    )


LINEAR = ("q", "up", "down")  # k and v are q's product, gate is up's
GROUPS = ("q", "up", "qk")
