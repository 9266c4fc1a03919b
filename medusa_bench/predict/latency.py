"""Latency models: a product's latency with a 90 % interval, its source, and what binds it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medusa_bench.predict.calibration import (
    Calibration,
    DeviceCeilings,
    Parts,
    Work,
)
from medusa_bench.results.rows import Provenance
from medusa_bench.specs.columns import Latencies, Products
from medusa_bench.specs.dtypes import Dtype


@dataclass(frozen=True, slots=True)
class Predictions(Latencies):
    """Columns of shape (num_products,). The parts sum to latency_s."""

    bound: NDArray[np.str_]  # "launch", "memory" or "compute": the largest part
    source: NDArray[np.str_]  # e.g. "calibrated: h100-sxm (...)", "measured", "prior: ada"
    parts: Parts


class LatencyModel(Protocol):
    """Anything that tells how long matrix products take on one device."""

    @property
    def name(self) -> str:
        """Shown beside every number that rests on it."""
        ...

    @property
    def device(self) -> str: ...

    @property
    def provenance(self) -> Provenance: ...

    def predict(self, products: Products, dtype: Dtype) -> Predictions:
        """Latencies of many products at once. Raises MedusaBenchError for a dtype it has not."""
        ...


@dataclass(frozen=True, slots=True)
class Roofline:
    """The bare roofline: the larger of bytes over bandwidth and FLOPs over peak. A lower bound.

    It claims no interval: low_s and high_s are latency_s.
    """

    device: str
    ceilings: DeviceCeilings

    @property
    def name(self) -> str:
        return f"roofline: {self.device}"

    @property
    def provenance(self) -> Provenance:
        return Provenance.PREDICTED

    def predict(self, products: Products, dtype: Dtype) -> Predictions:
        return self.under(Work.of(products, dtype, self.ceilings))

    def under(self, work: Work) -> Predictions:
        """The roof over what products ask of the device, however their operands are stored."""
        latency_s = np.maximum(work.memory_s, work.compute_s)
        zero = np.zeros(len(latency_s))
        memory = work.memory_s >= work.compute_s
        parts = Parts(
            launch_s=zero,
            bandwidth_s=np.where(memory, latency_s, 0.0),
            compute_s=np.where(memory, 0.0, latency_s),
            tile_s=zero,
            unexplained_s=zero,
        )
        source = np.full(len(latency_s), self.name)
        return Predictions(latency_s, latency_s, latency_s, parts.bound, source, parts)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibration at work; `name` says whose it is: this device's, a sibling's or a family's.

    float8: the one of float8 products, whose kernels are others.
    """

    name: str
    device: str
    calibration: Calibration
    float8: Calibration | None = None

    @property
    def provenance(self) -> Provenance:
        return Provenance.PREDICTED

    def predict(self, products: Products, dtype: Dtype) -> Predictions:
        calibration, name = self.calibration, self.name
        if dtype is Dtype.FLOAT8 and self.float8 is not None:
            calibration, name = self.float8, f"float8: {self.float8.source}"
        found = calibration.predict(calibration.work(products, dtype))
        return Predictions(
            found.latency_s,
            found.low_s,
            found.high_s,
            found.parts.bound,
            np.full(len(products), name),
            found.parts,
        )
