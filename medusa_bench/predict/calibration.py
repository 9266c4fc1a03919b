"""A device's calibration: few parameters with a meaning, and what they leave over, learned.

    latency = launch + (memory^p + compute^p)^(1/p), times exp(correction)

memory is bytes over the bandwidth that is reached; compute is the work of the busiest processor
(tiles.py) over the rate that is reached. The three parameters come from a few points and a prior;
the correction from many points (trees) or from the few (a Gaussian process). Far from its points
a correction is small, its interval wide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medusa_bench.predict import boosting, tiles
from medusa_bench.predict.gaussian_process import GaussianProcess
from medusa_bench.results.rows import Timing
from medusa_bench.specs.ceilings import Bound, Ceilings
from medusa_bench.specs.columns import FloatArray, Latencies, Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product
from medusa_bench.specs.profiles import DeviceProfile

# Memory and compute overlap: the larger hides most of the smaller. Fitted once with tiles.EDGE.
OVERLAP = 3.0

ANY_DEVICE = "any"  # the calibration that holds what is known of a device left out altogether
BOUNDS = tuple(Bound)

# How fast what the formula leaves over changes along each feature, in the order of Work.features:
# 1 / the distance over which it does. Chosen once on the reference data; log memory / compute and
# the padding of each tile matter most.
FEATURE_SCALES = np.array([0.4, 0.05, 0.5, 0.25, 1.0, 0, 0, 0, 0, *[1.4, 0.15] * 8, 0, 3.0, 0])
NUM_FEATURES = len(FEATURE_SCALES)


@dataclass(frozen=True, slots=True)
class DeviceCeilings(Ceilings):
    """What a calibration is relative to: a datasheet's ceilings, or those measured in a run."""

    peak_flops_per_s: Mapping[Dtype, float]
    memory_bandwidth_bytes_per_s: float
    num_sms: int  # 0: no tiles are known, as of a CPU
    l2_bytes: float
    clock_hz: float

    @classmethod
    def of(cls, profile: DeviceProfile) -> "DeviceCeilings":
        return cls(
            profile.peak_flops_per_s,
            profile.memory_bandwidth_bytes_per_s,
            profile.num_sms,
            profile.l2_bytes,
            profile.clock_hz,
        )

    def peaks(self, dtypes: Sequence[Dtype]) -> FloatArray:
        """FLOP/s of each dtype. Raises MedusaBenchError if there is none."""
        peak = {dtype: self.peak(dtype) for dtype in dict.fromkeys(dtypes)}
        return np.array([peak[dtype] for dtype in dtypes])


@dataclass(frozen=True, slots=True)
class Parameters:
    """launch_s: what a call takes beside its work. Efficiencies: shares of the ceilings reached."""

    launch_s: float
    bandwidth_efficiency: float
    compute_efficiency: float

    @property
    def logs(self) -> FloatArray:
        return np.log([self.launch_s, self.bandwidth_efficiency, self.compute_efficiency])

    @classmethod
    def from_logs(cls, logs: FloatArray) -> "Parameters":
        return cls(*np.exp(logs).tolist())


@dataclass(frozen=True, slots=True)
class Work:
    """What products ask of a device, whatever its parameters; columns of shape (num_products,).

    memory_s, compute_s: at the ceilings, compute without padding or idle processors. tiled_s: with
    them. partial_s: traffic of split sums.
    """

    products: Products
    element_bytes: FloatArray
    memory_s: FloatArray
    compute_s: FloatArray
    tiled_s: FloatArray
    partial_s: FloatArray

    @classmethod
    def of(
        cls, products: Products, dtypes: Dtype | Sequence[Dtype], ceilings: DeviceCeilings
    ) -> "Work":
        """dtypes: one for all products, or one for each.

        Raises MedusaBenchError for a dtype without a peak.
        """
        if isinstance(dtypes, Dtype):
            dtypes = [dtypes] * len(products)
        peak = ceilings.peaks(dtypes)
        element_bytes = np.array([float(dtype.bytes_per_element) for dtype in dtypes])
        bandwidth = ceilings.memory_bandwidth_bytes_per_s
        tiling = tiles.cheapest_tiling(
            products,
            ceilings.num_sms,
            4 * peak / bandwidth,  # partial sums are float32
        )
        return cls(
            products,
            element_bytes,
            memory_s=products.num_elements * element_bytes / bandwidth,
            compute_s=products.flops / peak,
            tiled_s=tiling.work_flops / peak,
            partial_s=4 * tiling.partial_elements / bandwidth,
        )

    def features(self, parameters: Parameters, ceilings: DeviceCeilings) -> FloatArray:
        """What a correction is learned from: logarithms, shape (num_products, columns)."""
        p = self.products
        memory_s, tiled_s = self._times(parameters)
        element = self.element_bytes
        columns = [
            np.log(p.m),
            np.log(p.n),
            np.log(p.k),
            np.log(p.batch),
            np.log(memory_s / tiled_s),
            np.log(_overlapped(memory_s, tiled_s) / parameters.launch_s),
            np.log(self.tiled_s / self.compute_s),
            np.log(element * p.batch * p.n * p.k / ceilings.l2_bytes),
            np.log(element * p.batch * p.m * p.n / ceilings.l2_bytes),
            *tiles.features(p, ceilings.num_sms),
        ]
        return np.stack(columns, axis=1)

    def _times(self, parameters: Parameters) -> tuple[FloatArray, FloatArray]:
        memory_s = self.memory_s / parameters.bandwidth_efficiency
        tiled_s = (
            self.tiled_s / parameters.compute_efficiency
            + self.partial_s / parameters.bandwidth_efficiency
        )
        return memory_s, tiled_s

    def latency_s(self, parameters: Parameters) -> FloatArray:
        """The formula without a correction."""
        return parameters.launch_s + _overlapped(*self._times(parameters))

    def parts(self, parameters: Parameters) -> "Parts":
        """The formula's latency, split; nothing is unexplained yet."""
        memory_s, tiled_s = self._times(parameters)
        compute_s = self.compute_s / parameters.compute_efficiency
        untiled_s = _overlapped(memory_s, compute_s)
        share = memory_s**OVERLAP / (memory_s**OVERLAP + compute_s**OVERLAP)
        return Parts(
            launch_s=np.full(len(self.products), parameters.launch_s),
            bandwidth_s=untiled_s * share,
            compute_s=untiled_s * (1 - share),
            tile_s=_overlapped(memory_s, tiled_s) - untiled_s,
            unexplained_s=np.zeros(len(self.products)),
        )


