"""Parameters and corrections from points."""

from collections.abc import Sequence

import numpy as np
import pytest

from medusa_bench.predict import fitting
from medusa_bench.predict.calibration import BOUNDS, DeviceCeilings, Parameters, Work
from medusa_bench.predict.fitting import Origin, Prior, Samples
from medusa_bench.results.rows import Timing
from medusa_bench.specs.columns import Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

A100 = DeviceCeilings(
    {Dtype.FLOAT16: 312e12, Dtype.BFLOAT16: 312e12}, 2039e9, 108, 40 << 20, 1410e6
)
PRIOR = Prior(Parameters(5e-6, 0.80, 0.77))
ORIGIN = Origin("a100", Timing.KERNEL, "synthetic")
SPREAD = [
    Product(1, 16, 64, 64), Product(1, 1, 4096, 4096), Product(1, 1, 28672, 8192),
    Product(1, 4096, 8192, 8192), Product(1, 8192, 8192, 8192), Product(1, 64, 11008, 4096),
    Product(1, 512, 11008, 4096), Product(1, 8, 512, 512), Product(1, 2048, 16384, 8192),
    Product(1, 1, 11008, 4096), Product(1, 2, 65536, 8192), Product(1, 32, 64, 128),
]  # fmt: skip


def synthetic(
    parameters: Parameters, products: Sequence[Product] = SPREAD
) -> tuple[Work, np.ndarray]:
    work = Work.of(Products.of(list(products)), Dtype.FLOAT16, A100)
    return work, work.latency_s(parameters)


def many(count: int, seed: int = 0) -> list[Product]:
    rng = np.random.default_rng(seed)
    sizes = 2 ** rng.uniform([0, 8, 8], [12, 14, 14], (count, 3))
    return [Product(1, *map(int, row)) for row in sizes]


@pytest.mark.parametrize(
    "true",
    [
        Parameters(33e-6, 0.79, 0.79),
        Parameters(4e-6, 0.90, 0.62),
        Parameters(2e-6, 0.65, 0.85),
        Parameters(8e-6, 0.80, 0.55),
    ],
)
def test_known_parameters_are_recovered_within_three_percent(true: Parameters) -> None:
    work, latency_s = synthetic(true)
    found = fitting.fit_parameters(work, latency_s, PRIOR)
    assert found.launch_s == pytest.approx(true.launch_s, rel=0.03)
    assert found.bandwidth_efficiency == pytest.approx(true.bandwidth_efficiency, rel=0.03)
    assert found.compute_efficiency == pytest.approx(true.compute_efficiency, rel=0.03)


def test_one_wild_point_does_not_move_the_parameters() -> None:
    true = Parameters(5e-6, 0.8, 0.7)
    work, latency_s = synthetic(true, SPREAD + many(30))
    latency_s[20] *= 10
    found = fitting.fit_parameters(work, latency_s, PRIOR)
    assert found.bandwidth_efficiency == pytest.approx(0.8, rel=0.01)
    assert found.compute_efficiency == pytest.approx(0.7, rel=0.01)


def test_without_telling_points_the_prior_stands() -> None:
    work, latency_s = synthetic(Parameters(9e-6, 0.5, 0.5), [Product(1, 16, 64, 64)])
    found = fitting.fit_parameters(work, latency_s, PRIOR)
    assert found.launch_s == pytest.approx(9e-6, rel=0.05)
    assert found.compute_efficiency == pytest.approx(0.77, rel=0.01)


def samples(products: list[Product], latency_s: np.ndarray) -> Samples:
    groups = np.unique([p.n * 100_000 + p.k for p in products], return_inverse=True)[1]
    dtypes = [Dtype.FLOAT16] * len(products)
    return Samples(Products.of(products), dtypes, latency_s, groups, "shape")


def test_parts_sum_to_the_latency_with_and_without_a_correction() -> None:
    products = many(60)
    work, latency_s = synthetic(Parameters(6e-6, 0.7, 0.7), products)
    latency_s = latency_s * np.exp(0.1 * np.sin(np.arange(60)))
    calibration = fitting.calibrate(samples(products, latency_s), A100, PRIOR, ORIGIN)
    corrected = calibration.predict(work)
    parts = corrected.parts
    total = parts.explained_s + parts.unexplained_s
    assert total == pytest.approx(corrected.latency_s, rel=1e-9)
    assert (parts.tile_s > -1e-12).all()
    assert parts.explained_s == pytest.approx(work.latency_s(calibration.parameters), rel=1e-9)


def test_few_points_bend_the_formula_near_themselves_only() -> None:
    products = SPREAD[:8]
    work, latency_s = synthetic(Parameters(5e-6, 0.8, 0.77), products)
    latency_s[5] *= 1.2
    calibration = fitting.calibrate(samples(products, latency_s), A100, PRIOR, ORIGIN)
    assert calibration.process is not None
    near = calibration.predict(work).latency_s[5] / work.latency_s(calibration.parameters)[5]
    assert 1.02 < near < 1.2
    other = Work.of(Products.of([Product(512, 1, 128, 16384)]), Dtype.FLOAT16, A100)
    far = calibration.predict(other).latency_s / other.latency_s(calibration.parameters)
    assert far[0] == pytest.approx(1, abs=0.02)


def test_the_residual_of_every_one_of_few_points_is_kept() -> None:
    work, latency_s = synthetic(Parameters(5e-6, 0.8, 0.77))
    calibration = fitting.calibrate(samples(SPREAD, latency_s), A100, PRIOR, ORIGIN)
    assert [each.product for each in calibration.residuals] == SPREAD
    fitted_s = [each.fitted_s for each in calibration.residuals]
    assert fitted_s == pytest.approx(calibration.predict(work).latency_s.tolist())
    assert calibration.num_points == len(SPREAD)


def test_trees_learn_what_the_formula_leaves_over_from_many_points() -> None:
    products = many(900)
    _, latency_s = synthetic(Parameters(5e-6, 0.8, 0.77), products)
    rows = np.array([p.m for p in products])
    latency_s = latency_s * np.where(rows > 64, 1.3, 1.0)
    calibration = fitting.calibrate(samples(products[:600], latency_s[:600]), A100, PRIOR, ORIGIN)
    assert calibration.forest is not None
    unseen = Work.of(Products.of(products[600:]), Dtype.FLOAT16, A100)
    corrected = calibration.predict(unseen)
    truth = latency_s[600:]
    assert np.abs(corrected.latency_s / truth - 1).mean() < 0.04
    assert calibration.error < 0.05
    covered = (corrected.low_s <= truth) & (truth <= corrected.high_s)
    assert 0.83 < covered.mean() < 0.97


def test_the_interval_holds_ninety_percent_of_each_bound() -> None:
    rng = np.random.default_rng(0)
    bound = np.repeat(BOUNDS, 2000)
    errors = rng.normal(0, np.repeat([0.2, 0.05, 0.1], 2000))
    interval = fitting.interval(errors, bound)
    assert interval.high == pytest.approx([0.329, 0.082, 0.164], rel=0.1)
    low_s, high_s = interval.around(np.ones(6000), bound)
    assert ((low_s < np.exp(errors)) & (np.exp(errors) < high_s)).mean() == pytest.approx(
        0.9, abs=0.01
    )


def test_rows_of_a_group_are_held_out_together() -> None:
    groups = np.array([5, 5, 7, 7, 9, 9, 5])
    fold = fitting.folds(groups, 3, seed=1)
    assert len(set(fold[[0, 1, 6]])) == len(set(fold[[2, 3]])) == 1
    assert set(fold.tolist()) == {0, 1, 2}
