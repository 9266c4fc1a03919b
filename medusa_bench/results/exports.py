"""Tables of logical points as CSV, JSON (Lines), Markdown and Parquet, by column.

What belongs to a product is put into words once, however many points share it.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.base.exits import csv_cell, markdown_cell
from medusa_bench.results.asked import NAMES, PHASES
from medusa_bench.results.columns import Array
from medusa_bench.results.points import EXPORT_COLUMNS, Points, Words, product_column

Cell = str | int | float | None
_AT_ONCE = 1 << 14
# What stands once for each product; the columns around it are the point's.
_OF_PRODUCT = EXPORT_COLUMNS[7:18]


def csv_text(tables: Sequence[Points]) -> Iterator[str]:
    """Cells that a spreadsheet would run as a formula get an apostrophe."""
    yield ",".join(EXPORT_COLUMNS) + "\n"
    yield from _pieces(tables, _csv_cells, ",", "", "\n")


def markdown_text(tables: Sequence[Points]) -> Iterator[str]:
    """A table of Markdown, numbers with six digits."""
    for names in (EXPORT_COLUMNS, ("---",) * len(EXPORT_COLUMNS)):
        yield f"| {' | '.join(names)} |\n"
    yield from _pieces(tables, _markdown_cells, " | ", "| ", " |\n")


def json_text(tables: Sequence[Points]) -> Iterator[str]:
    """A list of objects; null where nothing is known."""
    yield json.dumps(list(rows(tables)), indent=1, allow_nan=False) + "\n"


def json_lines(tables: Sequence[Points]) -> Iterator[str]:
    """An object a line."""
    for row in rows(tables):
        yield json.dumps(row, allow_nan=False) + "\n"


TEXTS: Mapping[str, Callable[[Sequence[Points]], Iterator[str]]] = {
    "csv": csv_text,
    "markdown": markdown_text,
    "md": markdown_text,
    "json": json_text,
    "jsonl": json_lines,
}


def rows(tables: Sequence[Points]) -> Iterator[dict[str, Cell]]:
    """One row a logical point, in EXPORT_COLUMNS; None and "" where nothing is known."""
    for table in tables:
        columns = [_cells(table.column(name)) for name in EXPORT_COLUMNS]
        for row in zip(*columns, strict=True):
            yield dict(zip(EXPORT_COLUMNS, row, strict=True))


def parquet(tables: Sequence[Points]) -> bytes:
    """Needs pyarrow. Raises MedusaBenchError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MedusaBenchError(
            "Parquet needs pyarrow, which is not installed.",
            hint="pip install 'medusa-bench[parquet]', or export CSV or JSON.",
        ) from None
    columns = {}
    for name in EXPORT_COLUMNS:
        parts = [table.column(name) for table in tables]
        columns[name] = pyarrow.array(list(chain.from_iterable(map(_cells, parts))))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def _cells(column: Array | Words) -> list[Cell]:
    """A column's values, None for NaN."""
    values: list[Cell] = [*column.tolist()]
    if isinstance(column, Words) or column.dtype.kind != "f":
        return values
    return [None if value != value else value for value in values]  # noqa: PLR0124


def _pieces(
    tables: Sequence[Points],
    cells: Callable[[Sequence[Cell]], list[str]],
    between: str,
    begin: str,
    end: str,
) -> Iterator[str]:
    """The rows of all tables in the order of EXPORT_COLUMNS, some thousands of lines at a time."""
    for table in tables:
        middles: list[str] = []
        told = [product_column(table.known, name) for name in _OF_PRODUCT]
        for some in _slices(len(table.known)):
            words = zip(*(cells(_cells(column[some])) for column in told), strict=True)
            middles += map(between.join, words)
        reasons = cells(table.known.words)
        device, provenance = cells([table.device, table.provenance])
        shapes = cells([shape.name for shape in table.asked.shapes])
        operators = cells([operator.name for operator in table.asked.operators])
        phases = cells([str(phase) for phase in PHASES])
        columns = [table.asked.columns[name] for name in NAMES]
        columns += [table.place, table.known.reason[table.place]]
        for some in _slices(len(table)):
            yield "".join(
                f"{begin}{device}{between}{shapes[shape]}{between}{operators[operator]}{between}"
                f"{phases[phase]}{between}{batch_size}{between}{seq_len}{between}{candidates}"
                f"{between}{middles[place]}{between}{provenance}{between}{reasons[reason]}{end}"
                for shape, operator, phase, batch_size, seq_len, candidates, place, reason in zip(
                    *(column[some].tolist() for column in columns), strict=True
                )
            )


def _slices(count: int) -> list[slice]:
    return [slice(start, start + _AT_ONCE) for start in range(0, count, _AT_ONCE)]


def _csv_cells(values: Sequence[Cell]) -> list[str]:
    """Each as csv.writer writes it."""
    return ["" if value is None else _csv_cell(value) for value in values]


def _csv_cell(value: Cell) -> str:
    if not isinstance(value, str):
        return repr(value)
    return _csv_word(value)


@cache
def _csv_word(value: str) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([csv_cell(value), ""])
    return text.getvalue()[:-1]


def _markdown_cells(values: Sequence[Cell]) -> list[str]:
    return [
        "" if value is None
        else f"{value:.6g}" if isinstance(value, float)
        else markdown_cell(str(value))
        for value in values
    ]  # fmt: skip
