"""Steps of latency over rows."""

from pathlib import Path

import numpy as np
import pytest

from medusa_bench.predict import cliffs, curves
from medusa_bench.results import tables


def rows_of(found: list[cliffs.Cliff]) -> list[int]:
    return [cliff.rows for cliff in found]


def staircase(rows: np.ndarray) -> np.ndarray:
    return 20e-6 * np.ceil(rows / 64) ** 0.7 + rows * 1e-9


def test_every_step_of_a_staircase_is_found() -> None:
    rows = np.arange(8, 321, 8.0)
    found = cliffs.find(rows, staircase(rows))
    assert rows_of(found) == [64, 128, 192, 256]
    assert found[0].next_rows == 72
    assert found[0].size == pytest.approx(2**0.7 - 1, rel=0.1)


def test_order_and_repetitions_do_not_matter() -> None:
    rows = np.tile(np.arange(8, 321, 8.0), 3)
    shuffled = np.random.default_rng(0).permutation(rows)
    assert rows_of(cliffs.find(shuffled, staircase(shuffled))) == [64, 128, 192, 256]


@pytest.mark.parametrize(
    "rows", [np.arange(8, 513, 8.0), np.unique(np.round(2 ** np.arange(0, 13, 0.35)))]
)
def test_a_smooth_curve_with_two_percent_noise_has_no_cliff(rows: np.ndarray) -> None:
    smooth = 5e-6 + ((40e-6) ** 3 + (rows * 2e-7) ** 3) ** (1 / 3)
    for seed in range(100):
        noise = np.random.default_rng(seed).normal(0, 0.02, len(rows))
        assert cliffs.find(rows, smooth * (1 + noise)) == []


def test_a_dip_that_is_climbed_out_of_is_no_cliff() -> None:
    rows = np.arange(8, 257, 8.0)
    latency_s = np.where((rows > 96) & (rows <= 128), 80e-6, 100e-6)
    assert cliffs.find(rows, latency_s) == []


def test_proportional_growth_on_a_coarse_grid_has_no_cliff() -> None:
    rows = np.array([64, 80, 96, 128, 160, 192, 256, 320, 384.0])
    assert cliffs.find(rows, rows * 1e-6) == []


def test_few_points_have_no_cliff() -> None:
    assert cliffs.find(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 9.0])) == []


def test_the_papers_linear_table_steps_at_128_384_and_512_and_nowhere_else() -> None:
    (curve,) = curves.measured(Path("results/paper"))
    assert curve.operators == ("up", "gate", "down")
    assert rows_of(cliffs.find(curve.rows, curve.latency_s)) == [128, 384, 512]


def test_measured_a100_linears_step_where_the_tiles_do(reference_dir: Path) -> None:
    table = tables.read(reference_dir / "measured" / "gemm_measured.parquet")
    chosen = np.flatnonzero((table.gpu == "a100_sxm") & (table.model == "meta-llama/Llama-2-7b-hf"))
    table = table[chosen]
    weights = {(12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008)}  # of one whole block
    total = {}
    for m in range(8, 1025, 8):
        here = table.products.m == m
        total[m] = sum(
            float(
                np.median(table.latency_s[here & (table.products.n == n) & (table.products.k == k)])
            )
            for n, k in weights
        )
    found = cliffs.find(np.array(list(total), dtype=float), np.array(list(total.values())))
    assert rows_of(found) == [64, 128, 256, 384, 512, 768]
