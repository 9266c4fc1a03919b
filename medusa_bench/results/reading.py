"""What a results folder says: summaries of tasks, logical points, and how two folders differ.

Only identity and latencies are stored; everything else here is computed on reading.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medusa_bench.results.asked import TASK, asked, of_points
from medusa_bench.results.codec import Run
from medusa_bench.results.columns import FAILURE, FAILURES, NOTHING, Array, Table, Tasks
from medusa_bench.results.points import Known, Points, joined
from medusa_bench.results.rows import (
    Environment,
    Estimate,
    Failure,
    Grid,
    Provenance,
    Roofs,
    Row,
    Summary,
    Task,
    Timing,
)
from medusa_bench.results.stored import StoredRows
from medusa_bench.results.summaries import Summaries
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
    def table(self) -> Table:
        """The rows as columns, without samples and telemetry."""
        return self.rows.table if isinstance(self.rows, StoredRows) else Table.of(self.rows)

    @property
    def stored(self) -> StoredRows:
        """The rows of a folder that was read."""
        assert isinstance(self.rows, StoredRows)
        return self.rows

    @cached_property
    def _summaries(self) -> Summaries:
        return Summaries.of(self.table, self.roofs, self.environment.device_type)

    @cached_property
    def num_tasks_with_number(self) -> int:
        return len(self._summaries.order)

    @cached_property
    def summaries(self) -> Mapping[Task, Summary]:
        """Every task that has a number."""
        order = self._summaries.order
        tasks = self.table.tasks[order].tasks()
        return dict(zip(tasks, self._summaries.of_task(self.table, order), strict=True))

    @cached_property
    def failures(self) -> Mapping[Task, Failure]:
        """Every task that failed in all its rounds, with the last of them."""
        table = self.table
        failed = np.flatnonzero(table.kind == FAILURE)
        tasks = table.task[failed]
        _, first = np.unique(tasks, return_index=True)
        last = self._summaries.failed[tasks[np.sort(first)]]
        last = last[last != NOTHING]
        return {
            task: Failure(
                task,
                int(table.round_index[row]),
                FAILURES[table.failure[row]],
                table.texts[table.text[row]],
                float(table.started_at_s[row]),
            )
            for task, row in zip(table.tasks[table.task[last]].tasks(), last.tolist(), strict=True)
        }

    @cached_property
    def skips(self) -> Mapping[Task, str]:
        """Every task left out on purpose that has no number, with the reason."""
        return {
            skip.task: skip.reason
            for skip in self.run.skips
            if skip.task not in self.summaries and skip.task not in self.failures
        }

    def to_frame(self) -> "pd.DataFrame":
        """One row a logical point in EXPORT_COLUMNS, SI units in the names; NaN where unknown."""
        return self.points().to_frame()

    def points(self) -> Points:
        """Every logical point asked for, with its number or the reason why there is none.

        A task is measured once and stands behind many points. Printed tables give their cells.
        """
        return self._points

    @cached_property
    def _points(self) -> Points:
        if self.cells:
            return self._printed()
        wanted = asked(self.grids)
        tasks, place = joined(wanted, self.table.tasks)
        return Points(
            wanted, place, self._known(tasks, place), self.provenance, self.environment.device
        )

    def _printed(self) -> Points:
        """The cells' points, each with the rate of its cell: the first where there are several."""
        printed: dict[tuple[Point, Timing], Estimate] = {}
        for cell in self.cells:
            for point in cell.points:
                printed.setdefault((point, cell.timing), cell.estimate(point))
        wanted = of_points(list(printed))
        words: dict[str, int] = {"": 0}
        sources = [words.setdefault(each.source, len(words)) for each in printed.values()]
        latency_s = np.array([each.latency_s for each in printed.values()])
        count = len(printed)
        known = Known.of(
            wanted.columns,
            *(latency_s, latency_s, latency_s),
            np.ones(count, dtype=np.int64),
            np.zeros(count, dtype=np.int16),
            np.array(sources),
            np.zeros(count, dtype=np.int32),
            tuple(words),
            self.roof,
        )
        device = self.environment.device
        return Points(wanted, np.arange(count), known, self.provenance, device)

    def _known(self, tasks: Tasks, wanted: Array) -> Known:
        """What is known of tasks, of which those of the table come first."""
        found, count = self._summaries, len(self.table.tasks)
        more = len(tasks) - count
        words = {text: index for index, text in enumerate(("", *self.table.texts))}
        reason = np.zeros(len(tasks), dtype=np.int32)
        missing = np.ones(len(tasks), dtype=bool)
        missing[:count] = found.num_rounds == 0
        told = np.zeros(len(tasks), dtype=bool)
        told[wanted] = True
        missing = np.flatnonzero(missing & told)
        skips = {skip.task: skip.reason for skip in self.run.skips} if len(missing) else {}
        for place, task in zip(missing.tolist(), tasks[missing].tasks(), strict=True):
            if place < count and found.failed[place] != NOTHING:
                why = found.why_failed(self.table, place)
            else:
                why = skips.get(task, "not measured")
            reason[place] = words.setdefault(why, len(words))
        return Known.of(
            {name: getattr(tasks, name) for name in TASK},
            *(
                np.append(column, np.full(more, np.nan))
                for column in (found.latency_s, found.low_s, found.high_s)
            ),
            np.append(found.num_rounds, np.zeros(more, dtype=np.int64)),
            np.append(found.flags, np.zeros(more, dtype=np.int16)),
            np.append(found.source + 1, np.zeros(more, dtype=np.int32)),
            reason,
            tuple(words),
            self.roof,
        )
