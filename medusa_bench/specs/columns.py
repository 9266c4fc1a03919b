"""Many matrix products, or latencies, as columns of NumPy arrays, under the formulas of one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medusa_bench.specs.latency import Latency
from medusa_bench.specs.operators import Operator, dimensions, symbols
from medusa_bench.specs.products import Product
from medusa_bench.specs.settings import Phase, Setting
from medusa_bench.specs.shapes import ModelShape

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_EXACT = float(1 << 62)  # of whole numbers that int64 holds


@dataclass(frozen=True, slots=True)
class Products:
    """Many matrix products as columns, each of shape (num_products,): see operators.Product."""

    batch: FloatArray
    m: FloatArray
    n: FloatArray
    k: FloatArray

    @classmethod
    def of(cls, products: list[Product]) -> "Products":
        """The columns of a list of products."""
        sizes = np.array([(p.batch, p.m, p.n, p.k) for p in products], dtype=float)
        return cls(*sizes.reshape(-1, 4).T)

    def __len__(self) -> int:
        return len(self.m)

    def __getitem__(self, rows: NDArray[np.generic] | slice) -> "Products":
        return Products(self.batch[rows], self.m[rows], self.n[rows], self.k[rows])

    @property
    def flops(self) -> FloatArray:
        return self._formulas.flops  # type: ignore[return-value]

    @property
    def num_elements(self) -> FloatArray:
        return self._formulas.num_elements  # type: ignore[return-value]

    @property
    def _formulas(self) -> Product:
        """The operator table's formulas hold for columns as they do for numbers."""
        return Product(self.batch, self.m, self.n, self.k)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Latencies:
    """Columns of latencies with their 90 % interval, in seconds, each of shape (count,)."""

    latency_s: FloatArray
    low_s: FloatArray
    high_s: FloatArray

    def __len__(self) -> int:
        return len(self.latency_s)

    def __getitem__(self, row: int) -> Latency:
        return Latency(float(self.latency_s[row]), float(self.low_s[row]), float(self.high_s[row]))


def sizes(
    operator: Operator,
    shape: ModelShape,
    batch_size: IntArray,
    seq_len: IntArray,
    query_len: IntArray,
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """batch, m, n and k of `Operator.product` in many settings, each of shape (settings,).

    Raises OverflowError where an operand has more elements than int64 counts.
    """
    numbers = [each.astype(float) for each in (batch_size, seq_len, query_len)]
    batch, m, n, k = operator.sizes(symbols(shape, *numbers))
    if max(np.max(batch * m * k), np.max(batch * n * k)) > _EXACT:
        raise OverflowError
    size = symbols(shape, batch_size, seq_len, query_len)
    if shape.experts:  # whole experts and rows, which are the same for the same number of tokens
        tokens, place = np.unique(batch_size * query_len, return_inverse=True)
        whole = [dimensions(shape, Setting(Phase.MEDUSA, each, 1)) for each in tokens.tolist()]
        for symbol in ("u", "r"):
            size[symbol] = np.array([each[symbol] for each in whole])[place.reshape(-1)]
    found = np.broadcast_arrays(*operator.sizes(size), batch_size)[:4]
    return tuple(each.astype(np.int64) for each in found)  # type: ignore[return-value]
