"""The sweep: a plan of distinct tasks, and the loop that takes them through a backend.

Knows no GPU: a Backend measures, a store keeps. Tests give it one that runs at exactly 1 TFLOP/s.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.results.rows import (
    Environment,
    Failure,
    Grid,
    Measurement,
    Roofs,
    Skip,
    Task,
    Timing,
    drifted,
)
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.paper_grid import (
    PAPER_BATCH_SIZES,
    PAPER_MODELS,
    PAPER_NUM_CANDIDATES,
    PAPER_SEQ_LENS,
)

# Ten failures in a row mean a broken environment, not ten bad points.
MAX_FAILURES_IN_A_ROW = 10
# How often the roofs are looked at. Those of a CPU move within seconds, with clock and neighbours.
SENTINEL_INTERVAL_S = {"cuda": 60.0, "cpu": 8.0}
# What the operands of one task may take of the memory; the rest is for the context, the library's
# workspaces and the arena that operands rotate through.
USABLE_MEMORY = 0.9
# A round's calls outside the timed budget: to warm up, to estimate.
_UNTIMED_CALLS = 2
_MIN_TIMED_CALLS = 3
_SHARE_OF_BUDGET = 0.4  # most points close their interval before the budget ends
_HARNESS_S = 2e-3


class Backend(Protocol):
    """What measures. The real one is a worker process for each device."""

    @property
    def environment(self) -> Environment: ...

    def roofs(self, dtypes: Sequence[Dtype], *, quick: bool = False) -> Roofs:
        """Measure this device's ceilings: the best product per dtype, the best memory traffic.

        quick is the sentinel's look at whether they moved.
        """
        ...

    def measure(self, task: Task, round_index: int, budget_s: float) -> Measurement | Failure:
        """One round of one task. What happens to the device becomes a Failure, never a raise."""
        ...

    def close(self) -> None: ...


# -- the plan -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Defaults:
    """What an option of the grid stands for when it is not given."""

    models: tuple[str, ...] = PAPER_MODELS
    batch_sizes: tuple[int, ...] = PAPER_BATCH_SIZES
    seq_lens: tuple[int, ...] = PAPER_SEQ_LENS
    num_candidates: tuple[int, ...] = PAPER_NUM_CANDIDATES
    dtype: Dtype = Dtype.FLOAT16
    timings: tuple[Timing, ...] = tuple(Timing)
    num_rounds: int = 2


PAPER_ON_GPU = Defaults()
PAPER_ON_CPU = Defaults(dtype=Dtype.FLOAT32, timings=(Timing.KERNEL,), num_rounds=3)
QUICK_ON_GPU = Defaults(
    models=("llama-7b",),
    batch_sizes=(1, 4, 16, 64),
    seq_lens=(128, 1024, 8192),
    num_candidates=(1, 16, 64, 112),
    timings=(Timing.KERNEL,),
)
QUICK_ON_CPU = Defaults(  # about half a minute on two cores
    models=("llama-160m",),
    batch_sizes=(1, 2, 4),
    seq_lens=(128, 256, 512, 1024),
    num_candidates=(1, 16, 32, 64),
    dtype=Dtype.FLOAT32,
    timings=(Timing.KERNEL,),
    num_rounds=3,
)


def defaults(*, on_cpu: bool, quick: bool) -> Defaults:
    """The paper's grid or a quick one, for a GPU or a CPU."""
    if on_cpu:
        return QUICK_ON_CPU if quick else PAPER_ON_CPU
    return QUICK_ON_GPU if quick else PAPER_ON_GPU


@dataclass(frozen=True, slots=True)
class Plan:
    """Distinct tasks in the order of the first round, and those left out with the reason."""

    num_points: int
    tasks: tuple[Task, ...]
    skips: tuple[Skip, ...] = ()

    @property
    def num_distinct(self) -> int:
        """Distinct products and dtypes, whether they fit or not, however often each is timed."""
        tasks = [*self.tasks, *(skip.task for skip in self.skips)]
        return len({(task.product, task.dtype) for task in tasks})

    def shard(self, index: int, count: int) -> "Plan":
        """Part `index` of `count` (from 1): every task is in exactly one part, on every machine."""
        mine = tuple(task for task in self.tasks if int(task.key, 16) % count == index - 1)
        return Plan(self.num_points, mine, self.skips)


def plan(grid: Grid, memory_bytes: int | None) -> Plan:
    """The distinct tasks of a grid, largest first within each operator's weights.

    memory_bytes is the device's; None plans everything (a dry run for a device that is not here).
    """
    points = grid.points()
    distinct = {(point.product, point.dtype) for point in points}
    tasks = [Task(*each, timing) for each in distinct for timing in grid.timings]
    fitting, skips = [], []
    for task in sorted(tasks, key=_largest_first):
        if reason := _why_not(task, memory_bytes):
            skips.append(Skip(task, reason))
        else:
            fitting.append(task)
    return Plan(len(points), tuple(fitting), tuple(skips))


