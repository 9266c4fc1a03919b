"""What a results folder says: summaries of tasks, logical points, and how two folders differ.

Only identity and latencies are stored; everything else here is computed on reading.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from medusa_bench.results.codec import Run
from medusa_bench.results.rows import (
    ABOVE_ROOF,
    Environment,
    Estimate,
    Failure,
    Grid,
    Measurement,
    Provenance,
    QualityFlag,
    ResultPoint,
    Roofs,
    Row,
    Summary,
    Task,
    Timing,
    drifted,
    summarise,
)
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import Point

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Damage:
    """A line of points.jsonl, counted from 1, that is not what was written."""

    line_number: int
    reason: str


@dataclass(frozen=True, slots=True)
class PrintedCell:
    """One cell of a paper's table as printed, and the logical points it stands for."""

    table: str
    points: tuple[Point, ...]
    timing: Timing
    flops_per_s: float
    operational_intensity: float
    source: str

    def estimate(self, point: Point) -> Estimate:
        """The latency that the printed rate means for one of its points."""
        latency_s = point.product.flops / self.flops_per_s
        task = Task(point.product, point.dtype, self.timing)
        return Estimate(task, latency_s, latency_s, latency_s, self.source)


@dataclass(frozen=True)
class Results:
    """One results folder, read. `rows` holds one row for each task and round."""

    path: Path
    run: Run
    rows: Sequence[Row]
    damages: tuple[Damage, ...] = ()
    torn_bytes: int = 0  # half a last line: a writer was killed, or is writing now
    cells: tuple[PrintedCell, ...] = ()  # printed tables only; rows holds their estimates

    @property
    def provenance(self) -> Provenance:
        return self.run.provenance

    @property
    def environment(self) -> Environment:
        return self.run.environment

    @property
    def grids(self) -> tuple[Grid, ...]:
        return self.run.grids

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out of the models of all grids, in words."""
        return tuple(dict.fromkeys(note for grid in self.grids for note in grid.notes))

    @property
    def roofs(self) -> tuple[Roofs, ...]:
        """Every measurement of this device's ceilings, in order of time."""
        return self.run.roofs

    @cached_property
    def roof(self) -> Roofs | None:
        """The highest ceilings measured; None where none were (predicted, reported)."""
        if not self.roofs:
            return None
        dtypes = {dtype for roofs in self.roofs for dtype in roofs.peak_flops_per_s}
        return Roofs(
            {
                dtype: max(roofs.peak_flops_per_s.get(dtype, 0.0) for roofs in self.roofs)
                for dtype in Dtype
                if dtype in dtypes
            },
            max(roofs.memory_bandwidth_bytes_per_s for roofs in self.roofs),
            self.roofs[-1].measured_at_s,
        )

    @cached_property
    def summaries(self) -> Mapping[Task, Summary]:
        """Every task that has a number."""
        rounds: dict[Task, list[Measurement]] = {}
        estimates: dict[Task, list[Estimate]] = {}
        for row in self.rows:
            if isinstance(row, Measurement):
                rounds.setdefault(row.task, []).append(row)
            elif isinstance(row, Estimate):
                estimates.setdefault(row.task, []).append(row)
        return {task: _summarise_estimates(rows) for task, rows in estimates.items()} | {
            task: self._summarise_rounds(rows) for task, rows in rounds.items()
        }

    def _summarise_rounds(self, rounds: list[Measurement]) -> Summary:
        """The rounds measured while the roofs stood still; all of them, in doubt, if none was."""
        steady = [row for row in rounds if not self._drifted_around(row.started_at_s)]
        if steady:
            return summarise(steady)
        summary = summarise(rounds)
        return replace(summary, flags=tuple(sorted({*summary.flags, QualityFlag.DRIFTED})))

    def _drifted_around(self, time_s: float) -> bool:
        """Whether it lies between two looks at the roofs that differ too much, on any machine."""
        starts_s, ends_s = self._drifts
        return bisect_right(starts_s, time_s) > bisect_right(ends_s, time_s)

    @cached_property
    def _drifts(self) -> tuple[list[float], list[float]]:
        """When the roofs began to move and came to rest, each sorted; shards may overlap."""
        intervals = [
            (before.measured_at_s, after.measured_at_s)
            for before, after in pairwise(self.roofs)
            if before.measured_at_s < after.measured_at_s
            and drifted(before, after, self.environment.device_type)
        ]
        return sorted(start_s for start_s, _ in intervals), sorted(end_s for _, end_s in intervals)

    @cached_property
    def failures(self) -> Mapping[Task, Failure]:
        """Every task that failed in all its rounds, with the last of them."""
        return {
            row.task: row
            for row in self.rows
            if isinstance(row, Failure) and row.task not in self.summaries
        }

    @cached_property
    def skips(self) -> Mapping[Task, str]:
        """Every task left out on purpose that has no number, with the reason."""
        return {
            skip.task: skip.reason
            for skip in self.run.skips
            if skip.task not in self.summaries and skip.task not in self.failures
        }

    def points(self) -> list[ResultPoint]:
        """Every logical point asked for, with its number or the reason why there is none.

        A task is measured once and stands behind many points. Printed tables give their cells.
        """
        if self.cells:
            printed: dict[tuple[Point, Timing], Estimate] = {}
            for cell in self.cells:
                for point in cell.points:
                    printed.setdefault((point, cell.timing), cell.estimate(point))
            return [
                self._result_point(point, estimate.task, _summarise_estimates([estimate]))
                for (point, _), estimate in printed.items()
            ]
        found = []
        for point, task in self._asked():
            summary = self.summaries.get(task)
            reason = "" if summary else self._why_missing(task)
            found.append(self._result_point(point, task, summary, reason))
        return found

    def _asked(self) -> Iterator[tuple[Point, Task]]:
        """The logical points of all grids, none twice."""
        seen: set[tuple[Point, Timing]] = set()
        for grid in self.grids:
            for point in grid.points():
                product = point.product
                for timing in grid.timings:
                    if len(self.grids) > 1:
                        if (point, timing) in seen:
                            continue
                        seen.add((point, timing))
                    yield point, Task(product, point.dtype, timing)

    def _result_point(
        self, point: Point, task: Task, summary: Summary | None, reason: str = ""
    ) -> ResultPoint:
        fraction, bound = None, None
        flags = summary.flags if summary else ()
        if self.roof and point.dtype in self.roof.peak_flops_per_s:
            product = task.product
            intensity = product.operational_intensity(point.dtype)
            bound = self.roof.bound(intensity, point.dtype)
            if summary:
                attainable = self.roof.attainable_flops_per_s(intensity, point.dtype)
                fraction = product.flops / summary.latency_s / attainable
                if fraction > ABOVE_ROOF:
                    flags = (*flags, QualityFlag.ABOVE_ROOF)
        return ResultPoint(
            point,
            task.timing,
            self.provenance,
            self.environment.device,
            summary,
            reason,
            fraction,
            bound,
            flags,
        )

    def _why_missing(self, task: Task) -> str:
        if failure := self.failures.get(task):
            return f"{failure.kind}: {failure.reason}" if failure.reason else failure.kind
        return self.skips.get(task, "not measured")

    def to_frame(self) -> "pd.DataFrame":
        """One row a logical point in EXPORT_COLUMNS, SI units in the names; NaN where unknown."""
        import pandas as pd

        return pd.DataFrame(list(export_rows(self)), columns=list(EXPORT_COLUMNS))


