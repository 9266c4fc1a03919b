"""Rounds, sums over sums, first differences, and what stands beside them as simulated."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from medusa_bench.decode import comparison as rounds
from medusa_bench.decode.attention import register
from medusa_bench.decode.comparison import Entrant, Played, Question
from medusa_bench.decode.engine import Engine, Finish, Output, Step
from medusa_bench.decode.lookup import Lookup
from medusa_bench.decode.model import DecoderModel
from medusa_bench.decode.operator_times import (
    ModelTimes,
    OperatorTimes,
    SweptProducts,
    step_products,
    time_in_step,
    time_rest,
    verification,
)
from medusa_bench.decode.study import Foreseen, Study, best, foresee
from medusa_bench.decode.vanilla import Vanilla
from medusa_bench.dtypes import Dtype
from medusa_bench.measurements import Provenance
from medusa_bench.shapes import ModelShape
from medusa_bench.trees import HeadAccuracy
from tests.latency_fakes import LinearInRows

SHAPE = ModelShape("tiny", 32, 48, 2, 4, 2, 8, vocab_size=29)


@pytest.fixture(scope="module")
def model() -> DecoderModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=29,
        max_position_embeddings=64,
        initializer_range=0.4,
    )
    config._attn_implementation = register()
    return DecoderModel(LlamaForCausalLM(config))


def output(
    kept: list[int], decode_s: float, *, sequences: tuple[tuple[int, ...], ...] = ((1,),)
) -> Output:
    """One sequence whose steps brought so many tokens each."""
    steps = tuple(Step((0,), (count - 1,), (count,), 4, 1.0, 0.25, 0.5) for count in kept)
    return Output("m", sequences, (Finish.LENGTH,), 0.5, decode_s, steps)


def test_a_rate_is_a_ratio_of_sums_not_a_mean_of_ratios() -> None:
    played = [Played("m", 0, (0,), output([4, 4], 1.0)), Played("m", 0, (1,), output([1] * 8, 7.0))]
    assert rounds.decode_tokens_per_s(played) == 2.0  # 16 / 8, not (8 + 8 / 7) / 2
    questions = [Question((1, 2, 3)), Question((1,))]
    generation = rounds.generation(
        Entrant("m", lambda _: output([1], 1.0)),
        played,
        questions,
        model="tiny",
        device="here",
        dtype=Dtype.FLOAT32,
        batch_size=1,
        how="",
        text="",
    )
    assert generation.acceleration_rate == 16 / 10
    # Cached: 3, 7 and 1 to 8.
    assert generation.seq_len == round((3 + 7 + sum(range(1, 9))) / 10)


def test_survival_counts_steps_that_accept_at_least_so_many() -> None:
    assert rounds.survival([Played("m", 0, (0,), output([1, 2, 3, 3], 1.0))]) == (0.75, 0.5)


def test_joules_per_token_need_a_counter_and_every_batch() -> None:
    two = ((1, 2, 3, 4),)
    played = [Played("m", 0, (0,), output([3], 1.0, sequences=two), energy_j=8.0)]
    assert rounds.joules_per_token(played) == 2.0
    played.append(Played("m", 0, (0,), output([3], 1.0, sequences=two)))
    assert rounds.joules_per_token(played) is None


def test_a_batch_is_of_one_category() -> None:
    questions = [Question((1,), category) for category in "abcabca"]
    assert rounds.batches(questions, 2) == [(0, 3), (6,), (1, 4), (2, 5)]


def test_every_entrant_answers_every_batch_once_a_round_in_shuffled_order() -> None:
    calls: list[tuple[str, int]] = []

    def entrant(name: str) -> Entrant:
        def answer(prompts: rounds.Texts) -> Output:
            calls.append((name, len(prompts)))
            return output([1], 1.0)

        return Entrant(name, answer)

    entrants = [entrant(name) for name in "xyz"]
    questions = [Question((1,))] * 5
    joules = itertools.count(0.0, 1.5)
    played = list(
        rounds.play(entrants, questions, rounds=4, batch_size=2, energy_j=lambda: next(joules))
    )
    assert len(played) == 4 * 3 * 3
    assert len(calls) == len(played) + 3  # each was warmed up once, not counted
    for name in "xyz":
        own = [(one.round_index, one.questions) for one in played if one.entrant == name]
        assert own == list(itertools.product(range(4), [(0, 1), (2, 3), (4,)]))
    orders = {tuple(one.entrant for one in played[i : i + 3]) for i in range(0, len(played), 3)}
    assert len(orders) > 2
    assert {one.energy_j for one in played} == {1.5}


def test_the_first_difference_comes_with_the_logit_gap(model: DecoderModel) -> None:
    prompt = [1, 2, 3]
    (text,) = Engine(model).generate([prompt], Vanilla(), max_new_tokens=6).sequences
    other = (*text[:3], (text[3] + 1) % 29, *text[4:])
    baseline = [Played("vanilla", 0, (0,), output([1], 1.0, sequences=(text,)))]
    played = [Played("m", 0, (0,), output([1], 1.0, sequences=(other,)))]
    (difference,) = rounds.differences(played, baseline, [Question(tuple(prompt))], model)
    assert (difference.position, difference.token) == (3, other[3])
    logits = model.model(torch.tensor([[*prompt, *text[:3]]])).logits[0, -1].detach()
    assert difference.logit_gap == pytest.approx(
        float(logits[text[3]] - logits[other[3]]), rel=1e-4
    )
    assert rounds.differences(baseline, baseline, [Question(tuple(prompt))], model) == []


def test_the_librarys_generate_is_counted_as_the_engine_is(model: DecoderModel) -> None:
    prompts = [[1, 2, 3], [4, 5, 6, 7]]
    alone = Engine(model).generate(prompts, Vanilla(), max_new_tokens=9)
    eos = alone.sequences[0][4]
    engine = Engine(model).generate(prompts, Vanilla(), max_new_tokens=9, eos_token_ids=[eos])
    answer = rounds.library_answer(
        model.model, max_new_tokens=9, eos_token_ids=[eos], context_limit=64
    )
    library = answer(prompts)
    assert library.sequences == engine.sequences
    assert (library.num_tokens, library.num_sequence_steps) == (
        engine.num_tokens,
        engine.num_sequence_steps,
    )
    assert library.acceleration_rate == 1


def ticking(model: DecoderModel, seq_len: int = 20) -> ModelTimes:
    """Every timed call takes 1 s on this clock, whatever it does."""
    clock: Any = itertools.count().__next__
    times = ModelTimes(model, SHAPE, 1, seq_len)
    times.time_round([1, 2, 3, 4], clock=clock)
    return times


def test_a_step_is_simulated_from_every_product_of_every_layer() -> None:
    times = OperatorTimes("counted")
    passes = verification(SHAPE, 4, 1, 20)
    for product in step_products(passes):
        times.add(product, 1.0)
        times.add(product, 2.0)
        times.add(product, 4.0)
    # q, k, v, qk, pv, up, gate, down, o in each of 2 layers, and the LM head.
    step = times.step(passes)
    assert (step.low_s, step.latency_s, step.high_s) == (19, 38, 76)


def test_the_rest_of_the_model_is_timed_without_its_products(
    model: DecoderModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    linear = torch.nn.functional.linear

    def counted(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return linear(*arguments)

    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    ticks: Any = itertools.count().__next__
    assert time_rest(model, 4, 1, 20, clock=ticks) == 1
    in_rest, calls = calls, 0
    # Within a step: 7 layers and attention twice, the LM head: each 1 tick, 2 around the pass.
    clock: Any = itertools.count().__next__
    in_step = time_in_step(model, 4, 1, 20, clock=clock, steps=3)
    assert (in_step.products_s, in_step.pass_s) == (17, 35)
    assert calls - in_rest == 4 * 15  # prefill aside, which both do once


def test_timing_leaves_the_model_as_it_was(model: DecoderModel) -> None:
    before = Engine(model).generate([[1, 2, 3]], Vanilla(), max_new_tokens=5).sequences
    attention = torch.nn.functional.scaled_dot_product_attention
    ticking(model)
    assert torch.nn.functional.scaled_dot_product_attention is attention
    assert Engine(model).generate([[1, 2, 3]], Vanilla(), max_new_tokens=5).sequences == before


def test_a_count_that_pays_is_recommended_and_none_where_none_does(model: DecoderModel) -> None:
    times = ticking(model)
    rates = HeadAccuracy(((0.5, 0.2), (0.4, 0.1)))
    one, four = foresee(times, [1, 4], rates, heads_s=0.0)
    # On this clock products cost the same over 1 and 4 tokens.
    assert (one.speedup, four.overhead) == (1, 1)
    assert four.acceleration_rate == pytest.approx(1 + 0.5 + 0.2 + 0.5 * 0.4)
    assert best([one, four]) is four
    base_s = one.step.latency_s
    _, dear = foresee(times, [1, 4], rates, heads_s=base_s)
    assert dear.overhead == 2
    assert best([one, dear]) is None
    assert best([Foreseen(4, None, four.step, 1.0, None)]) is None


def study(model: DecoderModel, **changes: Any) -> Study:
    questions = [
        Question((1, 2, 3, 1, 2), "copying"),
        Question((7, 8), "writing"),
        Question((5, 6, 5, 6, 5), "copying"),
    ]
    settings = {"device": "here", "dtype": Dtype.FLOAT32, "how": "tested", "text": "three prompts"}
    return Study(
        Engine(model, clock=changes.pop("clock", itertools.count().__next__)),
        SHAPE,
        questions,
        max_new_tokens=8,
        **{**settings, **changes},
    )


@pytest.fixture(scope="module")
def rows(model: DecoderModel) -> Iterator[list[Any]]:
    here = study(model)
    entrants = [here.entrant(Vanilla()), here.library(), here.entrant(Lookup(3))]
    played = list(here.play(entrants, 2))
    yield here.rows(
        entrants,
        played,
        times=ticking(model, here.typical_seq_len()),
        drafting_s={"vanilla": 0.0, "prompt lookup": 0.5},
        rates={"prompt lookup": 1.25},
        rate_source="assumed",
    )


def test_speedup_is_acceleration_rate_over_overhead(rows: list[Any]) -> None:
    vanilla, library, lookup = rows
    assert vanilla.generated.speedup == 1
    assert lookup.generated.acceleration_rate >= 1
    # On the ticking clock every step takes the same.
    assert lookup.generated.overhead == pytest.approx(1, abs=0.2)
    assert lookup.generated.source is Provenance.GENERATED
    assert library.is_library and library.simulated is None


def test_every_text_is_compared_with_vanillas(rows: list[Any]) -> None:
    for row in rows:
        assert (row.num_texts, row.differences) == (3, ())
        assert row.as_dict()["num_identical_texts"] == 3


def test_categories_add_up(rows: list[Any]) -> None:
    for row in rows:
        assert [(one.category, one.num_texts) for one in row.by_category] == [
            ("copying", 2),
            ("writing", 1),
        ]


def test_the_gap_is_split_without_remainder(rows: list[Any]) -> None:
    vanilla = rows[0]
    gap, simulated = vanilla.gap, vanilla.simulated
    assert gap is not None and simulated.source is Provenance.SIMULATED
    total = vanilla.generated.step.latency_s - simulated.step.latency_s
    assert gap.total_s == pytest.approx(total)


def test_an_expected_rate_is_marked_and_a_missing_one_is_the_generated(rows: list[Any]) -> None:
    vanilla, _, lookup = rows
    assert vanilla.simulated.acceptance_source == "the generated rate"
    assert lookup.simulated.acceleration_rate == 1.25
    assert lookup.simulated.acceptance_source == "assumed"
    # Nothing but the products, the rest and the drafting: all known on the ticking clock.
    assert lookup.simulated.step.latency_s == vanilla.simulated.step.latency_s + 0.5


def test_overheads_of_empty_proposals_accept_nothing(model: DecoderModel) -> None:
    here = study(model)
    one, four = here.overheads([1, 4], ticking(model), num_rounds=2, num_steps=5)
    assert one.overhead == 1 and one.error == 0
    assert four.overhead == pytest.approx(1)  # on the ticking clock
    assert four.error == pytest.approx(four.simulated_overhead / four.overhead - 1)


def test_a_named_sweep_takes_the_place_of_what_is_timed(model: DecoderModel) -> None:
    swept = SweptProducts(LinearInRows(), Dtype.FLOAT32)
    times = ModelTimes(model, SHAPE, 1, 20, swept=swept)
    clock: Any = itertools.count().__next__
    times.time_round([1, 4], clock=clock)
    # 1 us a row: 7 linear layers and 2 of attention (by groups of 2 heads, over 2 of them) in each
    # of 2 layers, and the LM head.
    assert times.products_s(4).latency_s == pytest.approx(4 * times.products_s(1).latency_s)
    assert times.simulated(1).latency_s == times.products_s(1).latency_s + 1
