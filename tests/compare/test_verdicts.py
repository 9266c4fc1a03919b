"""Verdicts: say what to use, up to where, how sure, and what would change it."""

import re
from dataclasses import replace
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from medusa_bench.compare import acceptance, methods, simulation
from medusa_bench.compare.break_even import break_even
from medusa_bench.compare.comparisons import Comparison, Outcome, best, by_setting
from medusa_bench.compare.simulation import Variant
from medusa_bench.compare.verdicts import reasons, verdict
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.latency import Latency
from medusa_bench.specs.models import PRESETS
from tests.builders.latencies import FREE_VERIFICATION, SmoothLatency

TARGET = PRESETS["llama-7b"]


def sentences(model: acceptance.AcceptanceModel, spread: float = 0.0, *counts: int) -> str:
    variants = [Variant(methods.medusa(count), model) for count in counts or (16, 64)]
    latency = SmoothLatency(spread=spread)
    settings = [(batch_size, 1024) for batch_size in (1, 4, 16, 64)]
    at = partial(simulation.simulate, variants, TARGET, latency, Dtype.FLOAT16)
    rows = at(settings)
    ends = break_even(rows, at)
    return "\n".join([*verdict(rows), *reasons(rows, ends)])


def test_verdict_names_the_sizes_the_limit_and_what_is_needed() -> None:
    words = sentences(acceptance.LogLaw(0.3), 0.0, 32, 64)
    assert "use medusa at batch sizes 1 to 16 (64 to 32 candidates" in words
    assert "medusa stops paying at batch size " in words
    assert "come without an interval" in words
    assert " tokens a step and gets " in words


def test_verdict_says_where_it_is_uncertain() -> None:
    words = sentences(acceptance.PAPER, 0.3)
    assert "uncertain at batch size 64, where the interval" in words
    assert "; perhaps medusa at batch size 64 (" in words


def test_verdict_says_when_nothing_pays() -> None:
    words = sentences(acceptance.Constant(1.0))
    assert "nothing here pays" in words
    assert "needs 1." in words


def test_verdict_warns_of_cliffs() -> None:
    stairs = {16: 1.0, 24: 1.0, 32: 1.5, 40: 1.5}
    variants = [Variant(methods.medusa(count), acceptance.PAPER) for count in stairs]
    rows = simulation.simulate(variants, TARGET, SmoothLatency(), Dtype.FLOAT16, [(1, 1024)])
    steps = [
        replace(row, step=Latency.exact(s), vanilla=Latency.exact(1.0))
        for row, s in zip(rows, stairs.values(), strict=True)
    ]
    assert "leaps after 24 (+50%)" in "\n".join(reasons(steps, []))


# --- every sentence, read again -------------------------------------------------------------------

SPAN = r"(\d+)(?: to (\d+))?"
BATCHES = rf"batch sizes? ({SPAN}(?:(?:, | and ){SPAN})*)"
PART = re.compile(
    rf"(\S+) at {BATCHES} \((\d+)(?: to (\d+))? candidates?, ([\d.]+)x(?: to ([\d.]+)x)?\)"
)


def batches_of(text: str, tried: list[int]) -> list[int]:
    """The batch sizes tried that "1 to 4 and 16" names."""
    named: list[int] = []
    for first, last in re.findall(SPAN, text):
        named += [batch for batch in tried if int(first) <= batch <= int(last or first)]
    return named


@st.composite
def compared(draw: st.DrawFn) -> list[Comparison]:
    """Rows of two methods at some batch sizes, with any speedups and any doubt."""
    tried = draw(st.lists(st.sampled_from([1, 2, 4, 8, 16, 32]), min_size=1, unique=True))
    rows = []
    for batch_size in sorted(tried):
        for method in ("medusa", "eagle-3"):
            unfit = draw(st.sampled_from(["", "", "the model cannot"]))
            for size in draw(st.lists(st.sampled_from([4, 16, 60]), min_size=1, unique=True)):
                rate = draw(st.floats(0.3, 3.0))
                width = draw(st.sampled_from([0.05, 0.3]))
                rows.append(made(method, batch_size, size, rate, width, unfit=unfit))
    return rows


def made(
    method: str, batch_size: int, size: int, rate: float, width: float = 0.05, *, unfit: str = ""
) -> Comparison:
    (row,) = simulation.simulate(
        [Variant(methods.medusa(size), acceptance.Constant(rate))],
        TARGET,
        FREE_VERIFICATION,
        Dtype.FLOAT16,
        [(batch_size, 1024)],
    )
    step = Latency.exact(2.0)  # vanilla takes 1 s, so the speedup is half of the rate
    vanilla = Latency.exact(1.0)
    return replace(row, method=method, step=step, vanilla=vanilla, half_width=width, unfit=unfit)


