"""The record of a comparison: what is written is read back, field by field."""

from dataclasses import replace

import pytest

from medusa_bench.base.errors import InvalidFileError
from medusa_bench.compare import acceptance, methods
from medusa_bench.compare.comparisons import Comparison, best, from_dict
from medusa_bench.compare.simulation import Variant, simulate
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS
from tests.builders.latencies import SmoothLatency


def rows() -> list[Comparison]:
    variants = [
        Variant(methods.medusa(16), acceptance.PAPER),
        Variant(methods.draft_model(PRESETS["llama-68m"], 4), acceptance.Chain(0.6)),
    ]
    target, latency = PRESETS["llama-7b"], SmoothLatency(spread=0.1)
    return simulate(variants, target, latency, Dtype.FLOAT16, [(1, 128), (8, 1024)])


def test_comparison_is_read_back_as_it_was_written() -> None:
    odd = replace(rows()[0], lossless=False, bound="", block=None, unfit="no", half_width=0.2)
    for row in [*rows(), odd]:
        assert from_dict(row.as_dict(), where="here") == row


@pytest.mark.parametrize("name", ["model", "batch_size", "step_latency_low_s", "acceptance_source"])
def test_missing_field_is_named(name: str) -> None:
    document = rows()[0].as_dict()
    del document[name]
    with pytest.raises(InvalidFileError, match=f"here: no '{name}'"):
        from_dict(document, where="here")


def test_best_is_a_choice_however_fast_the_others_are() -> None:
    slow, *_, fast = sorted(rows(), key=lambda row: row.speedup)
    assert best([slow, fast]) == fast
    assert best([slow, replace(fast, unfit="the model cannot")]) == slow
