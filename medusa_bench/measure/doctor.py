"""What this machine can measure, what is missing, and what would spoil a number.

Facts are gathered first; what they mean is decided from them alone.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import ModuleType

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.measure import host
from medusa_bench.measure import nvml as gpu
from medusa_bench.measure.client import WorkerBackend
from medusa_bench.measure.nvml import Gpu
from medusa_bench.results.rows import Environment
from medusa_bench.specs import profiles
from medusa_bench.specs.dtypes import Dtype

_GB = 1e9
_NEEDED_MEMORY_BYTES = 3e9  # torch, two arenas of 512 MiB, and a 7B weight in float32 with room
_NEEDED_DISK_BYTES = 100e6
_HOT_C = 85.0


class Severity(StrEnum):
    """How much a finding matters."""

    MISSING = "missing"  # something cannot be measured
    WARNING = "warning"  # numbers would be wrong or noisy
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to know, and what to do about it."""

    severity: Severity
    subject: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """One device: what it is, or why it cannot be measured."""

    device: str  # as given to --device
    name: str
    environment: Environment | None
    dtypes: tuple[Dtype, ...] = ()
    profile: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Checkup:
    """Every device looked at, and what was found."""

    devices: tuple[DeviceReport, ...]
    findings: tuple[Check, ...]

    @property
    def can_measure(self) -> bool:
        return any(report.environment for report in self.devices)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the operating system tells, at one moment."""

    num_cpus: int  # allowed to this process
    num_cores: int
    busy_cpus: float
    quota: float | None
    memory_bytes: int
    available_bytes: int | None
    swap_used_bytes: int
    governor: str | None
    num_thermal_throttles: int | None
    disk_free_bytes: int | None
    is_linux: bool = True
    omp_num_threads: str | None = None

    @classmethod
    def now(cls, folder: Path) -> "HostFacts":
        cpus = host.allowed_cpus()
        memory = host.memory()
        try:
            disk_free_bytes = shutil.disk_usage(folder).free
        except OSError:
            disk_free_bytes = None
        return cls(
            num_cpus=len(cpus),
            num_cores=host.num_physical_cores(cpus),
            busy_cpus=sum(host.busy_shares(cpus, window_s=0.5).values()),
            quota=host.cpu_quota(),
            memory_bytes=host.total_memory_bytes(),
            available_bytes=host.available_memory_bytes(),
            swap_used_bytes=memory.get("SwapTotal", 0) - memory.get("SwapFree", 0),
            governor=host.governor(),
            num_thermal_throttles=host.num_thermal_throttles(),
            disk_free_bytes=disk_free_bytes,
            is_linux=sys.platform == "linux",
            omp_num_threads=os.environ.get("OMP_NUM_THREADS"),
        )


def look(folder: Path) -> Checkup:
    """Look at every device and the host. Opens a worker for each device; measures nothing."""
    findings = list(host_findings(HostFacts.now(folder)))  # before a worker makes it busy
    nvml, why_no_nvml = gpu.load_nvml()
    has_gpu = gpu.is_present()
    findings += nvml_findings(why_no_nvml, has_gpu=has_gpu)
    reports = [*_open_gpus(nvml)] if has_gpu else []
    for report in reports:
        each = _on_nvml(nvml, report)
        findings += gpu_findings(report.device, GpuFacts.of(each)) if each else ()
    reports.append(_open("cpu", host.cpu_name()))
    for report in reports:
        findings += report_findings(report)
    order = list(Severity)
    findings.sort(key=lambda finding: order.index(finding.severity))
    return Checkup(tuple(reports), tuple(findings))


def _open_gpus(nvml: ModuleType | None) -> Iterator[DeviceReport]:
    gpus = gpu.all_gpus(nvml) if nvml else []
    first = _open("cuda:0", (gpus[0].name if gpus else None) or "a GPU")
    yield first
    if first.environment:
        for index in range(1, int(first.environment.details["visible GPUs"])):
            yield _open(f"cuda:{index}", "a GPU")


def _on_nvml(nvml: ModuleType | None, report: DeviceReport) -> Gpu | None:
    """NVML's view of a device. Its numbers are not CUDA's, which may hide some: ask by UUID."""
    if nvml is None:
        return None
    if report.environment:
        return gpu.find(nvml, report.environment.details["uuid"])
    return next(iter(gpu.all_gpus(nvml)), None)


def _open(device: str, name: str) -> DeviceReport:
    try:
        with WorkerBackend(device, share_gpu=True) as backend:
            environment = backend.environment
    except MedusaBenchError as error:
        return DeviceReport(device, name, None, reason=error.message)
    profile = profiles.match(environment.device, environment.memory_bytes)
    return DeviceReport(
        device,
        environment.device,
        environment,
        dtypes=measurable_dtypes(environment),
        profile=profile.name if profile else None,
    )


def measurable_dtypes(environment: Environment) -> tuple[Dtype, ...]:
    """The dtypes that a device has arithmetic for."""
    if environment.device_type == "cpu":
        return (Dtype.FLOAT32, Dtype.FLOAT16, Dtype.BFLOAT16)
    major, _, minor = environment.details.get("compute capability", "0.0").partition(".")
    capability = (int(major), int(minor))
    return tuple(dtype for dtype in Dtype if capability >= gpu.FIRST_CAPABILITY.get(dtype, (0, 0)))


def host_findings(facts: HostFacts) -> Sequence[Check]:
    """What about the host would spoil a number."""
    found = []

    def add(severity: Severity, subject: str, message: str, remedy: str) -> None:
        found.append(Check(severity, subject, message, remedy))

    if facts.busy_cpus > 0.3:
        add(
            Severity.WARNING,
            "busy processor",
            f"Others keep {facts.busy_cpus:.1f} of {facts.num_cpus} processors busy.",
            "end them or wait; a sweep on the CPU would use one pinned thread and flag what was "
            "disturbed as contended.",
        )
    if facts.num_cores < 2:
        add(
            Severity.NOTE,
            "threads",
            "One physical core is allowed: a CPU's roofs will be those of one thread.",
            "allow more (taskset, docker --cpus, the batch system) to measure the whole processor.",
        )
    elif facts.omp_num_threads and facts.omp_num_threads != str(facts.num_cores):
        add(
            Severity.NOTE,
            "threads",
            f"OMP_NUM_THREADS={facts.omp_num_threads[:20]}, of {facts.num_cores} physical cores.",
            "unset it to measure with every core.",
        )
    if facts.quota is not None and facts.quota < facts.num_cores:
        add(
            Severity.WARNING,
            "CPU quota",
            f"This container may use {facts.quota:.2g} processors of {facts.num_cores}; it is "
            "stopped for the rest of each 0.1 s once they are used up.",
            "raise the quota, or pin the container to whole processors (docker --cpuset-cpus).",
        )
    if facts.available_bytes is not None and facts.available_bytes < _NEEDED_MEMORY_BYTES:
        add(
            Severity.WARNING,
            "memory",
            f"{facts.available_bytes / _GB:.1f} GB of {facts.memory_bytes / _GB:.0f} GB are free.",
            "free some, or measure a smaller model: points that do not fit fail with their size.",
        )
    if facts.swap_used_bytes > 0.1 * facts.memory_bytes:
        add(
            Severity.WARNING,
            "swap",
            f"{facts.swap_used_bytes / _GB:.1f} GB are swapped out.",
            "end what takes the memory: a point that swaps measures the disk.",
        )
    if facts.governor not in (None, "performance"):
        add(
            Severity.WARNING,
            "frequency",
            f"The processor's frequency governor is {facts.governor}, which changes clocks as it "
            "goes.",
            "sudo cpupower frequency-set -g performance, while CPU points are measured.",
        )
    if facts.num_thermal_throttles:
        add(
            Severity.NOTE,
            "heat",
            f"The processor has slowed down for heat {facts.num_thermal_throttles} times since it "
            "was started.",
            "see to its cooling if the count grows during a sweep.",
        )
    if facts.disk_free_bytes is not None and facts.disk_free_bytes < _NEEDED_DISK_BYTES:
        add(
            Severity.WARNING,
            "disk",
            f"{facts.disk_free_bytes / 1e6:.0f} MB are free for results.",
            "free some, or name another place with -o: a full sweep writes about 10 MB.",
        )
    if not facts.is_linux:
        add(
            Severity.NOTE,
            "system",
            "Contention and the memory that is free can be told on Linux only.",
            "keep the machine quiet, and choose models that fit.",
        )
    return found


def nvml_findings(why_no_nvml: str, *, has_gpu: bool) -> Sequence[Check]:
    """What about NVML would leave a GPU's numbers unguarded; or that there is no GPU."""
    if not has_gpu:
        return (
            Check(
                Severity.NOTE,
                "GPU",
                f"No NVIDIA GPU is visible{f' (NVML: {why_no_nvml})' if why_no_nvml else ''}.",
                "the processor is measured instead; `sweep --dry-run --device PROFILE` plans for a "
                "GPU that is not here.",
            ),
        )
    if why_no_nvml:
        return (
            Check(
                Severity.WARNING,
                "NVML",
                f"NVML does not answer ({why_no_nvml}): clocks, power, heat and other processes "
                "stay unseen.",
                "pip install nvidia-ml-py, and give the container the utility capability "
                "(NVIDIA_DRIVER_CAPABILITIES=compute,utility).",
            ),
        )
    return ()


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What NVML tells about one GPU, at one moment."""

    name: str
    processes: tuple[str, ...] = ()
    is_mig: bool = False
    power_limit_w: float | None = None
    default_power_limit_w: float | None = None
    temperature_c: float | None = None
    throttle_reasons: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, each: Gpu) -> "GpuFacts":
        sample = each.sample()
        return cls(
            name=each.name or "a GPU without a name",
            processes=each.processes(),
            is_mig=each.is_mig,
            power_limit_w=each.power_limit_w,
            default_power_limit_w=each.default_power_limit_w,
            temperature_c=sample.temperature_c,
            throttle_reasons=gpu.summarise([sample]).throttle_reasons,
        )


def gpu_findings(device: str, facts: GpuFacts) -> Sequence[Check]:
    """What about a GPU would spoil a number."""
    found = []

    def add(subject: str, message: str, remedy: str) -> None:
        found.append(Check(Severity.WARNING, f"{device} {subject}", message, remedy))

    if facts.processes:
        add(
            "other processes",
            f"Others compute on it: {', '.join(facts.processes[:5])}.",
            "end them or wait: a sweep refuses to start beside them unless told --share-gpu.",
        )
    if facts.is_mig:
        add(
            "MIG",
            "It is cut into instances, each a part of the chip: no profile describes one.",
            "its measured roofs hold for the instance; to measure the card, ask its owner to turn "
            "MIG off.",
        )
    limit_w, default_w = facts.power_limit_w, facts.default_power_limit_w
    if limit_w and default_w and limit_w < 0.99 * default_w:
        add(
            "power",
            f"Its power is limited to {limit_w:.0f} W of {default_w:.0f} W.",
            "large products will run below the datasheet; the limit is recorded with the results.",
        )
    thermal = [reason for reason in facts.throttle_reasons if "thermal" in reason]
    if thermal or (facts.temperature_c or 0) >= _HOT_C:
        heat = f"at {facts.temperature_c:.0f} C" if facts.temperature_c else "hot"
        slow = f" and slowed down ({', '.join(thermal)})" if thermal else ""
        add(
            "heat",
            f"It is {heat}{slow}.",
            "let it cool; blocks during which it slows down are run again, then flagged throttled.",
        )
    return found


def report_findings(report: DeviceReport) -> Sequence[Check]:
    """What opening a device has shown."""
    if report.environment is None:
        return (
            Check(
                Severity.MISSING,
                report.device,
                f"{report.name} cannot be measured: {report.reason.rstrip('.')}.",
                "install a torch that matches the driver: https://pytorch.org/get-started/locally."
                if report.device.startswith("cuda")
                else "pip install torch.",
            ),
        )
    if report.environment.device_type == "cuda" and report.profile is None:
        return (
            Check(
                Severity.NOTE,
                f"{report.device} profile",
                f"No profile is for exactly {report.name!r} with "
                f"{report.environment.memory_bytes / 2**30:.0f} GiB.",
                "it gets measured roofs only; for a datasheet roof write a profile and name it "
                "with --profile.",
            ),
        )
    return ()
