"""Rows as columns: what a million rows are kept, summarised and joined as.

A table holds one entry a row and what tells its task; samples and telemetry stay in the file and
are decoded with the row they belong to. NumPy alone, so that a prediction that stands on a folder
loads no pandas.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medusa_bench.results.rows import (
    Estimate,
    Failure,
    FailureKind,
    Measurement,
    QualityFlag,
    Row,
    Task,
    Timing,
)
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

KINDS = ("measurement", "failure", "estimate")
MEASUREMENT, FAILURE, ESTIMATE = range(3)  # of the column `kind`
DTYPES, TIMINGS, FAILURES = tuple(Dtype), tuple(Timing), tuple(FailureKind)
FLAGS = tuple(sorted(QualityFlag))  # bit i of a mask of flags
NOTHING = -1  # no text, no line

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tasks:
    """Distinct tasks as columns, each of shape (tasks,)."""

    key: Array  # uint64: Task.key as a number
    batch: Array
    m: Array
    n: Array
    k: Array
    dtype: Array  # index in DTYPES
    timing: Array  # index in TIMINGS

    @classmethod
    def of(cls, tasks: Sequence[Task], keys: Sequence[str] | None = None) -> "Tasks":
        """The columns of tasks, with their keys where they are known."""
        keys = [task.key for task in tasks] if keys is None else keys
        products = [task.product for task in tasks]
        sizes = np.array([(p.batch, p.m, p.n, p.k) for p in products], dtype=np.int64)
        return cls.of_columns(
            np.array([int(key, 16) for key in keys], dtype=np.uint64),
            sizes.reshape(-1, 4),
            np.array([DTYPES.index(task.dtype) for task in tasks], dtype=np.int8),
            np.array([TIMINGS.index(task.timing) for task in tasks], dtype=np.int8),
        )

    @classmethod
    def of_columns(cls, key: Array, sizes: Array, dtype: Array, timing: Array) -> "Tasks":
        """The same of columns; sizes of shape (tasks, 4)."""
        batch, m, n, k = sizes.T.copy()
        return cls(key, batch, m, n, k, dtype, timing)

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, which: Array) -> "Tasks":
        return Tasks(*(getattr(self, each.name)[which] for each in fields(self)))

    def tasks(self) -> list[Task]:
        """Each as an object."""
        columns = (self.batch, self.m, self.n, self.k, self.dtype, self.timing)
        return [
            Task(Product(batch, m, n, k), DTYPES[dtype], TIMINGS[timing])
            for batch, m, n, k, dtype, timing in zip(*(c.tolist() for c in columns), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as columns, each of shape (rows,); NaN, 0 or NOTHING where a kind has no such value."""

    tasks: Tasks
    texts: tuple[str, ...]  # reasons of failures, sources of estimates: each once
    kind: Array
    task: Array  # index in tasks
    round_index: Array
    latency_s: Array
    min_s: Array
    p25_s: Array
    p75_s: Array
    low_s: Array  # of estimates
    high_s: Array
    num_calls: Array
    flags: Array  # a bit for each of FLAGS
    started_at_s: Array
    failure: Array  # index in FAILURES
    text: Array  # index in texts
    offset: Array  # of the line in points.jsonl, and its length without the newline
    length: Array

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Table":
        """The columns of rows that stand in no file."""
        index: dict[Task, int] = {}
        texts: dict[str, int] = {}
        columns = {name: filled(name, len(rows)) for name in COLUMNS}
        for place, row in enumerate(rows):
            for name, value in _values(row, texts).items():
                columns[name][place] = value
            columns["task"][place] = index.setdefault(row.task, len(index))
            columns["round_index"][place] = row.round_index
        return cls(Tasks.of(list(index)), tuple(texts), **columns)

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, which: Array) -> "Table":
        """Some of the rows, in that order; the tasks stay."""
        columns = {name: getattr(self, name)[which] for name in COLUMNS}
        return Table(self.tasks, self.texts, **columns)


_TYPES: Mapping[str, tuple[Any, Any]] = {  # of each column of a Table, and what stands for nothing
    "kind": (np.int8, 0), "task": (np.int32, 0), "round_index": (np.int64, 0),
    "latency_s": (float, np.nan), "min_s": (float, np.nan), "p25_s": (float, np.nan),
    "p75_s": (float, np.nan), "low_s": (float, np.nan), "high_s": (float, np.nan),
    "num_calls": (np.int64, 0), "flags": (np.int16, 0), "started_at_s": (float, 0.0),
    "failure": (np.int8, NOTHING), "text": (np.int32, NOTHING), "offset": (np.int64, NOTHING),
    "length": (np.int32, NOTHING),
}  # fmt: skip
COLUMNS = tuple(_TYPES)


def filled(name: str, count: int) -> Array:
    """A column of that name with nothing in it."""
    dtype, nothing = _TYPES[name]
    return np.full(count, nothing, dtype=dtype)


def _values(row: Row, texts: dict[str, int]) -> dict[str, Any]:
    match row:
        case Measurement():
            return {
                "kind": MEASUREMENT,
                "latency_s": row.latency_s,
                "min_s": row.min_s,
                "p25_s": row.p25_s,
                "p75_s": row.p75_s,
                "num_calls": row.num_calls,
                "flags": mask_of(row.flags),
                "started_at_s": row.started_at_s,
            }
        case Failure():
            return {
                "kind": FAILURE,
                "failure": FAILURES.index(row.kind),
                "text": texts.setdefault(row.reason, len(texts)),
                "started_at_s": row.started_at_s,
            }
        case Estimate():
            return {
                "kind": ESTIMATE,
                "latency_s": row.latency_s,
                "low_s": row.low_s,
                "high_s": row.high_s,
                "text": texts.setdefault(row.source, len(texts)),
            }


def mask_of(flags: Iterable[str]) -> int:
    """Quality flags as bits."""
    mask = 0
    for flag in flags:
        mask |= 1 << FLAGS.index(QualityFlag(flag))
    return mask


def flags_of(mask: int) -> tuple[QualityFlag, ...]:
    """The quality flags of a mask, sorted by name."""
    return tuple(flag for bit, flag in enumerate(FLAGS) if mask >> bit & 1)


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several tables behind each other, each task and text once."""
    keys = np.concatenate([table.tasks.key for table in tables])
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")  # tasks stay in the order of their first table
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    tasks = Tasks(
        *(np.concatenate([getattr(t.tasks, each.name) for t in tables]) for each in fields(Tasks))
    )[first[order]]
    texts: dict[str, int] = {}
    columns = {name: np.concatenate([getattr(t, name) for t in tables]) for name in COLUMNS}
    begin_task = begin_row = 0
    for table in tables:
        rows = slice(begin_row, begin_row + len(table))
        columns["task"][rows] = rank[place[begin_task + table.task]]
        renamed = [texts.setdefault(text, len(texts)) for text in table.texts]
        columns["text"][rows] = np.array([*renamed, NOTHING], dtype=np.int32)[table.text]
        begin_task += len(table.tasks)
        begin_row += len(table)
    return Table(tasks, tuple(texts), **columns)
