"""The bench's comparison runs, and each way measures the same tasks."""

import pytest

from medusa_bench.measure.client import WorkerBackend
from medusa_bench.results.rows import Task, Timing
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product
from tools import rivals

TASKS = [
    Task(product, Dtype.FLOAT32, Timing.KERNEL)
    for product in (Product(1, 2, 64, 32), Product(3, 2, 64, 16), Product(3, 2, 16, 64))
]


def test_both_ways_measure_every_task(monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerBackend("cpu", num_threads=1, arena_bytes=1 << 20) as backend:
        ours = rivals.ours(TASKS, backend, budget_s=1e-3)
        overhead_s, pipe_s = rivals.overhead_s_per_point(TASKS[0], backend, num_points=3)
    plain = rivals._plain_loop("plain", TASKS, "cpu", lambda call: call() is None or 1.0)
    for rate in (ours, plain):
        assert rate.num_points == len(rate.latencies_s) == len(TASKS)
        assert min(rate.latencies_s) > 0
        assert rate.points_per_s > 0
    assert 0 < pipe_s < overhead_s


@pytest.mark.parametrize("task", TASKS)
def test_a_plain_loop_draws_operands_as_the_harness_lays_them_out(task: Task) -> None:
    p = task.product
    lhs, rhs, out = rivals._drawn(task, "cpu")
    assert (lhs @ rhs).shape == out.shape
    assert (rhs.stride(-2) == 1) is rivals.rhs_is_transposed(p)
