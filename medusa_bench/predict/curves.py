"""Latency over rows (batch x query tokens) of linear operators, measured or predicted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.predict import choosing
from medusa_bench.results import folders
from medusa_bench.results.rows import Grid, Timing
from medusa_bench.specs.columns import FloatArray, Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import Family
from medusa_bench.specs.settings import Phase, Setting
from medusa_bench.specs.shapes import ModelShape


@dataclass(frozen=True, slots=True)
class Curve:
    """Latencies by rows, shape (points,), of the operators that share one product."""

    model: str
    operators: tuple[str, ...]
    dtype: Dtype
    timing: Timing
    source: str
    rows: FloatArray
    latency_s: FloatArray
    notes: tuple[str, ...] = ()  # what is left out of the model, in words


def measured(path: Path) -> list[Curve]:
    """The curves of a results folder, one for each weight matrix, dtype and timing."""
    results = folders.load(path)
    points: dict[tuple[ModelShape, str, Dtype, Timing], dict[int, list[float]]] = {}
    for each in results.points():
        if each.summary is None or each.point.operator.family is Family.ATTENTION:
            continue
        product = each.point.product
        key = (each.point.shape, each.point.operator.name, each.point.dtype, each.timing)
        points.setdefault(key, {}).setdefault(product.m, []).append(each.summary.latency_s)
    if not points:
        raise MedusaBenchError(f"{path} holds no number of a linear operator.")
    curves = []
    for (shape, operator, dtype, timing), by_rows in points.items():
        rows = np.array([m for m, values in by_rows.items() for _ in values], dtype=float)
        latency_s = np.array([value for values in by_rows.values() for value in values])
        source = f"{results.provenance}: {path}"
        curves.append(
            Curve(shape.name, (operator,), dtype, timing, source, rows, latency_s, shape.notes)
        )
    return _merged(curves)


def predicted(gpu: str, asked: Grid, rows: Sequence[int]) -> list[Curve]:
    """The curves of a grid's models and linear operators on a GPU, at these rows."""
    curves = []
    for timing in asked.timings:
        model = choosing.model_for(gpu, timing)
        for shape in asked.shapes:
            for operator in asked.operators:
                if operator.family is Family.ATTENTION:
                    continue
                settings = [Setting(Phase.DECODE, row, 1) for row in rows]
                products = Products.of([operator.product(shape, each) for each in settings])
                for dtype in asked.dtypes:
                    predictions = model.predict(products, dtype)
                    source = f"predicted: {model.name}"
                    curves.append(
                        Curve(
                            shape.name,
                            (operator.name,),
                            dtype,
                            timing,
                            source,
                            np.array(rows, dtype=float),
                            predictions.latency_s,
                            shape.notes,
                        )
                    )
    if not curves:
        raise MedusaBenchError("There is no linear operator among those asked for.")
    return _merged(curves)


def _merged(curves: Sequence[Curve]) -> list[Curve]:
    """Curves with the very same numbers as one, with the names of all their operators."""
    merged: dict[tuple[object, ...], Curve] = {}
    for curve in curves:
        key = (
            curve.model,
            curve.dtype,
            curve.timing,
            curve.rows.tobytes(),
            curve.latency_s.tobytes(),
        )
        there = merged.get(key)
        operators = (*there.operators, *curve.operators) if there else curve.operators
        merged[key] = replace(curve, operators=operators)
    return list(merged.values())
