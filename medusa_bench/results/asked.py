"""The logical points that a run asked for, as columns, and which of them are one product."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medusa_bench.results.columns import DTYPES, TIMINGS, Array
from medusa_bench.results.rows import MAX_SIZE, Grid
from medusa_bench.specs.columns import sizes
from medusa_bench.specs.operators import Operator, Point
from medusa_bench.specs.settings import Phase, Setting, settings
from medusa_bench.specs.shapes import ModelShape

PHASES = tuple(Phase)
# The names of a point; the last six are of its task.
NAMES = ("shape", "operator", "phase", "batch_size", "seq_len", "num_candidates")
TASK = ("batch", "m", "n", "k", "dtype", "timing")


@dataclass(frozen=True, slots=True)
class Asked:
    """Logical points as columns, each of shape (points,), in the order asked for."""

    shapes: tuple[ModelShape, ...]
    operators: tuple[Operator, ...]
    columns: dict[str, Array]  # NAMES and TASK; names and words as indices

    def __len__(self) -> int:
        return len(self.columns["shape"])

    def points(self, which: Array) -> list[Point]:
        """Some of them as objects."""
        columns = [self.columns[name][which].tolist() for name in (*NAMES, "dtype")]
        steps: dict[tuple[int, ...], Setting] = {}
        found = []
        for shape, operator, *key, dtype in zip(*columns, strict=True):
            setting = steps.get(tuple(key))
            if setting is None:
                setting = steps[tuple(key)] = Setting(PHASES[key[0]], *key[1:])
            found.append(
                Point(self.shapes[shape], self.operators[operator], setting, DTYPES[dtype])
            )
        return found


def asked(grids: Sequence[Grid]) -> Asked:
    """The points of all grids, by each of their timings; none twice."""
    shapes = list(dict.fromkeys(shape for grid in grids for shape in grid.shapes))
    operators = list(dict.fromkeys(each for grid in grids for each in grid.operators))
    parts = []
    for grid in grids:
        steps = list(settings(grid.phases, grid.batch_sizes, grid.seq_lens, grid.num_candidates))
        names: dict[str, Array] = {
            "phase": np.array([PHASES.index(step.phase) for step in steps], dtype=np.int8),
            "batch_size": np.array([step.batch_size for step in steps], dtype=np.int64),
            "seq_len": np.array([step.seq_len for step in steps], dtype=np.int64),
            "num_candidates": np.array([step.num_candidates for step in steps], dtype=np.int64),
        }
        query_len = np.array([step.query_len for step in steps], dtype=np.int64)
        for shape in grid.shapes:
            for operator in grid.operators:
                if steps and operator.num_layers(shape):
                    of: dict[str, Any] = {
                        "shape": np.int16(shapes.index(shape)),
                        "operator": np.int16(operators.index(operator)),
                    }
                    products = _products(operator, shape, steps, names, query_len)
                    parts.append(_timed(grid, len(steps), {**of, **names, **products}))
    columns = {
        name: np.concatenate([part.pop(name) for part in parts] or [np.array([], dtype=np.int64)])
        for name in (*NAMES, *TASK)
    }
    if len(grids) > 1:
        first, _ = distinct([columns[name] for name in (*NAMES, "dtype", "timing")])
        first = np.sort(first)
        columns = {name: column[first] for name, column in columns.items()}
    return Asked(tuple(shapes), tuple(operators), columns)


def of_points(points: Sequence[tuple[Point, str]]) -> Asked:
    """Points and their timings that no grid asks for, such as a printed table's."""
    shapes: dict[ModelShape, int] = {}
    operators: dict[Operator, int] = {}
    rows = []
    for point, timing in points:
        setting, product = point.setting, point.product
        rows.append(
            (
                shapes.setdefault(point.shape, len(shapes)),
                operators.setdefault(point.operator, len(operators)),
                PHASES.index(setting.phase),
                setting.batch_size,
                setting.seq_len,
                setting.num_candidates,
                *(product.batch, product.m, product.n, product.k),
                DTYPES.index(point.dtype),
                [str(each) for each in TIMINGS].index(timing),
            )
        )
    columns = np.array(rows, dtype=np.int64).reshape(-1, len(NAMES) + len(TASK)).T.copy()
    named = dict(zip((*NAMES, *TASK), columns, strict=True))
    return Asked(tuple(shapes), tuple(operators), named)


def _products(
    operator: Operator,
    shape: ModelShape,
    steps: Sequence[Setting],
    names: dict[str, Array],
    query_len: Array,
) -> dict[str, Array]:
    """The product of one operator of one model in every setting."""
    found: Any
    try:
        found = sizes(operator, shape, names["batch_size"], names["seq_len"], query_len)
    except OverflowError:
        products = [operator.product(shape, step) for step in steps]
        _refuse_large(max(max(p.batch, p.m, p.n, p.k) for p in products))
        found = np.array([(p.batch, p.m, p.n, p.k) for p in products], dtype=np.int64).T
    _refuse_large(max(each.max() for each in found))
    return dict(zip(TASK, found, strict=False))


def _timed(grid: Grid, count: int, columns: dict[str, Any]) -> dict[str, Array]:
    """Each setting in every dtype of a grid, by each of its timings."""
    dtypes = np.array([DTYPES.index(dtype) for dtype in grid.dtypes], dtype=np.int8)
    timings = np.array([TIMINGS.index(timing) for timing in grid.timings], dtype=np.int8)
    dtypes, timings = np.repeat(dtypes, len(timings)), np.tile(timings, len(dtypes))
    return {
        name: np.repeat(np.broadcast_to(column, count), len(dtypes))
        for name, column in columns.items()
    } | {"dtype": np.tile(dtypes, count), "timing": np.tile(timings, count)}


def _refuse_large(size: int) -> None:
    if size > MAX_SIZE:
        raise ValueError(f"A product of size {size} is none that a results folder can hold.")


def distinct(columns: Sequence[Array]) -> tuple[Array, Array]:
    """Where each distinct row of whole numbers stands first, and which of those each row is."""
    mixed = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:  # FNV-1a over whole words: one number to sort by instead of many
        mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    _, first, which = np.unique(mixed, return_index=True, return_inverse=True)
    if not all((column[first][which] == column).all() for column in columns):  # two rows, one sum
        table = np.stack([column.astype(np.int64) for column in columns], axis=1)
        _, first, which = np.unique(table, axis=0, return_index=True, return_inverse=True)
    return first, which.reshape(-1)
