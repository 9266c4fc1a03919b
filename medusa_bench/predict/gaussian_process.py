"""A Gaussian process over few points: what a formula leaves over near them, and how sure that is.

Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, chapter 2.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from medusa_bench.base import ranges
from medusa_bench.specs.columns import FloatArray

# Standard deviations of the function and of the noise that are tried, and what is expected of
# them: a few points alone cannot tell the two apart.
_AMPLITUDES, _EXPECTED_AMPLITUDE = (0.03, 0.06, 0.12, 0.25), 0.06
_NOISES, _EXPECTED_NOISE = (0.01, 0.02, 0.04, 0.1), 0.02
_EXPECTED_WITHIN = 0.7
_ROWS_AT_A_TIME = 512


@dataclass(frozen=True, slots=True)
class GaussianProcess:
    """points: (points, columns), scaled so that distance 1 is far. weights: (points,)."""

    points: FloatArray
    targets: FloatArray
    amplitude: float
    noise: float

    def predict(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and variance (of a new target, noise included) for rows of scaled features."""
        covariance = self.amplitude**2 * _kernel(self.points, self.points)
        factor = np.linalg.cholesky(covariance + self.noise**2 * np.eye(len(self.points)))
        # Few points and many features: one small inverse and a product, not a solution for each.
        whiten = np.linalg.inv(factor)
        weights = whiten @ self.targets
        mean, explained = np.empty(len(features)), np.empty(len(features))
        for start in range(0, len(features), _ROWS_AT_A_TIME):  # what a processor's cache holds
            rows = slice(start, start + _ROWS_AT_A_TIME)
            solved = whiten @ (self.amplitude**2 * _kernel(self.points, features[rows]))
            mean[rows] = solved.T @ weights
            explained[rows] = (solved**2).sum(0)
        return mean, self.amplitude**2 + self.noise**2 - explained

    def left_out_errors(self) -> FloatArray:
        """Target less prediction for each point, had it been left out (hyper-parameters kept)."""
        covariance = self.amplitude**2 * _kernel(self.points, self.points)
        inverse = np.linalg.inv(covariance + self.noise**2 * np.eye(len(self.points)))
        errors: FloatArray = inverse @ self.targets / np.diag(inverse)
        return errors

    def to_json(self) -> dict[str, Any]:
        return {
            "points": [[float(f"{x:.5g}") for x in row] for row in self.points],
            "targets": [float(f"{x:.5g}") for x in self.targets],
            "amplitude": self.amplitude,
            "noise": self.noise,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "GaussianProcess":
        """Raises ValueError, TypeError or KeyError where value is no Gaussian process."""
        points = ranges.NUMBER.all_of(value["points"])
        targets = ranges.NUMBER.all_of(value["targets"])
        if points.ndim != 2 or targets.shape != points.shape[:1]:
            raise ValueError("as many targets as points are needed")
        amplitude, noise = (ranges.FACTOR.of(value[name]) for name in ("amplitude", "noise"))
        return cls(points, targets, amplitude, noise)


def fit(features: FloatArray, targets: FloatArray) -> GaussianProcess:
    """The process that makes the targets, shape (points,), most likely."""
    correlation = _kernel(features, features)
    best, best_loss = None, np.inf
    for amplitude, noise in product(_AMPLITUDES, _NOISES):
        covariance = amplitude**2 * correlation + noise**2 * np.eye(len(targets))
        factor = np.linalg.cholesky(covariance)
        solved = np.linalg.solve(factor, targets)
        surprise = (
            np.log([amplitude / _EXPECTED_AMPLITUDE, noise / _EXPECTED_NOISE]) / _EXPECTED_WITHIN
        )
        loss = solved @ solved / 2 + np.log(np.diag(factor)).sum() + surprise @ surprise / 2
        if loss < best_loss:
            best, best_loss = (amplitude, noise), loss
    assert best is not None
    return GaussianProcess(features, targets, *best)


def _kernel(a: FloatArray, b: FloatArray) -> FloatArray:
    """Matern's of order 3/2: (rows of a, rows of b)."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    distance = np.sqrt(3 * np.maximum(squared, 0))
    kernel: FloatArray = (1 + distance) * np.exp(-distance)
    return kernel
