"""Which acceptance, draft and sizes are taken when none is given, and what follows from them."""

import math

import pytest

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.compare import published_acceptance, serving
from medusa_bench.compare.choosing import Request, default_draft, variants
from medusa_bench.compare.comparisons import Comparison, best
from medusa_bench.compare.methods import Asked
from medusa_bench.compare.passes import Block
from medusa_bench.compare.published_acceptance import find
from medusa_bench.compare.simulation import simulate
from medusa_bench.predict.choosing import model_for
from medusa_bench.results.rows import Provenance
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS

LLAMA_3 = PRESETS["llama-3-8b"]


def served(request: Request, gpu: str, batch_size: int, engine: str = "") -> list[Comparison]:
    return simulate(
        variants(request, LLAMA_3),
        LLAMA_3,
        model_for(gpu),
        Dtype.BFLOAT16,
        [(batch_size, 512)],
        engine=serving.cost_of(engine, "0.9" if engine else ""),
        block=Block.FULL,
    )


@pytest.mark.parametrize(
    ("target", "draft"),
    [
        ("llama-3-8b", "llama-3.2-1b"),
        ("llama-3-70b", "llama-3.2-1b"),
        ("qwen3-8b", "qwen3-0.6b"),
        ("qwen2.5-7b", None),  # its small sibling has a vocabulary of its own
        ("llama-7b", "llama-68m"),
        ("mistral-7b", None),
        ("llama-68m", None),
    ],
)
def test_usual_draft_is_the_smallest_of_family_and_vocabulary(
    target: str, draft: str | None
) -> None:
    found = default_draft(PRESETS[target])
    assert (found.name if found else None) == draft


def test_published_acceptance_is_of_the_family_the_task_and_the_temperature() -> None:
    chat, code, hot = (
        find("eagle-3", "llama-3-8b", shape="tree", task=task, temperature=temperature)
        for task, temperature in (("", ""), ("code", ""), ("code", "1"))
    )
    assert chat and code and hot
    assert (chat.provenance, chat.rates) == (Provenance.REPORTED, ((60, pytest.approx(6.415)),))
    assert "HumanEval" in code.name
    assert hot.rates == ((60, pytest.approx(5.82)),)
    assert find("eagle-3", "mistral-7b") is None
    translated = find("eagle-3", "llama-3-8b", shape="tree", task="translation")
    assert translated and translated.half_width > chat.half_width
    assert "not translation" in translated.name


def test_chain_of_several_sizes_gives_each_as_it_was_published() -> None:
    chain = find("eagle-3", "llama-3-8b", shape="chain", task="chat")
    assert chain and chain.survives
    for candidates, tokens in chain.rates:
        assert chain.acceleration_rate(candidates) == pytest.approx(tokens)
        assert 1 + sum(chain.survives[: candidates - 1]) == pytest.approx(tokens, rel=0.02)
    assert chain.survives == tuple(sorted(chain.survives, reverse=True))
    assert chain.with_parameter(0.5).acceleration_rate(3) == pytest.approx(1 + 0.5 * 1.36)


def test_tree_goes_with_the_logarithm_between_and_beyond_its_sizes() -> None:
    tree = find("eagle-3", "qwen3-8b", shape="tree")
    assert tree and [count for count, _ in tree.rates] == [16, 60]
    (_, at_16), (_, at_60) = tree.rates
    assert at_16 < tree.acceleration_rate(31) == pytest.approx((at_16 + at_60) / 2, rel=0.01)
    assert tree.acceleration_rate(120) > at_60
    assert tree.acceleration_rate(1) == 1
    assert tree.required_parameter(60, at_60) == pytest.approx(1)


def test_every_figure_of_the_library_can_be_read() -> None:
    targets = {figure.target for figure in published_acceptance._figures()}
    known = [target for target in targets if published_acceptance.family_of(target)]
    assert len(known) > 20
    for target in known:
        for method in {figure.method for figure in published_acceptance._figures()}:
            if model := find(method, target):
                count, rate = model.rates[0]
                assert model.acceleration_rate(count) == rate
                assert 1 <= rate <= count


def test_sizes_stay_where_acceptance_is_known_and_estimates_widen_the_interval() -> None:
    chain = variants(Request(["eagle-3"], asked=Asked(draft_len=[2, 3])), LLAMA_3)
    assert [each.method.draft_len for each in chain] == [2, 3]
    tree = variants(Request(["eagle-3"]), LLAMA_3)
    assert [each.method.num_candidates for each in tree] == [60]
    assert tree[0].acceptance_half_width > 0
    (told,) = variants(Request(["eagle-3"], acceptance=["eagle-3=tokens:5"]), LLAMA_3)
    assert told.acceptance_half_width == 0
    rows = served(Request(["eagle-3"]), "h100-sxm", 1)
    assert rows[0].interval_covers == "products, engine, acceptance"
    assert rows[0].half_width == pytest.approx(math.hypot(0.27, tree[0].acceptance_half_width))


def test_nothing_near_asks_for_it_and_offers_to_solve() -> None:
    with pytest.raises(MedusaBenchError, match="No acceptance of eagle-3") as caught:
        variants(Request(["eagle-3"]), PRESETS["mistral-7b"])
    assert "--solve acceptance" in str(caught.value.hint)
    with pytest.raises(MedusaBenchError, match="for summary"):
        variants(Request(["medusa"], task="summary"), PRESETS["qwen2.5-7b"])
    assert len(variants(Request(["eagle-3"], solve=True), PRESETS["mistral-7b"])) == 1


def test_methods_without_a_draft_remain_where_no_draft_fits() -> None:
    names = {each.method.name for each in variants(Request(), PRESETS["mistral-7b"])}
    assert names == {"medusa"}
    with pytest.raises(MedusaBenchError, match="No draft model"):
        variants(Request(["draft-model"]), PRESETS["mistral-7b"])


# --- verdicts that were published -----------------------------------------------------------------


def test_large_batches_want_3_or_4_candidates() -> None:
    row = best(served(Request(["medusa"]), "h100-sxm", 64))
    assert row.num_candidates in {3, 4}


def test_32_drafted_tokens_on_an_a100_are_no_gain() -> None:
    (row,) = served(Request(["eagle-1"], asked=Asked(draft_len=[32])), "a100-40gb", 1)
    assert row.speedup == pytest.approx(0.56, abs=0.1)  # reported: 0.56


def test_best_draft_length_of_eagle_3_on_vllm_is_3_to_5() -> None:
    rows = served(
        Request(["eagle-3"], asked=Asked(draft_len=[2, 3, 4, 5, 7])), "h100-sxm", 1, "vllm"
    )
    assert best(rows).draft_len in {3, 4, 5}
    reported = [1.64, 1.73, 1.75, 1.71, 1.65]
    for row, speedup in zip(rows, reported, strict=True):
        assert abs(math.log(row.speedup / speedup)) < 0.21
