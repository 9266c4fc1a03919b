"""What the operating system tells about this machine's processor. No torch.

Every reader gives None (or an empty answer) where the system does not tell.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_SYS = Path("/sys")
_CPUS = "devices/system/cpu"

# /proc/stat, in ticks. Guest time is already part of user time.
_STAT_FIELDS = "user nice system idle iowait irq softirq steal".split()


class SteadyTime:
    """Seconds since 1970 that never go back, though the system's clock is set back meanwhile.

    The wall clock is read once, on making one; the monotonic clock counts from there. A copy in
    another process of the same machine tells the same time.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._offset_s = wall() - monotonic()

    def __call__(self) -> float:
        return self._offset_s + self._monotonic()


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def cpu_name(proc: Path = _PROC) -> str:
    """The processor's model name as the system gives it."""
    for line in (_read(proc / "cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def allowed_cpus() -> frozenset[int]:
    """The logical processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def num_physical_cores(cpus: frozenset[int], sys: Path = _SYS) -> int:
    """Physical cores behind logical processors: hyper-threads of one core count once."""
    cores = set()
    for cpu in cpus:
        topology = sys / _CPUS / f"cpu{cpu}" / "topology"
        package, core = _read(topology / "physical_package_id"), _read(topology / "core_id")
        cores.add((package, core) if package is not None and core is not None else ("cpu", cpu))
    return max(len(cores), 1)


def cpu_quota(sys: Path = _SYS) -> float | None:
    """Processors a container may use (docker --cpus); None where it is not limited."""
    quota, _, period = (_read(sys / "fs/cgroup/cpu.max") or "max").partition(" ")
    if quota == "max":
        quota = _read(sys / "fs/cgroup/cpu/cpu.cfs_quota_us") or "-1"
        period = _read(sys / "fs/cgroup/cpu/cpu.cfs_period_us") or "100000"
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except ValueError:
        return None


def l3_bytes(cpus: frozenset[int], sys: Path = _SYS) -> int | None:
    """The last-level caches that these processors share, summed."""
    caches: dict[str, int] = {}
    for cpu in cpus:
        index = sys / _CPUS / f"cpu{cpu}" / "cache/index3"
        size, shared = _read(index / "size"), _read(index / "shared_cpu_list")
        if size and size.endswith("K") and size[:-1].isdigit():
            caches[shared or str(cpu)] = int(size[:-1]) * 1024
    return sum(caches.values()) or None


def memory(proc: Path = _PROC) -> Mapping[str, int]:
    """/proc/meminfo in bytes: MemTotal, MemAvailable, SwapTotal, SwapFree and the rest."""
    values = {}
    for line in (_read(proc / "meminfo") or "").splitlines():
        key, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        if number.isdigit() and unit == "kB":
            values[key] = int(number) * 1024
    return values


def memory_limit_bytes(sys: Path = _SYS) -> int | None:
    """What a container may use of the memory; None where it is not limited."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _read(sys / "fs/cgroup" / name)
        if text and text.isdigit() and int(text) < 1 << 60:
            return int(text)
    return None


def total_memory_bytes(proc: Path = _PROC, sys: Path = _SYS) -> int:
    """Memory this process may hope for: the machine's, or its container's limit."""
    total = memory(proc).get("MemTotal") or (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
    return min(total, memory_limit_bytes(sys) or total)


def available_memory_bytes(proc: Path = _PROC, sys: Path = _SYS) -> int | None:
    """Memory free for use without swapping, within the container's limit."""
    available = memory(proc).get("MemAvailable")
    limit = memory_limit_bytes(sys)
    if limit is not None:
        for name in ("memory.current", "memory/memory.usage_in_bytes"):
            used = _read(sys / "fs/cgroup" / name)
            if used and used.isdigit():
                left = max(limit - int(used), 0)
                available = left if available is None else min(available, left)
                break
    return available


def governor(sys: Path = _SYS) -> str | None:
    """The frequency governor of the first processor ("performance", "powersave", ...)."""
    return _read(sys / _CPUS / "cpu0/cpufreq/scaling_governor")


def num_thermal_throttles(sys: Path = _SYS) -> int | None:
    """How often the package has slowed down for heat since boot."""
    text = _read(sys / _CPUS / "cpu0/thermal_throttle/package_throttle_count")
    return int(text) if text and text.isdigit() else None


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds since boot of one logical processor: at work, idle, taken by the hypervisor."""

    busy_s: float
    idle_s: float
    steal_s: float


def cpu_times(proc: Path = _PROC) -> Mapping[int, CpuTimes]:
    """The times of each logical processor; empty where there is no /proc/stat."""
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    times = {}
    for line in (_read(proc / "stat") or "").splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and len(numbers) >= len(_STAT_FIELDS):
            ticks = dict(zip(_STAT_FIELDS, map(int, numbers), strict=False))
            idle = ticks["idle"] + ticks["iowait"]
            steal = ticks["steal"]
            busy = sum(ticks.values()) - idle - steal
            times[int(name[3:])] = CpuTimes(busy * tick_s, idle * tick_s, steal * tick_s)
    return times


def busy_shares(
    cpus: frozenset[int],
    *,
    window_s: float = 0.2,
    sleep: Callable[[float], None] = time.sleep,
    times: Callable[[], Mapping[int, CpuTimes]] = cpu_times,
) -> Mapping[int, float]:
    """How busy others keep each processor while this process sleeps for window_s."""
    before = times()
    sleep(window_s)
    after = times()
    shares = {}
    for cpu in cpus & before.keys() & after.keys():
        busy_s = after[cpu].busy_s - before[cpu].busy_s + after[cpu].steal_s - before[cpu].steal_s
        total_s = busy_s + after[cpu].idle_s - before[cpu].idle_s
        shares[cpu] = busy_s / total_s if total_s > 0 else 0.0
    return shares


_CONTENDED_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Usage:
    """What has happened to this process so far, to be subtracted from a later reading."""

    at_s: float
    waited_s: float  # ready to run, summed over threads, while others had the processor
    steal_s: float

    @classmethod
    def now(cls) -> "Usage":
        times = cpu_times()
        return cls(
            time.monotonic(),
            waited_s(),
            sum(times[cpu].steal_s for cpu in allowed_cpus() & times.keys()),
        )

    def taken_share(self, later: "Usage") -> float:
        """The share of the time between two readings in which others had the processor."""
        elapsed_s = max(later.at_s - self.at_s, 1e-9)
        return (later.waited_s - self.waited_s + later.steal_s - self.steal_s) / elapsed_s

    def was_contended(self, later: "Usage") -> bool:
        """Whether others took the processor away for over a tenth of the time between two readings.

        Less disturbs so few of the samples that their median stands, and comes with any machine
        that is on. Steal time comes in ticks of 10 ms: one tick says nothing.
        """
        elapsed_s = max(later.at_s - self.at_s, 1e-9)
        waited_s = later.waited_s - self.waited_s
        steal_s = later.steal_s - self.steal_s
        return (waited_s > 0.001 and waited_s > _CONTENDED_SHARE * elapsed_s) or (
            steal_s > 0.015 and steal_s > _CONTENDED_SHARE * elapsed_s
        )


def waited_s(proc: Path = _PROC) -> float:
    """Seconds that this process's threads stood in the run queue; 0 where Linux does not tell.

    Source: schedstat's second column, in nanoseconds (Linux, Documentation/scheduler).
    """
    columns = [(_read(path) or "").split() for path in proc.glob("self/task/*/schedstat")]
    return sum(int(column[1]) for column in columns if len(column) == 3) * 1e-9