def _why_not(task: Task, memory_bytes: int | None) -> str:
    """Why a task cannot be measured; nothing where it can."""
    p = task.product
    if task.dtype is Dtype.FLOAT8 and p.batch > 1:
        return "torch has no batched float8 product"
    if task.dtype is Dtype.FLOAT8 and (p.n % 16 or p.k % 16):
        return "float8 matrix units need n and k in multiples of 16"
    need_bytes = p.bytes_moved(task.dtype)
    if memory_bytes is not None and need_bytes > USABLE_MEMORY * memory_bytes:
        return (
            f"needs {need_bytes / 1e9:.1f} GB for operands and result; "
            f"{USABLE_MEMORY * memory_bytes / 1e9:.1f} GB are usable"
        )
    return ""


def _largest_first(task: Task) -> tuple[object, ...]:
    p = task.product
    weights = (0, p.n, p.k) if p.batch == 1 else (1, 0, 0)
    return (task.dtype, *weights, -p.num_elements, p.batch, p.m, p.n, p.k, task.timing)


def predicted_time_s(task: Task, roofs: Roofs | None, budget_s: float) -> float:
    """Seconds that one round of a task should take: calls at half their roof, or the budget.

    Without roofs the budget alone is counted: the least that it can be.
    """
    call_s = 0.0
    if roofs is not None:
        intensity = task.product.operational_intensity(task.dtype)
        call_s = 2 * task.product.flops / roofs.attainable_flops_per_s(intensity, task.dtype)
    timed_s = max(_SHARE_OF_BUDGET * budget_s, _MIN_TIMED_CALLS * call_s)
    return timed_s + _UNTIMED_CALLS * call_s + _HARNESS_S


# -- the loop -----------------------------------------------------------------------------------

Work = tuple[int, Task]  # a round's index and the task to measure in it


def work(
    tasks: Sequence[Task], num_rounds: int, done: Collection[tuple[str, int]] = ()
) -> list[Work]:
    """What is left to measure, round by round; every round after the first in an order of its own.

    done holds (task key, round index). The orders are fixed, so that a stopped and resumed sweep
    goes through the same rounds as an unbroken one.
    """
    left = []
    for round_index in range(num_rounds):
        order = list(tasks)
        if round_index:
            random.Random(round_index).shuffle(order)
            order.sort(key=lambda task: task.dtype)  # operands are filled anew for each dtype
        left += [(round_index, task) for task in order if (task.key, round_index) not in done]
    return left


class Rows(Protocol):
    """Where a sweep keeps what it measures, row by row."""

    def append(self, row: Measurement | Failure) -> None: ...

    def add_roofs(self, roofs: Roofs) -> None: ...


def run(
    left: Iterable[Work],
    backend: Backend,
    rows: Rows,
    *,
    budget_s: float,
    roofs: Roofs,
    next_round: int,
    max_time_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Measurement | Failure]:
    """Measure the work, keep each row before it is yielded, and stop in time.

    A task that failed is not tried in later rounds. Every SENTINEL_INTERVAL_S, and at the end, the
    roofs are measured again: where they moved by more than the device's tolerance, what was
    measured since the last look is measured once more, in rounds counted from next_round, but no
    task more than once: roofs that never rest add one round at most. The reader, who has the roofs
    too, marks the rows between as drifted.

    Raises MedusaBenchError after ten failures in a row.
    """
    queue = deque(left)
    extra_round = next_round
    failed: set[Task] = set()
    num_failures_in_a_row = 0
    since_look: list[Task] = []
    repeated: set[Task] = set()
    device_type = backend.environment.device_type
    start_s = look_s = clock()
    while queue:
        if max_time_s is not None and clock() - start_s >= max_time_s:
            return
        round_index, task = queue.popleft()
        if task in failed:
            continue
        row = backend.measure(task, round_index, budget_s)
        rows.append(row)
        yield row
        if isinstance(row, Failure):
            failed.add(task)
            num_failures_in_a_row += 1
            if num_failures_in_a_row == MAX_FAILURES_IN_A_ROW:
                raise MedusaBenchError(
                    f"{MAX_FAILURES_IN_A_ROW} points in a row failed; the last: {row.reason}",
                    hint="the device or its driver is in a bad state: `medusa-bench doctor` says "
                    "what it sees. The failures are recorded; --retry-failed measures them again.",
                )
            continue
        num_failures_in_a_row = 0
        if round_index < next_round:
            since_look.append(task)
        if not queue or clock() - look_s >= SENTINEL_INTERVAL_S[device_type]:
            looked = backend.roofs(list(roofs.peak_flops_per_s), quick=True)
            rows.add_roofs(looked)
            if drifted(roofs, looked, device_type):
                again = [each for each in dict.fromkeys(since_look) if each not in repeated]
                queue.extend((extra_round, each) for each in again)
                repeated.update(again)
                extra_round += 1
            roofs, look_s, since_look = looked, clock(), []
