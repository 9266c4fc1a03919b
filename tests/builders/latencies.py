"""Latency models whose answers a test can work out by hand."""

from dataclasses import dataclass

import numpy as np

from medusa_bench.predict.calibration import Parts
from medusa_bench.predict.latency import Predictions
from medusa_bench.results.rows import Provenance
from medusa_bench.specs.columns import Products
from medusa_bench.specs.dtypes import Dtype


@dataclass(frozen=True)
class SmoothLatency:
    """t0 + sqrt((bytes / bandwidth)^2 + (flops / peak)^2), within +- spread (a share)."""

    launch_s: float = 33e-6  # the paper's harness
    bandwidth_bytes_per_s: float = 0.80 * 1.935e12  # A100 80 GB PCIe, the share it reaches
    peak_flops_per_s: float = 0.75 * 312e12
    spread: float = 0.0
    name: str = "smooth"
    device: str = "fake-a100"
    provenance: Provenance = Provenance.PREDICTED

    def predict(self, products: Products, dtype: Dtype) -> Predictions:
        b, m, n, k = products.batch, products.m, products.n, products.k
        memory_s = (
            b * (m * k + k * n + m * n) * dtype.bytes_per_element / self.bandwidth_bytes_per_s
        )
        compute_s = 2 * b * m * n * k / self.peak_flops_per_s
        latency_s = self.launch_s + np.hypot(memory_s, compute_s)
        launch_s, zero = np.full_like(memory_s, self.launch_s), np.zeros_like(memory_s)
        largest = np.stack([launch_s, memory_s, compute_s]).argmax(axis=0)
        return Predictions(
            latency_s,
            latency_s / (1 + self.spread),
            latency_s * (1 + self.spread),
            np.array(["launch", "memory", "compute"])[largest],
            np.full(len(m), self.name),
            Parts(launch_s, memory_s, np.hypot(memory_s, compute_s) - memory_s, zero, zero),
        )


@dataclass(frozen=True)
class LinearInRows:
    """1 us per row m of any product, on top of fixed_s: overheads can be counted by hand."""

    fixed_s: float = 0.0
    per_row_s: float = 1e-6
    name: str = "linear in rows"
    device: str = "fake"
    provenance: Provenance = Provenance.MEASURED

    def predict(self, products: Products, dtype: Dtype) -> Predictions:
        latency_s = self.fixed_s + self.per_row_s * products.m
        return Predictions(
            latency_s,
            latency_s,
            latency_s,
            np.full(len(products.m), "memory"),
            np.full(len(products.m), self.name),
            Parts(*[np.zeros_like(latency_s)] * 4, unexplained_s=latency_s),
        )


FREE_VERIFICATION = LinearInRows(fixed_s=10e-6, per_row_s=0.0)
