"""Methods: the passes of a step, and what they count."""

from dataclasses import replace

import pytest

from medusa_bench.compare import methods
from medusa_bench.compare.methods import METHODS, Block
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS
from medusa_bench.specs.settings import Phase

TARGET, DRAFT = PRESETS["llama-7b"], PRESETS["llama-68m"]


def weights(method: methods.Method, block: Block) -> dict[str, float]:
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
        (methods.eagle(TARGET, 26, 5, 4, "eagle-1"), 26, 5),
        (methods.eagle(TARGET, 60, 6, 10, "eagle-2"), 60, 6),
        (methods.prompt_lookup(10), 11, 0),
        (methods.lookahead(7, 5, 7), 56, 0),
        (methods.mtp(TARGET, 3), 4, 3),
        (methods.eagle_chain(TARGET, 5, "eagle-3"), 6, 5),
        (methods.self_speculative(TARGET, 4, 0.5), 5, 4),
        (methods.block_diffusion(TARGET, 16, 5), 16, 1),
    ],
)
def test_rows_verify_and_draft_as_published(
    method: methods.Method, num_candidates: int, draft_passes: int
) -> None:
    passes = method.step(TARGET, 1, 1024)
    assert passes[-1].setting.query_len == num_candidates
    assert sum(p.count for p in passes[:-1]) == draft_passes


def test_self_speculation_keeps_its_share_of_layers() -> None:
    draft, _ = methods.self_speculative(TARGET, 4, 0.5).step(TARGET, 1, 1024)
    assert draft.shape == replace(TARGET, name=draft.shape.name, num_layers=16)


@pytest.mark.parametrize("name", METHODS)
def test_every_row_makes_its_method_at_every_size_it_sweeps(name: str) -> None:
    row = METHODS[name]
    for size in row.sizes:
        method = row.make(TARGET, DRAFT, size)
        assert method.name == name
        assert method.num_candidates == size + row.size_is_draft_len


def test_memory_is_weights_and_cached_keys_and_values() -> None:
    weights_bytes = 2 * (32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 32000 * 4096)
    cached_bytes = 2 * 2 * 32 * 64 * 8192 * 4096
    held = methods.memory_bytes(TARGET, 64, 8192, Dtype.FLOAT16)
    assert held == weights_bytes + cached_bytes
