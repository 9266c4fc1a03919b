"""The roofline: what bounds a product, and the rate it can reach. Its formulas stand here alone.

Source: Williams, Waterman, Patterson, "Roofline", CACM 2009.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.specs.dtypes import Dtype


class Bound(StrEnum):
    """What a product waits for most: under a roof memory or compute, in a latency launch too."""

    LAUNCH = "launch"
    MEMORY = "memory"
    COMPUTE = "compute"


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Peak and bandwidth of a device in one dtype."""

    peak_flops_per_s: float
    memory_bandwidth_bytes_per_s: float

    @property
    def ridge_point(self) -> float:
        """The operational intensity (FLOPs/byte) from which compute is the roof."""
        return self.peak_flops_per_s / self.memory_bandwidth_bytes_per_s

    def attainable_flops_per_s(self, operational_intensity: float) -> float:
        """FLOP/s that can be reached at an operational intensity (FLOPs/byte)."""
        return min(self.peak_flops_per_s, operational_intensity * self.memory_bandwidth_bytes_per_s)

    def bound(self, operational_intensity: float) -> Bound:
        """The side of the ridge; at the ridge itself, compute."""
        return Bound.MEMORY if operational_intensity < self.ridge_point else Bound.COMPUTE


class Ceilings:
    """What a device with peaks by dtype and one bandwidth gains: its roofline in each dtype.

    To be inherited by a dataclass that has the two fields below.
    """

    __slots__ = ()
    peak_flops_per_s: Mapping[Dtype, float]
    memory_bandwidth_bytes_per_s: float

    def ceiling(self, dtype: Dtype) -> Ceiling:
        """Raises MedusaBenchError where there is no peak of this dtype."""
        try:
            return Ceiling(self.peak_flops_per_s[dtype], self.memory_bandwidth_bytes_per_s)
        except KeyError:
            raise MedusaBenchError(
                f"There is no peak of {dtype} for {getattr(self, 'name', 'this device')}.",
                hint=f"there is one of {', '.join(self.peak_flops_per_s)}.",
            ) from None

    def peak(self, dtype: Dtype) -> float:
        """Dense FLOP/s of a dtype; float32 is without tensor cores, tf32 with. Raises as above."""
        return self.ceiling(dtype).peak_flops_per_s

    def attainable_flops_per_s(self, operational_intensity: float, dtype: Dtype) -> float:
        """FLOP/s that can be reached at an operational intensity (FLOPs/byte)."""
        ceiling = self.ceiling(dtype)
        return ceiling.attainable_flops_per_s(operational_intensity)

    def ridge_point(self, dtype: Dtype) -> float:
        """The operational intensity (FLOPs/byte) from which compute is the roof."""
        return self.ceiling(dtype).ridge_point

    def bound(self, operational_intensity: float, dtype: Dtype) -> Bound:
        """What bounds a product of this operational intensity."""
        return self.ceiling(dtype).bound(operational_intensity)
