"""Fitting a calibration to measured latencies, with its error on points that were not fitted.

Few points move the three parameters, against a prior, and bend the formula near themselves (a
Gaussian process). From MANY points on, trees learn what the formula leaves over.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medusa_bench.predict import boosting, gaussian_process
from medusa_bench.predict.calibration import (
    BOUNDS,
    FEATURE_SCALES,
    Calibration,
    DeviceCeilings,
    Interval,
    Parameters,
    Residual,
    Work,
)
from medusa_bench.results.rows import Timing
from medusa_bench.specs.columns import FloatArray, Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

MANY = 400
_FOLDS = 3
_FOLD_TREES = 150  # the error on unseen points needs no full forest
_MIN_ROWS_OF_A_BOUND = 60  # fewer leave the tails of their errors unknown: all bounds together


@dataclass(frozen=True, slots=True)
class Prior:
    """Log-normal: parameters as expected before a device's points, and how far they may be off."""

    parameters: Parameters
    sigmas: tuple[float, float, float] = (1.2, 0.15, 0.15)


@dataclass(frozen=True, slots=True)
class Samples:
    """Latencies of products on one device: what a calibration is fitted to, as columns.

    groups: for each row the number of its model, or of its weights; the rows of a group are held
    out together when the error on unseen ones is estimated. `grouped_by` says which.
    """

    products: Products
    dtypes: Sequence[Dtype]
    latency_s: FloatArray
    groups: NDArray[np.int64]
    grouped_by: str

    def __len__(self) -> int:
        return len(self.latency_s)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a calibration's points come from, for whoever reads it."""

    device: str
    timing: Timing
    source: str
    command: str = ""


def calibrate(
    samples: Samples, ceilings: DeviceCeilings, prior: Prior, origin: Origin, *, seed: int = 0
) -> Calibration:
    """The calibration that the samples and the prior make."""
    work = Work.of(samples.products, samples.dtypes, ceilings)
    parameters = fit_parameters(work, samples.latency_s, prior)
    residual = np.log(samples.latency_s / work.latency_s(parameters))
    features = work.features(parameters, ceilings)
    calibration = Calibration(
        origin.device,
        origin.timing,
        ceilings,
        parameters,
        Interval(),
        origin.source,
        origin.command,
        len(samples),
        error=0.0,
        evidence="",
    )
    if len(samples) >= MANY:
        unseen = _unseen_errors(features, residual, samples.groups, seed)
        return replace(
            calibration,
            interval=interval(unseen, work.parts(parameters).bound),
            error=_mean_error(unseen),
            evidence=f"held out by {samples.grouped_by}",
            forest=boosting.fit(features, residual, seed=seed),
        )
    process = gaussian_process.fit(features * FEATURE_SCALES, residual)
    calibration = replace(
        calibration,
        error=_mean_error(process.left_out_errors()),
        evidence="each point held out in turn",
        process=process,
    )
    fitted_s = calibration.predict(work).latency_s
    return replace(calibration, residuals=tuple(_residuals(samples, fitted_s)))


def _mean_error(errors: FloatArray) -> float:
    """Of log(true / predicted), the mean absolute error relative to the truth."""
    return float(np.abs(np.expm1(-errors)).mean())


def _residuals(samples: Samples, fitted_s: FloatArray) -> Iterator[Residual]:
    p = samples.products
    rows = zip(p.batch, p.m, p.n, p.k, samples.dtypes, samples.latency_s, fitted_s, strict=True)
    for batch, m, n, k, dtype, latency_s, row_fitted_s in rows:
        product = Product(int(batch), int(m), int(n), int(k))
        yield Residual(product, dtype, float(latency_s), float(row_fitted_s))


def interval(errors: FloatArray, bound: NDArray[np.str_]) -> Interval:
    """The quantiles of log(true / predicted) for each bound, shape (rows,) both."""
    low, high = [], []
    for name in BOUNDS:
        chosen = errors[bound == name]
        if len(chosen) < _MIN_ROWS_OF_A_BOUND:
            chosen = errors
        low.append(float(np.quantile(chosen, 0.05)))
        high.append(float(np.quantile(chosen, 0.95)))
    return Interval(tuple(low), tuple(high))  # type: ignore[arg-type]