def _overlapped(memory_s: FloatArray, compute_s: FloatArray) -> FloatArray:
    larger = np.maximum(memory_s, compute_s)
    smaller = np.minimum(memory_s, compute_s)
    return larger * (1 + (smaller / larger) ** OVERLAP) ** (1 / OVERLAP)


@dataclass(frozen=True, slots=True)
class Parts:
    """A latency's parts, columns of shape (num_products,); they sum to the latency.

    unexplained_s may be negative: what the formula is over the prediction or the measurement.
    """

    launch_s: FloatArray
    bandwidth_s: FloatArray
    compute_s: FloatArray
    tile_s: FloatArray
    unexplained_s: FloatArray

    @property
    def explained_s(self) -> FloatArray:
        return self.launch_s + self.bandwidth_s + self.compute_s + self.tile_s

    @property
    def bound(self) -> NDArray[np.str_]:
        """The largest explained part: launch, memory, or compute with its tile loss."""
        parts = np.stack([self.launch_s, self.bandwidth_s, self.compute_s + self.tile_s])
        bound: NDArray[np.str_] = np.array(BOUNDS)[parts.argmax(0)]
        return bound

    def against(self, latency_s: FloatArray) -> "Parts":
        """The same parts, with what is missing to latency_s as unexplained."""
        return replace(self, unexplained_s=latency_s - self.explained_s)


@dataclass(frozen=True, slots=True)
class Interval:
    """5 % and 95 % quantiles of log(true / predicted) on points that were not fitted, by bound."""

    low: tuple[float, float, float] = (0.0, 0.0, 0.0)
    high: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def around(
        self, latency_s: FloatArray, bound: NDArray[np.str_]
    ) -> tuple[FloatArray, FloatArray]:
        index = np.select([bound == BOUNDS[0], bound == BOUNDS[1]], [0, 1], 2)
        low, high = np.exp(np.array(self.low))[index], np.exp(np.array(self.high))[index]
        return latency_s * low, latency_s * high

    def halfway_to(self, other: "Interval") -> "Interval":
        """The quantiles halfway between two intervals'."""
        low = [(a + b) / 2 for a, b in zip(self.low, other.low, strict=True)]
        high = [(a + b) / 2 for a, b in zip(self.high, other.high, strict=True)]
        return Interval((low[0], low[1], low[2]), (high[0], high[1], high[2]))


@dataclass(frozen=True, slots=True)
class Residual:
    """One fitted point: what was measured and what the calibration says."""

    product: Product
    dtype: Dtype
    latency_s: float
    fitted_s: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A device as one way of timing sees it: ceilings, parameters, correction, interval, origin.

    `error` is the mean absolute error, a share, on points that were not fitted; `evidence` says
    in words which points those were.
    """

    device: str  # a profile's name, or the device's own
    timing: Timing
    ceilings: DeviceCeilings
    parameters: Parameters
    interval: Interval
    source: str
    command: str
    num_points: int
    error: float
    evidence: str
    forest: boosting.Forest | None = None
    process: GaussianProcess | None = None
    residuals: tuple[Residual, ...] = ()  # of a calibration to few points

    def work(self, products: Products, dtypes: Dtype | Sequence[Dtype]) -> Work:
        return Work.of(products, dtypes, self.ceilings)

    def predict(self, work: Work) -> "Explained":
        """Latencies with their parts and 90 % interval."""
        parts = work.parts(self.parameters)
        latency_s = parts.explained_s
        features = work.features(self.parameters, self.ceilings)
        spread = np.zeros(len(latency_s))
        if self.forest is not None:
            latency_s = latency_s * np.exp(self.forest.predict(features))
        if self.process is not None:
            mean, variance = self.process.predict(features * FEATURE_SCALES)
            latency_s = latency_s * np.exp(mean)
            spread = NORMAL_90 * np.sqrt(variance)
        bound = parts.bound
        low_s, high_s = self.interval.around(latency_s, bound)
        if self.process is not None:
            low_s, high_s = low_s * np.exp(-spread), high_s * np.exp(spread)
        return Explained(latency_s, low_s, high_s, parts.against(latency_s))


NORMAL_90 = 1.645  # standard deviations that hold 90 % of a normal distribution


@dataclass(frozen=True, slots=True)
class Explained(Latencies):
    """Columns of shape (num_products,), with the parts that sum to latency_s."""

    parts: Parts
