"""Rounds, sums over sums, first differences, and what stands beside them as simulated."""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from medusa_bench.compare.trees import HeadAccuracy
from medusa_bench.decode.engine.attention import register
from medusa_bench.decode.engine.engine import Engine, Finish, Output, Step
from medusa_bench.decode.engine.model import DecoderModel
from medusa_bench.decode.heads.heads import MedusaHeads
from medusa_bench.decode.methods.lookup import Lookup
from medusa_bench.decode.methods.vanilla import Vanilla
from medusa_bench.decode.study import rounds
from medusa_bench.decode.study.operator_times import (
    ModelTimes,
    PassTimer,
    SweptProducts,
    verification,
)
from medusa_bench.decode.study.overheads import time_overheads
from medusa_bench.decode.study.rounds import BatchRun, GeneratedVariant, Question
from medusa_bench.decode.study.study import (
    ExpectedStep,
    GenerationStudy,
    HeadsTimes,
    best,
    draft_times,
    judged,
    predict_speedups,
)
from medusa_bench.results.rows import Provenance
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.latency import Latency
from medusa_bench.specs.operators import Family
from medusa_bench.specs.shapes import ModelShape
from tests.builders.latencies import LinearInRows
from tests.builders.tiny_models import tiny_llama

SHAPE = ModelShape("tiny", 32, 48, 2, 4, 2, 8, vocab_size=29)


@pytest.fixture(scope="module")
def model() -> DecoderModel:
    return DecoderModel(tiny_llama(attention=register()))


def output(
    kept: list[int], decode_s: float, *, sequences: tuple[tuple[int, ...], ...] = ((1,),)
) -> Output:
    """One sequence whose steps brought so many tokens each."""
    steps = tuple(Step((0,), (count - 1,), (count,), 4, 1.0, 0.25, 0.5) for count in kept)
    return Output("m", sequences, (Finish.LENGTH,), 0.5, decode_s, steps)