def folds(groups: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """A fold for each row, 0 to count - 1, the rows of a group in the same one."""
    names, row_group = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    fold: NDArray[np.int64] = (order % count)[row_group]
    return fold


def _unseen_errors(
    features: FloatArray, residual: FloatArray, groups: NDArray[np.int64], seed: int
) -> FloatArray:
    """log(true / predicted) of each row by trees that saw no row of its group."""
    if len(np.unique(groups)) < 2:
        groups = np.arange(len(residual))
    count = min(_FOLDS, len(np.unique(groups)))
    fold = folds(groups, count, seed)
    errors = np.zeros(len(residual))
    for index in range(count):
        held = fold == index
        forest = boosting.fit(
            features[~held], residual[~held], num_trees=_FOLD_TREES, learning_rate=0.2, seed=seed
        )
        errors[held] = residual[held] - forest.predict(features[held])
    return errors


# Standard deviation of a log latency about the formula: as expected, and what it may turn out as.
_NOISE, _NOISES = 0.05, (0.03, 0.08)
_NORMAL_OF_MEDIAN = 1.48  # standard deviations by the median absolute deviation


def fit_parameters(work: Work, latency_s: FloatArray, prior: Prior) -> Parameters:
    """The parameters that a device's points and the prior agree on.

    Robust least squares of log latencies, once with the noise that is expected and once with the
    noise that remains: points that the formula fits well count more against the prior.
    """
    first = _fit(work, latency_s, prior, prior.parameters.logs, _NOISE)
    remaining = np.log(latency_s / work.latency_s(Parameters.from_logs(first)))
    noise = float(np.clip(_NORMAL_OF_MEDIAN * np.median(np.abs(remaining)), *_NOISES))
    return Parameters.from_logs(_fit(work, latency_s, prior, first, noise))


def _fit(
    work: Work, latency_s: FloatArray, prior: Prior, logs: FloatArray, noise: float
) -> FloatArray:
    """Log parameters by Levenberg's and Marquardt's damped steps from `logs`."""
    expected = prior.parameters.logs
    precision = 1 / np.array(prior.sigmas)
    target = np.log(latency_s)
    scale = 2 * noise  # residuals beyond it count less and less (Student's t)

    def residual_at(logs: FloatArray) -> FloatArray:
        return target - np.log(work.latency_s(Parameters.from_logs(logs)))

    def loss_at(logs: FloatArray, residual: FloatArray) -> float:
        misfit = (logs - expected) * precision
        robust = np.log1p((residual / scale) ** 2).sum() * (scale / noise) ** 2
        return float(robust + misfit @ misfit)

    residual = residual_at(logs)
    loss = loss_at(logs, residual)
    damping = 1e-3
    for _ in range(60):
        slopes = _slopes(work, logs)
        weights = 1 / (1 + (residual / scale) ** 2) / noise**2
        normal = (slopes * weights[:, None]).T @ slopes + np.diag(precision**2)
        gradient = slopes.T @ (weights * residual) - (logs - expected) * precision**2
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
        moved = logs + np.clip(step, -1, 1)
        residual_moved = residual_at(moved)
        loss_moved = loss_at(moved, residual_moved)
        if loss_moved > loss:
            damping *= 10
            if damping > 1e8:
                break
            continue
        converged = loss - loss_moved < 1e-10 * loss
        logs, residual, loss = moved, residual_moved, loss_moved
        damping = max(damping / 10, 1e-9)
        if converged:
            break
    return logs


def _slopes(work: Work, logs: FloatArray) -> FloatArray:
    """Derivatives of the log latency by each log parameter, shape (rows, 3)."""
    step = 1e-4
    columns = []
    for index in range(len(logs)):
        shift = np.zeros(len(logs))
        shift[index] = step
        ahead = work.latency_s(Parameters.from_logs(logs + shift))
        behind = work.latency_s(Parameters.from_logs(logs - shift))
        columns.append(np.log(ahead / behind) / (2 * step))
    return np.stack(columns, axis=1)
