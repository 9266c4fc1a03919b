"""The rounds of each task as one number, a task a place in columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medusa_bench.results.columns import (
    ESTIMATE,
    FAILURE,
    FAILURES,
    FLAGS,
    MEASUREMENT,
    NOTHING,
    Array,
    Table,
    flags_of,
)
from medusa_bench.results.rows import QualityFlag, Roofs, Summary, drifted

_DRIFTED = 1 << FLAGS.index(QualityFlag.DRIFTED)


@dataclass(frozen=True, slots=True)
class Summaries:
    """What is known of each of a table's tasks, as columns of shape (tasks,).

    latency_s, low_s and high_s are NaN, and num_rounds 0, for a task without a number; `failed` is
    the row of its last failure then, or NOTHING.
    """

    latency_s: Array
    low_s: Array
    high_s: Array
    num_rounds: Array
    flags: Array
    source: Array  # index in the table's texts
    failed: Array
    order: Array  # the tasks with a number: estimates, then measurements, by their first rows

    @classmethod
    def of(cls, table: Table, roofs: Sequence[Roofs], device_type: str) -> "Summaries":
        """Of the rounds measured while the roofs stood still; of all, in doubt, if none was."""
        count = len(table.tasks)
        found = cls(
            latency_s=np.full(count, np.nan),
            low_s=np.full(count, np.nan),
            high_s=np.full(count, np.nan),
            num_rounds=np.zeros(count, dtype=np.int64),
            flags=np.zeros(count, dtype=np.int16),
            source=np.full(count, NOTHING, dtype=np.int32),
            failed=np.full(count, NOTHING, dtype=np.int64),
            order=_order(table),
        )
        estimates = np.flatnonzero(table.kind == ESTIMATE)
        found._put(table, estimates, table.low_s, table.high_s)
        found.source[table.task[estimates[::-1]]] = table.text[estimates[::-1]]  # the first stays
        measured = np.flatnonzero(table.kind == MEASUREMENT)
        moving = _moving(table.started_at_s[measured], roofs, device_type)
        steady = np.zeros(count, dtype=bool)
        steady[table.task[measured[~moving]]] = True
        unsteady = moving & ~steady[table.task[measured]]
        found._put(table, measured[~moving | unsteady], table.latency_s, table.latency_s)
        found.source[table.task[measured]] = NOTHING
        found.flags[table.task[measured[unsteady]]] |= _DRIFTED
        failures = np.flatnonzero(table.kind == FAILURE)
        failures = failures[found.num_rounds[table.task[failures]] == 0]
        found.failed[table.task[failures]] = failures  # the last one stays
        return found

    def _put(self, table: Table, rows: Array, low_s: Array, high_s: Array) -> None:
        """Median, extremes and flags of some rows, by task."""
        rows = rows[np.lexsort((table.latency_s[rows], table.task[rows]))]
        if not len(rows):
            return
        starts = np.flatnonzero(np.diff(table.task[rows], prepend=-1))
        counts = np.diff(starts, append=len(rows))
        tasks, latency_s = table.task[rows[starts]], table.latency_s[rows]
        middle = latency_s[starts + (counts - 1) // 2] + latency_s[starts + counts // 2]
        self.latency_s[tasks] = middle / 2
        self.low_s[tasks] = np.minimum.reduceat(low_s[rows], starts)
        self.high_s[tasks] = np.maximum.reduceat(high_s[rows], starts)
        self.num_rounds[tasks] = counts
        self.flags[tasks] = np.bitwise_or.reduceat(table.flags[rows], starts)

    def of_task(self, table: Table, tasks: Array) -> list[Summary]:
        """Of some tasks that have a number, as objects."""
        texts = (*table.texts, "")
        columns = (self.latency_s, self.low_s, self.high_s, self.num_rounds, self.flags)
        return [
            Summary(latency_s, low_s, high_s, num_rounds, flags_of(mask), texts[source])
            for latency_s, low_s, high_s, num_rounds, mask, source in zip(
                *(column[tasks].tolist() for column in columns),
                self.source[tasks].tolist(),
                strict=True,
            )
        ]

    def why_failed(self, table: Table, task: int) -> str:
        """The kind and reason of a failed task's last failure."""
        row = self.failed[task]
        kind, reason = FAILURES[table.failure[row]], table.texts[table.text[row]]
        return f"{kind}: {reason}" if reason else kind


def _order(table: Table) -> Array:
    kinds = (ESTIMATE, MEASUREMENT)
    numbers = np.concatenate([table.task[table.kind == kind] for kind in kinds])
    _, first = np.unique(numbers, return_index=True)
    return numbers[np.sort(first)]


def _moving(times_s: Array, roofs: Sequence[Roofs], device_type: str) -> Array:
    """Which times lie between two looks at the roofs that differ too much, on any machine."""
    intervals = [
        (before.measured_at_s, after.measured_at_s)
        for before, after in pairwise(roofs)
        if before.measured_at_s < after.measured_at_s and drifted(before, after, device_type)
    ]
    starts_s, ends_s = np.array(intervals, dtype=float).reshape(-1, 2).T
    begun = np.searchsorted(np.sort(starts_s), times_s, side="right")
    moving: Array = begun > np.searchsorted(np.sort(ends_s), times_s, side="right")
    return moving
