"""GPU profiles: vendor facts from profiles/, and the roof they make. Never a near match."""

from collections.abc import Mapping
from dataclasses import dataclass

from medusa_bench.dtypes import Dtype


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """Datasheet ceilings of one GPU, all dense, in SI units.

    device_names are the exact names drivers give; memory tells apart cards that share one.
    """

    name: str
    title: str
    device_names: tuple[str, ...]
    peak_flops_per_s: Mapping[Dtype, float]
    memory_bandwidth_bytes_per_s: float
    memory_bytes: int
    l2_bytes: int
    num_sms: int
    clock_hz: float  # the clock the datasheet's peak is computed at
    flops_per_clock_per_sm: Mapping[Dtype, int]
    memory_bus_bits: int
    memory_data_rate_bits_per_s: float  # per pin
    power_w: float
    family: str  # "ampere", "ada", "hopper", "blackwell", "cdna3"
    source: str

    def peak(self, dtype: Dtype) -> float:
        """Dense FLOP/s of a dtype. Raises MedusaBenchError if the profile has none."""
        raise NotImplementedError

    def attainable_flops_per_s(self, operational_intensity: float, dtype: Dtype) -> float:
        """The roofline: FLOP/s this device can reach at an operational intensity (FLOPs/byte).

        Source: Williams, Waterman, Patterson, "Roofline", CACM 2009.
        """
        return min(self.peak(dtype), operational_intensity * self.memory_bandwidth_bytes_per_s)

    def ridge_point(self, dtype: Dtype) -> float:
        """The operational intensity (FLOPs/byte) from which compute is the roof."""
        return self.peak(dtype) / self.memory_bandwidth_bytes_per_s


def load(name_or_path: str) -> DeviceProfile:
    """A shipped profile by name, or a user's by path. Raises UnknownNameError, InvalidFileError."""
    raise NotImplementedError
