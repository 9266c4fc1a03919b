"""How long products with quantised weights take: the formula of calibration.py, by scheme.

Weights cross memory as they are stored and are widened on the way to the matrix units, so that
memory needs less and compute does not: a product leaves the roof of memory at fewer rows, and the
overhead of verification grows. Kernels of a scheme reach shares of the ceilings of their own.

Fitted to aiconfigurator's rows (Apache-2.0, commit 095f58a: TensorRT-LLM 1.0.0 on an A100, SGLang
0.5.14 and 0.5.6 and TensorRT-LLM 1.3.0 on an H100), one half of the shapes (n, k), drawn with seed
0; the error is on the other half. `python -m tools.fit_quantised` prints the table again. What is
of no row of it (4-bit formats of blocks) takes the nearest scheme's, and the source says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.predict.calibration import (
    Calibration,
    DeviceCeilings,
    Interval,
    Parameters,
    Parts,
    Work,
)
from medusa_bench.predict.interpolation import Measured
from medusa_bench.predict.latency import Calibrated, LatencyModel, Predictions, Roofline
from medusa_bench.specs.columns import Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.profiles import profile_of
from medusa_bench.specs.schemes import CACHE, CONVOLUTION, FUSED, NEW_STATE, STATE, Scheme


@dataclass(frozen=True, slots=True)
class Kernels:
    """What the kernels of a scheme reach on one GPU. error: mean absolute, a share, on the shapes
    that were not fitted; interval: of those rows."""

    device: str
    parameters: Parameters
    interval: Interval
    error: float
    clock_hz: float


FITTED: Mapping[tuple[str, str], Kernels] = {
    ("a100-80gb-sxm", "int4"): Kernels(  # 2,730 rows
        "a100-80gb-sxm",
        Parameters(1.5e-05, 0.87, 0.801),
        Interval((-0.32, -0.22, -0.09), (0.61, 0.10, 0.19)),
        0.143,
        1.41e9,
    ),
    ("a100-80gb-sxm", "int8"): Kernels(  # 2,730 rows
        "a100-80gb-sxm",
        Parameters(1.37e-05, 0.846, 0.845),
        Interval((-0.27, -0.13, -0.09), (0.57, 0.30, 0.15)),
        0.126,
        1.41e9,
    ),
    ("h100-sxm", "fp8"): Kernels(  # 3,000 rows
        "h100-sxm",
        Parameters(5.84e-06, 0.782, 0.605),
        Interval((-0.28, -0.10, -0.19), (0.54, 0.46, 0.23)),
        0.135,
        1.83e9,
    ),
    ("h100-sxm", "fp8-block"): Kernels(  # 3,000 rows
        "h100-sxm",
        Parameters(5.33e-06, 0.776, 0.534),
        Interval((-0.23, -0.11, -0.13), (0.58, 0.38, 0.30)),
        0.135,
        1.83e9,
    ),
    ("h100-sxm", "int8"): Kernels(  # 3,000 rows
        "h100-sxm",
        Parameters(2.54e-05, 0.763, 0.46),
        Interval((-0.20, -0.07, -0.49), (0.63, 0.09, 1.36)),
        0.202,
        1.83e9,
    ),
}

# The scheme whose kernels stand for one without rows.
_NEAREST = {"mxfp4": "int4", "nvfp4": "int4", "nf4": "int4"}
_LIKE_AMPERE = frozenset({"volta", "turing", "ampere", "ada"})
# fp8 keys and values take .65 to .70 of bf16's time where half would be ideal (H100, FlashInfer and
# FA3 rows of aiconfigurator): the share of the bandwidth of 16 bits that their kernels reach.
_CACHE_SHARE = 0.75
_NARROW_BITS = 8
# One kernel updates a state and reads it: 4.5 us and .89 of the bandwidth, a convolution 1.9 us
# (aiconfigurator's rows of gated delta nets on an H100). The update has no launch of its own.
_STATE_LAUNCHES_S = {STATE.kernel: 4.5e-6, NEW_STATE.kernel: 1e-9, CONVOLUTION.kernel: 1.9e-6}
_STATE_SHARE, _STATE_CLOCK_HZ = 0.89, 1830e6


def predict_stored(
    latency: LatencyModel,
    products: Products,
    dtype: Dtype,
    schemes: Sequence[Scheme | None],
    stored: NDArray[np.int64],
) -> Predictions:
    """Latencies of products whose right operands are stored in schemes[stored], shape (products,).

    Raises MedusaBenchError for a dtype or a scheme that a latency model cannot tell.
    """
    if len(schemes) == 1:
        return latency.predict(products, dtype)
    found = []
    rows = [np.flatnonzero(stored == code) for code in range(len(schemes))]
    for scheme, chosen in zip(schemes, rows, strict=True):
        if len(chosen):
            found.append((chosen, predict(latency, products[chosen], dtype, scheme)))
    order = np.argsort(np.concatenate([chosen for chosen, _ in found]))
    return joined([each for _, each in found], order)


def joined(found: Sequence[Predictions], order: NDArray[np.int64]) -> Predictions:
    """Several predictions as one, rows of all of them in this order."""

    def column(of: Sequence[object], name: str) -> NDArray[Any]:
        joined: NDArray[Any] = np.concatenate([getattr(each, name) for each in of])[order]
        return joined

    parts = [each.parts for each in found]
    return Predictions(
        column(found, "latency_s"),
        column(found, "low_s"),
        column(found, "high_s"),
        column(found, "bound"),
        column(found, "source"),
        Parts(*(column(parts, each.name) for each in fields(Parts))),
    )


def predict(
    latency: LatencyModel, products: Products, dtype: Dtype, scheme: Scheme | None
) -> Predictions:
    """Latencies of products whose right operand is stored in a scheme. Raises as above."""
    if scheme is None:
        return latency.predict(products, dtype)
    if isinstance(latency, Roofline):
        work = work_of(products, scheme, dtype, latency.ceilings)
        return latency.under(work)
    if isinstance(latency, Calibrated | Measured):
        calibration, source = _calibration(latency.calibration, scheme)
        work = work_of(products, scheme, dtype, calibration.ceilings)
        found = calibration.predict(work)
        names = np.full(len(products), source)
        return Predictions(
            found.latency_s, found.low_s, found.high_s, found.parts.bound, names, found.parts
        )
    raise MedusaBenchError(f"{latency.name} cannot tell how long products of {scheme} take.")


def work_of(products: Products, scheme: Scheme, dtype: Dtype, ceilings: DeviceCeilings) -> Work:
    """What the products ask of a device: rows are multiplied in the scheme's activations, where the
    device has that format, else in dtype.

    Quantising activations reads and writes them once more.
    """
    narrow = scheme.activations if scheme.activations in ceilings.peak_flops_per_s else None
    work = Work.of(products, narrow or dtype, ceilings)
    wide = dtype.bytes_per_element
    p = products
    rows = p.batch * p.m * p.k * (wide + 2 * narrow.bytes_per_element if narrow else wide)
    right, result = p.batch * p.k * p.n, p.batch * p.m * p.n
    if scheme == NEW_STATE:
        right, result = result, right
    if scheme.kernel == FUSED:
        result = p.batch * p.m * p.k
    moved = right * scheme.bytes_per_weight + rows + result * wide
    work = replace(work, memory_s=moved / ceilings.memory_bandwidth_bytes_per_s)
    # A state's small products run on no matrix units: no tiles, no split sums.
    return replace(work, tiled_s=work.compute_s, partial_s=0 * moved) if _is_state(scheme) else work


def _is_state(scheme: Scheme) -> bool:
    return scheme.kernel in _STATE_LAUNCHES_S


def _calibration(own: Calibration, scheme: Scheme) -> tuple[Calibration, str]:
    """The calibration of a scheme's kernels on a calibration's device, and whose it is."""
    if _is_state(scheme):
        launch_s = _STATE_LAUNCHES_S[scheme.kernel] * _STATE_CLOCK_HZ / own.ceilings.clock_hz
        parameters = Parameters(
            launch_s,
            _STATE_SHARE,
            own.parameters.compute_efficiency,
        )
        plain = replace(own, parameters=parameters, forest=None, process=None)
        return plain, "state: prior, h100-sxm (aiconfigurator)"
    if scheme.kernel == FUSED and scheme.bits > _NARROW_BITS:
        return replace(own, forest=None, process=None), f"fused attention: {own.source}"
    if scheme.kernel in {CACHE, FUSED}:
        parameters = replace(
            own.parameters,
            bandwidth_efficiency=_CACHE_SHARE * own.parameters.bandwidth_efficiency,
        )
        plain = replace(own, parameters=parameters, forest=None, process=None)
        return plain, f"{scheme.bits:.0f}-bit cache: {own.source}"
    kernels, words = _kernels(own, scheme)
    launch_s = kernels.parameters.launch_s * kernels.clock_hz / own.ceilings.clock_hz
    launch_s = max(launch_s, own.parameters.launch_s)  # of calls that are launched one by one
    return (
        replace(
            own,
            parameters=replace(kernels.parameters, launch_s=launch_s),
            interval=kernels.interval,
            forest=None,
            process=None,
        ),
        f"{scheme.kernel}: {words}",
    )


def _kernels(own: Calibration, scheme: Scheme) -> tuple[Kernels, str]:
    """Those of the same GPU, else of the nearer of the GPUs that have rows, else of another scheme;
    and in words."""
    kernel = scheme.kernel
    if scheme.activations and scheme.activations not in own.ceilings.peak_flops_per_s:
        kernel = "int8"  # weights alone: widened to 16 bits as integers are
    kernel = _NEAREST.get(kernel, kernel)
    nearest = "a100-80gb-sxm" if _family(own.device) in _LIKE_AMPERE else "h100-sxm"
    devices = [device for device, each in FITTED if each == kernel]
    device = nearest if nearest in devices else devices[0]
    found = FITTED[device, kernel]
    as_if = "" if kernel == scheme.kernel else f" as {kernel}"
    whose = "fitted" if found.device == own.device else "prior"
    return found, f"{whose}{as_if}, {found.device} (aiconfigurator)"


def _family(device: str) -> str:
    try:
        return profile_of(device).family
    except MedusaBenchError:  # measured on what has no profile
        return ""
