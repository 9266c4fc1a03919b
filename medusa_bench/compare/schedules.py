"""Draft length by batch size: spans, how they are planned, and what they come to when replayed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.compare.comparisons import Comparison

MAX_BATCH_SIZE = 4096


@dataclass(frozen=True, slots=True)
class Span:
    """Batch sizes that draft alike. draft_len: tokens verified besides the root; 0 is off."""

    first_batch: int
    last_batch: int
    draft_len: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Spans that cover 1 to the largest batch without gap or overlap.

    Raises ValueError where they do not.
    """

    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        expected = 1
        for span in self.spans:
            if span.first_batch != expected or span.last_batch < span.first_batch:
                raise ValueError(
                    f"batch sizes {span.first_batch} to {span.last_batch} do not go on from "
                    f"{expected - 1}"
                )
            if span.draft_len < 0:
                raise ValueError(f"a draft length of {span.draft_len}")
            expected = span.last_batch + 1
        if not 1 < expected <= MAX_BATCH_SIZE + 1:
            raise ValueError(f"batch sizes must run from 1 to at most {MAX_BATCH_SIZE}")

    @classmethod
    def of(cls, draft_len_by_batch: Mapping[int, int]) -> "Schedule":
        """From every batch size's own draft length; neighbours that agree become one span."""
        spans: list[Span] = []
        for batch_size, draft_len in sorted(draft_len_by_batch.items()):
            if spans and spans[-1].draft_len == draft_len:
                spans[-1] = Span(spans[-1].first_batch, batch_size, draft_len)
            else:
                spans.append(Span(batch_size, batch_size, draft_len))
        return cls(tuple(spans))

    @property
    def max_batch_size(self) -> int:
        return self.spans[-1].last_batch

    @property
    def max_draft_len(self) -> int:
        return max(span.draft_len for span in self.spans)

    @property
    def is_constant(self) -> bool:
        """Whether every batch size drafts alike."""
        return len(self.spans) == 1

    def draft_len(self, batch_size: int) -> int:
        """Of a batch of 1 to max_batch_size."""
        return next(s.draft_len for s in self.spans if s.first_batch <= batch_size <= s.last_batch)


def plan(rows: Iterable[Comparison], margin: float = 0.0, tolerance: float = 0.0) -> Schedule:
    """A draft length for every batch size, off where its best speedup is at most 1 + margin.

    With no tolerance each batch size takes its fastest length. With one, a single length stands for
    all where it pays at each and its mean speedup is within the tolerance of the mean of the best;
    else spans are as few as they can be without any batch size giving up more than that share.

    rows: one method at one seq_len, at every batch size from 1 on. Raises ValueError otherwise.
    """
    speedups: dict[int, dict[int, float]] = {}
    for row in rows:
        speedups.setdefault(row.batch_size, {})[row.num_candidates - 1] = row.speedup
    constant = _constant(speedups, margin, tolerance)
    if constant is not None:
        return Schedule((Span(1, max(speedups), constant),))
    chosen: dict[int, int] = {}
    span: list[int] = []  # batch sizes that can still share a length
    shared: set[int] = set()

    def close() -> None:
        for_all = {n: sum(speedups[b].get(n, 1.0) for b in span) for n in sorted(shared)}
        chosen.update(dict.fromkeys(span, max(for_all, key=lambda length: for_all[length])))

    for batch_size, by_length in sorted(speedups.items()):
        highest = max(by_length.values())
        enough = {n for n, speedup in by_length.items() if speedup >= (1 - tolerance) * highest}
        allowed = {n for n in enough if by_length[n] > 1 + margin} or {0}
        if span and not shared & allowed:
            close()
            span = []
        shared = shared & allowed if span else allowed
        span.append(batch_size)
    if span:
        close()
    return Schedule.of(chosen)


def _constant(
    speedups: Mapping[int, Mapping[int, float]], margin: float, tolerance: float
) -> int | None:
    """The draft length that does for all batch sizes; None where none does."""
    if not tolerance or sorted(speedups) != list(range(1, len(speedups) + 1)):
        return None
    best = sum(max(by_length.values()) for by_length in speedups.values())
    sums = {
        length: sum(by_length[length] for by_length in speedups.values())
        for length in speedups[1]
        if all(by_length.get(length, 0.0) > 1 + margin for by_length in speedups.values())
    }
    enough = {length: total for length, total in sums.items() if total >= (1 - tolerance) * best}
    return max(enough, key=lambda length: enough[length]) if enough else None


@dataclass(frozen=True, slots=True)
class Replay:
    """One batch size simulated again under a schedule, beside the two simple policies."""

    batch_size: int
    draft_len: int
    speedup: float
    always_on_draft_len: int
    always_on_speedup: float  # the best draft length there is for all batch sizes together


def replay(schedule: Schedule, rows: Iterable[Comparison]) -> list[Replay]:
    """A schedule simulated again, batch by batch.

    Always-on is the one draft length with the best mean speedup over the batch sizes. Raises
    MedusaBenchError where the rows lack a batch size or draft length of the schedule.
    """
    batch_sizes = range(1, schedule.max_batch_size + 1)
    covered = [row for row in rows if row.batch_size in batch_sizes]
    speedup = {(row.batch_size, row.num_candidates - 1): row.speedup for row in covered}
    for batch_size in batch_sizes:
        length = schedule.draft_len(batch_size)
        if length and (batch_size, length) not in speedup:
            raise MedusaBenchError(
                f"The schedule drafts {length} tokens at batch size {batch_size}, which was not "
                "simulated.",
                hint="give --draft-len and --max-batch-size that cover the schedule.",
            )
    means = _mean_speedups(covered)
    always = max(means, key=lambda length: means[length])
    return [
        Replay(
            batch_size,
            length,
            speedup[batch_size, length] if length else 1.0,
            always,
            speedup[batch_size, always],
        )
        for batch_size in batch_sizes
        for length in (schedule.draft_len(batch_size),)
    ]


def best_constant(rows: Iterable[Comparison]) -> int:
    """The draft length with the best mean speedup over the batch sizes of rows; 0 where none pays.

    rows: one method at one seq_len.
    """
    means = {0: 1.0} | _mean_speedups(rows)
    return max(means, key=lambda length: means[length])


def _mean_speedups(rows: Iterable[Comparison]) -> dict[int, float]:
    """Over the batch sizes, by draft length from the shortest on; none for drafting nothing."""
    speedups: dict[int, list[float]] = {}
    for row in rows:
        speedups.setdefault(row.num_candidates - 1, []).append(row.speedup)
    return {length: sum(each) / len(each) for length, each in sorted(speedups.items()) if length}


def drafted(draft_len: int) -> str:
    """ "1 drafted token", "4 drafted tokens"."""
    return f"{draft_len} drafted token{'' if draft_len == 1 else 's'}"
