"""What a folder says: points expanded, reasons, roof fractions, flags; how two folders differ."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_bench.results import exports
from medusa_bench.results.codec import Run
from medusa_bench.results.differences import Change, differences, judge
from medusa_bench.results.points import EXPORT_COLUMNS
from medusa_bench.results.reading import Results
from medusa_bench.results.rows import (
    Estimate,
    Grid,
    Provenance,
    QualityFlag,
    ResultPoint,
    Roofs,
    Row,
    Skip,
    Summary,
    Task,
    Timing,
)
from medusa_bench.specs import operators
from medusa_bench.specs.settings import Phase
from tests.builders.samples import BLANK, ENVIRONMENT, GRID, ROOFS, failed, measured, tasks

TASKS = tasks()


def results(
    kept: Sequence[Row],
    roofs: Sequence[Roofs] = (ROOFS,),
    grids: Sequence[Grid] = (GRID,),
    skips: Sequence[Skip] = (),
    provenance: Provenance = Provenance.MEASURED,
) -> Results:
    run = Run(provenance, ENVIRONMENT, tuple(roofs), (), tuple(grids), tuple(skips))
    return Results(Path("results"), run, kept)


def task_of(each: ResultPoint) -> Task:
    return Task(each.point.product, each.point.dtype, each.timing)


def test_a_task_measured_once_stands_behind_every_point_that_shares_it() -> None:
    points = results([measured(task) for task in TASKS]).points()
    assert [each.point for each in points] == GRID.points()
    assert all(each.summary for each in points)
    up = [each for each in points if each.point.operator.name in ("up", "gate")]
    # 2 operators x (2 batches x 3 query lengths) x 2 contexts, of 5 distinct products
    assert len(up) == 24 and len({task_of(each) for each in up}) == 5


def test_a_point_without_a_number_says_why() -> None:
    good, bad, skipped, missing = TASKS[:4]
    kept = [measured(good, 0), failed(good, 1), failed(bad, reason="needs 99 GB")]
    found = results(kept, skips=[Skip(skipped, "too large")])
    reasons = {task_of(each): each.reason for each in found.points()}
    assert reasons[good] == ""
    assert reasons[bad] == "out-of-memory: needs 99 GB"
    assert reasons[skipped] == "too large"
    assert reasons[missing] == "not measured"
    assert set(found.failures) == {bad}


def test_a_point_asked_for_by_two_commands_is_listed_once() -> None:
    wider = replace(GRID, batch_sizes=(1, 4, 8), timings=(Timing.KERNEL, Timing.EAGER))
    points = results([], grids=(GRID, wider)).points()
    asked = [(each.point, each.timing) for each in points]
    assert len(asked) == len(set(asked)) == len(wider.points()) * 2


def test_a_point_at_the_roof_has_fraction_one_and_above_105_per_cent_it_is_doubted() -> None:
    task = TASKS[0]
    at_roof_s = max(task.product.flops / 300e12, task.product.bytes_moved(task.dtype) / 2e12)
    for factor, doubted in ((1.0, False), (1 / 1.04, False), (1 / 1.06, True)):
        point = results([measured(task, latency_s=at_roof_s * factor)]).points()[0]
        assert point.roof_fraction == pytest.approx(1 / factor)
        assert (QualityFlag.ABOVE_ROOF in point.flags) is doubted


def test_the_roof_is_the_highest_of_all_measured() -> None:
    dtype = GRID.dtypes[0]
    later = Roofs({dtype: 310e12}, 1.9e12, 9.0)
    roof = results([], roofs=(ROOFS, later)).roof
    assert roof == Roofs({dtype: 310e12}, 2e12, 9.0)


def test_bound_is_the_side_of_the_ridge() -> None:
    for each in results([]).points():
        intensity = each.point.product.operational_intensity(each.point.dtype)
        assert each.bound == ("memory" if intensity < 150 else "compute")


def test_without_roofs_fraction_and_bound_are_unknown() -> None:
    for each in results([measured(task) for task in TASKS], roofs=()).points():
        assert each.roof_fraction is None and each.bound is None


def test_predictions_bring_their_interval_and_source() -> None:
    kept = [Estimate(task, 2e-4, 1e-4, 3e-4, "roofline: h100-sxm") for task in TASKS]
    found = results(kept, provenance=Provenance.PREDICTED)
    for each in found.points():
        assert each.provenance is Provenance.PREDICTED
        assert each.summary == Summary(2e-4, 1e-4, 3e-4, 1, source="roofline: h100-sxm")


def test_rounds_measured_while_the_roofs_moved_are_left_out_or_doubted() -> None:
    looks = [replace(ROOFS, measured_at_s=0.0), replace(ROOFS, measured_at_s=60.0)]
    moved = Roofs({GRID.dtypes[0]: 200e12}, 2e12, 120.0)
    steady, drifting = TASKS[:2]
    kept = [
        measured(steady, 0, 1e-4, started_at_s=30),
        measured(steady, 1, 9e-4, started_at_s=90),
        measured(drifting, 0, 9e-4, started_at_s=90),
    ]
    summaries = results(kept, roofs=[*looks, moved]).summaries
    assert summaries[steady].latency_s == 1e-4 and not summaries[steady].flags
    assert summaries[drifting].flags == (QualityFlag.DRIFTED,)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=9),
    st.lists(st.integers(0, 9), min_size=1, max_size=9),
)
def test_a_round_is_doubted_where_it_lies_in_any_moving_interval_of_any_shard(
    looked: list[tuple[int, bool]], started: list[int]
) -> None:
    looks = [Roofs({GRID.dtypes[0]: 2e14 if high else 1e14}, 2e12, at_s) for at_s, high in looked]
    kept = [measured(task, started_at_s=at_s) for task, at_s in zip(TASKS, started, strict=False)]
    summaries = results(kept, roofs=looks).summaries
    for row in kept:
        moving = any(
            before.measured_at_s <= row.started_at_s < after.measured_at_s
            and before.peak_flops_per_s != after.peak_flops_per_s
            for before, after in pairwise(looks)
        )
        assert (QualityFlag.DRIFTED in summaries[row.task].flags) == moving


@pytest.mark.parametrize("reasons", [("first", "second"), ("second", "first")])
def test_of_several_failures_the_last_is_told(reasons: tuple[str, str]) -> None:
    rows = [failed(TASKS[0], index, reason) for index, reason in enumerate(reasons)]
    assert results(rows).failures[TASKS[0]].reason == reasons[-1]


def test_an_exported_row_follows_from_the_operator_table() -> None:
    for row, each in zip(
        exports.rows([results([measured(task) for task in TASKS]).points()]),
        GRID.points(),
        strict=True,
    ):
        assert tuple(row) == EXPORT_COLUMNS
        assert row["flops"] == each.product.flops
        assert row["flops_per_s"] == pytest.approx(each.product.flops / 1e-4)
        assert row["bytes_moved"] == each.product.bytes_moved(each.dtype)


def summary(low_s: float, latency_s: float, high_s: float, num_rounds: int = 3) -> Summary:
    return Summary(latency_s, low_s, high_s, num_rounds)


BASE = summary(0.99, 1.0, 1.01)


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (summary(0.98, 1.01, 1.02), Change.SAME),
        (summary(1.015, 1.02, 1.5), Change.SAME),
        (summary(1.04, 1.05, 1.06), Change.SLOWER),
        (summary(0.93, 0.95, 0.965), Change.AMBIGUOUS),  # a gap of 0.025, narrower than itself
        (summary(0.94, 0.95, 0.96), Change.FASTER),
        (summary(1.02, 1.05, 1.06), Change.AMBIGUOUS),
        (summary(1.0, 1.05, 1.1), Change.AMBIGUOUS),
        (summary(1.5, 1.5, 1.5, num_rounds=1), Change.AMBIGUOUS),
        (replace(summary(1.4, 1.5, 1.5), flags=(QualityFlag.CONTENDED,)), Change.AMBIGUOUS),
        (replace(summary(1.5, 1.5, 1.5), flags=(QualityFlag.UNSTABLE,)), Change.SLOWER),
        (Summary(1.5, 1.5, 1.5, 1, source="a paper, table 1"), Change.SLOWER),
    ],
)
def test_a_verdict_rests_on_the_spread_between_rounds(after: Summary, verdict: Change) -> None:
    assert judge(BASE, after, 0.02) == verdict


@pytest.mark.parametrize("flag", list(QualityFlag))
def test_a_disturbed_number_makes_no_other_one_slower(flag: QualityFlag) -> None:
    """Under these flags a number says too little about the device; the others only widen it."""
    disturbed = {"contended", "throttled", "drifted", "inaccurate"}
    slower = summary(1.49, 1.5, 1.51)
    expected = Change.AMBIGUOUS if flag in disturbed else Change.SLOWER
    assert judge(BASE, replace(slower, flags=(flag,)), 0.02) is expected
    assert judge(replace(BASE, flags=(flag,)), slower, 0.02) is expected


def test_swapping_before_and_after_swaps_slower_and_faster() -> None:
    swapped = {Change.SLOWER: Change.FASTER, Change.FASTER: Change.SLOWER}
    others = [
        summary(low, (low + high) / 2, high) for low in (0.9, 1.0, 1.1) for high in (1.1, 1.2)
    ]
    for one in others:
        for other in others:
            there, back = judge(one, other, 0.02), judge(other, one, 0.02)
            assert back == swapped.get(there, there)


def test_two_folders_are_compared_task_by_task() -> None:
    before = [measured(task, i) for task in TASKS[:4] for i in range(2)]
    factors = (1.0, 1.5, 0.5)
    after = [
        measured(task, i, 1e-4 * factor)
        for task, factor in zip(TASKS[:3], factors, strict=True)
        for i in range(2)
    ]
    after += [measured(TASKS[4])]
    found = differences(results(before), results(after), 0.02)
    assert [each.change for each in found] == ["same", "slower", "faster", *found_only()]
    assert [each.ratio for each in found[:3]] == [pytest.approx(factor) for factor in factors]
    # q, k and v in two contexts
    assert found[0].point.operator.name == "q" and found[0].num_points == 6


def found_only() -> list[Change]:
    return [Change.ONLY_BEFORE, Change.ONLY_AFTER]


def test_the_papers_full_grid_is_11760_points_of_2835_tasks() -> None:
    from medusa_bench.specs import models, paper_grid

    grid = Grid(
        tuple(models.PRESETS[name] for name in paper_grid.PAPER_MODELS),
        operators.OPERATORS,
        tuple(Phase),
        paper_grid.PAPER_BATCH_SIZES,
        paper_grid.PAPER_SEQ_LENS,
        paper_grid.PAPER_NUM_CANDIDATES,
        GRID.dtypes,
        GRID.timings,
    )
    distinct = tasks(grid)
    points = results([measured(task) for task in distinct], grids=(grid,)).points()
    assert (len(points), len(distinct)) == (11_760, 2_835)
    assert all(each.summary for each in points)


def test_a_blank_environment_is_enough() -> None:
    run = Run(Provenance.PREDICTED, BLANK)
    assert Results(Path(), run, ()).points() == []
