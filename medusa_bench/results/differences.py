"""Two results folders set side by side: what became slower, faster, or cannot be told."""

from dataclasses import dataclass
from enum import StrEnum

from medusa_bench.results.reading import Results
from medusa_bench.results.rows import QualityFlag, Summary, Task, Timing
from medusa_bench.specs.operators import Point


class Change(StrEnum):
    """How a task compares with the same one in another folder."""

    SAME = "same"
    FASTER = "faster"
    SLOWER = "slower"
    AMBIGUOUS = "ambiguous"  # the rounds cannot tell
    ONLY_BEFORE = "only-before"
    ONLY_AFTER = "only-after"


@dataclass(frozen=True, slots=True)
class Difference:
    """One task in two folders; `point` is the first logical point it stands behind."""

    point: Point
    timing: Timing
    num_points: int
    change: Change
    before: Summary | None
    after: Summary | None

    @property
    def ratio(self) -> float | None:
        """Latency after over latency before."""
        if self.before is None or self.after is None:
            return None
        return self.after.latency_s / self.before.latency_s


# Quality flags under which a number says too little about the device to call another one slower.
_DISTURBED = {
    QualityFlag.CONTENDED,
    QualityFlag.THROTTLED,
    QualityFlag.DRIFTED,
    QualityFlag.INACCURATE,
}


def judge(before: Summary, after: Summary, threshold: float) -> Change:
    """Same, faster, slower or ambiguous, from the spread between rounds.

    Same: the medians are within `threshold`. Slower or faster: they are not, and the gap between
    the intervals [low_s, high_s] is wider than either. (That they merely do not meet happens to
    equal numbers in 33 % of pairs of 2 rounds, 10 % of 3; with the gap 9 % and 0.7 %, before the
    threshold.) Otherwise the rounds cannot tell; nor can a single measured round, whose spread is
    unknown, or a disturbed one. Estimates bring their interval; a reported number is taken as is.
    """
    ratio = after.latency_s / before.latency_s
    if 1 / (1 + threshold) <= ratio <= 1 + threshold:
        return Change.SAME
    for summary in (before, after):
        if _DISTURBED.intersection(summary.flags):
            return Change.AMBIGUOUS
        if summary.num_rounds < 2 and not summary.source:
            return Change.AMBIGUOUS
    width_s = max(before.high_s - before.low_s, after.high_s - after.low_s)
    if after.low_s - before.high_s > width_s:
        return Change.SLOWER
    if before.low_s - after.high_s > width_s:
        return Change.FASTER
    return Change.AMBIGUOUS


def differences(before: Results, after: Results, threshold: float) -> list[Difference]:
    """Every task that has a number in either folder, in the order asked for."""
    first: dict[Task, tuple[Point, int]] = {}
    for results in (before, after):
        seen: dict[Task, tuple[Point, int]] = {}
        for each in results.points():
            task = Task(each.point.product, each.point.dtype, each.timing)
            point, count = seen.get(task, (each.point, 0))
            seen[task] = (point, count + 1)
        for task, found in seen.items():
            first.setdefault(task, found)
    found_differences = []
    for task, (point, num_points) in first.items():
        old, new = before.summaries.get(task), after.summaries.get(task)
        if old and new:
            change = judge(old, new, threshold)
        elif old:
            change = Change.ONLY_BEFORE
        elif new:
            change = Change.ONLY_AFTER
        else:
            continue
        found_differences.append(Difference(point, task.timing, num_points, change, old, new))
    return found_differences
