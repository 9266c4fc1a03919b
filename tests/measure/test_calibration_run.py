"""The products a device is calibrated on."""

from pathlib import Path

import pytest

from medusa_bench.measure import calibration_run
from medusa_bench.predict import choosing
from medusa_bench.predict.fitting import Origin
from medusa_bench.results import folders
from medusa_bench.results.rows import Roofs, Timing
from medusa_bench.specs.dtypes import Dtype
from tests.builders.fakes import FakeBackend, FakeClock

FAST = Roofs({Dtype.FLOAT16: 1e15}, 3e12)
GPU_BYTES = 80 << 30


def test_there_are_at_most_24_products_and_the_first_tells_the_launch_time() -> None:
    chosen = calibration_run.tasks(Dtype.FLOAT16, Timing.KERNEL, FAST, GPU_BYTES)
    assert len(set(chosen)) == len(chosen) == 24
    assert chosen[0].product.flops < 1e6
    assert sum(task.product.m == 1 and task.product.n >= 4096 for task in chosen) >= 2
    growing = [t.product.m for t in chosen if t.product.batch == 1 and 64 <= t.product.m <= 4096]
    assert len(set(growing)) >= 6


def test_a_slow_device_is_spared_products_that_take_long() -> None:
    slow = Roofs({Dtype.FLOAT32: 5e10}, 1e10)
    chosen = calibration_run.tasks(Dtype.FLOAT32, Timing.KERNEL, slow, 8 << 30)
    assert 4 <= len(chosen) < 24
    assert all(task.product.flops < 2e10 for task in chosen)


def test_products_that_do_not_fit_are_left_out() -> None:
    chosen = calibration_run.tasks(Dtype.FLOAT16, Timing.KERNEL, FAST, 200 << 20)
    assert all(task.product.bytes_moved(Dtype.FLOAT16) <= 100 << 20 for task in chosen)


class SlowBackend(FakeBackend):
    """Takes four seconds a task."""

    def measure(self, task, round_index, budget_s):  # type: ignore[no-untyped-def]
        return super().measure(task, round_index, 4.0)


def test_it_is_over_within_a_minute(tmp_path: Path) -> None:
    clock = FakeClock()
    backend = SlowBackend(clock)
    chosen = calibration_run.tasks(Dtype.FLOAT16, Timing.KERNEL, FAST, GPU_BYTES)
    with folders.Writer(tmp_path / "r", backend.environment) as writer:
        rows = list(calibration_run.run(backend, writer, chosen, clock=clock))
    assert 10 <= len(rows) < 24
    assert clock.now_s <= calibration_run.MAX_TIME_S + 4


def test_a_device_of_one_teraflop_a_second_is_found_to_be_one(tmp_path: Path) -> None:
    """Its memory is infinitely fast and it pads nothing: compute is all."""
    clock = FakeClock()
    backend = FakeBackend(clock)
    roofs = backend.roofs([Dtype.FLOAT16])
    chosen = calibration_run.tasks(Dtype.FLOAT16, Timing.KERNEL, roofs, GPU_BYTES)
    with folders.Writer(tmp_path / "r", backend.environment) as writer:
        writer.add_roofs(roofs)
        rows = list(calibration_run.run(backend, writer, chosen, clock=clock))
    results = folders.load(tmp_path / "r")
    calibration = choosing.calibrate_numbers(
        {(task.product, task.dtype): each for task, each in results.summaries.items()},
        results,
        Origin("fake", Timing.KERNEL, "fake"),
    )
    assert calibration.num_points == len(rows) == len(chosen)
    assert calibration.parameters.compute_efficiency == pytest.approx(1.0, rel=0.03)
    assert len(calibration.residuals) == len(rows)
