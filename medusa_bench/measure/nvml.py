"""What NVML tells about a GPU: who it is, who else uses it, and how it fares under load.

NVML absent or refusing is never an error: every answer can be None. Clocks are never touched.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from types import ModuleType, TracebackType
from typing import Any, Self

from medusa_bench.results.rows import QualityFlag, Telemetry
from medusa_bench.specs.dtypes import Dtype

SAMPLE_PERIOD_S = 0.05
SETTLED_S = 0.05  # a clock climbs for this long after a pause
# NVML's power is a mean over about a second: of a shorter block it tells what came before.
MIN_ENERGY_BLOCK_S = 0.5
_THROTTLED_CLOCK_SHARE = 0.75  # NVBench's threshold, of the highest SM clock

# nvmlClocksEventReasons (throttle reasons before driver 535). Source: nvml.h.
_IDLE = 0x1
_POWER_CAP = 0x4
_THERMAL = 0x20 | 0x40
REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slow-down",
    0x10: "sync boost",
    0x20: "software thermal slow-down",
    0x40: "hardware thermal slow-down",
    0x80: "power brake",
    0x100: "display clocks",
}

# The first CUDA compute capability with matrix units for a dtype. Source: CUDA programming guide.
FIRST_CAPABILITY: Mapping[Dtype, tuple[int, int]] = {
    Dtype.TF32: (8, 0),
    Dtype.BFLOAT16: (8, 0),
    Dtype.FLOAT8: (8, 9),
}


def load_nvml() -> tuple[ModuleType | None, str]:
    """The NVML bindings, initialised; or None and why not."""
    try:
        import pynvml
    except ImportError:
        return None, "nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, str(error)
    return pynvml, ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a GPU under load."""

    sm_clock_hz: float | None
    memory_clock_hz: float | None
    power_w: float | None
    temperature_c: float | None
    reasons: int  # bits of REASONS
    since_start_s: float = 0.0  # of the block it belongs to


