"""Cliffs: where latency over rows (batch x query tokens) takes a step, so that one more row costs.

A step is a jump of log latency that the slope on either side does not explain, that is large, that
leads to a level not reached before, and that the noise of the curve does not make.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medusa_bench.specs.columns import FloatArray

SMALLEST_STEP = 0.12  # relative
_REACH = 1.6  # points farther than this factor from a step say nothing about it
_NEAR = 0.15  # in log rows: from there on points count less and less
_MOST_POINTS = 4  # on either side
_UNKNOWNS = 3  # a slope and two levels
_SIGNIFICANT = 5.0  # standard deviations of the noise
_QUARTILE_OF_NORMAL = 0.3186  # a quarter of normal deviations are smaller, in standard deviations


@dataclass(frozen=True, slots=True)
class Cliff:
    """A step: latency is `size` higher (relative) at next_rows than the slope makes it."""

    rows: int  # the last row before it: what to choose
    next_rows: int
    size: float
    latency_s: float  # at rows
    next_latency_s: float


@dataclass(frozen=True, slots=True)
class _Jump:
    """What one interval adds to log latency beside the slope, and what noise does to that."""

    size: float
    gain: float  # standard deviation of size for noise of 1
    residuals: FloatArray  # of the fit, scaled to the noise


def find(rows: FloatArray, latency_s: FloatArray, smallest: float = SMALLEST_STEP) -> list[Cliff]:
    """The steps of a curve, in order of rows; several latencies of one row count as their median.

    rows, latency_s: shape (points,), in any order. A curve of fewer than four rows has no steps.
    The largest step is found first, and the points beyond it then say nothing about the others.
    """
    x = np.unique(rows)
    y = np.array([np.median(latency_s[rows == row]) for row in x])
    log_x, log_y = np.log(x), np.log(y)
    highest = np.maximum.accumulate(log_y)
    steps: list[tuple[int, float]] = []
    while True:
        jumps = _jumps(log_x, log_y, [index for index, _ in steps])
        if not jumps:
            break
        residuals = np.abs(np.concatenate([jump.residuals for jump in jumps.values()]))
        noise = float(np.quantile(residuals, 0.25)) / _QUARTILE_OF_NORMAL
        large = {
            index: jump.size
            for index, jump in jumps.items()
            if min(jump.size, log_y[index + 1] - highest[index]) >= np.log1p(smallest)
            and jump.size > _SIGNIFICANT * jump.gain * noise
        }
        if not large:
            break
        largest = max(large, key=lambda index: large[index])
        steps.append((largest, large[largest]))
    return list(_climbs(x, y, sorted(steps)))


def _climbs(x: FloatArray, y: FloatArray, steps: list[tuple[int, float]]) -> Iterator[Cliff]:
    """Cliffs from steps; those in adjoining intervals are one, caught between its two levels."""
    while steps:
        count = 1
        while count < len(steps) and steps[count][0] == steps[0][0] + count:
            count += 1
        first, after = steps[0][0], steps[count - 1][0] + 1
        size = sum(jump for _, jump in steps[:count])
        yield Cliff(
            int(x[first]), int(x[after]), float(np.expm1(size)), float(y[first]), float(y[after])
        )
        steps = steps[count:]


def _jumps(log_x: FloatArray, log_y: FloatArray, steps: list[int]) -> dict[int, _Jump]:
    """The jump in every interval that may hold one; none where the points do not tell."""
    found = {}
    for index in range(len(log_x) - 1):
        if index in steps or log_x[index + 1] - log_x[index] > np.log(_REACH):
            continue
        before = [index]
        while len(before) < _MOST_POINTS and _joins(
            log_x, index, before[-1] - 1, before[-1] - 1, steps
        ):
            before.append(before[-1] - 1)
        after = [index + 1]
        while len(after) < _MOST_POINTS and _joins(
            log_x, index + 1, after[-1] + 1, after[-1], steps
        ):
            after.append(after[-1] + 1)
        if len(before) + len(after) > _UNKNOWNS:
            found[index] = _jump(log_x, log_y, index, np.array(before[::-1] + after))
    return found


def _joins(log_x: FloatArray, near: int, point: int, interval: int, steps: list[int]) -> bool:
    """Whether a point is near enough, and not beyond a step, to tell about an interval's slope."""
    return (
        0 <= point < len(log_x)
        and interval not in steps
        and abs(log_x[point] - log_x[near]) <= np.log(_REACH)
    )


def _jump(log_x: FloatArray, log_y: FloatArray, index: int, chosen: NDArray[np.int64]) -> _Jump:
    """Fit one slope and two levels to the points around the interval after `index`."""
    x, y = log_x[chosen] - log_x[index], log_y[chosen]
    later = chosen > index
    distance = np.where(later, log_x[chosen] - log_x[index + 1], -x)
    weights = 1 / (1 + (distance / _NEAR) ** 2)
    design = np.stack([np.ones(len(x)), x, later], axis=1)
    solve = np.linalg.pinv(design.T @ (weights[:, None] * design)) @ (design.T * weights)
    fitted = solve @ y
    freedom = (len(x) - _UNKNOWNS) / len(x)
    residuals = (y - design @ fitted) * np.sqrt(weights / weights.mean() / freedom)
    return _Jump(float(fitted[2]), float(np.sqrt((solve[2] ** 2).sum())), residuals)
