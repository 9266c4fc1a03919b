"""Verdicts: say what to use, up to where, how sure, and what would change it."""

from dataclasses import replace
from functools import partial

from medusa_bench.compare import acceptance, methods, simulation
from medusa_bench.compare.break_even import break_even
from medusa_bench.compare.comparisons import StepLatency
from medusa_bench.compare.simulation import Variant
from medusa_bench.compare.verdicts import verdict
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS
from tests.builders.latencies import SmoothLatency

TARGET = PRESETS["llama-7b"]


def sentences(model: acceptance.AcceptanceModel, spread: float = 0.0, *counts: int) -> str:
    variants = [Variant(methods.medusa(count), model) for count in counts or (16, 64)]
    latency = SmoothLatency(spread=spread)
    settings = [(batch_size, 1024) for batch_size in (1, 4, 16, 64)]
    at = partial(simulation.simulate, variants, TARGET, latency, Dtype.FLOAT16)
    rows = at(settings)
    ends = break_even(rows, at)
    return "\n".join(verdict(rows, ends))


def test_verdict_names_the_sizes_the_limit_and_what_is_needed() -> None:
    words = sentences(acceptance.LogLaw(0.3), 0.0, 32, 64)
    assert "use medusa at batch sizes 1 to 16 (64 to 32 candidates" in words
    assert "medusa stops paying at batch size " in words
    assert "come without an interval" in words
    assert "tokens a step to break even" in words


def test_verdict_says_where_it_is_uncertain() -> None:
    words = sentences(acceptance.PAPER, 0.3)
    assert "uncertain at batch size 64, where the interval" in words


def test_verdict_says_when_nothing_pays() -> None:
    words = sentences(acceptance.Constant(1.0))
    assert "nothing here pays" in words
    assert "needs 1." in words


def test_verdict_warns_of_cliffs() -> None:
    stairs = {16: 1.0, 24: 1.0, 32: 1.5, 40: 1.5}
    variants = [Variant(methods.medusa(count), acceptance.PAPER) for count in stairs]
    rows = simulation.simulate(variants, TARGET, SmoothLatency(), Dtype.FLOAT16, [(1, 1024)])
    steps = [
        replace(row, step=StepLatency(s, s, s), vanilla=StepLatency(1.0, 1.0, 1.0))
        for row, s in zip(rows, stairs.values(), strict=True)
    ]
    assert "leaps after 24 (+50%)" in "\n".join(verdict(steps, []))
