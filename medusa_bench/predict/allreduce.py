"""What the GPUs of a tensor-parallel group take to sum their partial results.

A message of N bytes over tp GPUs: custom kernels send it whole to every GPU where it is small
(one-shot), in parts where it is not (two-shot), and NCCL's ring takes the largest:

    one-shot  a + b tp + N (tp - 1) / (e link)
    two-shot  a + b tp + 2 N (tp - 1) / tp / (e link)
    NCCL      the same as two-shot, with its own a, b and e

Without NVLink each message crosses PCIe, whose ring does not reach beyond one socket: there the
share e is a number for each tp. Parameters fitted to public tables of aiconfigurator (Apache-2.0,
commit 095f58a: vLLM 0.14 on A100, vLLM 0.24 on H100, NCCL 2.27 and 2.29 above 8 MB, L40S), with
CUDA graphs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.specs.columns import FloatArray
from medusa_bench.specs.profiles import DeviceProfile

GROUPS = (1, 2, 4, 8)  # sizes of a group in one node
SPREAD = 0.15  # half width of the 90 % interval of ln(latency), from the fits' errors
_NCCL_FROM_BYTES = 8e6


@dataclass(frozen=True, slots=True)
class _Kernel:
    """fixed_s + per_gpu_s x tp, and the share of the link that the bytes reach."""

    fixed_s: float
    per_gpu_s: float
    share: float


@dataclass(frozen=True, slots=True)
class _Kernels:
    """How a family of GPUs with NVLink does it."""

    one_shot: _Kernel
    two_shot: _Kernel
    nccl: _Kernel


_AMPERE = _Kernels(
    _Kernel(5.0e-6, 0.10e-6, 0.45), _Kernel(5.6e-6, 1.0e-6, 0.57), _Kernel(45.4e-6, 2.1e-6, 0.69)
)
_HOPPER = _Kernels(
    _Kernel(4.2e-6, 0.09e-6, 0.48), _Kernel(9.3e-6, 0.0, 0.70), _Kernel(29.1e-6, 0.0, 0.80)
)
_BY_FAMILY: Mapping[str, _Kernels] = {"volta": _AMPERE, "ampere": _AMPERE}
_PCIE_FIXED_S = 7.1e-6
_PCIE_SHARES: Mapping[int, float] = {2: 0.58, 4: 0.16, 8: 0.05}  # of PCIe 4 beside an L40S
_PCIE_BYTES_PER_S: Mapping[str, float] = {
    "volta": 16e9,
    "turing": 16e9,
    "ampere": 32e9,
    "ada": 32e9,
}
_PCIE_5_BYTES_PER_S = 64e9


@dataclass(frozen=True, slots=True, eq=False)
class AllReduce:
    """The all-reduces of a group of num_gpus GPUs of one kind in one node.

    nvlink: whether the link is NVLink; by default whether the GPU has one. Raises MedusaBenchError
    for a group that no node has.
    """

    profile: DeviceProfile
    num_gpus: int
    nvlink: bool

    def __post_init__(self) -> None:
        if self.num_gpus not in GROUPS:
            raise MedusaBenchError(
                f"{self.num_gpus} GPUs form no group of one node.",
                hint=f"tensor parallelism is modelled over {', '.join(map(str, GROUPS))} GPUs; "
                "more than one node is not.",
            )
        if self.nvlink and not self.profile.nvlink_bytes_per_s:
            raise MedusaBenchError(
                f"{self.profile.name} has no NVLink.", hint="leave --interconnect out, or say pcie."
            )

    def latency_s(self, message_bytes: FloatArray) -> FloatArray:
        """Seconds of a sum of so many bytes: (messages,) -> (messages,)."""
        tp, family = self.num_gpus, self.profile.family
        if tp == 1:
            return np.zeros_like(message_bytes)
        if not self.nvlink:
            link = _PCIE_BYTES_PER_S.get(family, _PCIE_5_BYTES_PER_S)
            return _PCIE_FIXED_S + 2 * message_bytes * (tp - 1) / tp / (_PCIE_SHARES[tp] * link)
        kernels, link = _BY_FAMILY.get(family, _HOPPER), self.profile.nvlink_bytes_per_s or 0.0

        def time_s(kernel: _Kernel, sent: FloatArray) -> FloatArray:
            return kernel.fixed_s + kernel.per_gpu_s * tp + sent / (kernel.share * link)

        ring_bytes = 2 * message_bytes * (tp - 1) / tp
        one_shot = time_s(kernels.one_shot, message_bytes * (tp - 1))
        two_shot = time_s(kernels.two_shot, ring_bytes)
        custom = (one_shot**-4.0 + two_shot**-4.0) ** -0.25  # the quicker, smoothly
        return np.where(message_bytes > _NCCL_FROM_BYTES, time_s(kernels.nccl, ring_bytes), custom)


def all_reduce(profile: DeviceProfile, num_gpus: int, interconnect: str | None = None) -> AllReduce:
    """interconnect: "nvlink" or "pcie"; by default what the GPU has."""
    nvlink = interconnect == "nvlink" or (interconnect is None and bool(profile.nvlink_bytes_per_s))
    return AllReduce(profile, num_gpus, nvlink)
