"""The plan of a sweep and its loop, on a device that computes at exactly 1 TFLOP/s."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.measure import sweep
from medusa_bench.results import folders
from medusa_bench.results.rows import (
    Failure,
    Grid,
    Measurement,
    QualityFlag,
    Roofs,
    Timing,
    drifted,
)
from medusa_bench.specs import models
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import OPERATORS
from medusa_bench.specs.settings import Phase
from tests.builders.fakes import FAKE_DEVICE, FakeBackend, FakeClock

PAPER = Grid(
    shapes=tuple(models.load(name) for name in sweep.PAPER_ON_GPU.models),
    operators=OPERATORS,
    phases=tuple(Phase),
    batch_sizes=sweep.PAPER_ON_GPU.batch_sizes,
    seq_lens=sweep.PAPER_ON_GPU.seq_lens,
    num_candidates=sweep.PAPER_ON_GPU.num_candidates,
    dtypes=(Dtype.FLOAT16,),
    timings=(Timing.KERNEL,),
)
SMALL = replace(
    PAPER, shapes=PAPER.shapes[:1], batch_sizes=(1, 2), seq_lens=(128,), num_candidates=(1, 16)
)
BUDGET_S = 0.05


def run(grid: Grid, backend: FakeBackend, folder: Path, **options: float) -> list[object]:
    """A whole sweep of two rounds into a folder, resuming what is there."""
    plan = sweep.plan(grid, FAKE_DEVICE.memory_bytes)
    with folders.Writer(folder, FAKE_DEVICE, grid, skips=plan.skips) as writer:
        roofs = backend.roofs(grid.dtypes)
        writer.add_roofs(roofs)
        left = sweep.work(plan.tasks, 2, set(writer.done))
        return list(
            sweep.run(
                left,
                backend,
                writer,
                budget_s=BUDGET_S,
                roofs=roofs,
                next_round=2,
                clock=backend.clock,
                **options,
            )
        )


def test_paper_grid_is_11760_points_and_at_most_2835_distinct_products() -> None:
    plan = sweep.plan(PAPER, None)
    assert (plan.num_points, plan.num_distinct) == (11_760, 2_835)
    assert len(set(plan.tasks)) == len(plan.tasks) == 2_835


def test_timing_both_doubles_the_tasks_and_not_the_products() -> None:
    plan = sweep.plan(replace(PAPER, timings=tuple(Timing)), None)
    assert (plan.num_distinct, len(plan.tasks)) == (2_835, 5_670)


@pytest.mark.parametrize(
    ("memory_gb", "expected"), [(80, {"llama-7b": 2, "llama-13b": 4, "llama-33b": 4})]
)
def test_prefill_attention_that_exceeds_the_memory_is_skipped_with_its_size(
    memory_gb: int, expected: dict[str, int]
) -> None:
    # The paper's own count of settings that take over 80 GB; ours must fit in the usable share.
    memory_bytes = int(memory_gb * 1e9 / sweep.USABLE_MEMORY)
    for shape in PAPER.shapes:
        plan = sweep.plan(replace(PAPER, shapes=(shape,)), memory_bytes)
        assert len(plan.skips) == 2 * expected[shape.name]  # QK^T and PV
        assert all("GB for operands and result" in skip.reason for skip in plan.skips)


def test_every_product_of_a_weight_comes_together_and_the_largest_first() -> None:
    tasks = sweep.plan(PAPER, None).tasks
    weights = [(t.product.n, t.product.k) for t in tasks if t.product.batch == 1]
    changes = sum(a != b for a, b in pairwise(weights))
    assert changes == len(set(weights)) - 1
    first = tasks[0].product
    same_weight = [t.product for t in tasks if (t.product.n, t.product.k) == (first.n, first.k)]
    assert first.num_elements == max(product.num_elements for product in same_weight)


def test_shards_hold_every_task_exactly_once() -> None:
    plan = sweep.plan(PAPER, None)
    parts = [plan.shard(index, 3).tasks for index in (1, 2, 3)]
    assert sorted(t.key for part in parts for t in part) == sorted(t.key for t in plan.tasks)
    assert min(len(part) for part in parts) > len(plan.tasks) / 4


def test_rounds_have_orders_of_their_own_that_do_not_change() -> None:
    tasks = sweep.plan(SMALL, None).tasks
    work = sweep.work(tasks, 3)
    rounds = [[task for index, task in work if index == r] for r in range(3)]
    assert rounds[0] == list(tasks)
    assert rounds[1] != rounds[0] != rounds[2] != rounds[1]
    assert all(set(order) == set(tasks) for order in rounds)
    assert sweep.work(tasks, 3) == work


def test_stopped_and_resumed_sweep_equals_an_unbroken_one(tmp_path: Path) -> None:
    run(SMALL, FakeBackend(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(SMALL, FakeBackend(interrupt_at=7), tmp_path / "stopped")
    backend = FakeBackend()
    run(SMALL, backend, tmp_path / "stopped")
    whole, stopped = folders.load(tmp_path / "whole"), folders.load(tmp_path / "stopped")
    assert len(backend.calls) == len(whole.rows) - 7
    assert stopped.summaries == whole.summaries
    assert [p.summary for p in stopped.points()] == [p.summary for p in whole.points()]


def test_measured_rate_of_the_fake_device_is_one_teraflop_per_second(tmp_path: Path) -> None:
    run(SMALL, FakeBackend(), tmp_path)
    points = folders.load(tmp_path).points()
    assert len(points) == len(SMALL.points())
    assert all(p.flops_per_s == pytest.approx(1e12) for p in points)
    assert all(p.roof_fraction == pytest.approx(1) for p in points)


def test_failure_is_recorded_once_and_the_sweep_goes_on(tmp_path: Path) -> None:
    tasks = sweep.plan(SMALL, None).tasks
    failing = {tasks[0], tasks[5], tasks[-1]}
    rows = run(SMALL, FakeBackend(failing=failing), tmp_path)
    assert sum(isinstance(row, Failure) for row in rows) == 3
    assert sum(isinstance(row, Measurement) for row in rows) == 2 * (len(tasks) - 3)
    results = folders.load(tmp_path)
    assert set(results.failures) == failing
    reasons = {p.reason for p in results.points() if p.summary is None}
    assert reasons == {"crashed: it fell over"}


def test_ten_failures_in_a_row_stop_the_sweep_and_are_kept(tmp_path: Path) -> None:
    tasks = sweep.plan(SMALL, None).tasks
    with pytest.raises(MedusaBenchError, match="10 points in a row failed"):
        run(SMALL, FakeBackend(failing=tasks), tmp_path)
    assert len(folders.load(tmp_path).failures) == 10


def test_nine_failures_and_a_success_do_not_stop_it(tmp_path: Path) -> None:
    tasks = sweep.plan(SMALL, None).tasks
    failing = [task for index, task in enumerate(tasks) if index % 10 != 9]
    run(SMALL, FakeBackend(failing=failing), tmp_path)
    assert len(folders.load(tmp_path).failures) == len(failing)


def test_sweep_stops_at_max_time(tmp_path: Path) -> None:
    rows = run(SMALL, FakeBackend(), tmp_path, max_time_s=9.5 * BUDGET_S)
    assert len(rows) == 10


def test_drifting_roof_has_the_interval_measured_again_and_the_first_try_left_out(
    tmp_path: Path,
) -> None:
    num_tasks = len(sweep.plan(SMALL, None).tasks)
    clock = FakeClock()
    backend = FakeBackend(clock, peaks=(1e12, 0.8e12, 0.8e12))
    sweep_interval = sweep.SENTINEL_INTERVAL_S["cuda"]
    per_point_s = sweep_interval / num_tasks  # the first look comes when round 0 ends
    plan = sweep.plan(SMALL, None)
    with folders.Writer(tmp_path, FAKE_DEVICE, SMALL) as writer:
        roofs = backend.roofs(SMALL.dtypes)
        writer.add_roofs(roofs)
        list(
            sweep.run(
                sweep.work(plan.tasks, 1),
                backend,
                writer,
                budget_s=per_point_s * 1.0001,
                roofs=roofs,
                next_round=1,
                clock=clock,
            )
        )
    again = [task for round_index, task in backend.calls if round_index == 1]
    assert again == list(plan.tasks)
    results = folders.load(tmp_path)
    assert all(summary.num_rounds == 1 for summary in results.summaries.values())
    assert not any(QualityFlag.DRIFTED in summary.flags for summary in results.summaries.values())


@pytest.mark.parametrize(
    ("compute", "bandwidth", "num_rounds"), [(1.04, 1.0, 2), (1.0, 1.04, 3), (1.12, 1.0, 3)]
)
def test_roofs_that_move_at_every_look_add_one_round_at_most(
    compute: float, bandwidth: float, num_rounds: int
) -> None:
    tasks = sweep.plan(SMALL, None).tasks
    clock = FakeClock()
    backend = FakeBackend(clock)
    num_looks = 0

    def roofs(dtypes: Sequence[Dtype], *, quick: bool = False) -> Roofs:
        nonlocal num_looks
        num_looks += 1
        up = num_looks % 2
        return Roofs(
            dict.fromkeys(dtypes, 1e12 * compute**up), 1e15 * bandwidth**up, measured_at_s=clock()
        )

    backend.roofs = roofs  # type: ignore[method-assign]
    rows = sweep.run(
        sweep.work(tasks, 2),
        backend,
        Forgotten(),
        budget_s=sweep.SENTINEL_INTERVAL_S["cuda"] / 3,
        roofs=roofs(SMALL.dtypes),
        next_round=2,
        clock=clock,
    )
    assert len(list(rows)) == num_rounds * len(tasks)
    assert num_looks > len(tasks) / 2


class Forgotten:
    """Rows that nobody keeps."""

    def append(self, row: Measurement | Failure) -> None: ...

    def add_roofs(self, roofs: Roofs) -> None: ...


def test_a_compute_roof_that_moves_by_4_percent_is_no_drift_on_a_gpu_and_bandwidth_is() -> None:
    before = Roofs({Dtype.FLOAT16: 1e12}, 1e12)
    assert not drifted(before, Roofs({Dtype.FLOAT16: 0.96e12}, 1e12), "cuda")
    assert drifted(before, Roofs({Dtype.FLOAT16: 0.89e12}, 1e12), "cuda")
    assert drifted(before, Roofs({Dtype.FLOAT16: 1e12}, 0.96e12), "cuda")
    assert not drifted(before, Roofs({Dtype.FLOAT16: 0.8e12}, 0.8e12), "cpu")


def test_predicted_time_is_the_budget_for_short_and_the_calls_for_long_products() -> None:
    roofs = Roofs({Dtype.FLOAT16: 1e12}, 1e12)
    tasks = sorted(sweep.plan(PAPER, None).tasks, key=lambda task: task.product.flops)
    short_s = sweep.predicted_time_s(tasks[0], roofs, BUDGET_S)
    long_s = sweep.predicted_time_s(tasks[-1], roofs, BUDGET_S)
    assert 0 < short_s < BUDGET_S
    assert long_s == pytest.approx(5 * 2 * tasks[-1].product.flops / 1e12, rel=0.01)
    assert sweep.predicted_time_s(tasks[-1], None, BUDGET_S) == pytest.approx(short_s, rel=0.01)
