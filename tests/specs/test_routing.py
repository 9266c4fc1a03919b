"""How tokens choose experts, over which GPUs those are spread, and attention as one kernel."""

import math
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from medusa_bench.compare.methods import medusa
from medusa_bench.compare.passes import Block
from medusa_bench.specs import operators
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS
from medusa_bench.specs.operators import distinct_experts, find, of_model, of_model_fused, symbols
from medusa_bench.specs.settings import Phase, Setting
from medusa_bench.specs.shapes import Experts, ModelShape, Routing

QWEN = PRESETS["qwen3-30b-a3b"]
V3 = PRESETS["deepseek-v3"]
EXPERTS = Experts(128, 8, 768, 48)


def touched(shape: ModelShape, routing: Routing | None, batch_size: int, q: int) -> float:
    return float(symbols(replace(shape, routing=routing), batch_size, 128, q)["u"])


def test_skew_lowers_the_experts_that_are_touched_and_none_is_the_formula() -> None:
    for tokens in (1, 4, 64):
        even = distinct_experts(EXPERTS, tokens)
        found = [distinct_experts(EXPERTS, tokens, skew) for skew in (1e-9, 0.5, 1.0, 2.0)]
        assert found[0] == pytest.approx(even)
        assert all(more >= less - 1e-9 for more, less in pairwise(found))
        assert found[-1] >= 8 - 1e-9
    assert distinct_experts(EXPERTS, 1, 1.2) == pytest.approx(8)
    assert distinct_experts(Experts(8, 8, 1, 1), 3, 1.5) == pytest.approx(8)


@pytest.mark.parametrize("skew", [0.7, 1.2])
def test_experts_touched_are_as_many_as_draws_have_it(skew: float) -> None:
    """Each expert drawn by its own chance, k of them on the mean."""
    chances = [chance for chance, _ in operators._chances(128, 8, skew)]
    assert sum(chances) == pytest.approx(8)
    assert max(chances) <= 1
    draw = random.Random(0)
    counts = []
    for _ in range(400):
        seen: set[int] = set()
        for _ in range(16):
            seen |= {expert for expert, chance in enumerate(chances) if draw.random() < chance}
        counts.append(len(seen))
    mean = sum(counts) / len(counts)
    assert mean == pytest.approx(distinct_experts(EXPERTS, 16, skew), rel=0.02)


def test_candidates_that_are_alike_touch_the_experts_of_one() -> None:
    alone = touched(QWEN, None, 4, 1)
    assert touched(QWEN, Routing(locality=1), 4, 64) == pytest.approx(alone)
    half = touched(QWEN, Routing(locality=0.5), 1, 9)
    assert half == pytest.approx(distinct_experts(EXPERTS, 5))


def test_every_token_still_has_all_its_experts() -> None:
    for routing in (None, Routing(skew=1.2), Routing(locality=0.7)):
        size = symbols(replace(QWEN, routing=routing), 3, 128, 5)
        assert size["u"] * size["r"] == pytest.approx(3 * 5 * 8)


def test_spread_experts_keep_their_width_and_the_fullest_gpu_is_waited_for() -> None:
    cut = V3.split(8)
    whole = replace(V3, routing=Routing(spread=8)).split(8)
    assert cut.experts is not None
    assert whole.experts is not None
    assert (cut.experts.width, whole.experts.width) == (256, 2048)
    assert symbols(whole, 1, 128, 1)["x"] == 32
    held = {name: find(name).num_weights(part) for name, part in
            (("expert_up", cut), ("expert_down", whole))}  # fmt: skip
    assert held["expert_up"] == held["expert_down"] == V3.hidden_size * 2048 * 256 // 8
    for tokens in (1, 8, 64):
        mean = symbols(V3, tokens, 128, 1)["u"] / 8
        fullest = symbols(whole, tokens, 128, 1)["u"]
        assert mean < fullest <= 32
    assert symbols(whole, 4096, 128, 1)["u"] == pytest.approx(32)


def test_the_fullest_of_eight_is_as_full_as_draws_have_it() -> None:
    """One token's 8 of 256 experts over 8 GPUs: mean 1, the fullest about 2.5 of them."""
    draw = np.random.default_rng(0)
    most = [np.bincount(draw.permutation(256)[:8] // 32, minlength=8).max() for _ in range(2000)]
    found = symbols(replace(V3, routing=Routing(spread=8)).split(8), 1, 128, 1)["u"]
    assert found == pytest.approx(np.mean(most), rel=0.25)


@pytest.mark.parametrize(("num_gpus", "spread"), [(4, 8), (8, 3), (2, 4)])
def test_experts_that_do_not_spread_are_refused(num_gpus: int, spread: int) -> None:
    with pytest.raises(ValueError, match="do not spread"):
        replace(V3, routing=Routing(spread=spread)).split(num_gpus)


@pytest.mark.parametrize("name", ["llama-3-8b", "gpt-oss-120b", "gemma-3-12b"])
def test_fused_attention_reads_the_cache_once_and_does_the_same_work(name: str) -> None:
    shape, setting = PRESETS[name], Setting(Phase.MEDUSA, 2, 4096, 16)
    pairs = [("fused_attention", "qk", "pv")]
    if shape.window:
        pairs.append(("fused_window", "qk_window", "pv_window"))
    for one, *two in pairs:
        flops = [find(each).product(shape, setting).flops for each in two]
        assert find(one).product(shape, setting).flops == sum(flops)
        size = symbols(shape, 2, 4096, 16)
        keys = size["s"] if one == "fused_attention" else size["w"]
        moved = 2 * 2 * keys * size["n_kv_d"] + 2 * 2 * 16 * size["nd"]
        assert find(one).bytes_moved(shape, setting, Dtype.FLOAT16) == 2 * moved
        separate = sum(find(each).bytes_moved(shape, setting, Dtype.FLOAT16) for each in two)
        scores = 2 * 2 * shape.num_heads * 16 * keys * 2
        assert separate - 2 * moved == pytest.approx(scores)


def test_each_pair_of_attention_stands_once_in_the_fused_block() -> None:
    shape = PRESETS["gpt-oss-120b"]
    plain, fused = dict(of_model(shape)), dict(of_model_fused(shape))
    gone = {op.name for op in plain.keys() - fused.keys()}
    assert gone == {"qk", "pv", "qk_window", "pv_window"}
    assert {op.name: n for op, n in fused.items() if op not in plain} == {
        "fused_attention": 18,
        "fused_window": 18,
    }
    (whole,) = medusa(1).step(shape, 1, 128, Block.FUSED)
    assert math.isclose(sum(times for _, times in whole.operators), sum(fused.values()) + 1)
