"""What the GPUs of a tensor-parallel group take to sum their partial results.

A message of N bytes over tp GPUs: custom kernels send it whole to every GPU where it is small
(one-shot), in parts where it is not (two-shot), and NCCL's ring takes the largest:

    one-shot  a + b tp + N (tp - 1) / (e link)
    two-shot  a + b tp + 2 N (tp - 1) / tp / (e link)
    NCCL      the same as two-shot, with its own a, b and e

NCCL has two of these, for latency and for bandwidth; of each pair the quicker is taken, smoothly.
Without NVLink each message crosses PCIe, whose ring does not reach beyond one socket: there the
parameters are numbers for each tp.

Fitted to public tables of aiconfigurator (Apache-2.0, commit 095f58a: vLLM 0.14, SGLang 0.5.10 on
A100; vLLM 0.24, SGLang 0.5.14, TensorRT-LLM 1.3 on H100; NCCL 2.27 and 2.29; L40S), with CUDA
graphs, on the half of the settings that operator_tables does not hold out: 4.6 to 8.5 % off on the
other half (TensorRT-LLM 1.0 on A100 16 %, a L40S with 8 GPUs up to 28 %), NCCL 8 %.
`python -m tools.fit_sums` prints them again.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.specs.columns import FloatArray
from medusa_bench.specs.profiles import DeviceProfile

GROUPS = (1, 2, 4, 8)  # sizes of a group in one node
SPREAD = 0.15  # half width of the 90 % interval of ln(latency), from the fits' errors
NCCL_FROM_BYTES = 8e6


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


@dataclass(frozen=True, slots=True)
class _Pcie:
    """Two ways of a ring over a group of so many GPUs: seconds, and shares of the link."""

    quick_s: float
    quick_share: float
    fixed_s: float
    share: float


def _pair(*values: float) -> _Kernels:
    return _Kernels(_Kernel(*values[:3]), _Kernel(*values[3:]))


NCCL = "nccl"
_VLLM = "vllm"  # whose sums stand for those of engines without rows
_LIKE_AMPERE = frozenset({"volta", "turing", "ampere", "ada"})
_FITTED: Mapping[tuple[str, str], _Kernels] = {
    ("ampere", "vllm"): _pair(4.66e-6, 0.177e-6, 0.574, 19.6e-6, 0.117e-6, 0.97),
    ("ampere", "sglang"): _pair(4.97e-6, 0.098e-6, 0.491, 16.2e-6, 0.0, 0.902),
    ("ampere", "trtllm"): _pair(4.56e-6, 0.352e-6, 0.631, 3.63e-6, 0.0897e-6, 0.0122),
    ("ampere", NCCL): _pair(6.80e-6, 1.93e-6, 0.209, 42.9e-6, 0.0, 0.669),
    ("hopper", "vllm"): _pair(4.25e-6, 0.069e-6, 0.509, 10.3e-6, 0.0, 0.863),
    ("hopper", "sglang"): _pair(2.22e-6, 0.137e-6, 0.541, 3.19e-6, 0.845e-6, 0.711),
    ("hopper", "trtllm"): _pair(2.61e-6, 0.0785e-6, 0.618, 0.0, 3.44e-6, 0.557),
    ("hopper", NCCL): _pair(3.68e-6, 1.56e-6, 0.344, 31.9e-6, 1.03e-6, 0.817),
}
# Of the GPUs whose rows those are; others borrow.
_FITTED_ON = {"ampere": "a100-80gb-sxm", "hopper": "h100-sxm"}
_PCIE_FITTED_ON = "l40s"
_PCIE: Mapping[str, Mapping[int, _Pcie]] = {
    "vllm": {
        2: _Pcie(6.62e-6, 0.602, 5.65e-6, 0.231),
        4: _Pcie(12.8e-6, 0.126, 36.6e-6, 0.0441),
        8: _Pcie(24.4e-6, 0.0828, math.inf, 1.0),
    },
    "sglang": {
        2: _Pcie(5.32e-6, 0.626, math.inf, 1.0),
        4: _Pcie(13.5e-6, 0.113, 215e-6, 0.0914),
        8: _Pcie(26.1e-6, 0.0601, 310e-6, 0.141),
    },
    "trtllm": {
        2: _Pcie(6.88e-6, 0.317, 38.6e-6, 0.697),
        4: _Pcie(11.2e-6, 0.130, math.inf, 1.0),
        8: _Pcie(22.2e-6, 0.0229, 134e-6, 0.0361),
    },
    NCCL: {
        2: _Pcie(6.58e-6, 0.314, 25.3e-6, 0.626),
        4: _Pcie(11.6e-6, 0.133, 59.3e-6, 0.139),
        8: _Pcie(20.1e-6, 0.0225, 148e-6, 0.0466),
    },
}
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

    nvlink: whether the link is NVLink; by default whether the GPU has one. engine: whose kernels
    sum, or "nccl". Raises MedusaBenchError for a group that no node has.
    """

    profile: DeviceProfile
    num_gpus: int
    nvlink: bool
    engine: str = _VLLM

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
        tp, ring_bytes = self.num_gpus, self._ring_bytes(message_bytes)
        if tp == 1:
            return np.zeros_like(message_bytes)
        if not self.nvlink:
            pcie = _PCIE.get(self.engine, _PCIE[_VLLM])[tp]
            return quicker(
                pcie.quick_s + ring_bytes / (pcie.quick_share * self._link),
                pcie.fixed_s + ring_bytes / (pcie.share * self._link),
            )
        ring_s = self._pair_s(NCCL, ring_bytes, ring_bytes)
        if self.engine == NCCL:
            return ring_s
        custom_s = self._pair_s(self.engine, message_bytes * (tp - 1), ring_bytes)
        return np.where(message_bytes > NCCL_FROM_BYTES, ring_s, custom_s)

    def roofline_s(self, message_bytes: FloatArray) -> FloatArray:
        """The bytes of a ring over the link's, a lower bound: (messages,) -> (messages,)."""
        return self._ring_bytes(message_bytes) / self._link

    def _ring_bytes(self, message_bytes: FloatArray) -> FloatArray:
        return 2 * message_bytes * (self.num_gpus - 1) / self.num_gpus

    @property
    def _link(self) -> float:
        if self.nvlink:
            return self.profile.nvlink_bytes_per_s or 0.0
        return _PCIE_BYTES_PER_S.get(self.profile.family, _PCIE_5_BYTES_PER_S)

    def _pair_s(self, engine: str, first: FloatArray, second: FloatArray) -> FloatArray:
        """Of bytes that the one kernel and the other send."""
        family = _family(self.profile)
        pair = _FITTED.get((family, engine), _FITTED[family, _VLLM])

        def time_s(kernel: _Kernel, sent: FloatArray) -> FloatArray:
            fixed_s = kernel.fixed_s + kernel.per_gpu_s * self.num_gpus
            return fixed_s + sent / (kernel.share * self._link)

        return quicker(time_s(pair.one_shot, first), time_s(pair.two_shot, second))


def quicker(first_s: FloatArray, second_s: FloatArray) -> FloatArray:
    """The smaller of two, smoothly."""
    found: FloatArray = (first_s**-4.0 + second_s**-4.0) ** -0.25
    return found


def _family(profile: DeviceProfile) -> str:
    return "ampere" if profile.family in _LIKE_AMPERE else "hopper"


def is_fitted(profile: DeviceProfile, engine: str) -> bool:
    """Whether rows of this GPU and engine stand behind the numbers."""
    if profile.name == _PCIE_FITTED_ON:
        return engine in _PCIE
    family = _family(profile)
    return profile.name == _FITTED_ON[family] and (family, engine) in _FITTED


def all_reduce(
    profile: DeviceProfile, num_gpus: int, interconnect: str | None = None, *, engine: str = _VLLM
) -> AllReduce:
    """interconnect: "nvlink" or "pcie"; by default what the GPU has."""
    nvlink = interconnect == "nvlink" or (interconnect is None and bool(profile.nvlink_bytes_per_s))
    return AllReduce(profile, num_gpus, nvlink, engine)
