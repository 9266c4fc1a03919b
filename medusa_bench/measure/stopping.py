"""How one point is timed: estimate, batches of calls, a rule when to stop. Knows no device.

Time is injected: a Timer runs calls and says how long they took, a clock says when the budget
ends, so the whole protocol is tested without either.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import median, quantiles
from typing import Protocol

from medusa_bench.results.rows import MAX_SAMPLES, Measurement, QualityFlag, Task, Telemetry

LONG_CALL_S = 0.4  # from here on three calls have to do
NUM_LONG_CALLS = 3
MIN_SAMPLES = 3
# Fewer samples, or all within an instant, agree by chance: what disturbs comes every few ms.
SAMPLES_TO_CLOSE = 10
SHARE_TO_CLOSE = 0.2  # of the budget
SETTLED_SAMPLES = 32


class Timer(Protocol):
    """Runs calls on a device and says how long they took."""

    def batch(self, num_calls: int) -> AbstractContextManager[Callable[[], float]]:
        """Make ready num_calls calls in a row; the callable runs them once and gives seconds."""
        ...


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """When a point is known well enough, and how many short calls make one sample."""

    tolerance: float  # half-width of the median's 95 % interval, as a share of the median
    batch_s: float  # calls shorter than this are averaged over about this long; 0: never
    doubted: float | None = None  # half-width that is a doubt at the budget's end; None: tolerance

    def num_calls(self, estimate_s: float) -> int:
        """Calls in one sample, for calls of about estimate_s."""
        if not self.batch_s:
            return 1
        return max(round(self.batch_s / max(estimate_s, 1e-9)), 1)


@dataclass(frozen=True, slots=True)
class Samples:
    """What timing one point gave: seconds per call, in order of time."""

    samples_s: tuple[float, ...]
    calls_per_sample: int
    flags: tuple[QualityFlag, ...] = ()


def quantile_s(block: Samples, quantile: float) -> float:
    """Seconds of the call at a quantile: 0 the fastest, 0.5 the (lower) median."""
    return sorted(block.samples_s)[int(quantile * (len(block.samples_s) - 1))]


def run(timer: Timer, rules: StoppingRule, budget_s: float, clock: Callable[[], float]) -> Samples:
    """Time one point until its interval closes, its noise settles or budget_s is spent."""
    start_s = clock()

    def is_over(share: float) -> bool:
        return clock() >= start_s + share * budget_s

    with timer.batch(1) as sample:
        first_s = sample()
        if first_s > LONG_CALL_S:
            rest_s = [sample() for _ in range(NUM_LONG_CALLS - 1)]
            return Samples((first_s, *rest_s), 1, (QualityFlag.FEW_CALLS,))
        # A short first call warms caches and clocks up and does not count.
        samples_s = [first_s if first_s > budget_s else sample(), sample()]
        num_calls = rules.num_calls(min(samples_s))
        if num_calls == 1:
            flags = _collect(sample, samples_s, rules, is_over)
            return Samples(tuple(samples_s), 1, flags)
    with timer.batch(num_calls) as sample:
        sample()
        samples_s = []
        flags = _collect(sample, samples_s, rules, is_over)
        return Samples(tuple(each_s / num_calls for each_s in samples_s), num_calls, flags)


def _collect(
    sample: Callable[[], float],
    samples_s: list[float],
    rules: StoppingRule,
    is_over: Callable[[float], bool],
) -> tuple[QualityFlag, ...]:
    """Add samples until they suffice or the budget is over."""
    next_look = SAMPLES_TO_CLOSE
    while True:
        samples_s.append(sample())
        if len(samples_s) >= next_look and is_over(SHARE_TO_CLOSE):
            if is_closed(samples_s, rules.tolerance) or has_settled(samples_s, rules.tolerance):
                return ()
            next_look = ceil(len(samples_s) * 1.1)
        if len(samples_s) >= MIN_SAMPLES and is_over(1.0):
            known = is_closed(samples_s, rules.doubted or rules.tolerance)
            return () if known else (QualityFlag.UNSTABLE,)


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median from order statistics; of five or fewer, their range.

    Ranks n/2 -+ 0.98 sqrt(n), rounded up. Source: Conover, Practical Nonparametric Statistics, 3.2.
    """
    ordered = sorted(samples)
    n = len(ordered)
    low = max(ceil(n / 2 - 0.98 * sqrt(n)), 1)
    high = min(ceil(n / 2 + 0.98 * sqrt(n)), n)
    return ordered[low - 1], ordered[high - 1]


def is_closed(samples: Sequence[float], tolerance: float) -> bool:
    """Whether the median's interval reaches at most `tolerance` (a share) to either side.

    And whether both halves agree as well: a drift leaves the interval narrow.
    """
    low, high = median_interval(samples)
    middle = median(samples)
    return high - low <= 2 * tolerance * middle and _drift(samples) <= 2 * tolerance * middle


def has_settled(samples: Sequence[float], tolerance: float) -> bool:
    """Whether the noise is wide and steady, so that more samples would not move the median."""
    if len(samples) < SETTLED_SAMPLES:
        return False
    low, high = median_interval(samples)
    middle = median(samples)
    return high - low <= 4 * tolerance * middle and _drift(samples) <= tolerance / 2 * middle


def _drift(samples: Sequence[float]) -> float:
    """How far the median moved from the first half of the samples to the second."""
    half = len(samples) // 2
    return abs(median(samples[:half]) - median(samples[half:]))


def measurement(
    task: Task,
    round_index: int,
    block: Samples,
    *,
    flags: Sequence[QualityFlag] = (),
    telemetry: Telemetry | None = None,
    started_at_s: float = 0.0,
) -> Measurement:
    """A block as one row: its quartiles and up to MAX_SAMPLES samples, evenly thinned."""
    samples_s = block.samples_s
    p25_s, latency_s, p75_s = quantiles(samples_s, n=4, method="inclusive")
    stride = ceil(len(samples_s) / MAX_SAMPLES)
    return Measurement(
        task=task,
        round_index=round_index,
        latency_s=latency_s,
        min_s=min(samples_s),
        p25_s=p25_s,
        p75_s=p75_s,
        num_calls=len(samples_s) * block.calls_per_sample,
        samples_s=tuple(samples_s[::stride]),
        flags=tuple(dict.fromkeys((*block.flags, *flags))),
        telemetry=telemetry,
        started_at_s=started_at_s,
    )
