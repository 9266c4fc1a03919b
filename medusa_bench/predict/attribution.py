"""Why measured points are below their roof: each latency split, the losses ranked, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

import numpy as np

from medusa_bench.predict.calibration import Calibration, Work
from medusa_bench.results.reading import Results
from medusa_bench.results.rows import ResultPoint, Timing
from medusa_bench.specs.columns import Products
from medusa_bench.specs.operators import Family
from medusa_bench.specs.settings import Phase


class Cause(StrEnum):
    """What a point loses time to, beside the time its roof asks for."""

    LAUNCH = "launch"
    BANDWIDTH = "bandwidth"
    COMPUTE = "compute"
    TILES = "tiles"
    UNEXPLAINED = "unexplained"

    @property
    def words(self) -> str:
        match self:
            case Cause.LAUNCH:
                return "to launch"
            case Cause.BANDWIDTH:
                return "to bandwidth that is not reached"
            case Cause.COMPUTE:
                return "to matrix units that are not kept busy"
            case Cause.TILES:
                return "to partly filled tiles and waves"
            case Cause.UNEXPLAINED:
                return "to what the model does not explain"

    @property
    def remedy(self) -> str:
        match self:
            case Cause.LAUNCH:
                return "use CUDA graphs, or larger batches"
            case Cause.BANDWIDTH:
                return "larger transfers, or fewer bytes (a smaller dtype, grouped keys and values)"
            case Cause.COMPUTE:
                return "check clocks and power limit; try another library version"
            case Cause.TILES:
                return "choose rows (batch x query tokens) at the end of a step: see `cliffs`"
            case Cause.UNEXPLAINED:
                return "measure again; look at the flags, then at the kernel in a profiler"


@dataclass(frozen=True, slots=True)
class Explained:
    """One measured point: its latency split into parts that sum to it, and what it lost.

    roof_s is the time its ceilings ask for; losses_s sum to latency_s - roof_s.
    """

    point: ResultPoint
    latency_s: float
    roof_s: float
    launch_s: float
    bandwidth_s: float
    compute_s: float
    tile_s: float
    unexplained_s: float

    @property
    def lost_s(self) -> float:
        return self.latency_s - self.roof_s

    @property
    def losses_s(self) -> dict[Cause, float]:
        """Negative where the model expects more than was measured."""
        below_s = self.bandwidth_s + self.compute_s - self.roof_s
        memory_bound = self.bandwidth_s >= self.compute_s
        return {
            Cause.LAUNCH: self.launch_s,
            Cause.BANDWIDTH: below_s if memory_bound else 0.0,
            Cause.COMPUTE: 0.0 if memory_bound else below_s,
            Cause.TILES: self.tile_s,
            Cause.UNEXPLAINED: self.unexplained_s,
        }

    @property
    def main_cause(self) -> Cause:
        losses_s = self.losses_s
        return max(losses_s, key=lambda cause: losses_s[cause])


@dataclass(frozen=True, slots=True)
class LossGroup:
    """Points of one phase, family and timing that lose most to the same cause."""

    phase: Phase
    family: Family
    timing: Timing
    cause: Cause
    num_points: int
    num_all: int  # points of that phase, family and timing
    share: float  # of their latency lost to the cause, the median point
    lost_s: float  # to the cause, all of them together

    @property
    def words(self) -> str:
        return (
            f"{self.num_points} of {self.num_all} {self.phase} {self.family} points "
            f"({self.timing} time) lose {100 * self.share:.0f} % {self.cause.words}: "
            f"{self.cause.remedy}"
        )


def explain(results: Results, calibrations: dict[Timing, Calibration]) -> list[Explained]:
    """Every point with a number, largest loss first. A timing without a calibration is left out."""
    explained = []
    for timing, calibration in calibrations.items():
        points = [
            (each, each.summary.latency_s)
            for each in results.points()
            if each.timing is timing and each.summary is not None
        ]
        if not points:
            continue
        work = Work.of(
            Products.of([each.point.product for each, _ in points]),
            [each.point.dtype for each, _ in points],
            calibration.ceilings,
        )
        latency_s = np.array([seconds for _, seconds in points])
        parts = work.parts(calibration.parameters).against(latency_s)
        roof_s = np.maximum(work.memory_s, work.compute_s)
        columns = np.stack(
            [
                latency_s,
                roof_s,
                parts.launch_s,
                parts.bandwidth_s,
                parts.compute_s,
                parts.tile_s,
                parts.unexplained_s,
            ]
        )
        explained += [
            Explained(each, *values)
            for (each, _), values in zip(points, columns.T.tolist(), strict=True)
        ]
    return sorted(explained, key=lambda each: -each.lost_s)


def findings(explained: Sequence[Explained]) -> list[LossGroup]:
    """What groups of points lose most to, the largest loss first."""
    groups: dict[tuple[Phase, Family, Timing], list[Explained]] = {}
    for each in explained:
        point = each.point.point
        key = (point.setting.phase, point.operator.family, each.point.timing)
        groups.setdefault(key, []).append(each)
    found = []
    for (phase, family, timing), members in groups.items():
        for cause in Cause:
            chosen = [each for each in members if each.main_cause is cause]
            if chosen:
                shares = [each.losses_s[cause] / each.latency_s for each in chosen]
                lost_s = sum(each.losses_s[cause] for each in chosen)
                found.append(
                    LossGroup(
                        phase,
                        family,
                        timing,
                        cause,
                        len(chosen),
                        len(members),
                        median(shares),
                        lost_s,
                    )
                )
    return sorted(found, key=lambda each: -each.lost_s)
