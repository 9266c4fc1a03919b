"""Scores of predictions, on points that were fitted and on points left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.predict import calibration_files, scoring
from medusa_bench.predict.calibration import DeviceCeilings, Parameters, Work
from medusa_bench.predict.scoring import LeaveOut, Scored
from medusa_bench.results import tables
from medusa_bench.results.tables import Observations
from medusa_bench.specs import profiles
from medusa_bench.specs.columns import Products
from medusa_bench.specs.dtypes import Dtype

TRUE = Parameters(6e-6, 0.7, 0.65)


def table(gpu: str, count: int = 60, seed: int = 0, noise: float = 0.03) -> Observations:
    """Rows that follow TRUE on a GPU but for noise, of three models."""
    rng = np.random.default_rng(seed)
    m, n, k = np.floor(2 ** rng.uniform([0, 8, 8], [12, 14, 14], (count, 3))).T
    products = Products(np.ones(count), m, n, k)
    work = Work.of(products, Dtype.FLOAT16, DeviceCeilings.of(profiles.load(gpu)))
    latency_s = work.latency_s(TRUE) * np.exp(rng.normal(0, noise, count))
    models = np.array(["x", "y", "z"])[np.arange(count) % 3]
    return Observations(
        products,
        np.full(count, "float16"),
        latency_s,
        np.full(count, gpu),
        np.full(count, "here"),
        models,
        np.full(count, ""),
    )


def nothing(rows: Observations) -> np.ndarray:
    return np.zeros(len(rows), dtype=bool)


def test_a_score_is_what_it_says() -> None:
    rows = table("a40", 4)
    rows = replace(rows, latency_s=np.ones(4))
    predicted = np.array([1.1, 0.8, 1.0, 1.3])
    scored = Scored(
        rows,
        predicted,
        low_s=predicted - 0.15,
        high_s=predicted + 0.15,
        roofline_s=np.full(4, 0.5),
        bound=np.full(4, "memory"),
        predictor=np.full(4, "p"),
    )
    score = scoring.score(scored)
    assert score.rows == 4
    assert score.mape == pytest.approx(15)
    assert score.median_ape == pytest.approx(15)
    assert score.max_ape == pytest.approx(30)
    assert score.coverage_90 == pytest.approx(50)
    assert score.roofline_mape == pytest.approx(50)
    groups = scoring.grouped(scored)
    assert groups["model"]["x"].rows == 2
    assert "op" not in groups  # there are no names


def test_fitted_points_are_not_scored() -> None:
    rows = table("l40s")
    scored = scoring.calibrated_on(rows, [], 20, 0, nothing(rows))
    assert len(scored.latency_s) == 40
    assert scoring.score(scored).mape < 6


def test_excluded_models_are_scored_but_never_fitted_to() -> None:
    rows = table("l40s")
    poisoned = rows.model == "z"
    rows = replace(rows, latency_s=np.where(poisoned, 50 * rows.latency_s, rows.latency_s))
    scored = scoring.calibrated_on(rows, [], 20, 0, poisoned)
    groups = scoring.grouped(scored)["model"]
    assert groups["z"].rows == 20
    assert groups["x"].mape < 6


def test_more_points_than_there_are_is_an_error() -> None:
    rows = table("l40s")
    with pytest.raises(MedusaBenchError, match="60 rows"):
        scoring.calibrated_on(rows, [], 60, 0, nothing(rows))


def test_the_prior_of_a_device_rests_on_other_sources_only() -> None:
    shipped = calibration_files.shipped_calibrations()
    a40 = profiles.load("a40")
    own = next(each for each in shipped if each.device == "a40")
    prior = scoring.prior_for(a40, shipped, own.source)
    assert prior.parameters != own.parameters
    h100 = profiles.load("h100-sxm")
    both = [each for each in shipped if each.device == "h100-sxm"]
    for held, other in (both, both[::-1]):
        found = scoring.prior_for(h100, shipped, held.source).parameters
        assert found.logs == pytest.approx(other.parameters.logs)


@pytest.mark.parametrize("what", [LeaveOut.MODEL, LeaveOut.SHAPE])
def test_every_row_is_scored_once_when_models_or_shapes_are_left_out(what: LeaveOut) -> None:
    rows = table("a40")
    scored = scoring.leaving_out(rows, what, 0, nothing(rows))
    assert sorted(scored.observations.latency_s) == sorted(rows.latency_s)
    assert scoring.score(scored).mape < 6


def test_a_model_left_out_is_not_seen() -> None:
    rows = table("a40")
    poisoned = rows.model == "z"
    bad = replace(rows, latency_s=np.where(poisoned, 50 * rows.latency_s, rows.latency_s))
    groups = [
        scoring.grouped(scoring.leaving_out(each, LeaveOut.MODEL, 0, nothing(rows)))["model"]
        for each in (rows, bad)
    ]
    assert groups[1]["z"].mape > 95  # predicted as if it were like the others
    assert groups[1]["z"].median_ape == pytest.approx(98, abs=1)


def test_a_gpu_left_out_is_predicted_by_the_others() -> None:
    gpus = ("a40", "h100-sxm", "l40s")
    rows = tables.joined([table(gpu, seed=seed) for seed, gpu in enumerate(gpus)])
    scored = scoring.leaving_out(rows, LeaveOut.GPU, 0, nothing(rows))
    groups = scoring.grouped(scored)
    assert set(groups["gpu"]) == set(gpus)
    assert all(score.mape < 12 for score in groups["gpu"].values())  # launch counts in cycles
    wrong = np.where(rows.gpu == "l40s", 50 * rows.latency_s, rows.latency_s)
    poisoned = scoring.leaving_out(replace(rows, latency_s=wrong), LeaveOut.GPU, 0, nothing(rows))
    mine = scored.observations.gpu == "l40s"
    assert poisoned.latency_s[mine] == pytest.approx(scored.latency_s[mine])


@pytest.mark.parametrize("what", [LeaveOut.GPU, LeaveOut.MODEL])
def test_leaving_out_the_only_one_is_an_error(what: LeaveOut) -> None:
    rows = replace(table("a40"), model=np.full(60, "x"))
    with pytest.raises(MedusaBenchError):
        scoring.leaving_out(rows, what, 0, nothing(rows))


def test_the_papers_cells_are_predicted_within_three_percent_from_twelve_of_them() -> None:
    rows = tables.with_gpu(tables.read(Path("results/paper")), "a100-80gb-pcie")
    shipped = calibration_files.shipped_calibrations()
    scores = [
        scoring.score(scoring.calibrated_on(rows, shipped, 12, seed, nothing(rows)))
        for seed in range(20)
    ]
    total = scoring.mean_score(scores)
    assert total.mape <= 3.0
    assert 85 <= total.coverage_90 <= 95
    assert total.roofline_mape == pytest.approx(40, abs=1)


@pytest.fixture(scope="module")
def measured(reference_dir: Path) -> Observations:
    return tables.read(reference_dir / "measured" / "gemm_measured.parquet")


def test_a_gpu_left_out_altogether_is_predicted_within_nine_percent(
    measured: Observations,
) -> None:
    some = measured[np.arange(0, len(measured), 5)]
    total = scoring.score(scoring.leaving_out(some, LeaveOut.GPU, 0, nothing(some)))
    assert total.mape <= 9.0
    assert 85 <= total.coverage_90 <= 95


def test_unseen_shapes_of_a_gpu_are_predicted_within_eight_percent(
    measured: Observations,
) -> None:
    chosen = np.flatnonzero((measured.source == "aiconfigurator") & (measured.gpu == "h100_sxm"))
    part = measured.shape_ids[chosen] % 8
    calibration = scoring.calibrate_rows(measured[chosen[part < 2]], "", seed=0)
    unseen = measured[chosen[part == 2]]
    work = calibration.work(unseen.products, unseen.dtypes)
    corrected = calibration.predict(work)
    assert 100 * np.abs(corrected.latency_s / unseen.latency_s - 1).mean() <= 8.0
    covered = (corrected.low_s <= unseen.latency_s) & (unseen.latency_s <= corrected.high_s)
    assert 0.85 <= covered.mean() <= 0.95
