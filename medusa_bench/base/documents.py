"""JSON and CSV as we accept them from files: finite numbers, no name twice, whole rows."""

import csv
import io
import json
import math
from typing import Any, NoReturn

from medusa_bench.base.errors import InvalidFileError

JsonObject = dict[str, Any]


def parse_object(raw: bytes, *, where: str, finite: bool = True) -> JsonObject:
    """The one JSON object that raw holds.

    finite=False: also take NaN and Infinity, which transformers writes into configs.

    Raises InvalidFileError, naming `where`, for anything else: damaged text, another type at the
    top, a key given twice, a number that is not finite, half a surrogate pair.
    """
    try:
        value = (_DECODER if finite else _LENIENT).decode(raw.decode("utf-8"))
        if b"\\ud" in raw.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise InvalidFileError(f"{where} is not valid UTF-8 text.") from None
    except RecursionError:
        raise InvalidFileError(f"{where} is nested too deeply.") from None
    except ValueError as error:
        raise InvalidFileError(f"{where} is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidFileError(f"{where} holds no JSON object.")
    return value


def parse_csv(text: str, *, where: str) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """The columns' names and the rows of a CSV, every cell a text.

    Raises InvalidFileError, naming `where` and the row, for what is no such table: a column named
    twice, a row of fewer or more cells.
    """
    reader = csv.DictReader(io.StringIO(text), strict=True)
    rows: list[dict[str, str]] = []
    try:
        names = tuple(reader.fieldnames or ())
        if twice := [name for name in names if names.count(name) > 1]:
            raise InvalidFileError(f"{where}: the column {twice[0][:80]!r} stands twice.")
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                raise InvalidFileError(f"{where}, row {number} has not {len(names)} cells.")
            rows.append(row)
    except csv.Error as error:
        raise InvalidFileError(f"{where}, line {reader.line_num} is no CSV: {error}.") from None
    return names, rows


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> JsonObject:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object_without_duplicates,
    parse_constant=_refuse_constant,
    parse_float=_finite_float,
)
_LENIENT = json.JSONDecoder(object_pairs_hook=_object_without_duplicates)
