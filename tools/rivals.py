"""This harness against plain loops over the same tasks: points per second, and its own cost.

For the bench, which runs it in a process of its own: it loads torch where it stands.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from medusa_bench.measure import kernels
from medusa_bench.measure.client import WorkerBackend
from medusa_bench.measure.operands import RESULT, STORAGE, OperandSet, rhs_is_transposed
from medusa_bench.results.rows import Measurement, Task

BUDGET_S = 0.05


@dataclass(frozen=True, slots=True)
class Rate:
    """How one way of measuring took the tasks."""

    name: str
    num_points: int
    elapsed_s: float
    latencies_s: tuple[float, ...]  # of each task, in the order given

    @property
    def points_per_s(self) -> float:
        return self.num_points / self.elapsed_s


def ours(tasks: Sequence[Task], backend: WorkerBackend, budget_s: float = BUDGET_S) -> Rate:
    """This harness: worker, pipe, arena and stop rule. Start-up and arena are paid before."""
    backend.measure(tasks[0], 0, budget_s)
    start_s = time.perf_counter()
    rows = [backend.measure(task, 0, budget_s) for task in tasks]
    elapsed_s = time.perf_counter() - start_s
    latencies_s = tuple(row.latency_s if isinstance(row, Measurement) else 0.0 for row in rows)
    return Rate("medusa-bench", len(tasks), elapsed_s, latencies_s)


def torch_benchmark(tasks: Sequence[Task], device: str) -> Rate:
    """A plain loop: operands drawn for each point, `torch.utils.benchmark`'s blocked autorange."""
    from torch.utils.benchmark import Timer

    def latency_s(call: Callable[[], object]) -> float:
        timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
        return float(timer.blocked_autorange().median)

    return _plain_loop("torch.utils.benchmark", tasks, device, latency_s)


def triton_do_bench(tasks: Sequence[Task], device: str) -> Rate:
    """A plain loop with Triton's do_bench, on a GPU only."""
    from triton.testing import do_bench

    def latency_s(call: Callable[[], object]) -> float:
        return float(do_bench(call, return_mode="median")) * 1e-3

    return _plain_loop("triton do_bench", tasks, device, latency_s)


def _plain_loop(
    name: str,
    tasks: Sequence[Task],
    device: str,
    latency_s: Callable[[Callable[[], object]], float],
) -> Rate:
    start_s = time.perf_counter()
    latencies_s = []
    for task in tasks:
        operands = _drawn(task, device)
        call = kernels.into_place(task.product, task.dtype, device.partition(":")[0])
        latencies_s.append(latency_s(lambda: call(operands)))  # noqa: B023  called at once
    return Rate(name, len(tasks), time.perf_counter() - start_s, tuple(latencies_s))


def _drawn(task: Task, device: str) -> OperandSet:
    """Operands as a plain loop makes them: new and random for each point, warm in the cache."""
    p, storage = task.product, STORAGE[task.dtype]
    rhs_size = (p.n, p.k) if rhs_is_transposed(p) else (p.k, p.n)
    lhs, rhs = (
        torch.randn(p.batch, *size, device=device).to(storage) for size in ((p.m, p.k), rhs_size)
    )
    if rhs_is_transposed(p):
        rhs = rhs.transpose(1, 2)
    out = torch.empty(p.batch, p.m, p.n, device=device, dtype=RESULT[task.dtype])
    return OperandSet(lhs, rhs, out) if p.batch > 1 else OperandSet(lhs[0], rhs[0], out[0])


def overhead_s_per_point(
    task: Task, backend: WorkerBackend, num_points: int = 200
) -> tuple[float, float]:
    """What a point costs beside its calls: (in all, of which the pipe's round trip), in seconds.

    Measured on a task whose calls are short, with a budget of 0.
    """
    backend.measure(task, 0, 0.0)
    elapsed_s = called_s = 0.0
    for _ in range(num_points):
        start_s = time.perf_counter()
        row = backend.measure(task, 0, 0.0)
        elapsed_s += time.perf_counter() - start_s
        if isinstance(row, Measurement):
            called_s += row.latency_s * row.num_calls
    start_s = time.perf_counter()
    for _ in range(num_points):
        backend.ping()
    pipe_s = time.perf_counter() - start_s
    return (elapsed_s - called_s) / num_points, pipe_s / num_points
