"""Why points are below their roof."""

from dataclasses import replace
from pathlib import Path

import pytest

from medusa_bench.predict import attribution, choosing
from medusa_bench.predict.attribution import Cause
from medusa_bench.results import folders
from medusa_bench.results.rows import Timing


@pytest.fixture(scope="module")
def explained() -> list[attribution.Explained]:
    results = folders.load("results/paper")
    calibration = choosing.folder_calibration(results, Timing.EAGER)
    return attribution.explain(results, {Timing.EAGER: calibration})


def test_the_parts_of_every_point_sum_to_its_latency(
    explained: list[attribution.Explained],
) -> None:
    for each in explained:
        parts = (each.launch_s, each.bandwidth_s, each.compute_s, each.tile_s, each.unexplained_s)
        assert sum(parts) == pytest.approx(each.latency_s, rel=0.01)
        assert sum(each.losses_s.values()) == pytest.approx(each.lost_s, rel=0.01)


@pytest.mark.parametrize(("bandwidth_s", "compute_s"), [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0)])
def test_time_below_the_roof_is_lost_to_what_binds(
    explained: list[attribution.Explained], bandwidth_s: float, compute_s: float
) -> None:
    each = replace(
        explained[0], latency_s=4.0, roof_s=2.5, launch_s=0.0, tile_s=0.0, unexplained_s=0.0,
        bandwidth_s=bandwidth_s, compute_s=compute_s,
    )  # fmt: skip
    binds, other = Cause.BANDWIDTH, Cause.COMPUTE
    if compute_s > bandwidth_s:
        binds, other = other, binds
    assert (each.losses_s[binds], each.losses_s[other]) == (1.5, 0.0)


def test_points_are_ranked_by_lost_time(explained: list[attribution.Explained]) -> None:
    lost_s = [each.lost_s for each in explained]
    assert lost_s == sorted(lost_s, reverse=True)
    assert all(each.roof_s < each.latency_s for each in explained)


def test_small_attention_loses_most_to_launch_and_the_remedy_is_cuda_graphs(
    explained: list[attribution.Explained],
) -> None:
    small = [
        each
        for each in explained
        if each.point.point.operator.name == "qk" and each.latency_s < 60e-6
    ]
    assert small
    assert all(each.main_cause is Cause.LAUNCH for each in small)
    found = attribution.findings(small)
    assert found[0].num_points == found[0].num_all == len(small)
    assert "to launch: use CUDA graphs" in found[0].words
    assert 0.5 < found[0].share < 1


def test_findings_count_every_point_once(explained: list[attribution.Explained]) -> None:
    found = attribution.findings(explained)
    assert sum(each.num_points for each in found) == len(explained)
    for each in found:
        assert each.cause.words in each.words
        assert each.cause.remedy in each.words


def test_a_timing_without_a_number_is_left_out() -> None:
    results = folders.load(Path("results/paper"))
    calibration = choosing.folder_calibration(results, Timing.EAGER)
    assert attribution.explain(results, {Timing.KERNEL: calibration}) == []
