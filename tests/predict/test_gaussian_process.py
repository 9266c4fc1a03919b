"""A Gaussian process over few points."""

import numpy as np
import pytest

from medusa_bench.predict import gaussian_process


@pytest.fixture
def wave() -> tuple[np.ndarray, np.ndarray]:
    points = np.linspace(0, 4, 15)[:, None]
    return points, 0.1 * np.sin(points[:, 0])


def test_it_passes_by_its_points_and_is_sure_there(wave: tuple[np.ndarray, np.ndarray]) -> None:
    points, targets = wave
    mean, variance = gaussian_process.fit(points, targets).predict(points)
    assert mean == pytest.approx(targets, abs=0.02)
    assert (variance < 0.05**2).all()


def test_far_away_it_says_nothing_and_is_unsure(wave: tuple[np.ndarray, np.ndarray]) -> None:
    process = gaussian_process.fit(*wave)
    mean, variance = process.predict(np.array([[100.0]]))
    assert mean[0] == pytest.approx(0, abs=1e-6)
    assert variance[0] == pytest.approx(process.amplitude**2 + process.noise**2)


def test_left_out_errors_are_those_of_leaving_out(wave: tuple[np.ndarray, np.ndarray]) -> None:
    points, targets = wave
    process = gaussian_process.fit(points, targets)
    keep = np.arange(len(points)) != 4
    without = gaussian_process.GaussianProcess(
        points[keep], targets[keep], process.amplitude, process.noise
    )
    expected = targets[4] - without.predict(points[4:5])[0][0]
    assert process.left_out_errors()[4] == pytest.approx(expected)


def test_one_point_is_enough() -> None:
    process = gaussian_process.fit(np.zeros((1, 2)), np.array([0.1]))
    assert 0 < process.predict(np.zeros((1, 2)))[0][0] < 0.1


def test_read_back_it_predicts_the_same(wave: tuple[np.ndarray, np.ndarray]) -> None:
    process = gaussian_process.fit(*wave)
    back = gaussian_process.GaussianProcess.from_json(process.to_json())
    assert back.predict(wave[0])[0] == pytest.approx(process.predict(wave[0])[0], abs=1e-4)