def _summarise_estimates(estimates: list[Estimate]) -> Summary:
    """Several printed rates of one task become one, like rounds."""
    return Summary(
        latency_s=median(estimate.latency_s for estimate in estimates),
        low_s=min(estimate.low_s for estimate in estimates),
        high_s=max(estimate.high_s for estimate in estimates),
        num_rounds=len(estimates),
        source=estimates[0].source,
    )


EXPORT_COLUMNS = (
    "device", "model", "operator", "phase", "batch_size", "seq_len", "num_candidates", "dtype",
    "timing", "latency_s", "spread", "flops", "bytes_moved", "operational_intensity",
    "flops_per_s", "roof_fraction", "bound", "flags", "provenance", "reason",
)  # fmt: skip

Cell = str | int | float | None


def export_rows(results: Results) -> Iterator[dict[str, Cell]]:
    """One row a logical point, in EXPORT_COLUMNS; None and "" where nothing is known."""
    for each in results.points():
        point, product, summary = each.point, each.point.product, each.summary
        yield {
            "device": each.device,
            **point.as_dict(),
            "timing": each.timing,
            "latency_s": summary.latency_s if summary else None,
            "spread": summary.spread if summary else None,
            "flops": product.flops,
            "bytes_moved": product.bytes_moved(point.dtype),
            "operational_intensity": product.operational_intensity(point.dtype),
            "flops_per_s": each.flops_per_s,
            "roof_fraction": each.roof_fraction,
            "bound": each.bound or "",
            "flags": " ".join(each.flags),
            "provenance": each.provenance,
            "reason": each.reason,
        }
