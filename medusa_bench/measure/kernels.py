"""The matrix product itself, by the library call a transformer would make, and its check."""

from collections.abc import Callable
from math import sqrt

import torch

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.measure.operands import OperandSet
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

_SKINNY_ROWS = 16
Call = Callable[[OperandSet], object]


class WrongResultError(Exception):
    """A product that is not the product."""


def into_place(product: Product, dtype: Dtype, device: str) -> Call:
    """The product written into operands.out, for kernel timing: the best call that torch offers.

    device: the kind that torch names, "cpu" or "cuda".
    """
    if dtype is Dtype.FLOAT8:
        scaled = _scaled(product)
        return lambda operands: scaled(operands.lhs, operands.rhs, out=operands.out)
    if is_skinny(product, dtype, device):
        linear = torch.ops.mkldnn._linear_pointwise
        return lambda operands: operands.out.copy_(
            linear(operands.lhs, operands.rhs.t(), None, "none", [], "")
        )
    multiply = torch.mm if product.batch == 1 else torch.bmm
    return lambda operands: multiply(operands.lhs, operands.rhs, out=operands.out)


def is_skinny(product: Product, dtype: Dtype, device: str) -> bool:
    """Whether oneDNN takes a linear operator of few rows, where a CPU's plain product is at its
    worst: of 4 rows with 3072 x 768 weights, 0.76 ms against 1.41 ms on two cores with AVX2."""
    return (
        device == "cpu"
        and dtype is Dtype.FLOAT32
        and product.batch == 1
        and 2 <= product.m <= _SKINNY_ROWS
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def allocating(product: Product, dtype: Dtype) -> Call:
    """The product as eager code calls it: the result is allocated by the call."""
    if dtype is Dtype.FLOAT8:
        scaled = _scaled(product)
        return lambda operands: scaled(operands.lhs, operands.rhs)
    multiply = torch.mm if product.batch == 1 else torch.bmm
    return lambda operands: multiply(operands.lhs, operands.rhs)


def _scaled(product: Product) -> Callable[..., torch.Tensor]:
    if product.batch > 1:
        raise MedusaBenchError("torch has no batched float8 product: attention needs another dtype")
    if product.n % 16 or product.k % 16:
        raise MedusaBenchError(
            f"float8 matrix units need n and k in multiples of 16, not {product.n} and {product.k}"
        )
    one = torch.ones((), device="cuda", dtype=torch.float32)

    def scaled(lhs: torch.Tensor, rhs: torch.Tensor, **out: torch.Tensor) -> torch.Tensor:
        return torch._scaled_mm(lhs, rhs, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, **out)  # type: ignore[arg-type]

    return scaled


# The unit roundoff that dominates a product's error: of TF32's 10-bit operands, else the result's.
_ROUNDOFF: dict[Dtype, float] = {
    Dtype.FLOAT32: 2.0**-23,
    Dtype.TF32: 2.0**-10,
    Dtype.FLOAT16: 2.0**-10,
    Dtype.BFLOAT16: 2.0**-7,
    Dtype.FLOAT8: 2.0**-7,
}
_CHECKED_ROWS = 4
_CHECKED_COLUMNS = 64
_PART_ELEMENTS = 1 << 24


def is_accurate(call: Call, operands: OperandSet, product: Product, dtype: Dtype) -> bool:
    """Whether corners of the result agree with float64 within rounding of this dtype.

    The result is poisoned first, so that what is not written shows. Raises WrongResultError where
    something was not written or the error exceeds a tenth of the result's own size, sqrt(k).
    """
    operands.out.fill_(float("nan"))
    call(operands)
    if not _is_finite(operands.out):
        raise WrongResultError("part of the result was not written, or is not finite")
    error = max(
        float(
            (
                matrix(operands.out)[rows, columns].double()
                - matrix(operands.lhs)[rows].double() @ matrix(operands.rhs)[:, columns].double()
            )
            .abs()
            .max()
        )
        for matrix in (_first, _last)
        for rows in (slice(_CHECKED_ROWS), slice(-_CHECKED_ROWS, None))
        for columns in (slice(_CHECKED_COLUMNS), slice(-_CHECKED_COLUMNS, None))
    )
    relative = error / sqrt(product.k)
    if relative > 0.1:
        raise WrongResultError(f"off from float64 by {relative:.2g} of the result's own size")
    # Of a thousand sums the largest is about 4 sqrt(k); twice that is beyond chance. Partial sums
    # in float32 wander by up to sqrt(k) roundoffs of their own.
    return relative <= 8 * _ROUNDOFF[dtype] + 2 * sqrt(product.k) * _ROUNDOFF[Dtype.FLOAT32]


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all of a contiguous tensor is. By parts, as a result may take half the memory."""
    flat = tensor.view(-1)
    return all(
        bool(torch.isfinite(flat[start : start + _PART_ELEMENTS]).all())
        for start in range(0, flat.numel(), _PART_ELEMENTS)
    )


def _first(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dim() == 2 else tensor[0]


def _last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dim() == 2 else tensor[-1]
