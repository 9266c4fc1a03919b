"""Latency models: a product's latency with a 90 % interval, its source, and what binds it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medusa_bench.dtypes import Dtype
from medusa_bench.measurements import Provenance

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Products:
    """Many matrix products as columns, each of shape (num_products,): see operators.Product."""

    batch: FloatArray
    m: FloatArray
    n: FloatArray
    k: FloatArray


@dataclass(frozen=True, slots=True)
class Predictions:
    """Columns of shape (num_products,). low_s and high_s are the 90 % interval of latency_s."""

    latency_s: FloatArray
    low_s: FloatArray
    high_s: FloatArray
    bound: NDArray[np.str_]  # "launch", "memory" or "compute": the largest part
    source: NDArray[np.str_]  # e.g. "calibrated: h100", "measured", "interpolated", "prior: ada"


class LatencyModel(Protocol):
    """Anything that tells how long matrix products take on one device."""

    name: str  # shown beside every number that rests on it
    device: str
    provenance: Provenance

    def predict(self, products: Products, dtype: Dtype) -> Predictions:
        """Latencies of many products at once. Raises MedusaBenchError for a dtype it has not."""
        ...
