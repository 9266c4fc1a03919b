"""The rows of one points.jsonl: columns in memory, each row decoded when it is asked for."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np

from medusa_bench.base import limits
from medusa_bench.base.errors import InvalidFileError
from medusa_bench.base.files import opened
from medusa_bench.results.codec import decode_row, is_intact
from medusa_bench.results.columns import FAILURE, Array, Table
from medusa_bench.results.rows import Estimate, Failure, Measurement, Row


@dataclass(frozen=True, eq=False, slots=True)
class StoredRows(Sequence[Row]):
    """One row for each task and round. A row, its samples among it, is read from the file.

    Raises InvalidFileError where the file is not what it was when the table was read.
    """

    path: Path
    table: Table

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return list(self._rows(range(len(self))[index]))
        return next(self._rows([range(len(self))[index]]))

    def __iter__(self) -> Iterator[Row]:
        return self._rows(range(len(self)))

    def at(self, places: Sequence[int]) -> list[Row]:
        """Some of the rows."""
        return list(self._rows(places))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def _rows(self, places: Sequence[int]) -> Iterator[Row]:
        for place, line in zip(places, self.lines(np.array(places, dtype=np.int64)), strict=True):
            yield self._row(place, line)

    def lines(self, places: Array) -> Iterator[bytes]:
        """The lines of some rows without their newlines, as they stand in the file."""
        if len(places):
            with opened(self.path, limits.POINTS_BYTES) as file:
                yield from self._lines(file, places)

    def _lines(self, file: BinaryIO, places: Array) -> Iterator[bytes]:
        table = self.table
        keys = table.tasks.key[table.task[places]].tolist()
        where = zip(table.offset[places].tolist(), table.length[places].tolist(), strict=True)
        for place, key, (offset, length) in zip(places.tolist(), keys, where, strict=True):
            file.seek(offset)
            line = file.read(length)
            if not is_intact(line) or b"%016x" % key not in line:
                self._row(place, line)  # says what is wrong, if anything is
            yield line

    def _row(self, place: int, line: bytes) -> Row:
        table = self.table
        try:
            row = decode_row(line)
        except InvalidFileError:
            row = None
        key = int(table.tasks.key[table.task[place]])
        if (
            row is None
            or int(row.task.key, 16) != key
            or row.round_index != table.round_index[place]
        ):
            raise InvalidFileError(
                f"{self.path} is no more what it was when it was read.", hint="read it again."
            )
        return row


def standing(row: Row) -> tuple[int, float, str]:
    """What sorts the rows of one task and round; the least one stands."""
    match row:
        case Measurement() | Estimate():
            started_at_s = row.started_at_s if isinstance(row, Measurement) else 0.0
            return 0, started_at_s, repr(row)
        case Failure():
            return 1, -row.started_at_s, repr(row)


def first_standing(rows: StoredRows) -> StoredRows:
    """Of several rows of one task and round the one that stands, where the first of them was."""
    chosen = standing_places(rows.table, rows.at)
    return rows if chosen is None else StoredRows(rows.path, rows.table[chosen])


def standing_places(table: Table, at: Callable[[list[int]], Iterable[Row]]) -> Array | None:
    """The places of the rows that stand, by `standing`; None where every row does.

    Time grows as sorting does. `at` gives rows by their places, where the columns do not decide.
    """
    order = np.lexsort((table.round_index, table.task))
    same = np.zeros(len(order), dtype=bool)
    same[1:] = (np.diff(table.task[order]) == 0) & (np.diff(table.round_index[order]) == 0)
    if not same.any():
        return None
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.cumsum(~same) - 1
    is_failure = table.kind == FAILURE
    started_at_s = np.where(is_failure, -table.started_at_s, table.started_at_s)
    best = np.lexsort((np.arange(len(order)), started_at_s, is_failure, group))
    heads = np.flatnonzero(np.diff(group[best], prepend=-1))
    chosen = best[heads]
    ends = np.append(heads[1:], len(best))
    ranks = np.stack([is_failure, started_at_s], axis=1)
    for index in np.flatnonzero(ends - heads > 1):
        tied = [
            place
            for place in best[heads[index] : ends[index]].tolist()
            if (ranks[place] == ranks[chosen[index]]).all()
        ]
        if len(tied) > 1:
            chosen[index] = min(zip(map(standing, at(tied)), tied, strict=True))[1]
    first = np.full(len(heads), len(order))
    np.minimum.at(first, group, np.arange(len(order)))
    standing_at: Array = chosen[np.argsort(first)]
    return standing_at
