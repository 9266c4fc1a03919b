"""The protocol on a fake timer and a fake clock: no device, no waiting."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_bench.measure import stopping
from medusa_bench.measure.stopping import Samples, StoppingRule
from medusa_bench.results.rows import MAX_SAMPLES, QualityFlag, Task, Timing
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

GPU_KERNEL = StoppingRule(tolerance=0.01, batch_s=2e-3)
EAGER = StoppingRule(tolerance=0.01, batch_s=0.0)
TASK = Task(Product(1, 1, 16, 16), Dtype.FLOAT32, Timing.KERNEL)


class FakeTimer:
    """Calls that take what `call_s` says, on a clock that only they move."""

    def __init__(self, call_s: Callable[[int], float]) -> None:
        self._call_s = call_s
        self.now_s = 0.0
        self.num_calls = 0
        self.batches: list[int] = []
        self.num_open = 0

    def clock(self) -> float:
        return self.now_s

    @contextmanager
    def batch(self, num_calls: int) -> Iterator[Callable[[], float]]:
        self.batches.append(num_calls)
        self.num_open += 1

        def sample() -> float:
            total_s = 0.0
            for _ in range(num_calls):
                total_s += self._call_s(self.num_calls)
                self.num_calls += 1
            self.now_s += total_s
            return total_s

        try:
            yield sample
        finally:
            self.num_open -= 1


def run(timer: FakeTimer, rules: StoppingRule = GPU_KERNEL, budget_s: float = 0.05) -> Samples:
    block = stopping.run(timer, rules, budget_s, timer.clock)
    assert timer.num_open == 0
    return block


def test_short_calls_are_averaged_over_a_graph_of_two_milliseconds() -> None:
    timer = FakeTimer(lambda _: 10e-6)
    block = run(timer)
    assert timer.batches == [1, 200]
    assert block.calls_per_sample == 200
    assert block.samples_s == pytest.approx([10e-6] * len(block.samples_s))
    assert block.flags == ()


def test_calls_longer_than_a_batch_are_samples_of_their_own() -> None:
    timer = FakeTimer(lambda _: 3e-3)
    block = run(timer)
    assert timer.batches == [1]
    assert block.calls_per_sample == 1


def test_eager_calls_are_never_averaged() -> None:
    assert run(FakeTimer(lambda _: 10e-6), EAGER).calls_per_sample == 1


def test_a_warm_up_does_not_count() -> None:
    block = run(FakeTimer(lambda index: 0.03 if index == 0 else 5e-3))
    assert max(block.samples_s) == 5e-3


def test_a_call_longer_than_the_budget_needs_no_warm_up() -> None:
    timer = FakeTimer(lambda _: 0.1)
    assert run(timer).samples_s == (0.1, 0.1, 0.1)
    assert timer.num_calls == 3


def test_a_call_above_0_4_s_is_made_three_times_and_says_so() -> None:
    timer = FakeTimer(lambda index: 0.5 + 0.1 * index)
    block = run(timer)
    assert block.samples_s == pytest.approx((0.5, 0.6, 0.7))
    assert block.flags == (QualityFlag.FEW_CALLS,)
    assert timer.num_calls == 3


def test_steady_calls_stop_long_before_the_budget() -> None:
    timer = FakeTimer(lambda _: 10e-6)
    run(timer, budget_s=1.0)
    assert timer.now_s < 0.25


def test_agreement_within_an_instant_does_not_end_a_point() -> None:
    timer = FakeTimer(lambda _: 10e-6)
    run(timer, EAGER, budget_s=0.05)
    assert timer.now_s >= stopping.SHARE_TO_CLOSE * 0.05


def test_noise_that_does_not_close_ends_at_the_budget_as_unstable() -> None:
    noise = random.Random(1)
    timer = FakeTimer(lambda _: 1e-3 * noise.uniform(1, 2))
    block = run(timer, EAGER, budget_s=0.05)
    assert block.flags == (QualityFlag.UNSTABLE,)
    assert 0.05 <= timer.now_s < 0.06


def test_noise_within_what_is_doubted_uses_the_budget_and_is_no_doubt() -> None:
    for width, flags in ((0.3, ()), (2.0, (QualityFlag.UNSTABLE,))):
        noise = random.Random(1)
        timer = FakeTimer(lambda _, width=width, noise=noise: 4e-3 * noise.uniform(1, 1 + width))
        rules = StoppingRule(tolerance=0.005, batch_s=0.0, doubted=0.1)
        assert run(timer, rules, budget_s=0.1).flags == flags
        assert timer.now_s >= 0.1


def test_a_drift_is_not_taken_for_settled_noise() -> None:
    timer = FakeTimer(lambda index: 1e-4 * (1 + index / 1000))
    assert run(timer, EAGER, budget_s=0.05).flags == (QualityFlag.UNSTABLE,)


@pytest.mark.parametrize(("width", "settles"), [(1.99, True), (2.01, False)])
def test_noise_settles_up_to_twice_the_width_that_closes(width: float, settles: bool) -> None:
    """Steady noise: the interval reaches width x tolerance to either side of the median."""
    tolerance, count = 0.02, 2 * stopping.SETTLED_SAMPLES
    samples = [1 - width * tolerance, 1 + width * tolerance] * (count // 2)
    assert stopping.has_settled(samples, tolerance) is settles
    assert not stopping.is_closed(samples, tolerance)
    assert not stopping.has_settled(samples[: stopping.SETTLED_SAMPLES - 1], tolerance)


@pytest.mark.parametrize(("width", "closes"), [(0.99, True), (1.01, False)])
def test_an_interval_closes_at_the_tolerance(width: float, closes: bool) -> None:
    samples = [1 - width * 0.02, 1 + width * 0.02] * 50
    assert stopping.is_closed(samples, 0.02) is closes


def test_settled_noise_ends_a_point_though_its_interval_is_wider() -> None:
    noise = random.Random(2)
    timer = FakeTimer(lambda _: 1e-4 * noise.gauss(1, 0.08))
    block = run(timer, EAGER, budget_s=1.0)
    assert block.flags == ()
    assert not stopping.is_closed(block.samples_s, 0.001)
    assert timer.now_s < 1.0


def test_at_least_three_samples_are_taken_however_small_the_budget() -> None:
    assert len(run(FakeTimer(lambda _: 0.3), budget_s=1e-6).samples_s) == 3


@given(st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=200))
def test_the_interval_holds_the_median_and_lies_within_the_range(samples: list[float]) -> None:
    low, high = stopping.median_interval(samples)
    assert min(samples) <= low <= median(samples) <= high <= max(samples)


def test_the_interval_covers_the_true_median_in_95_of_100_cases() -> None:
    noise = random.Random(3)
    for num_samples in (10, 25, 100):
        covered = 0
        for _ in range(2000):
            low, high = stopping.median_interval([noise.random() for _ in range(num_samples)])
            covered += low <= 0.5 <= high
        assert 0.93 <= covered / 2000 <= 0.995


def test_a_row_holds_quartiles_and_counts_every_call() -> None:
    block = Samples(tuple(1e-6 * n for n in range(1, 102)), calls_per_sample=20)
    row = stopping.measurement(TASK, 1, block, flags=(QualityFlag.CONTENDED,), started_at_s=7.0)
    assert row.latency_s == pytest.approx(51e-6)
    assert row.min_s == 1e-6
    assert (row.p25_s, row.p75_s) == pytest.approx((26e-6, 76e-6))
    assert row.num_calls == 2020
    assert row.flags == (QualityFlag.CONTENDED,)
    assert row.started_at_s == 7.0


@pytest.mark.parametrize("num_samples", [3, 63, 64, 65, 1000])
def test_at_most_64_samples_are_kept_in_order_of_time(num_samples: int) -> None:
    block = Samples(tuple(float(n) for n in range(1, num_samples + 1)), 1)
    kept = stopping.measurement(TASK, 0, block).samples_s
    assert min(num_samples, MAX_SAMPLES // 2) <= len(kept) <= MAX_SAMPLES
    assert list(kept) == sorted(kept)


def test_a_quantile_of_zero_is_the_fastest_call() -> None:
    block = Samples((3.0, 1.0, 2.0), 1)
    assert stopping.quantile_s(block, 0.0) == 1.0
    assert stopping.quantile_s(block, 0.5) == 2.0
