"""The batch size at which a method stops paying."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from medusa_bench.compare.comparisons import Comparison

_Key = tuple[str, int]  # method, seq_len


@dataclass(frozen=True, slots=True)
class BreakEven:
    """How far a method pays at its best size, as the batch grows."""

    method: str
    seq_len: int
    last_paying_batch: int  # 0: it pays at no batch size
    tried_up_to: int

    @property
    def pays_throughout(self) -> bool:
        return self.last_paying_batch == self.tried_up_to


def break_even(
    rows: Iterable[Comparison],
    try_settings: Callable[[Sequence[tuple[int, int]]], Sequence[Comparison]] | None = None,
) -> list[BreakEven]:
    """For each method and seq_len of the rows: the last batch size up to which it pays.

    The rows' own batch sizes are looked through first. Where try_settings gives rows at other
    settings (batch_size, seq_len), the whole-numbered batch between the last that pays and the
    next is found by halving, so one crossing is taken to lie between them.
    """
    curves = _fastest(rows)
    pays, stops = dict[_Key, int](), dict[_Key, int]()
    for key, curve in curves.items():
        failing = [batch_size for batch_size, speedup in curve.items() if speedup <= 1]
        stops[key] = min(failing, default=max(curve) + 1)
        pays[key] = max((batch_size for batch_size in curve if batch_size < stops[key]), default=0)
    while try_settings and (
        middle := {
            key: (pays[key] + stops[key]) // 2
            for key in curves
            if pays[key] and stops[key] - pays[key] > 1
        }
    ):
        tried = _fastest(try_settings(sorted({(batch, key[1]) for key, batch in middle.items()})))
        for key, batch_size in middle.items():
            (pays if tried[key][batch_size] > 1 else stops)[key] = batch_size
    return [BreakEven(*key, pays[key], max(curve)) for key, curve in curves.items()]


def _fastest(rows: Iterable[Comparison]) -> dict[_Key, dict[int, float]]:
    """The speedup at the best size by batch size, of every method but vanilla."""
    curves: dict[_Key, dict[int, float]] = {}
    for row in rows:
        if row.num_candidates > 1:
            curve = curves.setdefault((row.method, row.seq_len), {})
            curve[row.batch_size] = max(row.speedup, curve.get(row.batch_size, 0.0))
    return curves
