"""Rates as a paper prints them, typed into a CSV, read into results like any other.

The CSV keeps the printed figures; latencies follow from them and the operator table.
"""

import hashlib
from pathlib import Path

from medusa_bench.base import limits, ranges
from medusa_bench.base.documents import parse_csv
from medusa_bench.base.errors import InvalidFileError
from medusa_bench.base.files import read_bytes
from medusa_bench.results.codec import PrintedTables, Run
from medusa_bench.results.reading import PrintedCell
from medusa_bench.results.rows import Timing
from medusa_bench.specs import operators
from medusa_bench.specs.operators import Point
from medusa_bench.specs.settings import Setting

_COLUMNS = (
    "table",
    "batch_size",
    "seq_len",
    "num_candidates",
    "tflop_per_s",
    "operational_intensity",
)


def cells(folder: Path, run: Run) -> tuple[PrintedCell, ...]:
    """The cells of a run's printed tables; none where it has no such tables.

    Raises InvalidFileError for a file that is missing, altered, or has a value that is no rate.
    """
    if run.printed is None:
        return ()
    path = folder / Path(run.printed.file).name
    raw = read_bytes(path, limits.PRINTED_BYTES)
    if hashlib.sha256(raw).hexdigest() != run.printed.sha256:
        raise InvalidFileError(
            f"{path} is not the file that run.json names: its checksum differs.",
            hint="restore it from a copy; published results are never edited.",
        )
    names, rows = parse_csv(raw.decode("utf-8", "replace"), where=str(path))
    if names != _COLUMNS:
        raise InvalidFileError(f"{path}: the columns are not {', '.join(_COLUMNS)}.")
    found = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(_cell(row, run, run.printed))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFileError(f"{path}, row {number}: {error}") from None
    return tuple(found)


def _cell(row: dict[str, str], run: Run, printed: PrintedTables) -> PrintedCell:
    (grid,) = run.grids
    (shape,), (phase,), (dtype,), (timing,) = grid.shapes, grid.phases, grid.dtypes, grid.timings
    setting = Setting(
        phase,
        int(row["batch_size"]),
        int(row["seq_len"] or printed.seq_len),
        int(row["num_candidates"]),
    )
    return PrintedCell(
        table=row["table"],
        points=tuple(
            Point(shape, operators.find(name), setting, dtype)
            for name in printed.operators[row["table"]]
        ),
        timing=Timing(timing),
        flops_per_s=_rate(row["tflop_per_s"]) * 1e12,
        operational_intensity=_rate(row["operational_intensity"]),
        source=f"{printed.source}, {row['table']}",
    )


def _rate(text: str) -> float:
    return ranges.POSITIVE.of_text(text)
