"""What results are made of: keys, summaries, grids, roofs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.results.rows import Measurement, QualityFlag, Task, Timing, drifted, summarise
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product
from tests.builders.samples import GRID, ROOFS, measured, tasks
from tests.builders.strategies import any_task

TASK = Task(Product(1, 2, 3, 4), Dtype.FLOAT16, Timing.KERNEL)


def test_a_grid_knows_how_many_points_it_comes_to_before_it_makes_them() -> None:
    assert GRID.num_points == len(GRID.points())
    with pytest.raises(MedusaBenchError, match=r"4,294,967,296 points; 20,000,000 are the most"):
        replace(
            GRID,
            operators=GRID.operators[:1],
            phases=GRID.phases[:1],
            batch_sizes=tuple(range(1, 65537)),
            seq_lens=tuple(range(1, 65537)),
        )


@given(any_task, any_task)
def test_two_tasks_have_one_key_only_if_they_are_the_same(one: Task, other: Task) -> None:
    assert (one.key == other.key) == (one == other)


def test_a_key_never_changes_or_old_results_would_be_lost() -> None:
    assert TASK.key == "066fa05e6a77ee14"


def test_the_grid_of_two_phases_measures_shared_products_once() -> None:
    # 2 batches x 2 contexts x (1 decode + 2 candidate counts) x 8 operators
    assert len(GRID.points()) == 96
    # linear: 5 distinct batch x query x (q=k=v, up=gate, down); attention: 12 settings x 2
    assert len(tasks()) == 5 * 3 + 12 * 2


@given(st.lists(st.floats(1e-7, 1e-2), min_size=1, max_size=5))
def test_a_summary_lies_between_its_fastest_and_slowest_round(latencies_s: list[float]) -> None:
    summary = summarise([measured(TASK, i, each) for i, each in enumerate(latencies_s)])
    assert summary.low_s == min(latencies_s) and summary.high_s == max(latencies_s)
    assert summary.low_s <= summary.latency_s <= summary.high_s
    assert summary.num_rounds == len(latencies_s)
    assert summary.spread >= 0


@pytest.mark.parametrize("device_type", ["cuda", "cpu"])
@pytest.mark.parametrize("roof", ["peak", "bandwidth"])
@pytest.mark.parametrize("sign", [1, -1])
def test_drift_is_any_roof_that_moved_over_its_tolerance(
    device_type: str, roof: str, sign: int
) -> None:
    tolerance = {"cuda": {"peak": 0.10, "bandwidth": 0.03}}.get(device_type, {}).get(roof, 0.25)
    for share, moved in ((0.99, False), (1.01, True)):
        factor = 1 + sign * share * tolerance
        peaks = {dtype: peak * factor for dtype, peak in ROOFS.peak_flops_per_s.items()}
        after = (
            replace(ROOFS, peak_flops_per_s=peaks)
            if roof == "peak"
            else replace(
                ROOFS, memory_bandwidth_bytes_per_s=ROOFS.memory_bandwidth_bytes_per_s * factor
            )
        )
        assert drifted(ROOFS, after, device_type) is moved


def test_a_summary_has_the_doubts_of_all_rounds_once() -> None:
    flags = [(QualityFlag.UNSTABLE,), (QualityFlag.UNSTABLE, QualityFlag.CONTENDED)]
    rounds = [Measurement(TASK, i, 1, 1, 1, 1, 1, flags=each) for i, each in enumerate(flags)]
    assert summarise(rounds).flags == (QualityFlag.CONTENDED, QualityFlag.UNSTABLE)


def test_the_roof_bends_at_its_ridge() -> None:
    ridge = ROOFS.ridge_point(Dtype.FLOAT16)
    assert ridge == 150
    assert ROOFS.attainable_flops_per_s(ridge / 2, Dtype.FLOAT16) == pytest.approx(150e12)
    assert ROOFS.attainable_flops_per_s(ridge * 2, Dtype.FLOAT16) == 300e12
