"""A comparison in plain words: what to use, up to where, how sure, and what would change it."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from medusa_bench.compare.break_even import BreakEven
from medusa_bench.compare.comparisons import (
    Comparison,
    Outcome,
    best,
    by_setting,
    cliffs,
    shown_seq_len,
)
from medusa_bench.results.rows import Provenance


def verdict(rows: Sequence[Comparison], ends: Sequence[BreakEven]) -> list[str]:
    """Sentences on rows of one device. With several seq_lens they speak of `shown_seq_len`."""
    seq_len = shown_seq_len(rows)
    rows = [row for row in rows if row.seq_len == seq_len]
    chosen = [best(group) for (_, _), group in sorted(by_setting(rows).items())]
    paying = [row for row in chosen if row.speedup > 1]
    if not paying:
        return [
            f"At {_tokens(seq_len)}, nothing here pays: vanilla decoding is as fast or faster at "
            f"every batch size from {chosen[0].batch_size} to {chosen[-1].batch_size}.",
            *_needed(chosen[0], rows),
        ]
    return [
        *_use(paying, seq_len),
        *_until(ends, seq_len),
        _how_sure(chosen),
        *_needed(paying[-1], rows),
        *_steps(paying[0], rows),
    ]


def _tokens(seq_len: int) -> str:
    return f"{seq_len} cached tokens"


def _batches(rows: Sequence[Comparison]) -> str:
    first, last = rows[0].batch_size, rows[-1].batch_size
    return f"batch size {first}" if first == last else f"batch sizes {first} to {last}"


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


def _use(paying: Sequence[Comparison], seq_len: int) -> list[str]:
    parts = []
    for words, group in groupby(paying, key=_method):
        members = list(group)
        speedups = _range(f"{row.speedup:.2f}x" for row in members)
        parts.append(f"{words} at {_batches(members)} ({_sizes(members)}, {speedups})")
    return [f"At {_tokens(seq_len)}, use " + "; ".join(parts) + "."]


def _until(ends: Sequence[BreakEven], seq_len: int) -> list[str]:
    sentences = []
    for end in ends:
        if end.seq_len != seq_len:
            continue
        if end.pays_throughout:
            sentences.append(f"{end.method} pays at every batch size up to {end.tried_up_to}")
        elif end.last_paying_batch:
            sentences.append(f"{end.method} stops paying at batch size {end.last_paying_batch + 1}")
        else:
            sentences.append(f"{end.method} pays at no batch size")
    return ["Up to where: " + "; ".join(sentences) + "."] if sentences else []


def _how_sure(chosen: Sequence[Comparison]) -> str:
    sources = sorted({row.latency_source for row in chosen})
    acceptances = dict.fromkeys(row.acceptance_source for row in chosen)
    basis = f"latencies: {', '.join(sources)}; acceptance: {'; '.join(acceptances)}"
    if chosen[0].source is Provenance.GENERATED:
        return f"How sure: this was generated and timed; {basis}."
    if all(low == high == row.speedup for row in chosen for low, high in (row.speedup_interval,)):
        return f"How sure: {basis}; the latencies come without an interval."
    unsure = [row for row in chosen if row.outcome is Outcome.UNCERTAIN]
    if unsure:
        return (
            f"How sure: uncertain at {_batches(unsure)}, where the interval of the speedup "
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
