"""Where speculation pays beside experts: unlike beside a dense model, and as the issue foresees."""

import pytest

from medusa_bench.compare import acceptance, methods, simulation
from medusa_bench.compare.passes import Block, memory_bytes
from medusa_bench.compare.simulation import Variant
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS
from tests.builders.latencies import SmoothLatency

# An A100's memory and compute without launches: what the weights and the cache alone make of it.
A100 = SmoothLatency(launch_s=0.0)


def overheads(model: str, counts: tuple[int, ...], batch_size: int) -> dict[int, float]:
    target = PRESETS[model]
    rows = simulation.simulate(
        [Variant(methods.medusa(count), acceptance.Constant(1.0)) for count in counts],
        target,
        A100,
        Dtype.BFLOAT16,
        [(batch_size, 1024)],
        block=Block.FULL,
    )
    return {row.num_candidates: row.overhead for row in rows}


def test_a_tree_of_64_costs_more_than_any_acceptance_on_deepseek_v3_and_a_short_chain_less() -> (
    None
):
    found = overheads("deepseek-v3", (2, 3, 4, 64), 1)
    assert found[64] > 8  # no tree of 64 has been reported to yield as many tokens
    assert found[2] < 1.8  # of 1 to 2 tokens, 1.85 with DeepSeek-V3's own module
    assert found[4] < 3.0


def test_qwen3_30b_pays_again_at_medium_batch_where_its_experts_are_read_anyway() -> None:
    by_batch = {batch: overheads("qwen3-30b-a3b", (4,), batch)[4] for batch in (1, 4, 64, 128)}
    assert by_batch[1] > 2.2
    assert by_batch[64] < 1.3
    assert by_batch[1] > by_batch[4] > by_batch[64]
    dense = {batch: overheads("qwen3-32b", (4,), batch)[4] for batch in (1, 64)}
    assert dense[1] < 1.1 < dense[64] * 1.1


def test_a_dense_model_of_as_many_active_weights_says_otherwise_in_both_regimes() -> None:
    experts, dense = (overheads(name, (8,), 1)[8] for name in ("qwen3-30b-a3b", "qwen3-4b"))
    assert experts > 3.5 * dense


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "deepseek-v3"])
def test_memory_holds_every_expert_whichever_are_touched(name: str) -> None:
    held = memory_bytes(PRESETS[name], 1, 128, Dtype.BFLOAT16)
    total = {"qwen3-30b-a3b": 30.2e9, "deepseek-v3": 670.1e9}[name]
    assert held == pytest.approx(2 * total, rel=0.01)


def test_drafters_beside_experts_are_plain_layers_but_its_own_module_is_a_whole_one() -> None:
    target = PRESETS["deepseek-v3"]
    drafting = {
        name: methods.make(name, shape, target).drafts[0].shape
        for name in ("eagle-3", "mtp", "dflash", "p-eagle")
        for shape in methods.shapes(name, chains=True)[:1]
    }
    assert drafting["mtp"].experts is not None and drafting["mtp"].experts.num_layers == 1
    assert drafting["mtp"].latent is not None
    for name in ("eagle-3", "dflash", "p-eagle"):
        assert drafting[name].experts is None and drafting[name].latent is None
        assert drafting[name].intermediate_size == 6 * target.hidden_size
