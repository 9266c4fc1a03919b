"""A comparison in plain words: what to use, how sure, what would change it, and why.

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


def verdict(rows: Sequence[Comparison]) -> list[str]:
    """The answer, how sure it is, what would change it: of one device, a sentence each.

    At the `shown_seq_len` of several. After them, what is no choice and why; `reasons` has more.
    """
    rows, fit, chosen = _chosen(rows)
    sentences = [_answer(chosen, rows)]
    if chosen:
        sentences.append(_how_sure(chosen))
        sentences += _needed(_turning(chosen, fit))
    return sentences + _left_out(rows)


def reasons(rows: Sequence[Comparison], ends: Sequence[BreakEven]) -> list[str]:
    """What it stands on: where each method stops paying, sources, leaps of latency, who serves."""
    rows, fit, chosen = _chosen(rows)
    paying = [row for row in chosen if row.speedup > 1]
    if not chosen:
        return []
    methods = {row.method for row in fit}
    seq_len = rows[0].seq_len
    until = [end for end in ends if end.seq_len == seq_len and end.method in methods]
    sentences = _until(until, fit) if paying else []
    sentences += [_basis(chosen), *_bound(_turning(chosen, fit))]
    if paying:
        sentences += [*_steps(paying[0], fit), *_served(paying)]
    return sentences


def _chosen(
    rows: Sequence[Comparison],
) -> tuple[list[Comparison], list[Comparison], list[Comparison]]:
    """The rows that a verdict speaks of, those that fit, and the best of each batch size."""
    seq_len = shown_seq_len(rows)
    spoken = [row for row in rows if row.seq_len == seq_len]
    fit = [row for row in spoken if not row.unfit]
    return spoken, fit, [best(group) for _, group in sorted(by_setting(fit).items())]


def _turning(chosen: Sequence[Comparison], fit: Sequence[Comparison]) -> Comparison | None:
    """The row that decides: the last that pays, else the best but vanilla of the first batch."""
    paying = [row for row in chosen if row.speedup > 1]
    row = paying[-1] if paying else chosen[0]
    if row.num_candidates > 1:
        return row
    others = [r for r in fit if r.num_candidates > 1 and r.batch_size == row.batch_size]
    return best(others) if others else None


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
    if chosen[0].source is Provenance.GENERATED:
        return "How sure: this was generated and timed."
    if all(low == high == row.speedup for row in chosen for low, high in (row.speedup_interval,)):
        return "How sure: unknown, for the latencies come without an interval."
    tried = [row.batch_size for row in chosen]
    if unsure := [row.batch_size for row in chosen if row.outcome is Outcome.UNCERTAIN]:
        return (
            f"How sure: uncertain at {_batches(unsure, tried)}, where the interval of the speedup "
            "crosses 1."
        )
    paying = [row.batch_size for row in chosen if row.outcome is Outcome.PAYS]
    if not paying:
        return "How sure: no interval reaches above 1."
    if paying == tried:
        return "How sure: every interval stays above 1."
    return f"How sure: every interval stays above 1 at {_batches(paying, tried)}."


def _basis(chosen: Sequence[Comparison]) -> str:
    sources = sorted({row.latency_source for row in chosen})
    acceptances = dict.fromkeys(row.acceptance_source for row in chosen)
    basis = f"Stands on latencies: {', '.join(sources)}; acceptance: {'; '.join(acceptances)}"
    if engines := sorted({row.engine for row in chosen if row.half_width is not None}):
        basis += f"; costs of {', '.join(engines)}"
    if covers := sorted({row.interval_covers for row in chosen if row.interval_covers}, key=len):
        basis += f"; the interval covers {covers[-1]}"
    return f"{basis}."


def _needed(row: Comparison | None) -> list[str]:
    if row is None:
        return []
    return [
        f"What would change it: at batch size {row.batch_size}, {name(row)} needs "
        f"{row.overhead:.2f} tokens a step and gets {row.acceleration_rate:.2f}."
    ]


def _bound(row: Comparison | None) -> list[str]:
    """What acceptance would do, and what binds the step that decides."""
    if row is None:
        return []
    words = []
    if row.required_parameter is not None:
        words.append(f"breaks even with {row.required_parameter:.3g} as {_named_parameter(row)}")
    if row.bound:
        words.append(f"its step is bound by {row.bound}")
    return [f"At batch size {row.batch_size}, {name(row)}: {'; '.join(words)}."] if words else []


def _named_parameter(row: Comparison) -> str:
    parameter = row.required_parameter_name
    return parameter if parameter.startswith(("the ", "each ")) else f"the {parameter}"


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
