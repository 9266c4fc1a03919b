"""The processor as a device: threads, calls in a loop, contention instead of clocks."""

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.measure import host
from medusa_bench.measure.kernels import Call
from medusa_bench.measure.measurer import DeviceMonitor
from medusa_bench.measure.operands import OperandSet
from medusa_bench.measure.stopping import StoppingRule, Timer
from medusa_bench.results.rows import Environment, QualityFlag, Timing
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

ARENA_BYTES = 512 << 20
_TRAFFIC_BYTES = 16 << 20  # under 1 ms a call, so that some calls are not disturbed
_BUSY_CORES = 0.3  # from here on others' work disturbs threads that wait for each other
_PEAK_CALL_S = 0.005  # within a time slice, so that some calls are not interrupted


@dataclass(frozen=True, slots=True)
class Threads:
    """How many threads multiply, on which processor if pinned, and why so many."""

    count: int
    pinned_to: int | None
    reason: str


def choose_threads(
    requested: int | None,
    *,
    from_environment: str | None,
    cpus: frozenset[int],
    num_cores: int,
    quota: float | None,
    busy_shares: Callable[[], Mapping[int, float]],
) -> Threads:
    """The threads asked for, else OMP_NUM_THREADS, else the physical cores allowed.

    One pinned thread where others are busy: threads that wait for each other would measure them.
    """
    if requested:
        return Threads(requested, None, "asked for")
    if from_environment and from_environment.isdigit() and int(from_environment):
        return Threads(int(from_environment), None, "OMP_NUM_THREADS")
    shares = busy_shares()
    busy = sum(shares.values())
    if len(cpus) > 1 and busy > _BUSY_CORES:
        quietest = min(shares, key=shares.__getitem__)
        return Threads(1, quietest, f"others keep {busy:.1f} of {len(cpus)} processors busy")
    count = num_cores if quota is None else max(min(num_cores, int(quota)), 1)
    return Threads(count, None, "the physical cores allowed")


@dataclass(frozen=True, slots=True)
class _Loop:
    """Times calls in a loop on this thread. Operand sets are cut before the clock starts."""

    call: Call
    next_set: Callable[[], OperandSet]

    @contextmanager
    def batch(self, num_calls: int) -> Iterator[Callable[[], float]]:
        call = self.call

        def sample() -> float:
            operand_sets = [self.next_set() for _ in range(num_calls)]
            start_s = perf_counter()
            for operands in operand_sets:
                call(operands)
            return perf_counter() - start_s

        yield sample


class Cpu:
    """The processors this process may use, as one device."""

    torch_device = torch.device("cpu")
    # The fastest: others who share the memory bus come and go, and slow a roof and not its points.
    roof_quantile = 0.0
    roof_budget_s = 0.4
    load_s = 0.0
    # A processor's clock, memory and scheduler are shared: half of all points never close to 2 %,
    # which is tried for, and are no worse for it. What stays within a tenth is told by the spread
    # between rounds.
    rules: Mapping[Timing, StoppingRule] = {
        Timing.KERNEL: StoppingRule(tolerance=0.02, batch_s=200e-6, doubted=0.1),
        Timing.EAGER: StoppingRule(tolerance=0.02, batch_s=0.0, doubted=0.1),
    }

    def __init__(self, num_threads: int | None = None, arena_bytes: int | None = None) -> None:
        cpus = host.allowed_cpus()
        l3_bytes = host.l3_bytes(cpus)
        self._threads = choose_threads(
            num_threads,
            from_environment=os.environ.get("OMP_NUM_THREADS"),
            cpus=cpus,
            num_cores=host.num_physical_cores(cpus),
            quota=host.cpu_quota(),
            busy_shares=lambda: host.busy_shares(cpus),
        )
        if self._threads.pinned_to is not None:
            os.sched_setaffinity(0, {self._threads.pinned_to})
        torch.set_num_threads(self._threads.count)
        self.arena_bytes = arena_bytes or max(ARENA_BYTES, 4 * (l3_bytes or 0))
        self.traffic_bytes = min(_TRAFFIC_BYTES, self.arena_bytes // 4)
        self._environment = Environment(
            device=host.cpu_name(),
            device_type="cpu",
            memory_bytes=host.total_memory_bytes(),
            l2_bytes=l3_bytes,  # the last cache before memory, which is what the field is for
            torch=str(torch.__version__),
            num_threads=self._threads.count,
            details={
                "host": platform.node(),
                "kernel": platform.release(),
                "python": platform.python_version(),
                "instructions": torch.backends.cpu.get_cpu_capability(),
                "threads": self._threads.reason,
                "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
            },
        )

    @property
    def environment(self) -> Environment:
        return self._environment

    def available_bytes(self) -> int | None:
        return host.available_memory_bytes()

    def use(self, dtype: Dtype) -> None:
        if dtype in (Dtype.TF32, Dtype.FLOAT8):
            raise MedusaBenchError(f"{dtype} needs a GPU's matrix units")

    def timer(self, call: Call, next_set: Callable[[], OperandSet], timing: Timing) -> Timer:
        return _Loop(call, next_set)

    @contextmanager
    def watch(self) -> Iterator[DeviceMonitor]:
        watch = DeviceMonitor()
        before = host.Usage.now()
        yield watch
        if before.was_contended(host.Usage.now()):
            watch.flags = (QualityFlag.CONTENDED,)

    def peak_products(self, flops_per_s: float) -> Sequence[Product]:
        """A cube of about 5 ms a call, two flat products and a batch of as many FLOPs, and a cube
        of 40 ms: where others share the processor only the short ones run undisturbed."""
        edge = round((flops_per_s * _PEAK_CALL_S / 2) ** (1 / 3) / 64) * 64
        edge = min(max(edge, 256), 4096)
        return (
            Product(1, edge, edge, edge),
            Product(1, edge // 2, 4 * edge, edge // 2),
            Product(1, 2 * edge, edge // 2, edge),
            Product(8, edge // 2, edge // 2, edge // 2),
            Product(1, 2 * edge, 2 * edge, 2 * edge),
        )
