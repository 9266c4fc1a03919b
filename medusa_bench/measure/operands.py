"""Where operands live: one arena filled once, and cold views into it that rotate.

No allocation and no fill per point. Zeros would run 10 to 13 % too fast where compute binds, and
operands that stay in a cache look up to 6 times faster than memory allows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

STORAGE: dict[Dtype, torch.dtype] = {
    Dtype.FLOAT32: torch.float32,
    Dtype.TF32: torch.float32,
    Dtype.FLOAT16: torch.float16,
    Dtype.BFLOAT16: torch.bfloat16,
    Dtype.FLOAT8: torch.float8_e4m3fn,
}
# Float8 products are written in bfloat16: no library returns them in float8 unscaled.
RESULT: dict[Dtype, torch.dtype] = {**STORAGE, Dtype.FLOAT8: torch.bfloat16}

_ALIGNMENT_BYTES = 256
_TILE_ELEMENTS = 4_000_037  # a prime, so that no operand repeats in step with its rows
_SEED = 2401_10774


def rhs_is_transposed(product: Product) -> bool:
    """Whether the right operand is stored (n, k) rather than (k, n), as a transformer stores it.

    Weights of linear layers are (n, k), and so are the keys of QK^T, where k (the head) is the
    shorter side. The values of PV, with k (the sequence) the longer side, are (k, n).
    """
    return product.batch == 1 or product.k <= product.n


class OperandSet(NamedTuple):
    """lhs (batch, m, k), rhs (batch, k, n) and out (batch, m, n); without batch where it is 1."""

    lhs: torch.Tensor
    rhs: torch.Tensor
    out: torch.Tensor


class Arena:
    """Two flat buffers for each dtype: random inputs, and room for results."""

    def __init__(
        self,
        device: torch.device,
        capacity_bytes: int,
        available_bytes: Callable[[], int | None],
    ) -> None:
        self._device = device
        self.capacity_bytes = capacity_bytes
        self._available_bytes = available_bytes
        self._inputs: dict[torch.dtype, torch.Tensor] = {}
        self._results: dict[torch.dtype, torch.Tensor] = {}

    def release(self) -> None:
        """Give all memory back."""
        self._inputs.clear()
        self._results.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def make_room(
        self,
        inputs: tuple[torch.dtype, int],
        results: tuple[torch.dtype, int],
        call_bytes: int = 0,
    ) -> None:
        """Give all back where inputs and results would not fit beside what earlier products took.

        inputs, results: what is asked for next, as (dtype, elements); call_bytes: what the call
        itself will allocate. Afterwards no one holds a buffer that has to go.
        """
        dtype, num_elements = inputs
        num_elements = max(num_elements, self.capacity_bytes // dtype.itemsize)
        more_bytes = (
            _growth_bytes(self._inputs, dtype, num_elements)
            + _growth_bytes(self._results, *results)
            + call_bytes
        )
        if more_bytes and not self._fits(more_bytes):
            self.release()

    def inputs(self, dtype: torch.dtype, num_elements: int) -> torch.Tensor:
        """At least num_elements numbers from N(0, 1), flat. Raises MemoryError."""
        buffer = self._inputs.get(dtype)
        if buffer is None or buffer.numel() < num_elements:
            num_elements = max(num_elements, self.capacity_bytes // dtype.itemsize)
            del buffer
            self._inputs.pop(dtype, None)
            buffer = self._inputs[dtype] = self._allocate(dtype, num_elements)
            _fill(buffer)
        return buffer

    def results(self, dtype: torch.dtype, num_elements: int) -> torch.Tensor:
        """Room for at least num_elements, flat. Raises MemoryError."""
        buffer = self._results.get(dtype)
        if buffer is None or buffer.numel() < num_elements:
            del buffer
            self._results.pop(dtype, None)
            buffer = self._results[dtype] = self._allocate(dtype, num_elements)
            buffer.zero_()  # touches each page now rather than in the first timed call
        return buffer

    def release_large_results(self) -> None:
        """Give back room for results beyond the arena's capacity: calls that allocate need it."""
        for dtype, buffer in list(self._results.items()):
            if buffer.numel() * dtype.itemsize > self.capacity_bytes:
                del self._results[dtype]

    def _allocate(self, dtype: torch.dtype, num_elements: int) -> torch.Tensor:
        needed_bytes = num_elements * dtype.itemsize
        if not self._fits(needed_bytes):
            self.release()
        if not self._fits(needed_bytes):
            raise MemoryError(
                f"needs {needed_bytes / 1e9:.1f} GB more, "
                f"and {(self._available_bytes() or 0) / 1e9:.1f} GB are free"
            )
        return torch.empty(num_elements, dtype=dtype, device=self._device)

    def _fits(self, needed_bytes: int) -> bool:
        # Asked before, as Linux would grant the memory and kill someone when it is touched.
        available_bytes = self._available_bytes()
        return available_bytes is None or needed_bytes <= 0.95 * available_bytes


