"""What rounds of generation decide: medians of paired blocks, and no verdict where noise would.

A block is one batch of prompts in one round. Every method answers it within seconds of the others,
so that a machine that slows down slows both sides of a pair.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from medusa_bench.decode.study.rounds import BatchRun, decode_tokens_per_s

MAX_TAKEN_SHARE = 0.10  # of a block's time, by others: more, and the block is left out of pairs
FAIR_BASELINE = 1.10  # how much faster than our vanilla a plain baseline may be
_LEAST_PAIRS = 5  # fewer have no 90 % interval of their median
_QUANTILE = 0.05  # on either side


@dataclass(frozen=True, slots=True)
class Paired:
    """Tokens per second of one method over another's, block by block."""

    median: float
    low: float  # the 90 % interval of the median, by order statistics
    high: float
    num_pairs: int  # in which nobody else had the processor
    num_contended: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "median": self.median,
            "low": self.low,
            "high": self.high,
            "num_pairs": self.num_pairs,
            "num_contended_blocks": self.num_contended,
        }

    @property
    def is_decided(self) -> bool:
        """Whether there are enough undisturbed pairs for a verdict."""
        return self.num_pairs >= _LEAST_PAIRS and self.num_contended <= self.num_pairs


def paired(runs: Sequence[BatchRun], baseline: Sequence[BatchRun]) -> Paired | None:
    """One method's blocks beside another's of the same round and prompts; None without a pair.

    Blocks in which others had the processor are left out, unless they are the most: then all are
    taken, and nothing is decided.
    """
    others = {(one.round_index, one.questions): one for one in baseline}
    quiet: list[float] = []
    contended: list[float] = []
    for one in runs:
        other = others.get((one.round_index, one.questions))
        if other is None:
            continue
        rates = decode_tokens_per_s([one]), decode_tokens_per_s([other])
        if all(rates):
            taken = max(one.taken_share, other.taken_share)
            (contended if taken > MAX_TAKEN_SHARE else quiet).append(rates[0] / rates[1])
    ratios = sorted(quiet if len(quiet) >= len(contended) else [*quiet, *contended])
    if not ratios:
        return None
    rank = _rank(len(ratios))
    return Paired(median(ratios), ratios[rank], ratios[-1 - rank], len(quiet), len(contended))


def _rank(count: int) -> int:
    """How many order statistics on either side lie outside of the median's 90 % interval.

    Each value is below the median with even chance, so the number of those that are is binomial.
    Exact, where a sweep's interval is approximate (stopping.median_interval): there are few pairs.
    """
    below, rank = 1, 0
    while below <= _QUANTILE * 2**count:
        rank += 1
        below += math.comb(count, rank)
    return max(0, rank - 1)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A method beside our vanilla decoding, and beside the library's where that ran too."""

    name: str
    over_vanilla: Paired | None
    over_library: Paired | None = None


def verdict(
    candidates: Sequence[Candidate], library: Paired | None, assisted: Sequence[Candidate] = ()
) -> list[str]:
    """Does anything pay, and is vanilla itself a fair baseline? The answer stands last.

    library: transformers' generate() over our vanilla; assisted: the same with its own drafting,
    the fastest of which is named where it is surely faster than vanilla. The answer is withheld
    ("not decided") where others had the processor, where pairs are few, and where the plain
    baseline is faster than our vanilla and the method is not surely faster than both.
    """
    words = []
    if library is not None:
        words.append(
            f"vanilla: {1 / library.median:.2f}x the tokens/s of transformers' generate() in the "
            f"same blocks ({1 / library.high:.2f} to {1 / library.low:.2f})."
        )
    rivals = [(one.over_vanilla, one.name) for one in assisted if one.over_vanilla]
    if rivals:
        rival, name = max(rivals, key=lambda each: each[0].median)
        if rival.low > 1:
            words.append(
                f"{name}, transformers' own, is faster than vanilla: {rival.median:.2f}x "
                f"({rival.low:.2f} to {rival.high:.2f})."
            )
    known = [(one.over_vanilla, one) for one in candidates if one.over_vanilla]
    if known:
        over, best = max(known, key=lambda each: each[0].median)
        words.append(f"Generated: {_judged(best, over, library)}.")
    return words


def _judged(best: Candidate, over: Paired, library: Paired | None) -> str:
    total = over.num_pairs + over.num_contended
    spread = f"{over.median:.2f}x ({over.low:.2f} to {over.high:.2f}, {total} pairs)"
    if not over.is_decided:
        why = f"only {over.num_pairs} pairs of blocks"
        if over.num_contended:
            why = f"others had the processor in {over.num_contended} of {total} blocks"
        return f"not decided: {why}; {best.name} is the best at {spread}"
    if over.low <= 1:
        if over.high <= 1:
            return f"nothing pays; {best.name} is the best at {spread}"
        return f"not decided: the interval of the best, {best.name}, crosses 1: {spread}"
    if library is not None and library.low > FAIR_BASELINE:
        beside = best.over_library
        if beside is None or beside.low <= 1:
            return (
                f"not decided: transformers' generate() is {library.median:.2f}x as fast as "
                f"vanilla here, so that {best.name} at {spread} stands beside a slow baseline"
            )
        return f"{best.name} pays, {spread}, and {beside.median:.2f}x over transformers' generate()"
    return f"{best.name} pays, {spread}"
