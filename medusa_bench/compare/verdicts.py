"""A comparison in plain words: what to use, up to where, how sure, and what would change it.

Every sentence speaks of rows that are printed beside it, and of no others.
"""

from collections.abc import Iterable, Sequence

from medusa_bench.compare.break_even import BreakEven
from medusa_bench.compare.comparisons import (
    Comparison,
    Outcome,
    best,
    by_setting,
    cliffs,
    shown_seq_len,
)
from medusa_bench.compare.methods import METHODS
from medusa_bench.results.rows import Provenance


def verdict(rows: Sequence[Comparison], ends: Sequence[BreakEven]) -> list[str]:
    """Sentences on rows of one device, the answer first, at the `shown_seq_len` of several."""
    seq_len = shown_seq_len(rows)
    rows = [row for row in rows if row.seq_len == seq_len]
    fit = [row for row in rows if not row.unfit]
    chosen = [best(group) for (_, _), group in sorted(by_setting(fit).items())]
    paying = [row for row in chosen if row.speedup > 1]
    methods = {row.method for row in fit}
    until = [end for end in ends if end.seq_len == seq_len and end.method in methods]
    sentences = [_answer(chosen, rows)]
    if paying:
        sentences += _until(until, fit)
    if chosen:
        sentences.append(_how_sure(chosen))
        sentences += _needed(paying[-1] if paying else chosen[0], fit)
    if paying:
        sentences += [*_steps(paying[0], fit), *_served(paying)]
    return sentences + _left_out(rows)


def of_stored_weights(
    rows: Sequence[Comparison], plain: Sequence[Comparison], weights: str
) -> list[str]:
    """What quantised weights change, beside the same rows with weights in the dtype; a sentence."""
    beside = {_key(row): row for row in plain}
    verifying = [row for row in rows if row.num_candidates > 1 and _key(row) in beside]
    if not verifying:
        return []
    row = best(verifying)
    other = beside[_key(row)]
    share = row.vanilla.latency_s / other.vanilla.latency_s
    more = "more" if row.overhead > other.overhead else "less"
    return [
        f"Weights in {weights}: at batch size {row.batch_size} a vanilla step takes {share:.2f} of "
        f"its time in {row.dtype}, and verification costs {more} of it: a step of {_method(row)} "
        f"with {row.num_candidates} candidates takes {row.overhead:.2f} vanilla steps, "
        f"{other.overhead:.2f} in {row.dtype}."
    ]


def _key(row: Comparison) -> tuple[str, str, int, int, int]:
    return row.method, row.draft, row.num_candidates, row.batch_size, row.seq_len


def _answer(chosen: Sequence[Comparison], rows: Sequence[Comparison]) -> str:
    tried = sorted({row.batch_size for row in rows})
    start = f"At {rows[0].seq_len} cached tokens, "
    sure = [row for row in chosen if row.outcome is Outcome.PAYS]
    perhaps = [row for row in chosen if row.speedup > 1 and row.outcome is not Outcome.PAYS]
    if not sure and not perhaps:
        why = "pays" if chosen else "can be run or served"
        return f"{start}nothing here {why}: use vanilla decoding at {_batches(tried, tried)}."
    parts = []
    if sure:
        parts.append("use " + "; ".join(_runs(sure, tried)))
    if perhaps:
        parts.append("perhaps " + "; ".join(_runs(perhaps, tried)))
    paid = {row.batch_size for row in (*sure, *perhaps)}
    if others := [batch for batch in tried if batch not in paid]:
        parts.append(f"vanilla decoding at {_batches(others, tried)}")
    return f"{start}{'; '.join(parts)}."


def _runs(rows: Sequence[Comparison], tried: Sequence[int]) -> list[str]:
    """Neighbouring batch sizes of one method as one: "medusa at batch sizes 1 to 8 (...)"."""
    runs: list[list[Comparison]] = []
    for row in rows:
        last = runs[-1][-1] if runs else None
        if last and _method(last) == _method(row) and _adjacent(last, row, tried):
            runs[-1].append(row)
        else:
            runs.append([row])
    return [
        f"{_method(run[0])} at {_batches([row.batch_size for row in run], tried)} "
        f"({_sizes(run)}, {_range(f'{row.speedup:.2f}x' for row in run)})"
        for run in runs
    ]


def _adjacent(one: Comparison, following: Comparison, tried: Sequence[int]) -> bool:
    return tried.index(following.batch_size) == tried.index(one.batch_size) + 1


def _batches(batch_sizes: Sequence[int], tried: Sequence[int]) -> str:
    """ "batch size 4", "batch sizes 1 to 4 and 16": a range has no gap among those tried."""
    runs: list[list[int]] = []
    for batch_size in batch_sizes:
        if runs and tried.index(batch_size) == tried.index(runs[-1][-1]) + 1:
            runs[-1].append(batch_size)
        else:
            runs.append([batch_size])
    words = [_range(map(str, run)) for run in runs]
    listed = f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
    return f"batch size{'s' if len(batch_sizes) > 1 else ''} {listed}"