class Gpu:
    """One GPU, asked through NVML. Answers are None where NVML does not tell."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    def _ask(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError, TypeError):
            return None

    @property
    def name(self) -> str | None:
        return _text(self._ask("nvmlDeviceGetName"))

    @property
    def uuid(self) -> str | None:
        return _text(self._ask("nvmlDeviceGetUUID"))

    @property
    def memory_bytes(self) -> int | None:
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return None if memory is None else int(memory.total)

    @property
    def driver(self) -> str | None:
        try:
            return _text(self._nvml.nvmlSystemGetDriverVersion())
        except self._nvml.NVMLError:
            return None

    @property
    def power_limit_w(self) -> float | None:
        return _scaled(self._ask("nvmlDeviceGetEnforcedPowerLimit"), 1e-3)

    @property
    def default_power_limit_w(self) -> float | None:
        return _scaled(self._ask("nvmlDeviceGetPowerManagementDefaultLimit"), 1e-3)

    @property
    def is_mig(self) -> bool:
        """Whether the GPU is cut into instances (MIG)."""
        modes = self._ask("nvmlDeviceGetMigMode")
        return bool(modes) and modes[0] == 1

    @cached_property
    def max_sm_clock_hz(self) -> float | None:
        return _scaled(self._ask("nvmlDeviceGetMaxClockInfo", self._nvml.NVML_CLOCK_SM), 1e6)

    def processes(self) -> tuple[str, ...]:
        """The processes that compute on this GPU, in words."""
        found = self._ask("nvmlDeviceGetComputeRunningProcesses") or ()
        return tuple(
            f"process {process.pid}"
            + (f" ({process.usedGpuMemory / 1e9:.1f} GB)" if process.usedGpuMemory else "")
            for process in found
        )

    def energy_j(self) -> float | None:
        """Joules since the driver was loaded."""
        return _scaled(self._ask("nvmlDeviceGetTotalEnergyConsumption"), 1e-3)

    def sample(self) -> Sample:
        """Clocks, power, temperature and what holds the clocks down, now."""
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        nvml = self._nvml
        return Sample(
            sm_clock_hz=_scaled(self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM), 1e6),
            memory_clock_hz=_scaled(self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM), 1e6),
            power_w=_scaled(self._ask("nvmlDeviceGetPowerUsage"), 1e-3),
            temperature_c=_scaled(
                self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU), 1.0
            ),
            reasons=int(reasons or 0),
        )


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


def _scaled(value: Any, factor: float) -> float | None:
    return None if value is None else float(value) * factor


def find(nvml: Any, uuid: str) -> Gpu | None:
    """The GPU (or MIG instance) of a bare UUID; None where NVML does not know it."""
    for kind in ("GPU-", "MIG-"):
        try:
            return Gpu(nvml, nvml.nvmlDeviceGetHandleByUUID(kind + uuid))
        except nvml.NVMLError:
            continue
    return None


def all_gpus(nvml: Any) -> list[Gpu]:
    """Every GPU that NVML shows, in its order."""
    try:
        return [
            Gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            for index in range(nvml.nvmlDeviceGetCount())
        ]
    except nvml.NVMLError:
        return []


class Recorder:
    """Samples a GPU every SAMPLE_PERIOD_S on a thread, while a block of calls runs."""

    def __init__(
        self,
        gpu: Gpu,
        period_s: float = SAMPLE_PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gpu = gpu
        self._period_s = period_s
        self._clock = clock
        self._start_s = 0.0
        self._samples: list[Sample] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._record, daemon=True)
        self._energy_j: float | None = None
        self._is_long = False

    def __enter__(self) -> Self:
        self._energy_before_j = self._gpu.energy_j()
        self._start_s = self._clock()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Asked before anything winds down: the last calls are still the load it reports on.
        self._ended.set()
        last = self._sample()
        self._thread.join()
        self._samples.append(last)
        after_j = self._gpu.energy_j()
        self._is_long = self._clock() - self._start_s >= MIN_ENERGY_BLOCK_S
        if self._is_long and self._energy_before_j is not None and after_j is not None:
            self._energy_j = after_j - self._energy_before_j

    def _sample(self) -> Sample:
        return replace(self._gpu.sample(), since_start_s=self._clock() - self._start_s)

    def _record(self) -> None:
        while not self._ended.wait(self._period_s):
            self._samples.append(self._sample())

    @property
    def telemetry(self) -> Telemetry:
        """Means over the block; power and energy only of a block that NVML can tell apart."""
        known = summarise(self._samples, self._energy_j)
        return known if self._is_long else replace(known, power_w=None)

    @property
    def flags(self) -> tuple[QualityFlag, ...]:
        throttled = is_throttled(self._samples, self._gpu.max_sm_clock_hz)
        return (QualityFlag.THROTTLED,) if throttled else ()


def summarise(samples: Sequence[Sample], energy_j: float | None = None) -> Telemetry:
    """Samples as means, and every reason that held the clocks down in any of them."""

    def mean(value: Callable[[Sample], float | None]) -> float | None:
        known = [number for sample in samples if (number := value(sample)) is not None]
        return fmean(known) if known else None

    bits = 0
    for sample in samples:
        bits |= sample.reasons & ~_IDLE
    return Telemetry(
        sm_clock_hz=mean(lambda sample: sample.sm_clock_hz),
        memory_clock_hz=mean(lambda sample: sample.memory_clock_hz),
        power_w=mean(lambda sample: sample.power_w),
        temperature_c=mean(lambda sample: sample.temperature_c),
        energy_j=energy_j,
        throttle_reasons=tuple(name for bit, name in REASONS.items() if bits & bit),
    )


def is_throttled(samples: Sequence[Sample], max_sm_clock_hz: float | None) -> bool:
    """Whether heat slowed the GPU, or its clock stayed under 75 % for another reason than power.

    A power cap is normal on large products. An idle GPU rests its clock, which says nothing; nor
    does one low clock alone, which may be older than its reasons, nor the clock's climb at first.
    """

    def is_low(sample: Sample) -> bool:
        return bool(
            max_sm_clock_hz
            and sample.sm_clock_hz is not None
            and sample.since_start_s >= SETTLED_S
            and not sample.reasons & (_IDLE | _POWER_CAP)
            and sample.sm_clock_hz < _THROTTLED_CLOCK_SHARE * max_sm_clock_hz
        )

    return any(sample.reasons & _THERMAL for sample in samples) or any(
        is_low(earlier) and is_low(later) for earlier, later in pairwise(samples)
    )


def is_present() -> bool:
    """Whether this machine shows a GPU to this process, by NVML or else by its device files."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    nvml, _ = load_nvml()
    if nvml is not None:
        return bool(all_gpus(nvml))
    return any(Path(name).exists() for name in ("/dev/nvidia0", "/dev/dxg"))
