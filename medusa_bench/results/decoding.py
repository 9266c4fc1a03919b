"""Lines of points.jsonl into columns, many at a time, every value checked.

A line goes the quick way, and where that does not settle it, to `codec.decode_row`, whose word is
the last: nothing passes that it would refuse.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np

from medusa_bench.base.errors import InvalidFileError
from medusa_bench.results.codec import MAX_LINE_BYTES, decode_row, storable
from medusa_bench.results.columns import (
    COLUMNS,
    DTYPES,
    ESTIMATE,
    FAILURE,
    FAILURES,
    MEASUREMENT,
    NOTHING,
    TIMINGS,
    Array,
    Table,
    Tasks,
    filled,
    mask_of,
)
from medusa_bench.results.rows import Estimate, Failure, Measurement, Row, Timing
from medusa_bench.specs.dtypes import Dtype

try:
    from medusa_bench.results import quick
except ImportError:  # a machine that is lent for minutes may have torch alone, and no msgspec
    quick = None  # type: ignore[assignment]

_BATCH_BYTES = 1 << 18  # what is split and decoded together stays in the processor's cache


_TAKEN = {
    MEASUREMENT: (
        "round_index", "latency_s", "min_s", "p25_s", "p75_s", "num_calls", "started_at_s"
    ),
    FAILURE: ("round_index", "started_at_s"),
    ESTIMATE: ("latency_s", "low_s", "high_s"),
}  # fmt: skip
_CODES = {Measurement: MEASUREMENT, Failure: FAILURE, Estimate: ESTIMATE}
_LONGEST = MAX_LINE_BYTES + 2


def _undecided(_line: bytes) -> None:
    """Every line's own decoder decides."""


# What a line says, by either way: code, key, product, dtype, timing and the names in _TAKEN.
_Record = Any


def _of_row(row: Row) -> _Record:
    task, p = row.task, row.task.product
    code = _CODES[type(row)]
    record = SimpleNamespace(
        code=code,
        key=task.key,
        product=(p.batch, p.m, p.n, p.k),
        dtype=task.dtype,
        timing=task.timing,
        **{name: getattr(row, name) for name in _TAKEN[code]},
    )
    match row:
        case Measurement():
            record.doubts = row.flags
        case Failure():
            record.failure, record.reason = row.kind, row.reason
        case Estimate():
            record.source = row.source
    return record


@dataclass(frozen=True, slots=True)
class Read:
    """What lines hold: the table of the sound ones, and the others by number, counted from 1."""

    table: Table
    damages: tuple[tuple[int, str], ...]
    num_lines: int
    end: int  # where whole lines end in the file
    torn_bytes: int  # of a last line without its newline


class Reader:
    """Takes a file in, batch by batch."""

    def __init__(self) -> None:
        self._tasks: dict[str, int] = {}  # by their keys
        self._products: list[tuple[int, int, int, int]] = []
        self._dtypes: list[Dtype] = []
        self._timings: list[Timing] = []
        self._texts: dict[str, int] = {}
        self._parts: list[dict[str, Array]] = []
        self._damages: list[tuple[int, str]] = []
        self._num_lines = 0

    def read(self, file: BinaryIO, offset: int = 0, num_lines: int = 0) -> Read:
        """What stands from `offset` on, where the first `num_lines` whole lines end.

        Of a line longer than any row only the beginning is kept, so that the memory is bounded
        where a file is no text: all zeros, say.
        """
        file.seek(offset)
        self._num_lines = num_lines
        rest, num_dropped = b"", 0
        while chunk := file.read(_BATCH_BYTES):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            if lines:
                lengths = np.array([len(line) + 1 for line in lines])
                lengths[0] += num_dropped
                self._take(lines, offset + np.cumsum(lengths) - lengths)
                offset += int(lengths.sum())
                num_dropped = 0
            num_dropped += max(len(rest) - _LONGEST, 0)
            rest = rest[:_LONGEST]
        torn_bytes = len(rest) + num_dropped
        return Read(self._table(), tuple(self._damages), self._num_lines, offset, torn_bytes)

    def _take(self, lines: list[bytes], offsets: Array) -> None:
        quickly = quick.record if quick else _undecided
        sound: list[_Record] = []
        tasks, places = [], []
        for place, line in enumerate(lines):
            record = quickly(line)
            task = NOTHING if record is None else self._task_of(record)
            if task == NOTHING:
                record = self._slowly(line, self._num_lines + place + 1)
                if record is None:
                    continue
                task = self._task_of(record)
            sound.append(record)
            tasks.append(task)
            places.append(place)
        self._num_lines += len(lines)
        columns = {name: filled(name, len(sound)) for name in COLUMNS}
        columns["task"] = np.array(tasks, dtype=np.int32)
        columns["offset"] = offsets[places]
        columns["length"] = np.array([len(lines[place]) for place in places], dtype=np.int32)
        self._fill(columns, sound)
        self._parts.append(columns)

    def _task_of(self, record: _Record) -> int:
        """The place of its task, or NOTHING where its key is not that of its content.

        A key that is met for the first time is worked out.
        """
        place = self._tasks.get(record.key)
        if place is not None:
            is_same = (
                record.product == self._products[place]
                and record.dtype is self._dtypes[place]
                and record.timing is self._timings[place]
            )
            return place if is_same else NOTHING
        batch, m, n, k = record.product
        text = f"{batch},{m},{n},{k},{record.dtype},{record.timing}"
        if hashlib.sha256(text.encode()).hexdigest()[:16] != record.key:
            return NOTHING
        place = self._tasks[record.key] = len(self._products)
        self._products.append(record.product)
        self._dtypes.append(record.dtype)
        self._timings.append(record.timing)
        return place

    def _slowly(self, line: bytes, number: int) -> _Record | None:
        try:
            return _of_row(decode_row(line))
        except InvalidFileError as error:
            self._damages.append((number, error.message))
            return None

    def _fill(self, columns: dict[str, Array], records: Sequence[_Record]) -> None:
        kind = np.array([record.code for record in records], dtype=np.int8)
        columns["kind"] = kind
        for code, names in _TAKEN.items():
            places = np.flatnonzero(kind == code)
            if not len(places):
                continue
            whole = len(places) == len(records)
            alike = records if whole else [records[place] for place in places.tolist()]
            for name in names:
                column = columns[name]
                column[places] = np.fromiter(map(attrgetter(name), alike), column.dtype)
            if code == MEASUREMENT:
                doubted = [at for at, record in enumerate(alike) if record.doubts]
                masks = [mask_of(alike[at].doubts) for at in doubted]
                columns["flags"][places[doubted]] = masks
            else:
                for place, record in zip(places.tolist(), alike, strict=True):
                    self._say(columns, place, record)

    def _say(self, columns: dict[str, Array], place: int, record: _Record) -> None:
        if record.code == FAILURE:
            columns["failure"][place] = FAILURES.index(record.failure)
        text = storable(record.reason if record.code == FAILURE else record.source)
        columns["text"][place] = self._texts.setdefault(text, len(self._texts))

    def _table(self) -> Table:
        parts = self._parts or [{name: filled(name, 0) for name in COLUMNS}]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}
        sizes = np.array(self._products, dtype=np.int64).reshape(-1, 4)
        tasks = Tasks.of_columns(
            np.array([int(key, 16) for key in self._tasks], dtype=np.uint64),
            sizes,
            np.array([DTYPES.index(dtype) for dtype in self._dtypes], dtype=np.int8),
            np.array([TIMINGS.index(timing) for timing in self._timings], dtype=np.int8),
        )
        return Table(tasks, tuple(self._texts), **columns)
