"""Measured latencies from tables that others made (CSV, Parquet) and from results folders.

A table has the columns dtype, m, n, k and latency_us, and optionally batch (1 where absent), gpu,
source, model and op. Whatever is not a finite number above zero is refused with its row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medusa_bench.base import limits, ranges
from medusa_bench.base.documents import parse_csv
from medusa_bench.base.errors import InvalidFileError, MedusaBenchError, UnknownNameError
from medusa_bench.base.files import opened, read_text
from medusa_bench.results import folders
from medusa_bench.results.reading import Results
from medusa_bench.results.rows import Timing
from medusa_bench.specs import paper_grid
from medusa_bench.specs.columns import FloatArray, Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import Point
from medusa_bench.specs.profiles import profile_of
from medusa_bench.specs.schemes import SCHEMES

REQUIRED = ("dtype", "m", "n", "k", "latency_us")
SIZES = ("batch", "m", "n", "k")
LABELS = ("gpu", "source", "model", "op")
_MAX_SIZE = float(1 << 40)

# What other tables call these columns, in lower case, and what their numbers are multiplied by.
# "latency" and "runtime" are in ms in the tables of aiconfigurator's collector and of the CUTLASS
# profiler, which their other columns tell: alone, they are of no known unit and are not taken.
_COLUMNS: Mapping[str, Mapping[str, float]] = {
    "latency_us": {"latency_us": 1, "time_us": 1, "latency_ms": 1e3, "time_ms": 1e3,
                   "latency_s": 1e6, "time_s": 1e6},
    "dtype": {"dtype": 1, "gemm_dtype": 1, "data_type": 1, "weight_dtype": 1},
    "batch": {"batch": 1, "batch_count": 1},
    "gpu": {"gpu": 1, "device": 1},
    "source": {"source": 1, "provider": 1, "framework": 1},
    "op": {"op": 1, "op_name": 1, "operation": 1},
}  # fmt: skip
_MILLISECONDS_BESIDE = {"latency": "gemm_dtype", "runtime": "operationkind"}

Labels = NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Observations:
    """Rows as columns, each of shape (rows,). Labels that a table lacks are empty text."""

    products: Products
    dtype: Labels
    latency_s: FloatArray
    gpu: Labels
    source: Labels
    model: Labels
    op: Labels
    timing: Timing = Timing.KERNEL

    def __len__(self) -> int:
        return len(self.latency_s)

    def __getitem__(self, rows: NDArray[np.generic]) -> "Observations":
        return Observations(
            self.products[rows],
            self.dtype[rows],
            self.latency_s[rows],
            self.gpu[rows],
            self.source[rows],
            self.model[rows],
            self.op[rows],
            self.timing,
        )

    def label(self, name: str) -> Labels:
        """A column of labels by name. Raises UnknownNameError."""
        columns = {
            "gpu": self.gpu,
            "source": self.source,
            "model": self.model,
            "op": self.op,
            "dtype": self.dtype,
        }
        try:
            return columns[name]
        except KeyError:
            raise UnknownNameError("label", name, columns) from None

    @property
    def dtypes(self) -> list[Dtype]:
        """Raises MedusaBenchError where weights are quantised: nothing is fitted to those."""
        known = {str(dtype): dtype for dtype in Dtype}
        if quantised := set(self.dtype.tolist()) - known.keys():
            raise MedusaBenchError(
                f"Rows of quantised weights ({', '.join(sorted(quantised))}) are not fitted to.",
                hint="they are scored as they stand; choose others with --where dtype=bfloat16.",
            )
        return [known[name] for name in self.dtype.tolist()]

    @property
    def shape_ids(self) -> NDArray[np.int64]:
        """A number for each distinct batch, n and k: rows of one share their weights."""
        sizes = np.stack([self.products.batch, self.products.n, self.products.k], axis=1)
        ids: NDArray[np.int64] = np.unique(sizes, axis=0, return_inverse=True)[1].reshape(-1)
        return ids


def joined(parts: Sequence[Observations]) -> Observations:
    """The rows of several tables as one."""

    def column(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    sizes = (np.concatenate([getattr(part.products, name) for part in parts]) for name in SIZES)
    return Observations(
        Products(*sizes),
        column("dtype"),
        column("latency_s"),
        column("gpu"),
        column("source"),
        column("model"),
        column("op"),
        parts[0].timing,
    )


def with_gpu(observations: Observations, gpu: str | None) -> Observations:
    """The rows of one GPU: those that name it, or all of them where none names any.

    A single other name in the rows is overridden. Raises MedusaBenchError where the rows name no
    GPU and gpu is None, or several of which none is this one.
    """
    names = [str(name) for name in np.unique(observations.gpu)]
    if gpu is None:
        if "" in names:
            raise MedusaBenchError("The rows do not say which GPU they are of.", hint="give --gpu.")
        return observations
    profile = profile_of(gpu)
    if len(names) > 1:
        mine = [name for name in names if name and profile_of(name).name == profile.name]
        if not mine:
            raise MedusaBenchError(
                f"None of the rows is of {profile.name}: they are of {', '.join(names)}."
            )
        observations = observations[np.flatnonzero(np.isin(observations.gpu, mine))]
    return replace(observations, gpu=np.full(len(observations), profile.name))


def read(
    path: Path, names: Mapping[str, str] | None = None, timing: Timing | None = None
) -> Observations:
    """A CSV or Parquet table, or a results folder. Raises InvalidFileError.

    names: what the table calls a column of ours ("m" -> "rows"); without, by REQUIRED's names in
    any case, and those that known programs use. timing: how a table was timed, kernel where not
    said; of a folder, which of its times, kernel where it has them.
    """
    if path.is_dir() or path.as_posix() == paper_grid.RESULTS:
        return _from_results(path, timing)
    rows = from_columns(_ours(columns_of(path), names or {}, str(path)), where=str(path))
    return replace(rows, timing=timing or Timing.KERNEL)


def columns_of(path: Path) -> Mapping[str, Sequence[Any]]:
    """The columns of a CSV or Parquet table as they are. Raises InvalidFileError."""
    return _parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _csv(path)


def _ours(
    columns: Mapping[str, Sequence[Any]], names: Mapping[str, str], where: str
) -> dict[str, Sequence[Any]]:
    """The columns under our names, latencies in us, dtypes as ours."""
    theirs = {name.strip().lower(): values for name, values in columns.items()}
    if missing := [name for name in names.values() if name.strip().lower() not in theirs]:
        raise InvalidFileError(
            f"{where} has no column {missing[0]!r}.", hint=f"it has {', '.join(columns)}."
        )
    theirs |= {ours.lower(): theirs[name.strip().lower()] for ours, name in names.items()}
    for name, beside in _MILLISECONDS_BESIDE.items():
        if name in theirs and beside in theirs:
            theirs.setdefault("latency_ms", theirs[name])
    if "operationkind" in theirs and "a" in theirs:  # the profiler's operands, as f16:column
        theirs.setdefault("dtype", [str(value).partition(":")[0] for value in theirs["a"]])
    found: dict[str, Sequence[Any]] = {}
    for ours in (*REQUIRED, *SIZES, *LABELS):
        for name, scale in _COLUMNS.get(ours, {ours: 1}).items():
            if name in theirs and ours not in found:
                found[ours] = _scaled(theirs[name], scale)
    if "dtype" in found:
        found["dtype"] = [_dtype(value) for value in found["dtype"]]
    return found


def _scaled(values: Sequence[Any], scale: float) -> Sequence[Any]:
    return values if scale == 1 else [_float(value) * scale for value in values]


def _dtype(value: Any) -> str:
    scheme = str(value).lower().removesuffix("_wo").replace("_", "-")  # weights only
    if scheme in SCHEMES and scheme != "fp8":
        return scheme
    try:
        return str(Dtype.named(str(value)))
    except ValueError:
        return str(value)  # refused with its row


def from_columns(columns: Mapping[str, Sequence[Any]], *, where: str) -> Observations:
    """Raises InvalidFileError, naming the column or the row (counted from 1), for what is wrong."""
    if missing := [name for name in REQUIRED if name not in columns]:
        raise InvalidFileError(
            f"{where} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}.",
            hint=f"needed: {', '.join(REQUIRED)}; optional: batch, {', '.join(LABELS)}.",
        )
    rows = len(columns["m"])
    if rows == 0:
        raise InvalidFileError(f"{where} holds no rows.")
    sizes = [
        _numbers(columns[name], name, where, whole=True) if name in columns else np.ones(rows)
        for name in SIZES
    ]
    shortest_us = ranges.LATENCY_S.low * 1e6
    latency_s = _numbers(columns["latency_us"], "latency_us", where, least=shortest_us) * 1e-6
    dtype = _texts(columns["dtype"])
    for value in np.unique(dtype):
        if value not in set(Dtype) | SCHEMES.keys():
            row = int(np.argmax(dtype == value)) + 1
            raise InvalidFileError(
                f"{where}, row {row}: dtype is {str(value)[:40]!r}.",
                hint=f"known: {', '.join([*Dtype, *SCHEMES])}.",
            )
    labels = [_texts(columns[name]) if name in columns else np.full(rows, "") for name in LABELS]
    gpu, source, model, op = labels
    return Observations(Products(*sizes), dtype, latency_s, gpu, source, model, op)


def _numbers(
    values: Sequence[Any], name: str, where: str, *, whole: bool = False, least: float = 0.0
) -> FloatArray:
    try:
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        numbers = np.array([_float(value) for value in values])
    wrong = ~(np.isfinite(numbers) & (numbers > least) & (numbers < _MAX_SIZE))
    if whole:
        wrong |= numbers != np.floor(numbers)
    if wrong.any():
        row = int(wrong.argmax())
        raise InvalidFileError(
            f"{where}, row {row + 1}: {name} is {str(values[row])[:40]!r}; it must be a "
            f"{'whole' if whole else 'finite'} number above {least:g}."
        )
    return numbers


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _texts(values: Sequence[Any]) -> Labels:
    texts: Labels = np.array(["" if value is None else value for value in values]).astype(str)
    return texts


def _csv(path: Path) -> dict[str, list[str]]:
    names, rows = parse_csv(read_text(path, limits.TABLE_BYTES), where=str(path))
    return {name: [row[name] for row in rows] for name in names}


def _parquet(path: Path) -> dict[str, Sequence[Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MedusaBenchError(
            "Parquet files need pyarrow.",
            hint="pip install 'medusa-bench[parquet]', or give a CSV.",
        ) from None
    try:
        with opened(path, limits.TABLE_BYTES) as file:
            described = parquet.ParquetFile(file)
            cells = described.metadata.num_rows * described.metadata.num_columns
            if cells > limits.TABLE_CELLS:
                raise InvalidFileError(
                    f"{path} holds {cells:,} cells; at most {limits.TABLE_CELLS:,} are read."
                )
            table = described.read()
    except (OSError, ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InvalidFileError(f"{path} cannot be read as Parquet: {reason}") from None
    if len(set(table.column_names)) != table.num_columns:
        raise InvalidFileError(f"{path}: a column's name stands twice.")
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _from_results(path: Path, asked: Timing | None) -> Observations:
    """The distinct tasks of one timing that have a number; printed tables give each cell once."""
    results = folders.load(path)
    found = [
        (point, each.timing, summary.latency_s)
        for each in results.points()
        if (point := each.point) and (summary := each.summary) is not None
    ]
    if results.cells:  # a printed cell stands for several products and was measured as one of them
        found = [
            (cell.points[0], cell.timing, cell.estimate(cell.points[0]).latency_s)
            for cell in results.cells
        ]
    distinct: dict[Any, tuple[Point, float]] = {}
    for point, timing, latency_s in found:
        setting = point if results.cells else (point.product, point.dtype)
        distinct.setdefault((setting, timing), (point, latency_s))
    timings = {timing for _, timing in distinct}
    if not timings:
        raise InvalidFileError(f"{path} holds no number to predict.")
    timing = asked or (Timing.KERNEL if Timing.KERNEL in timings else Timing.EAGER)
    if timing not in timings:
        raise InvalidFileError(
            f"{path} holds no {timing} times.", hint=f"it holds {', '.join(sorted(timings))} ones."
        )
    rows = [row for (_, each), row in distinct.items() if each is timing]
    return Observations(
        Products.of([point.product for point, _ in rows]),
        np.array([str(point.dtype) for point, _ in rows]),
        np.array([latency_s for _, latency_s in rows]),
        np.full(len(rows), results.environment.device),
        np.full(len(rows), _origin(results)),
        np.array([point.shape.name for point, _ in rows]),
        np.array([point.operator.name for point, _ in rows]),
        timing,
    )


def _origin(results: Results) -> str:
    printed = results.run.printed
    return printed.source if printed else str(results.path)
