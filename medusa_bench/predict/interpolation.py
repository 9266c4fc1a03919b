"""Latencies of a results folder as a model: exact where measured, between points along the steps.

Between two measured products that differ in one size, the calibration brings the steps of tiles
and waves, and the folder's ratio to it is interpolated. Elsewhere the calibration stands alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.predict import fitting
from medusa_bench.predict.calibration import BOUNDS, Calibration, DeviceCeilings, Interval
from medusa_bench.predict.fitting import Origin, Prior, Samples
from medusa_bench.predict.latency import Predictions
from medusa_bench.results.reading import Results
from medusa_bench.results.rows import Environment, Provenance, Roofs, Summary, Timing
from medusa_bench.specs.columns import FloatArray, Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product
from medusa_bench.specs.profiles import match

INTERPOLATED = "interpolated"
_SIZES = ("batch", "m", "n", "k")
_MANY_POINTS = 250  # a calibration made on the fly is fitted to no more: it shall take no time

Size = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class _Line:
    """Measured products that differ in one size only, by that size: log ratios to the formula."""

    sizes: FloatArray  # logarithms, ascending
    ratios: FloatArray

    def between(self, log_size: float) -> tuple[float, float] | None:
        """The interpolated ratio and the gap it spans; None outside of the measured sizes."""
        after = int(np.searchsorted(self.sizes, log_size))
        if not 0 < after < len(self.sizes):
            return None
        low, high = self.sizes[after - 1], self.sizes[after]
        share = (log_size - low) / (high - low)
        ratio = (1 - share) * self.ratios[after - 1] + share * self.ratios[after]
        return float(ratio), float(high - low)

    def left_out_errors(self) -> FloatArray:
        """Of each inner product, its ratio less the one interpolated from its neighbours."""
        before, here, after = self.sizes[:-2], self.sizes[1:-1], self.sizes[2:]
        share = (here - before) / (after - before)
        errors: FloatArray = self.ratios[1:-1] - (
            (1 - share) * self.ratios[:-2] + share * self.ratios[2:]
        )
        return errors


@dataclass(frozen=True)
class Measured:
    """A results folder and the calibration that stands in where nothing was measured."""

    name: str
    device: str
    provenance: Provenance
    calibration: Calibration
    summaries: Mapping[tuple[Product, Dtype], Summary]
    _lines: dict[Dtype, dict[tuple[int, Size], _Line]] = field(default_factory=dict, repr=False)

    def predict(self, products: Products, dtype: Dtype) -> Predictions:
        work = self.calibration.work(products, dtype)
        corrected = self.calibration.predict(work)
        latency_s = corrected.latency_s.copy()
        low_s, high_s = corrected.low_s.copy(), corrected.high_s.copy()
        source = np.full(len(products), f"calibrated: {self.name}", dtype=object)
        lines = self._lines_of(dtype)
        interval = _interpolation_interval(lines)
        columns = (products.batch, products.m, products.n, products.k)
        sizes: list[Size] = list(zip(*(column.tolist() for column in columns), strict=True))
        for row, size in enumerate(sizes):
            summary = self.summaries.get((Product(*map(int, size)), dtype))
            if summary is not None:
                latency_s[row] = summary.latency_s
                low_s[row] = min(summary.low_s, summary.latency_s)
                high_s[row] = max(summary.high_s, summary.latency_s)
                source[row] = str(self.provenance)
            elif (ratio := _interpolated(lines, size)) is not None:
                latency_s[row] *= np.exp(ratio)
                low_s[row] = latency_s[row] * np.exp(interval.low[0])
                high_s[row] = latency_s[row] * np.exp(interval.high[0])
                source[row] = INTERPOLATED
        parts = corrected.parts.against(latency_s)
        return Predictions(latency_s, low_s, high_s, parts.bound, source.astype(str), parts)

    def _lines_of(self, dtype: Dtype) -> dict[tuple[int, Size], _Line]:
        """Every line of two or more measured products, by the size that varies and the others."""
        if dtype not in self._lines:
            known = [product for product, of in self.summaries if of == dtype]
            products = Products.of(known)
            predicted = self.calibration.predict(self.calibration.work(products, dtype))
            measured = [self.summaries[product, dtype].latency_s for product in known]
            ratios = np.log(np.array(measured) / predicted.latency_s)
            found: dict[tuple[int, Size], list[tuple[float, float]]] = {}
            for product, ratio in zip(known, ratios.tolist(), strict=True):
                size = (product.batch, product.m, product.n, product.k)
                for axis in range(len(_SIZES)):
                    key = (axis, _without(size, axis))
                    found.setdefault(key, []).append((float(np.log(size[axis])), ratio))
            self._lines[dtype] = {
                key: _Line(*np.array(sorted(points)).T)
                for key, points in found.items()
                if len(points) > 1
            }
        return self._lines[dtype]


def _without(size: Size, axis: int) -> Size:
    batch, m, n, k = (0.0 if index == axis else float(each) for index, each in enumerate(size))
    return batch, m, n, k


def _interpolated(lines: Mapping[tuple[int, Size], _Line], size: Size) -> float | None:
    """The ratio on the line whose neighbours are nearest; None where there is no such line."""
    best = None
    for axis in range(len(_SIZES)):
        line = lines.get((axis, _without(size, axis)))
        found = line and line.between(float(np.log(size[axis])))
        if found and (best is None or found[1] < best[1]):
            best = found
    return best and best[0]


def _interpolation_interval(lines: Mapping[tuple[int, Size], _Line]) -> Interval:
    """5 % and 95 % quantiles of what interpolation misses points by when these are left out."""
    errors = [line.left_out_errors() for line in lines.values() if len(line.sizes) > 2]
    if not errors:
        return Interval()
    missed = np.concatenate(errors)
    low, high = np.quantile(missed, [0.05, 0.95]).tolist()
    return Interval((low,) * len(BOUNDS), (high,) * len(BOUNDS))


def ceilings_of(environment: Environment, roofs: Roofs | None) -> DeviceCeilings:
    """The datasheet's ceilings of a known device, else those measured in the run.

    Raises MedusaBenchError where there are neither.
    """
    profile = match(environment.device, environment.memory_bytes)
    if profile is not None:
        return DeviceCeilings.of(profile)
    if roofs is None:
        raise MedusaBenchError(
            f"Neither a profile nor measured roofs are known of {environment.device}.",
            hint="run `medusa-bench sweep` or `calibrate` there: both measure the roofs.",
        )
    return DeviceCeilings(
        roofs.peak_flops_per_s,
        roofs.memory_bandwidth_bytes_per_s,
        environment.num_sms or 0,
        environment.l2_bytes or _UNKNOWN_L2_BYTES,
        _UNKNOWN_CLOCK_HZ,
    )


_UNKNOWN_L2_BYTES = 1 << 20
_UNKNOWN_CLOCK_HZ = 1e9


def numbers_of(results: Results, timing: Timing) -> dict[tuple[Product, Dtype], Summary]:
    """What a folder says about each product by one way of timing.

    Raises InvalidFileError for a folder of predictions: they are no ground to stand on.
    """
    if results.provenance is Provenance.PREDICTED:
        raise InvalidFileError(
            f"{results.path} holds predictions, not measurements.",
            hint="give a folder that was measured, or the name of a GPU.",
        )
    return {
        (task.product, task.dtype): summary
        for task, summary in results.summaries.items()
        if task.timing is timing
    }


def calibration_of(
    numbers: Mapping[tuple[Product, Dtype], Summary],
    ceilings: DeviceCeilings,
    prior: Prior,
    origin: Origin,
    *,
    seed: int = 0,
    at_most: int | None = _MANY_POINTS,
) -> Calibration:
    """A calibration to a folder's numbers, drawn by chance where there are many."""
    known = sorted(numbers, key=lambda each: (each[0].num_elements, repr(each)))
    if at_most is not None and len(known) > at_most:
        rows = np.random.default_rng(seed).choice(len(known), at_most, replace=False)
        known = [known[row] for row in sorted(rows)]
    products = [product for product, _ in known]
    weights = [(product.batch, product.n, product.k) for product in products]
    groups = np.unique(np.array(weights), axis=0, return_inverse=True)[1].reshape(-1)
    samples = Samples(
        Products.of(products),
        [dtype for _, dtype in known],
        np.array([numbers[each].latency_s for each in known]),
        groups,
        "shape",
    )
    return fitting.calibrate(samples, ceilings, prior, origin, seed=seed)
