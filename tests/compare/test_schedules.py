"""Schedules: cover every batch, are read back as written, and never lose when replayed."""

from functools import cache

import pytest

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.compare import acceptance, methods, schedules, simulation
from medusa_bench.compare.comparisons import Comparison, best, by_setting
from medusa_bench.compare.passes import Block
from medusa_bench.compare.schedules import Schedule, Span
from medusa_bench.compare.simulation import Variant
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS
from tests.builders.latencies import SmoothLatency

MIXED = Schedule((Span(1, 4, 5), Span(5, 9, 0), Span(10, 31, 3), Span(32, 64, 0)))
MIXED_PROBABILITY = 0.15  # pays at small batch sizes alone


@cache
def rows(probability: float) -> list[Comparison]:
    model = acceptance.Chain(probability)
    return simulation.simulate(
        [Variant(methods.draft_model(PRESETS["llama-160m"], n), model) for n in range(1, 9)],
        PRESETS["llama-7b"],
        SmoothLatency(launch_s=5e-6),
        Dtype.FLOAT16,
        [(batch_size, 512) for batch_size in range(1, 65)],
        block=Block.FULL,
    )


@pytest.mark.parametrize("probability", [0.02, MIXED_PROBABILITY, 0.8])
def test_a_schedule_replayed_is_never_worse_than_always_on_or_off(probability: float) -> None:
    simulated = rows(probability)
    schedule = schedules.plan(simulated)
    assert schedule.max_batch_size == 64
    speedup = {(row.batch_size, row.num_candidates - 1): row.speedup for row in simulated}
    for point in schedules.replay(schedule, simulated):
        assert point.speedup >= 1.0
        for length in range(1, 9):  # always on, whatever the length
            assert point.speedup >= speedup[point.batch_size, length]


def test_the_cases_replayed_include_always_on_always_off_and_both() -> None:
    lengths = [
        {span.draft_len for span in schedules.plan(rows(p)).spans}
        for p in (0.02, MIXED_PROBABILITY, 0.8)
    ]
    assert lengths[0] == {0}
    assert 0 in lengths[1]
    assert len(lengths[1]) > 1
    assert 0 not in lengths[2]


def test_one_length_stands_for_all_where_that_is_within_the_tolerance_of_the_mean() -> None:
    simulated = rows(0.8)
    (span,) = schedules.plan(simulated, tolerance=0.02).spans
    assert span == Span(1, 64, schedules.best_constant(simulated))
    assert schedules.best_constant(rows(0.02)) == 0


def test_margin_turns_off_what_pays_too_little() -> None:
    simulated = rows(0.4)
    for margin in (0.05, 0.2):
        schedule = schedules.plan(simulated, margin)
        for (batch_size, _), group in by_setting(simulated).items():
            on = best(group).speedup > 1 + margin
            assert bool(schedule.draft_len(batch_size)) == on


@pytest.mark.parametrize("probability", [MIXED_PROBABILITY, 0.8])
def test_tolerance_gives_fewer_spans_and_gives_up_no_more_than_it_says(probability: float) -> None:
    simulated = rows(probability)
    strict, loose = schedules.plan(simulated), schedules.plan(simulated, tolerance=0.02)
    assert len(loose.spans) <= len(strict.spans)
    before = [point.speedup for point in schedules.replay(strict, simulated)]
    after = [point.speedup for point in schedules.replay(loose, simulated)]
    assert min(after) >= 1.0
    assert sum(after) >= 0.98 * sum(before)
    if len(loose.spans) > 1:
        assert all(late >= 0.98 * early for early, late in zip(before, after, strict=True))
    assert len(schedules.plan(rows(0.8), tolerance=0.02).spans) < len(
        schedules.plan(rows(0.8)).spans
    )


@pytest.mark.parametrize(
    "spans",
    [
        (),
        (Span(2, 4, 1),),
        (Span(1, 4, 1), Span(6, 8, 0)),
        (Span(1, 4, 1), Span(4, 8, 0)),
        (Span(1, 4, -1),),
        (Span(1, 0, 1),),
    ],
)
def test_gaps_overlaps_and_nonsense_are_refused(spans: tuple[Span, ...]) -> None:
    with pytest.raises(ValueError, match=r"batch sizes|draft length"):
        Schedule(spans)


def test_a_draft_length_that_was_not_simulated_is_an_error() -> None:
    with pytest.raises(MedusaBenchError, match="not simulated"):
        schedules.replay(Schedule((Span(1, 64, 99),)), rows(0.8))