def _growth_bytes(
    held: dict[torch.dtype, torch.Tensor], dtype: torch.dtype, num_elements: int
) -> int:
    """Bytes to allocate before `held` has num_elements of dtype."""
    buffer = held.get(dtype)
    enough = buffer is not None and buffer.numel() >= num_elements
    return 0 if enough else num_elements * dtype.itemsize


def _fill(buffer: torch.Tensor) -> None:
    """Fill with N(0, 1): a tile drawn once and copied, three times as fast as drawing all."""
    generator = torch.Generator(buffer.device).manual_seed(_SEED)
    size = min(_TILE_ELEMENTS, buffer.numel())
    tile = torch.empty(size, device=buffer.device, dtype=torch.float32)
    tile = tile.normal_(generator=generator).to(buffer.dtype)
    for start in range(0, buffer.numel(), size):
        part = buffer[start : start + size]
        part.copy_(tile[: part.numel()])


@dataclass(slots=True)
class Rotation:
    """An endless supply of operand sets of one product, each cold when its turn comes."""

    product: Product
    inputs: torch.Tensor
    results: torch.Tensor
    has_out: bool
    num_sets: int
    transposed: bool
    _turn: int = 0

    @classmethod
    def of(
        cls, arena: Arena, product: Product, dtype: Dtype, *, has_out: bool = True
    ) -> "Rotation":
        """Sets that fill the arena's capacity, or one set where it is larger than that.

        has_out=False leaves `out` empty, for calls that allocate their result.
        """
        storage, result = STORAGE[dtype], RESULT[dtype]
        lhs, rhs, out = _sizes(product, storage, result)
        set_bytes = (lhs + rhs) * storage.itemsize + out * result.itemsize
        num_sets = max(arena.capacity_bytes // set_bytes, 1)
        if not has_out:
            arena.release_large_results()
        num_inputs, num_results = num_sets * (lhs + rhs), num_sets * out if has_out else 0
        call_bytes = 0 if has_out else out * result.itemsize
        arena.make_room((storage, num_inputs), (result, num_results), call_bytes)
        return cls(
            product,
            arena.inputs(storage, num_inputs),
            arena.results(result, num_results),
            has_out,
            num_sets,
            rhs_is_transposed(product),
        )

    def next(self) -> OperandSet:
        """The next set, as views: nothing is read, written or allocated."""
        p = self.product
        lhs, rhs, out = _sizes(p, self.inputs.dtype, self.results.dtype)
        start = self._turn * (lhs + rhs)
        out_start = self._turn * out
        self._turn = (self._turn + 1) % self.num_sets
        rhs_strides = (1, p.k) if self.transposed else (p.n, 1)
        return OperandSet(
            _view(self.inputs, start, p.batch, (p.m, p.k), (p.k, 1)),
            _view(self.inputs, start + lhs, p.batch, (p.k, p.n), rhs_strides),
            _view(self.results, out_start, p.batch, (p.m, p.n), (p.n, 1))
            if self.has_out
            else self.results[:0],
        )


def _view(
    buffer: torch.Tensor, start: int, batch: int, size: tuple[int, int], strides: tuple[int, int]
) -> torch.Tensor:
    if batch == 1:
        return buffer.as_strided(size, strides, start)
    return buffer.as_strided((batch, *size), (size[0] * size[1], *strides), start)


def _sizes(product: Product, storage: torch.dtype, result: torch.dtype) -> tuple[int, int, int]:
    """Elements of lhs, rhs and out, each rounded up so that the next one starts aligned."""

    def aligned(num_elements: int, dtype: torch.dtype) -> int:
        step = _ALIGNMENT_BYTES // dtype.itemsize
        return -(-num_elements // step) * step

    p = product
    return (
        aligned(p.batch * p.m * p.k, storage),
        aligned(p.batch * p.k * p.n, storage),
        aligned(p.batch * p.m * p.n, result),
    )
