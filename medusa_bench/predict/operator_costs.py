"""What a pass's experts and attention cost by laws of their own, in place of their products.

Grouped products over experts run as one kernel with routing and summing around it, and absorbed
latent attention as one that reads its cache once: single products say neither. So do grouped heads
where a pass counts attention as one kernel.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medusa_bench.predict import operator_laws
from medusa_bench.predict.latency import Calibrated, LatencyModel, Predictions
from medusa_bench.predict.operator_laws import Attention, ExpertProducts, Kind, Latent
from medusa_bench.results.rows import Timing
from medusa_bench.specs import profiles
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import BY_NAME, Operator
from medusa_bench.specs.shapes import ModelShape

_EXPERTS = ("expert_up", "expert_gate", "expert_down")
_LATENT = ("qk_latent", "pv_latent")
_FUSED = {"fused_attention": "s", "fused_window": "w"}  # and the cached tokens that each reads
# Rows of kernels of these weights stand for a scheme; 4-bit formats of integers are alike.
_WEIGHT_ROWS = {
    "fp8": "fp8_block",
    "fp8-block": "fp8_block",
    "int4": "int4_wo",
    "nf4": "int4_wo",
    "nvfp4": "int4_wo",
    "mxfp4": "w4a16_mxfp4",
}
_HALVES = frozenset({Dtype.FLOAT16, Dtype.BFLOAT16})


def of_pass(
    shape: ModelShape,
    operators: Sequence[tuple[Operator, float]],
    size: Mapping[str, Any],
    latency: LatencyModel,
    dtype: Dtype,
) -> tuple[list[tuple[float, Predictions]], frozenset[str]]:
    """Predictions of shape (settings,) with how often a pass runs each, and the names of the
    operators that they stand for; nothing where no law tells, as of a folder's measurements.

    size: the table's symbols, as specs.operators.symbols gives them for many settings.
    """
    found, names = [], set[str]()
    times = {operator.name: count for operator, count in operators}
    device = _device(latency)
    if not device or dtype not in _HALVES:
        return [], frozenset()
    for parts in (_EXPERTS, _LATENT, *((name,) for name in _FUSED)):
        if parts[0] not in times:
            continue
        if predicted := _predicted(parts[0], shape, size, device):
            found += [(share * times[parts[0]], each) for share, each in predicted]
            names |= set(parts)
    return found, frozenset(names)


_Shared = list[tuple[float, Predictions]]  # with the share of the layers that each is of


def _predicted(name: str, shape: ModelShape, size: Mapping[str, Any], device: str) -> _Shared:
    """What the operators that begin with this one take; nothing where no law tells."""
    if name in _FUSED:
        return _attention(size[_FUSED[name]], shape, size, device)
    return _experts(shape, size, device) if name in _EXPERTS else _latent(shape, size, device)


def _device(latency: LatencyModel) -> str:
    """The profile of a GPU whose kernels are predicted as such; "" of others."""
    is_kernel = isinstance(latency, Calibrated) and latency.calibration.timing is Timing.KERNEL
    return latency.device if is_kernel and latency.device in profiles.names() else ""


def _experts(shape: ModelShape, size: Mapping[str, Any], device: str) -> _Shared:
    """By the schemes of the weights."""
    tokens = np.asarray(size["b"] * size["q"], dtype=np.float64)
    one = np.ones_like(tokens)
    num_products = 3.0 if BY_NAME["expert_gate"].num_layers(shape) else 2.0
    found = []
    for scheme, share in BY_NAME["expert_up"].formats(shape):
        rows = "bfloat16" if scheme is None else _WEIGHT_ROWS.get(scheme.kernel)
        asked = ExpertProducts(
            tokens,
            size["u"] * one,
            size["u"] * size["r"] / tokens,  # of those on this GPU
            size["eh"] * one,
            size["e"] * one,
            num_products * one,
            2.0 if scheme is None else scheme.bytes_per_weight,
        )
        each = operator_laws.predict(Kind.EXPERTS, asked, device, rows) if rows else None
        if each is None:
            return []
        found.append((share, each))
    return found


def _latent(shape: ModelShape, size: Mapping[str, Any], device: str) -> _Shared:
    bits, latent = _cache_bits(shape), shape.latent
    one = np.ones_like(np.asarray(size["b"] * size["q"] * size["s"], dtype=np.float64))
    if latent is None or bits not in _CACHE_ROWS:
        return []
    asked = Latent(
        size["b"] * one,
        size["q"] * one,
        size["s"] * one,
        shape.num_heads * one,
        float(latent.kv_rank),
        float(latent.rope_dim),
        bits / 8,
    )
    found = operator_laws.predict(Kind.LATENT, asked, device, _CACHE_ROWS[bits])
    return [] if found is None else [(1.0, found)]


def _attention(keys: Any, shape: ModelShape, size: Mapping[str, Any], device: str) -> _Shared:
    bits = _cache_bits(shape)
    one = np.ones_like(np.asarray(size["b"] * size["q"] * keys, dtype=np.float64))
    if bits not in _CACHE_ROWS:
        return []
    asked = Attention(
        size["b"] * one,
        size["q"] * one,
        keys * one,
        shape.num_heads * one,
        shape.num_kv_heads * one,
        shape.head_dim * one,
        bits / 8,
    )
    found = operator_laws.predict(Kind.ATTENTION, asked, device, _CACHE_ROWS[bits])
    return [] if found is None else [(1.0, found)]


_CACHE_ROWS = {16: "bfloat16", 8: "fp8"}


def _cache_bits(shape: ModelShape) -> int:
    return (shape.quantised and shape.quantised.cache_bits) or 16
