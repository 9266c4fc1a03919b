"""Linear layers whose weights a library has laid out for few rows, as decoding has them.

A decoding step multiplies every weight with a handful of rows, and a CPU's plain matrix product is
at its worst there. Packing is for vanilla and every other method alike: they share the model.
"""

import time
from collections.abc import Callable
from enum import StrEnum
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.decode.engine.clock import Clock

_FLOAT16_MAX = 65504.0
_TRIED_LAYERS, _TRIED_ROUNDS = 28, 6  # four layers of a Llama
_ROWS = 16  # the rows that oneDNN is told to lay weights out for


class Packing(StrEnum):
    """How linear layers hold their weights."""

    NONE = "none", "as torch's own linear layer"
    ONEDNN = "onednn", "in oneDNN's own layout; float32, bfloat16 where the CPU has it"
    FLOAT16 = "float16", "FBGEMM: float16 weights, float32 rows and sums; half the traffic"

    meaning: str

    def __new__(cls, value: str, meaning: str) -> "Packing":
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class PackedLinear(nn.Module):
    """x W^T + bias with W (out_features, in_features) held in a library's layout."""

    def __init__(self, linear: nn.Linear, packing: Packing) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packing = packing
        bias = None if linear.bias is None else linear.bias.detach()
        self._multiply = _packed(linear.weight.detach(), bias, packing)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return self._multiply(x)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.packing}"


def _packed(weight: Tensor, bias: Tensor | None, packing: Packing) -> Callable[[Tensor], Tensor]:
    ops: Any = torch.ops
    match packing:
        case Packing.NONE:
            return lambda x: nn.functional.linear(x, weight, bias)
        case Packing.ONEDNN:
            laid_out = ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
            linear = ops.mkldnn._linear_pointwise
            return lambda x: linear(x, laid_out, bias, "none", [], "")
        case Packing.FLOAT16:
            packed = ops.quantized.linear_prepack_fp16(weight.float().contiguous(), bias)
            return lambda x: ops.quantized.linear_dynamic_fp16(x, packed)


def pack(model: nn.Module, packing: Packing) -> None:
    """Replace every linear layer of a model, its LM head included, by a packed one, in place.

    Raises MedusaBenchError where this machine, device or dtype has no such packing.
    """
    if packing is Packing.NONE:
        return
    linears = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module.weight.numel()
    }
    for name, linear in linears.items():
        _check(name, linear.weight.detach(), packing)
    packed = {id(linear): PackedLinear(linear, packing) for linear in linears.values()}
    for name, linear in linears.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, packed[id(linear)])


def _check(name: str, weight: Tensor, packing: Packing) -> None:
    mkldnn: Any = torch.ops.mkldnn
    if packing is Packing.NONE:
        return
    if weight.device.type != "cpu":
        raise MedusaBenchError(
            f"Packed weights are for CPUs, and the model is on {weight.device}.",
            hint="leave --packing out.",
        )
    dtype = str(weight.dtype).removeprefix("torch.")
    match packing:
        case Packing.ONEDNN:
            if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
                raise MedusaBenchError("This build of torch has no oneDNN.")
            has_bfloat16 = weight.dtype == torch.bfloat16 and mkldnn._is_mkldnn_bf16_supported()
            if weight.dtype != torch.float32 and not has_bfloat16:
                raise MedusaBenchError(
                    f"oneDNN cannot pack {dtype} weights on this CPU.",
                    hint="use --dtype float32 or --packing float16.",
                )
        case Packing.FLOAT16:
            if "fbgemm" not in torch.backends.quantized.supported_engines:
                raise MedusaBenchError("This build of torch has no FBGEMM.")
            if weight.dtype != torch.float32:
                raise MedusaBenchError(
                    f"FBGEMM multiplies float32 rows with float16 weights; the model is {dtype}.",
                    hint="use --dtype float32.",
                )
            if not float(weight.abs().max()) < _FLOAT16_MAX:
                raise MedusaBenchError(
                    f"{name} has weights past {_FLOAT16_MAX:g}, the largest float16.",
                    hint="use --packing onednn.",
                )


def fastest(model: nn.Module, *, num_rows: int = 4, clock: Clock = time.perf_counter) -> Packing:
    """The packing in which a model's first layers multiply a few rows soonest, here and now.

    Packing.NONE where a model is on a GPU, or in a dtype that no packing takes.
    """
    linears = [module for module in model.modules() if type(module) is nn.Linear][:_TRIED_LAYERS]
    times_s = {}
    for packing in Packing:
        try:
            for linear in linears:
                _check("a layer", linear.weight.detach(), packing)
        except MedusaBenchError:
            continue
        if linears and linears[0].weight.device.type != "cpu":
            return Packing.NONE
        packed = [PackedLinear(linear, packing) for linear in linears]
        rows = [
            torch.randn(1, num_rows, one.in_features, dtype=linears[0].weight.dtype)
            for one in packed
        ]
        with torch.inference_mode():
            rounds_s = []
            for _ in range(_TRIED_ROUNDS):
                start_s = clock()
                for layer, x in zip(packed, rows, strict=True):
                    layer(x)
                rounds_s.append(clock() - start_s)
        times_s[packing] = median(rounds_s[1:])
    return min(times_s, key=times_s.__getitem__, default=Packing.NONE)