def test_a_rate_is_a_ratio_of_sums_not_a_mean_of_ratios() -> None:
    runs = [
        BatchRun("m", 0, (0,), output([4, 4], 1.0)),
        BatchRun("m", 0, (1,), output([1] * 8, 7.0)),
    ]
    assert rounds.decode_tokens_per_s(runs) == 2.0  # 16 / 8, not (8 + 8 / 7) / 2
    questions = [Question((1, 2, 3)), Question((1,))]
    generation = rounds.generation(
        GeneratedVariant("m", lambda _: output([1], 1.0)),
        runs,
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
    assert rounds.survival([BatchRun("m", 0, (0,), output([1, 2, 3, 3], 1.0))]) == (0.75, 0.5)


def test_joules_per_token_need_a_counter_and_every_batch() -> None:
    two = ((1, 2, 3, 4),)
    runs = [BatchRun("m", 0, (0,), output([3], 1.0, sequences=two), energy_j=8.0)]
    assert rounds.joules_per_token(runs) == 2.0
    runs.append(BatchRun("m", 0, (0,), output([3], 1.0, sequences=two)))
    assert rounds.joules_per_token(runs) is None


def test_a_batch_is_of_one_category() -> None:
    questions = [Question((1,), category) for category in "abcabca"]
    assert rounds.batches(questions, 2) == [(0, 3), (6,), (1, 4), (2, 5)]


def test_every_entrant_answers_every_batch_once_a_round_in_shuffled_order() -> None:
    calls: list[tuple[str, int]] = []

    def variant(name: str) -> GeneratedVariant:
        def answer(prompts: rounds.Texts) -> Output:
            calls.append((name, len(prompts)))
            return output([1], 1.0)

        return GeneratedVariant(name, answer)

    variants = [variant(name) for name in "xyz"]
    questions = [Question((1,))] * 5
    joules = itertools.count(0.0, 1.5)
    runs = list(
        rounds.run_rounds(
            variants, questions, rounds=4, batch_size=2, energy_j=lambda: next(joules)
        )
    )
    assert len(runs) == 4 * 3 * 3
    assert len(calls) == len(runs) + 3  # each was warmed up once, not counted
    for name in "xyz":
        own = [(one.round_index, one.questions) for one in runs if one.variant == name]
        assert own == list(itertools.product(range(4), [(0, 1), (2, 3), (4,)]))
    orders = {tuple(one.variant for one in runs[i : i + 3]) for i in range(0, len(runs), 3)}
    assert len(orders) > 2
    assert {one.energy_j for one in runs} == {1.5}


def test_the_first_difference_comes_with_the_logit_gap(model: DecoderModel) -> None:
    prompt = [1, 2, 3]
    (text,) = Engine(model).generate([prompt], Vanilla(), max_new_tokens=6).sequences
    other = (*text[:3], (text[3] + 1) % 29, *text[4:])
    baseline = [BatchRun("vanilla", 0, (0,), output([1], 1.0, sequences=(text,)))]
    runs = [BatchRun("m", 0, (0,), output([1], 1.0, sequences=(other,)))]
    (difference,) = rounds.differences(runs, baseline, [Question(tuple(prompt))], model)
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


def test_steps_of_assisted_generation_end_with_the_text() -> None:
    # A first step of 2 tokens, then 3 and 4, of which the text ends within the last.
    steps = rounds._library_steps([[7] * 7], [2, 5, 9], decode_s=4.0)
    assert [step.kept for step in steps] == [(3,), (2,)]
    assert [step.accepted for step in steps] == [(2,), (3,)]
    assert [step.step_s for step in steps] == [2.0, 2.0]


@pytest.mark.parametrize("with_draft", [True, False])
def test_assisted_generation_stands_beside_and_gives_vanillas_text(
    model: DecoderModel, with_draft: bool
) -> None:
    here = study(model)
    draft = DecoderModel(tiny_llama()) if with_draft else None  # the model as its own draft
    assisted = here.assisted(3, draft, "itself" if with_draft else "")
    variants = [here.variant(Vanilla()), here.library(), assisted]
    runs = list(here.run_rounds(variants, 1))
    vanilla, library, row = here.rows(variants, runs)
    assert (row.is_assisted, row.is_library, library.is_assisted) == (True, False, False)
    assert row.differences == ()
    assert row.generated.draft_len == 3
    if with_draft:  # nearly all is accepted
        assert row.generated.acceleration_rate > 2
    assert judged([vanilla, library, row])  # it is no candidate, but a baseline


def ticking(model: DecoderModel, seq_len: int = 20) -> ModelTimes:
    """Every timed call takes 1 s on this clock, whatever it does."""
    clock: Any = itertools.count().__next__
    times = ModelTimes(model, SHAPE, [1, 2, 3, 4], 1, seq_len, clock=clock)
    times.time_round(random.Random(0))
    return times


def pass_timer(model: DecoderModel, num_candidates: int, **clock: Any) -> PassTimer:
    cache = model.new_cache(1, 30)
    model.prefill(cache, [[0]])
    return PassTimer(model, cache, num_candidates, 20, **clock)


def test_the_operators_of_a_pass_are_those_of_the_operator_table() -> None:
    # Eager attention is two plain products, which torch counts; sdpa's on a CPU it does not.
    timer = pass_timer(DecoderModel(tiny_llama(attention="eager")), 4)
    calls = timer.operators()
    with FlopCounterMode(display=False) as counter:
        timer.time(calls)
    counted = counter.get_flop_counts()["Global"]
    (verify,) = verification(SHAPE, 4, 1, 20)
    expected = {True: 0.0, False: 0.0}  # attention, and the rest
    for operator, times in verify.operators:
        is_attention = operator.family is Family.ATTENTION
        expected[is_attention] += times * operator.product(SHAPE, verify.setting).flops
    assert counted[torch.ops.aten.mm] == expected[False]
    # The table's attention looks back on 20 tokens; the model's also on the 4 candidates.
    assert counted[torch.ops.aten.bmm] == expected[True] * 24 / 20


def test_operators_and_the_rest_make_a_pass(model: DecoderModel) -> None:
    # 7 layers and attention twice, and the LM head: each 1 tick, and 2 around each and the pass.
    clock: Any = itertools.count().__next__
    timer = pass_timer(model, 4, clock=clock)
    assert len(timer.operators()) == 17
    within = timer.within()
    assert (within.operators_s, within.pass_s, within.rest_s) == (17, 35, 18)
    times = ticking(model)
    assert times.operators_s(4).latency_s == 1  # one run of all, one tick
    assert times.rest_s(4).latency_s == 18
    assert times.simulated(4).latency_s == 19
    assert times.operators_share(4) == 17 / 35


def test_a_machine_that_slows_down_widens_the_interval(model: DecoderModel) -> None:
    now_s = tick_s = 0.0

    def clock() -> float:
        nonlocal now_s
        now_s += tick_s
        return now_s

    times = ModelTimes(model, SHAPE, [1, 4], 1, 20, clock=clock)
    for pace_s in (1.0, 1.0, 2.0):
        tick_s = pace_s
        times.time_round(random.Random(0))
    operators = times.operators_s(4)
    assert (operators.low_s, operators.latency_s, operators.high_s) == (1, 1, 2)
    assert times.simulated(1) == Latency(19, 19, 38)
    one, four = predict_speedups(times, [1, 4], HeadAccuracy(((0.5,),)), heads_s=19.0)
    assert four.step == Latency(38, 38, 57)
    # 1.5 tokens a step over an overhead of 2; either step may be at either pace.
    assert four.speedup == 0.75
    assert four.speedup_interval == pytest.approx((0.75 * 38 / 57, 0.75 * 38 / 19))
    assert one.speedup_interval == (1, 1)


def test_a_count_that_was_not_timed_is_not_simulated(model: DecoderModel) -> None:
    times = ticking(model)
    assert times.mean({4: 1}) == times.simulated(4)
    assert times.mean({4: 1, 5: 1}) is None


def test_steps_of_several_sizes_are_simulated_by_how_often_each_was_taken(
    model: DecoderModel,
) -> None:
    swept = SweptProducts(LinearInRows(), Dtype.FLOAT32)
    clock: Any = itertools.count().__next__
    times = ModelTimes(model, SHAPE, [1, 4], 1, 20, swept=swept, clock=clock)
    times.time_round(random.Random(0))
    one_s, four_s = times.simulated(1).latency_s, times.simulated(4).latency_s
    assert four_s > one_s
    mixed = times.mean({1: 3, 4: 1})
    assert mixed is not None
    assert mixed.latency_s == pytest.approx((3 * one_s + four_s) / 4)


def test_timing_leaves_the_model_as_it_was(model: DecoderModel) -> None:
    before = Engine(model).generate([[1, 2, 3]], Vanilla(), max_new_tokens=5).sequences
    attention = torch.nn.functional.scaled_dot_product_attention
    ticking(model)
    assert torch.nn.functional.scaled_dot_product_attention is attention
    assert Engine(model).generate([[1, 2, 3]], Vanilla(), max_new_tokens=5).sequences == before


def test_a_count_that_pays_is_recommended_and_none_where_none_does(model: DecoderModel) -> None:
    times = ticking(model)
    rates = HeadAccuracy(((0.5, 0.2), (0.4, 0.1)))
    one, four = predict_speedups(times, [1, 4], rates, heads_s=0.0)
    # On this clock products cost the same over 1 and 4 tokens.
    assert (one.speedup, four.overhead) == (1, 1)
    assert four.acceleration_rate == pytest.approx(1 + 0.5 + 0.2 + 0.5 * 0.4)
    assert best([one, four]) is four
    base_s = one.step.latency_s
    _, dear = predict_speedups(times, [1, 4], rates, heads_s=base_s)
    assert dear.overhead == 2
    assert best([one, dear]) is None
    assert four.speedup_interval == pytest.approx((1.9, 1.9))  # a steady machine
    assert best([ExpectedStep(4, None, four.step, four.step, None)]) is None


def study(model: DecoderModel, **changes: Any) -> GenerationStudy:
    questions = [
        Question((1, 2, 3, 1, 2), "copying"),
        Question((7, 8), "writing"),
        Question((5, 6, 5, 6, 5), "copying"),
    ]
    settings = {"device": "here", "dtype": Dtype.FLOAT32, "how": "tested", "text": "three prompts"}
    return GenerationStudy(
        Engine(model, clock=changes.pop("clock", itertools.count().__next__)),
        SHAPE,
        questions,
        max_new_tokens=8,
        **{**settings, **changes},
    )


@pytest.fixture(scope="module")
def rows(model: DecoderModel) -> Iterator[list[Any]]:
    here = study(model)
    variants = [here.variant(Vanilla()), here.library(), here.variant(Lookup(3))]
    runs = list(here.run_rounds(variants, 2))
    yield here.rows(
        variants,
        runs,
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
    vanilla, _, lookup = rows  # prompt lookup was said to take 0.5 s for drafting
    for row in (vanilla, lookup):
        gap, simulated = row.gap, row.simulated
        assert gap is not None and simulated.source is Provenance.SIMULATED
        total = row.generated.step.latency_s - simulated.step.latency_s
        parts_s = (gap.operators_s, gap.rest_s, gap.drafting_s, gap.engine_s)
        assert sum(parts_s) == pytest.approx(total)


def test_an_expected_rate_is_marked_and_a_missing_one_is_the_generated(rows: list[Any]) -> None:
    vanilla, _, lookup = rows
    assert vanilla.simulated.acceptance_source == "the generated rate"
    assert lookup.simulated.acceleration_rate == 1.25
    assert lookup.simulated.acceptance_source == "assumed"
    # Nothing but the products, the rest and the drafting: all known on the ticking clock.
    assert lookup.simulated.step.latency_s == vanilla.simulated.step.latency_s + 0.5


def test_overheads_of_empty_proposals_accept_nothing(model: DecoderModel) -> None:
    turns = []
    one, four = time_overheads(
        study(model), ticking(model), [1, 4], num_rounds=2, advance=turns.append
    )
    assert one.overhead == 1 and one.error == 0
    assert four.overhead == pytest.approx(1)  # on the ticking clock
    assert four.error == pytest.approx(four.simulated_overhead / four.overhead - 1)
    assert turns == [1, 1]


def test_generated_steps_of_every_count_take_turns(
    model: DecoderModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Steps of this engine take as many seconds as they verify tokens.
    now_s, step = 0.0, model.step

    def costing(cache: Any, tokens: torch.Tensor, *more: Any, **options: Any) -> Any:
        nonlocal now_s
        now_s += tokens.shape[1]
        return step(cache, tokens, *more, **options)

    monkeypatch.setattr(model, "step", costing)
    here = study(model, clock=lambda: now_s)
    rows = time_overheads(here, ticking(model), [1, 2, 4], num_rounds=3)
    assert [(row.step_s, row.overhead) for row in rows] == [(1, 1), (2, 2), (4, 4)]


def test_heads_and_drafts_are_timed_in_the_same_rounds(model: DecoderModel) -> None:
    clock: Any = itertools.count().__next__
    heads = MedusaHeads(2, model.lm_head.weight.detach())
    proposing = HeadsTimes(heads, model, 1, clock=clock)
    target = ticking(model)
    draft = draft_times(DecoderModel(model.model, num_layers=1), target)
    time_overheads(study(model), target, [1, 4], num_rounds=3, beside=[proposing, draft])
    assert proposing.latency_s == 1
    assert draft.shape.num_layers == 1
    assert draft.simulated(1).latency_s > 0


def test_a_named_sweep_takes_the_place_of_what_is_timed(model: DecoderModel) -> None:
    swept = SweptProducts(LinearInRows(), Dtype.FLOAT32)
    clock: Any = itertools.count().__next__
    times = ModelTimes(model, SHAPE, [1, 4], 1, 20, swept=swept, clock=clock)
    times.time_round(random.Random(0))
    assert times.operators_s(4).latency_s == pytest.approx(4 * times.operators_s(1).latency_s)
    assert times.simulated(1).latency_s == times.operators_s(1).latency_s + 18
