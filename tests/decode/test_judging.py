"""A verdict under noise: pairs of blocks, and none where the machine or the baselines disagree."""

import random
from statistics import median

import pytest

from medusa_bench.decode.engine.engine import Finish, Output, Step
from medusa_bench.decode.study.judging import Candidate, Paired, paired, verdict
from medusa_bench.decode.study.rounds import BatchRun, GeneratedVariant, Question, run_rounds
from medusa_bench.measure.host import Usage


def output(tokens_per_s: float) -> Output:
    step = Step((0,), (0,), (1,), 1, 1.0, 0.0, 1.0)
    return Output("m", ((1,),), (Finish.LENGTH,), 0.5, 10 / tokens_per_s, (step,) * 10)


def blocks(
    tokens_per_s: list[float], *, round_index: int = 0, taken: tuple[float, ...] = ()
) -> list[BatchRun]:
    shares = (*taken, *[0.0] * len(tokens_per_s))
    return [
        BatchRun("m", round_index, (prompt,), output(rate), taken_share=shares[prompt])
        for prompt, rate in enumerate(tokens_per_s)
    ]


def over(runs: list[BatchRun], baseline: list[BatchRun]) -> Paired:
    found = paired(runs, baseline)
    assert found is not None
    return found


def test_pairs_are_of_the_same_prompts_in_the_same_round() -> None:
    """The machine halves its speed in the second round; the pairs do not notice."""
    baseline = blocks([10.0, 20.0, 30.0]) + blocks([5.0, 10.0, 15.0], round_index=1)
    runs = blocks([15.0, 30.0, 45.0]) + blocks([7.5, 15.0, 22.5], round_index=1)
    found = over(runs, baseline)
    assert (found.median, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))
    assert found.num_pairs == 6
    assert paired(blocks([1.0], round_index=7), baseline) is None


def test_the_interval_of_a_median_holds_it_in_nine_of_ten_draws() -> None:
    dice = random.Random(0)
    held = 0
    for _ in range(400):
        rates = [dice.lognormvariate(0.2, 0.3) for _ in range(24)]
        found = over(blocks(rates), blocks([1.0] * 24))
        assert found.median == pytest.approx(median(rates))
        held += found.low <= 2.718281828**0.2 <= found.high
    assert 0.87 <= held / 400 <= 0.97


def test_blocks_in_which_others_had_the_processor_are_left_out() -> None:
    baseline = blocks([10.0] * 6)
    runs = blocks([1.0, 15.0, 15.0, 15.0, 15.0, 15.0], taken=(0.5,))
    found = over(runs, baseline)
    assert (found.low, found.num_pairs, found.num_contended) == (pytest.approx(1.5), 5, 1)
    assert over(baseline, runs).num_contended == 1
    busy = over(blocks([15.0] * 3, taken=(0.5, 0.5, 0.5)), blocks([10.0] * 3))
    assert (busy.median, busy.num_pairs, busy.num_contended) == (pytest.approx(1.5), 0, 3)
    assert not busy.is_decided


def said(method: Paired | None, library: Paired | None, beside: Paired | None = None) -> str:
    return verdict([Candidate("medusa", method, beside)], library)[-1]


PAYS = Paired(1.53, 1.45, 1.60, 24)


def test_a_method_pays_where_its_whole_interval_does() -> None:
    assert said(PAYS, None) == "Generated: medusa pays, 1.53x (1.45 to 1.60, 24 pairs)."
    assert "not decided: the interval" in said(Paired(1.1, 0.98, 1.2, 24), None)
    assert "nothing pays" in said(Paired(0.8, 0.7, 0.9, 24), None)


def test_a_plain_baseline_faster_than_our_vanilla_withholds_the_verdict() -> None:
    library = Paired(1.57, 1.50, 1.62, 24)
    words = said(PAYS, library, Paired(0.97, 0.92, 1.02, 24))
    assert words.startswith("Generated: not decided: transformers' generate() is 1.57x as fast")
    both = said(PAYS, library, Paired(1.2, 1.1, 1.3, 24))
    assert both.endswith("1.20x over transformers' generate().")
    fair = Paired(1.05, 1.02, 1.08, 24)
    assert said(PAYS, fair, Paired(1.4, 1.3, 1.5, 24)).startswith("Generated: medusa pays")
    assert verdict([], library) == [
        "vanilla: 0.64x the tokens/s of transformers' generate() in the same blocks (0.62 to 0.67)."
    ]


def test_the_fastest_assisted_baseline_is_named_where_it_is_surely_faster_than_vanilla() -> None:
    slow, fast = Candidate("slow", Paired(0.9, 0.8, 1.1, 24)), Candidate("fast", PAYS)
    words = verdict([], None, [slow, fast])
    assert words == ["fast, transformers' own, is faster than vanilla: 1.53x (1.45 to 1.60)."]
    assert verdict([], None, [slow]) == []


def test_a_busy_machine_and_too_few_pairs_withhold_the_verdict() -> None:
    busy = Paired(1.53, 1.45, 1.60, 10, num_contended=14)
    assert "not decided: others had the processor in 14 of 24 blocks" in said(busy, None)
    assert "not decided: only 2 pairs of blocks" in said(Paired(1.5, 1.5, 1.5, 2), None)


def test_the_best_by_median_is_judged() -> None:
    other = Candidate("draft", Paired(1.2, 1.1, 1.3, 24))
    assert "medusa pays" in verdict([other, Candidate("medusa", PAYS)], None)[-1]


def test_each_block_says_how_much_of_its_time_others_had() -> None:
    readings = iter([Usage(10.0, 0.0, 0.0), Usage(12.0, 0.3, 0.2)])
    variant = GeneratedVariant("m", lambda _: output(1.0))
    (run,) = run_rounds([variant], [Question((1,))], rounds=1, usage=lambda: next(readings))
    assert run.taken_share == pytest.approx(0.25)