def name(row: Comparison) -> str:
    """A method with its size: "medusa with 64 candidates"."""
    return f"{_method(row)} with {_sizes([row])}"


def _method(row: Comparison) -> str:
    return f"{row.method} {row.draft}" if row.method == "draft-model" else row.method


def _sizes(rows: Sequence[Comparison]) -> str:
    """ "96 to 16 candidates", "4 drafted tokens"."""
    unit = "candidates" if rows[0].draft_len is None else "drafted tokens"
    sizes = [row.num_candidates if row.draft_len is None else row.draft_len for row in rows]
    return f"{_range(f'{size}' for size in sizes)} {unit if set(sizes) != {1} else unit[:-1]}"


def _range(texts: Iterable[str]) -> str:
    first, *_, last = [*texts] * 2
    return first if first == last else f"{first} to {last}"


def _until(ends: Sequence[BreakEven], rows: Sequence[Comparison]) -> list[str]:
    sentences = []
    for end in ends:
        if end.pays_throughout:
            sentences.append(f"{end.method} pays at every batch size up to {end.tried_up_to}")
        elif end.last_paying_batch:
            sentences.append(f"{end.method} stops paying at batch size {end.last_paying_batch + 1}")
        else:
            sizes = sorted(
                (row for row in rows if row.method == end.method and row.num_candidates > 1),
                key=lambda row: row.num_candidates,
            )
            sentences.append(f"{end.method} pays with no size of those tried, {_sizes(sizes)}")
    return ["Up to where: " + "; ".join(sentences) + "."] if sentences else []


def _how_sure(chosen: Sequence[Comparison]) -> str:
    sources = sorted({row.latency_source for row in chosen})
    acceptances = dict.fromkeys(row.acceptance_source for row in chosen)
    basis = f"latencies: {', '.join(sources)}; acceptance: {'; '.join(acceptances)}"
    if engines := sorted({row.engine for row in chosen if row.half_width is not None}):
        basis = f"{basis}; costs of {', '.join(engines)}"
    if covers := sorted({row.interval_covers for row in chosen if row.interval_covers}, key=len):
        basis = f"{basis}; the interval covers {covers[-1]}"
    if chosen[0].source is Provenance.GENERATED:
        return f"How sure: this was generated and timed; {basis}."
    if all(low == high == row.speedup for row in chosen for low, high in (row.speedup_interval,)):
        return f"How sure: {basis}; the latencies come without an interval."
    unsure = [row.batch_size for row in chosen if row.outcome is Outcome.UNCERTAIN]
    if unsure:
        tried = [row.batch_size for row in chosen]
        return (
            f"How sure: uncertain at {_batches(unsure, tried)}, where the interval of the speedup "
            f"crosses 1; {basis}."
        )
    return f"How sure: the interval of no speedup recommended here crosses 1; {basis}."


def _needed(row: Comparison, rows: Sequence[Comparison]) -> list[str]:
    if row.num_candidates == 1:
        others = [r for r in rows if r.num_candidates > 1 and r.batch_size == row.batch_size]
        if not others:
            return []
        row = best(others)
    sentence = (
        f"What would change it: at batch size {row.batch_size}, {name(row)} needs "
        f"{row.overhead:.2f} tokens a step to break even and is given {row.acceleration_rate:.2f}"
    )
    if row.required_parameter is not None:
        sentence += f" ({row.required_parameter_name}: {row.required_parameter:.3g} would do)"
    bound = f"; its step is bound by {row.bound}" if row.bound else ""
    return [f"{sentence}{bound}."]


def _steps(row: Comparison, rows: Sequence[Comparison]) -> list[str]:
    curve = {
        r.num_candidates: r.step.latency_s
        for r in rows
        if (r.method, r.draft, r.batch_size) == (row.method, row.draft, row.batch_size)
        and r.num_candidates > 1
    }
    found = cliffs(curve)
    if not found:
        return []
    counts = sorted(curve)
    leaps = [
        f"{count} (+{curve[counts[counts.index(count) + 1]] / curve[count] - 1:.0%})"
        for count in found
    ]
    return [
        f"At batch size {row.batch_size} the step's latency leaps after {', '.join(leaps)} "
        "candidates: stay at or below one of them."
    ]


def _served(paying: Sequence[Comparison]) -> list[str]:
    """Who serves what is recommended, where a serving engine's costs are counted."""
    served = {
        row.method: METHODS[row.method].served_by
        for row in paying
        if row.half_width is not None and row.method in METHODS
    }
    named = [f"{method} by {', '.join(engines)}" for method, engines in served.items() if engines]
    return [f"Served today: {'; '.join(named)}."] if named else []


def _left_out(rows: Sequence[Comparison]) -> list[str]:
    reasons = dict.fromkeys((_method(row), row.unfit) for row in rows if row.unfit)
    return [f"No choice: {method}, for {reason}." for method, reason in reasons]
