"""What a writer knows of its folder: every row, as the line it is stored in.

In memory, because another program may cut or delete the file while it is written to.
"""

from collections.abc import Iterator, Mapping
from typing import Self

import numpy as np

from medusa_bench.results.codec import decode_row, encode_row
from medusa_bench.results.columns import FAILURE
from medusa_bench.results.rows import Failure, Row
from medusa_bench.results.stored import StoredRows, standing

RowKey = tuple[str, int]  # Task.key and round_index


class Kept(Mapping[RowKey, Row]):
    """One row for each task and round; each is decoded when it is asked for."""

    def __init__(self) -> None:
        self._lines: dict[RowKey, bytes] = {}
        self._failed: set[RowKey] = set()

    @classmethod
    def of(cls, rows: StoredRows) -> Self:
        """The rows of a file, read once more."""
        kept = cls()
        keys = keys_of(rows)
        kept._lines = dict(zip(keys, rows.lines(np.arange(len(rows))), strict=True))
        failed = np.flatnonzero(rows.table.kind == FAILURE)
        kept._failed = {keys[place] for place in failed.tolist()}
        return kept

    def copy(self) -> Self:
        """The same rows, to be added to."""
        other = type(self)()
        other._lines, other._failed = dict(self._lines), set(self._failed)
        return other

    def __getitem__(self, key: RowKey) -> Row:
        return decode_row(self._lines[key])

    def __iter__(self) -> Iterator[RowKey]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def measured(self) -> set[RowKey]:
        """The rounds that have a number."""
        return self._lines.keys() - self._failed

    @property
    def failures(self) -> list[Failure]:
        rows = (self[key] for key in self._failed)
        return [row for row in rows if isinstance(row, Failure)]

    @property
    def content(self) -> bytes:
        """All lines as a file."""
        return b"".join(line + b"\n" for line in self._lines.values())

    def put(self, row: Row) -> None:
        """Take a row in, unless the one of its task and round that is there stands before it."""
        key = (row.task.key, row.round_index)
        if key in self._lines and standing(self[key]) <= standing(row):
            return
        self._put(key, encode_row(row)[:-1], is_failure=isinstance(row, Failure))

    def put_line(self, key: RowKey, line: bytes, *, is_failure: bool) -> None:
        """The same for a row of that key by its line, which is decoded only where it must be."""
        if key in self._lines:
            self.put(decode_row(line))
        else:
            self._put(key, line, is_failure=is_failure)

    def _put(self, key: RowKey, line: bytes, *, is_failure: bool) -> None:
        self._lines[key] = line
        (self._failed.add if is_failure else self._failed.discard)(key)


def keys_of(rows: StoredRows) -> list[RowKey]:
    """Of each row, in order."""
    table = rows.table
    keys = [f"{key:016x}" for key in table.tasks.key.tolist()]
    return [
        (keys[task], round_index)
        for task, round_index in zip(table.task.tolist(), table.round_index.tolist(), strict=True)
    ]