@given(compared())
def test_each_sentence_says_what_its_rows_say(rows: list[Comparison]) -> None:
    tried = sorted({row.batch_size for row in rows})
    fit = [row for row in rows if not row.unfit]
    fastest = {batch: best(group) for (batch, _), group in by_setting(fit).items()}
    answer, *others = [*verdict(rows), *reasons(rows, break_even(rows))]
    sure, _, rest = answer.partition("perhaps ")
    named: list[int] = []
    for clause, outcomes in ((sure, {Outcome.PAYS}), (rest, {Outcome.UNCERTAIN})):
        for part in PART.finditer(clause):
            batches = batches_of(part[2], tried)
            run = [fastest[batch] for batch in batches]
            assert {row.method for row in run} == {part[1]}
            assert {row.outcome for row in run} <= outcomes
            ends = (run[0], run[-1])
            assert [str(row.num_candidates) for row in ends] == [part[7], part[8] or part[7]]
            assert [f"{row.speedup:.2f}" for row in ends] == [part[9], part[10] or part[9]]
            named += batches
    assert sorted(named) == [b for b in tried if b in fastest and fastest[b].speedup > 1]
    if found := re.search(rf"vanilla decoding at {BATCHES}", answer):
        named += batches_of(found[1], tried)
    assert sorted(named) == tried
    text = " ".join(others)
    for row in rows:
        assert (f"No choice: {row.method}, for {row.unfit}." in text) == bool(
            [each for each in rows if each.method == row.method and each.unfit]
        ) or not row.unfit
    if found := re.search(rf"uncertain at {BATCHES}, where", text):
        unsure = [b for b, row in fastest.items() if row.outcome is Outcome.UNCERTAIN]
        assert batches_of(found[1], sorted(fastest)) == sorted(unsure)
    for method, batch in re.findall(r"(\S+) stops paying at batch size (\d+)", text):
        assert all(row.speedup <= 1 for row in rows_at(rows, method, int(batch), tried))
    if found := re.search(
        r"at batch size (\d+), (\S+) with (\d+) c.* needs ([\d.]+) t.* gets (\d+\.\d+)", text
    ):
        about = [
            row
            for row in fit
            if (row.batch_size, row.method, row.num_candidates)
            == (int(found[1]), found[2], int(found[3]))
        ]
        assert (f"{about[0].overhead:.2f}", found[4]) == (found[4], "2.00")
        assert found[5] in {f"{row.acceleration_rate:.2f}" for row in about}


def rows_at(rows: list[Comparison], method: str, batch: int, tried: list[int]) -> list[Comparison]:
    """A method's rows at the first batch size tried from `batch` on."""
    first = next((each for each in tried if each >= batch), None)
    return [row for row in rows if row.method == method and row.batch_size == first]


def test_batches_with_a_gap_between_are_not_joined() -> None:
    speeds = {1: 3.0, 2: 3.0, 4: 1.0, 8: 3.0}
    rows = [made("medusa", batch, 16, rate) for batch, rate in speeds.items()]
    assert verdict(rows)[0] == (
        "At 1024 cached tokens, use medusa at batch sizes 1 to 2 (16 candidates, 1.50x); medusa at "
        "batch size 8 (16 candidates, 1.50x); vanilla decoding at batch size 4."
    )


def test_rows_that_are_no_choice_are_not_said_to_lose() -> None:
    answer, reason = verdict([made("medusa", 1, 16, 3.0, unfit="the model cannot")])
    assert answer == (
        "At 1024 cached tokens, nothing here can be run or served: use vanilla decoding at batch "
        "size 1."
    )
    assert reason == "No choice: medusa, for the model cannot."


def test_methods_that_pay_with_no_size_name_the_sizes_tried() -> None:
    rows = [made("medusa", 1, 16, 3.0), made("eagle-3", 1, 60, 1.0)]
    assert (
        "eagle-3 pays with no size of those tried, 60 candidates"
        in reasons(rows, break_even(rows))[0]
    )


def test_how_sure_says_what_intervals_do_and_not_what_they_do_not() -> None:
    def of(*rates: float) -> str:
        return verdict([made("medusa", 2**i, 16, rate) for i, rate in enumerate(rates)])[1]

    assert of(3.0, 3.0) == "How sure: every interval stays above 1."
    assert of(3.0, 1.0) == "How sure: every interval stays above 1 at batch size 1."
    assert of(1.0, 1.0) == "How sure: no interval reaches above 1."
