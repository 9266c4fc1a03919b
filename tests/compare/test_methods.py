"""Methods: the passes of a step, and what they count."""

from dataclasses import replace

import pytest

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.compare import methods
from medusa_bench.compare.methods import METHODS, Asked, make
from medusa_bench.compare.passes import Block, Kind, Method, block, chain, memory_bytes, tree
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS
from medusa_bench.specs.settings import Phase

TARGET, DRAFT = PRESETS["llama-7b"], PRESETS["llama-68m"]


def weights(method: Method, block: Block) -> dict[str, float]:
    """Elements of the weights that each pass reads, all its repeats together."""
    found: dict[str, float] = {}
    for pass_ in method.step(TARGET, 1, 1024, block):
        for operator, times in pass_.operators:
            if "b" in operator.rhs.split() or "s" in operator.rhs.split():
                continue
            product = operator.product(pass_.shape, pass_.setting)
            read = product.batch * product.n * product.k * times * pass_.count
            found[pass_.name] = found.get(pass_.name, 0.0) + read
    return found


def test_vanilla_is_one_decode_pass() -> None:
    (only,) = methods.vanilla().step(TARGET, 4, 1024)
    assert (only.setting.phase, only.setting.batch_size, only.count) == (Phase.DECODE, 4, 1)


def test_medusa_with_one_candidate_is_vanilla() -> None:
    vanilla = methods.vanilla().step(TARGET, 4, 1024)
    assert methods.medusa(1).step(TARGET, 4, 1024) == vanilla


def test_draft_model_runs_its_passes_one_after_the_other_then_verifies() -> None:
    draft, verify = methods.draft_model(DRAFT, 4).step(TARGET, 2, 512)
    assert (draft.shape, draft.count, draft.setting.query_len) == (DRAFT, 4, 1)
    assert (verify.shape, verify.count, verify.setting.query_len) == (TARGET, 1, 5)


def test_paper_block_is_one_layer_of_the_target_and_full_is_all_of_it() -> None:
    layer = weights(methods.vanilla(), Block.PAPER)["decode"]
    assert layer == pytest.approx(3 * 4096 * 4096 + 3 * 4096 * 11008)
    full = weights(methods.vanilla(), Block.FULL)["decode"]
    assert full == pytest.approx(32 * (layer + 4096 * 4096) + 32000 * 4096)


@pytest.mark.parametrize("block", Block)
def test_a_drafts_lm_head_is_counted_in_every_block(block: Block) -> None:
    scale = 1 / 32 if block is Block.PAPER else 1.0
    layers = 2 * (3 * 768 * 768 + 3 * 768 * 3072)
    output = 0 if block is Block.PAPER else 2 * 768 * 768
    expected = scale * (layers + output + 768 * 32000)
    assert weights(methods.draft_model(DRAFT, 1), block)["draft"] == pytest.approx(expected)


def test_five_heads_add_the_weight_traffic_that_the_paper_leaves_out() -> None:
    for name, share in (("llama-7b", 0.112), ("llama-13b", 0.074), ("llama-33b", 0.040)):
        target = PRESETS[name]
        plain, heads = (
            sum(
                operator.product(p.shape, p.setting).n * operator.product(p.shape, p.setting).k
                * operator.product(p.shape, p.setting).batch * times
                for p in methods.medusa(64, heads=counted).step(target, 1, 1024, Block.FULL)
                for operator, times in p.operators
                if operator.family != "attention"
            )
            for counted in (False, True)
        )  # fmt: skip
        assert heads / plain - 1 == pytest.approx(share, abs=0.006)


@pytest.mark.parametrize(
    ("method", "num_candidates", "draft_passes"),
    [
        (make("eagle-1", tree(26, 5, 4), TARGET), 26, 5),
        (make("eagle-2", tree(60, 6, 10), TARGET), 60, 6),
        (make("prompt-lookup", chain(10), TARGET), 11, 0),
        (make("lookahead", tree(56), TARGET), 56, 0),
        (make("mtp", chain(3), TARGET), 4, 3),
        (make("eagle-3", chain(5), TARGET), 6, 5),
        (make("self-speculative", chain(4), TARGET), 5, 4),
        (make("dflash", block(15), TARGET), 16, 1),
        (make("dspark", block(7, 3), TARGET), 3, 1),
        (make("p-eagle", block(5), TARGET), 6, 1),
        (make("pard", block(8), TARGET, DRAFT), 9, 1),
        (make("suffix", chain(10), TARGET), 11, 0),
        (make("hydra", tree(64), TARGET), 64, 4),
    ],
)
def test_rows_verify_and_draft_as_published(
    method: Method, num_candidates: int, draft_passes: int
) -> None:
    passes = method.step(TARGET, 1, 1024)
    assert passes[-1].setting.query_len == num_candidates
    assert sum(p.count for p in passes[:-1]) == draft_passes


def test_self_speculation_keeps_its_share_of_layers() -> None:
    draft, _ = make("self-speculative", chain(4), TARGET).step(TARGET, 1, 1024)
    assert draft.shape == replace(TARGET, name=draft.shape.name, num_layers=16)


@pytest.mark.parametrize("name", METHODS)
def test_every_row_makes_its_method_at_every_size_it_sweeps(name: str) -> None:
    for shape in (each for shapes in METHODS[name].shapes.values() for each in shapes):
        method = make(name, shape, TARGET, DRAFT)
        assert method.name == name
        assert method.step(TARGET, 2, 1024)[-1].setting.query_len == shape.num_candidates
        drafted = shape.num_candidates - 1
        if shape.kind is Kind.CHAIN:
            assert shape.draft_len == drafted
        elif shape.kind is Kind.BLOCK:
            assert (shape.draft_len or 0) >= drafted


def test_what_is_asked_of_a_method_makes_its_shapes_and_drafter() -> None:
    asked = Asked(num_candidates=[32], draft_len=[4], tree_width=8, draft_layers=2, draft_vocab=512)
    (grown,) = methods.shapes("eagle-1", asked)
    assert grown == tree(32, 4, 8)
    root, wide, _ = make("eagle-1", grown, TARGET, asked=asked).step(TARGET, 1, 1024)
    assert (root.count, root.setting.query_len) == (1, 1)
    assert (wide.count, wide.setting.query_len) == (3, 8)
    assert (wide.shape.num_layers, wide.shape.vocab_size) == (2, 512)
    assert [each.draft_len for each in methods.shapes("eagle-3", Asked(draft_len=[3, 5]))] == [3, 5]
    assert methods.shapes("dspark", Asked(draft_len=[7], num_candidates=[3])) == [block(7, 3)]
    with pytest.raises(MedusaBenchError, match="as few candidates"):
        methods.shapes("eagle-1", Asked(num_candidates=[4], draft_len=[8]))


def test_eagle_3_drafts_32_000_tokens_and_joins_three_features_once() -> None:
    made = make("eagle-3", chain(5), PRESETS["llama-3-8b"])
    assert {draft.shape.vocab_size for draft in made.drafts} == {32_000}
    joins = [dict(draft.beside).get("medusa_block", 0) * draft.count for draft in made.drafts]
    assert sum(joins) == 3  # 3 h x h for the whole step


def test_memory_is_weights_and_cached_keys_and_values() -> None:
    weights_bytes = 2 * (32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 32000 * 4096)
    cached_bytes = 2 * 2 * 32 * 64 * 8192 * 4096
    held = memory_bytes(TARGET, 64, 8192, Dtype.FLOAT16)
    assert held == weights_bytes + cached_bytes
