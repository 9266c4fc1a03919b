"""Sealed columns: what a part of points.jsonl decodes to, beside it, so that it is decoded once.

A seal says how many bytes of the lines it covers and their SHA-256, and carries a SHA-256 of its
own columns. It is believed only where both hold; else it is as if it were not there. The lines stay
the truth: `results verify` reads them, and a seal may be deleted at any time.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medusa_bench.base import limits
from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.base.files import opened
from medusa_bench.results.columns import (
    COLUMNS,
    DTYPES,
    FAILURES,
    KINDS,
    TIMINGS,
    Array,
    Table,
    Tasks,
)

SCHEMA = 1
NPZ, PARQUET = "points.npz", "points.parquet"
_ABOUT = "about"
_TASK_COLUMNS = tuple(each.name for each in fields(Tasks))
# Words that the columns hold as indices: a version that knows others reads the lines.
_WORDS = [[str(word) for word in words] for words in (DTYPES, TIMINGS, FAILURES)]
_BLOCK_BYTES = 1 << 20
_LEAST_LINE_BYTES = 100  # no row is shorter, so a seal of more rows than that is none


@dataclass(frozen=True, slots=True)
class Sealed:
    """A part of points.jsonl as columns: its first num_bytes, which are num_lines whole lines."""

    table: Table
    damages: tuple[tuple[int, str], ...]
    num_bytes: int
    num_lines: int
    sha256: str  # of that part


def sha256_of(file: BinaryIO, num_bytes: int) -> str:
    """Of a file's first bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while num_bytes and (block := file.read(min(num_bytes, _BLOCK_BYTES))):
        digest.update(block)
        num_bytes -= len(block)
    return digest.hexdigest()


def encode(sealed: Sealed, name: str) -> bytes:
    """The file of that name. Raises MedusaBenchError where Parquet is asked for and not there."""
    return _parquet(sealed) if name == PARQUET else _npz(sealed)


def read(folder: Path, lines: BinaryIO, num_bytes: int) -> Sealed | None:
    """A seal of a folder that stands for the beginning of its lines; None where there is none.

    lines: points.jsonl, open, of num_bytes.
    """
    for name, decode in ((NPZ, _of_npz), (PARQUET, _of_parquet)):
        path = folder / name
        if not path.exists():
            continue
        try:
            with opened(path, limits.POINTS_BYTES) as file:
                sealed = decode(file, num_bytes)
        except Exception:
            continue
        if sealed and sealed.sha256 == sha256_of(lines, sealed.num_bytes):
            return sealed
    return None


def _about(sealed: Sealed) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "num_bytes": sealed.num_bytes,
        "num_lines": sealed.num_lines,
        "sha256": sealed.sha256,
        "damages": [list(damage) for damage in sealed.damages],
        "texts": list(sealed.table.texts),
        "words": _WORDS,
        "columns": _digest(_arrays(sealed.table).items()),
    }


def _arrays(table: Table) -> dict[str, Array]:
    """Every column by name, those of tasks with the tasks' place."""
    arrays = {name: getattr(table, name) for name in COLUMNS}
    return arrays | {f"tasks.{name}": getattr(table.tasks, name) for name in _TASK_COLUMNS}


def _digest(arrays: Iterable[tuple[str, Array]]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(f"{name} {array.dtype.str} {len(array)}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _sealed(about: Any, arrays: dict[str, Array]) -> Sealed | None:
    """What the parts of a file say; None where its columns are not those that were written."""
    tasks = Tasks(*(arrays[f"tasks.{name}"] for name in _TASK_COLUMNS))
    table = Table(tasks, tuple(about["texts"]), **{name: arrays[name] for name in COLUMNS})
    damages = tuple((int(number), str(reason)) for number, reason in about["damages"])
    sealed = Sealed(table, damages, about["num_bytes"], about["num_lines"], about["sha256"])
    return sealed if _about(sealed) == about else None


# -- NumPy --------------------------------------------------------------------------------------


def _npz(sealed: Sealed) -> bytes:
    about = _checked(_about(sealed))
    buffer = io.BytesIO()
    members: dict[str, Any] = {_ABOUT: np.frombuffer(about, dtype=np.uint8)}
    members |= _arrays(sealed.table)
    np.savez(buffer, **members)
    return buffer.getvalue()


def _of_npz(file: BinaryIO, num_bytes: int) -> Sealed | None:
    with zipfile.ZipFile(file) as members:  # nothing is inflated: a small file stays small
        if any(each.compress_type != zipfile.ZIP_STORED for each in members.infolist()):
            return None
    with np.load(file, allow_pickle=False) as arrays:
        about = _unchecked(arrays[_ABOUT].tobytes())
        return about and _sealed(about, {name: arrays[name] for name in arrays.files})


def _checked(about: dict[str, Any]) -> bytes:
    """JSON with its own SHA-256 before it."""
    text = json.dumps(about).encode()
    return hashlib.sha256(text).hexdigest().encode() + text


def _unchecked(content: bytes) -> Any:
    digest, text = content[:64], content[64:]
    return json.loads(text) if hashlib.sha256(text).hexdigest().encode() == digest else None


# -- Parquet ------------------------------------------------------------------------------------


def _parquet(sealed: Sealed) -> bytes:
    """A row a row, with the sizes and words of its task: other programs read it too."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MedusaBenchError(
            "Parquet needs pyarrow, which is not installed.",
            hint="pip install 'medusa-bench[parquet]', or leave --format out.",
        ) from None
    table = sealed.table
    columns: dict[str, Any] = {name: getattr(table, name) for name in COLUMNS}
    for name in _TASK_COLUMNS:
        columns[f"tasks.{name}"] = getattr(table.tasks, name)[table.task]
    for name, codes, words in (
        ("row", table.kind, KINDS),
        ("dtype", columns["tasks.dtype"], DTYPES),
        ("timing", columns["tasks.timing"], TIMINGS),
    ):  # for other readers; this one takes the indices
        columns[name] = pyarrow.DictionaryArray.from_arrays(codes, list(map(str, words)))
    arrow = pyarrow.table(columns)
    about = _checked(_about(sealed))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(arrow.replace_schema_metadata({_ABOUT: about}), buffer)
    return buffer.getvalue()


def _of_parquet(file: BinaryIO, num_bytes: int) -> Sealed | None:
    from pyarrow import parquet

    described = parquet.ParquetFile(file)
    if described.metadata.num_rows * _LEAST_LINE_BYTES > num_bytes:
        return None
    about = _unchecked(described.schema_arrow.metadata[_ABOUT.encode()])
    if not about:
        return None
    arrow = described.read([*COLUMNS, *(f"tasks.{name}" for name in _TASK_COLUMNS)])
    columns = {name: arrow.column(name).to_numpy() for name in arrow.column_names}
    _, first = np.unique(columns["task"], return_index=True)
    for name in _TASK_COLUMNS:
        columns[f"tasks.{name}"] = columns[f"tasks.{name}"][first]
    return _sealed(about, columns)
