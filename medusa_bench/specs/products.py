"""Matrix products: what a machine computes, in FLOPs and bytes."""

from dataclasses import dataclass

from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.schemes import FUSED, NEW_STATE, Scheme


@dataclass(frozen=True, slots=True)
class Product:
    """`batch` independent matrix products (m, k) x (k, n) -> (m, n): what a machine computes.

    Logical points with the same product are measured once: up = gate; q = k = v without grouped
    heads; a linear operator depends on batch_size x query_len alone. Operand layout is not part
    of it, so QK^T and PV coincide where seq_len = head_dim.
    """

    batch: int
    m: int
    n: int
    k: int

    @property
    def flops(self) -> int:
        """Floating-point operations, a multiply-add counted as two."""
        return 2 * self.batch * self.m * self.n * self.k

    @property
    def num_elements(self) -> int:
        """Elements of the two operands and the result together."""
        return self.batch * (self.m * self.k + self.k * self.n + self.m * self.n)

    def bytes_moved(self, dtype: Dtype) -> int:
        """Traffic if each operand and the result cross memory once."""
        return self.num_elements * dtype.bytes_per_element

    def stored_bytes(self, dtype: Dtype, scheme: Scheme | None) -> float:
        """The same with its right operand, of k x n, stored in a scheme; None: in dtype.

        A new state is the result, of m x n; of fused attention the result is of m x k.
        """
        if scheme is None:
            return self.bytes_moved(dtype)
        if scheme.kernel == FUSED:
            rows = 2 * self.batch * self.m * self.k * dtype.bytes_per_element
            return rows + self.batch * self.k * self.n * scheme.bytes_per_weight
        right = self.batch * (self.m if scheme == NEW_STATE else self.k) * self.n
        others = (self.num_elements - right) * dtype.bytes_per_element
        return others + right * scheme.bytes_per_weight

    def operational_intensity(self, dtype: Dtype) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes_moved(dtype)
