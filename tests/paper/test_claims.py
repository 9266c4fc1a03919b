"""Every sentence of the appendix gets a verdict from numbers, which other numbers would change."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from medusa_bench.paper import claims
from medusa_bench.paper import reproduction as paper
from medusa_bench.paper.claims import candidates
from medusa_bench.paper.claims.evidence import ClaimResult, ClaimVerdict, Evidence
from medusa_bench.paper.reproduction import Cell, Reproduction
from medusa_bench.specs.latency import Latency


@pytest.fixture(scope="module")
def ours() -> Reproduction:
    return paper.reproduce(num_seeds=1)


@pytest.fixture(scope="module")
def judged(ours: Reproduction) -> list[ClaimResult]:
    return claims.judge(ours)


def named(found: list[ClaimResult], words: str) -> ClaimResult:
    return next(finding for finding in found if words in finding.sentence)


def test_every_sentence_is_judged_with_its_numbers(judged: list[ClaimResult]) -> None:
    assert [finding.sentence for finding in judged] == [c.sentence for c in claims.CLAIMS]
    for finding in judged:
        assert finding.evidence
        assert finding.numbers or finding.verdict is ClaimVerdict.NOT_TESTED
        assert "{" not in finding.evidence


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ("44x FLOP/s", ClaimVerdict.REPRODUCED),
        ("41x Operational Intensity", ClaimVerdict.REPRODUCED),
        ("Increasing the batch size does not improve", ClaimVerdict.REPRODUCED),
        ("shift from a memory-bandwidth-bound region", ClaimVerdict.REPRODUCED),
        ("beyond 64, the speedup starts to decline", ClaimVerdict.REPRODUCED),
        ("optimal number of candidate tokens remains relatively", ClaimVerdict.REPRODUCED),
        ("acc_rate = 0.477 log", ClaimVerdict.DIFFERS),
        ("when the batch size exceeds 32", ClaimVerdict.DIFFERS),
        ("significantly limited by memory bandwidth", ClaimVerdict.DIFFERS),
        ("Figure 4(b)", ClaimVerdict.NOT_TESTED),
    ],
)
def test_verdicts_of_sentences(
    judged: list[ClaimResult], words: str, verdict: ClaimVerdict
) -> None:
    assert named(judged, words).verdict is verdict


def test_decode_attention_never_reaches_the_ridge(judged: list[ClaimResult]) -> None:
    numbers = named(judged, "significantly limited by memory bandwidth").numbers
    assert numbers["below_ridge"] == numbers["num_points"] == 49
    assert numbers["highest"] < 1
    assert numbers["ridge_point"] == pytest.approx(312e12 / 1.935e12)


def test_table_8_bends_at_the_ridge(judged: list[ClaimResult]) -> None:
    numbers = named(judged, "shift from a memory-bandwidth-bound region").numbers
    assert numbers["below"] + numbers["above"] == 56
    assert numbers["slope_below"] == pytest.approx(1, abs=0.1)
    assert numbers["plateau"] == pytest.approx(79, abs=1)


def changed(reproduction: Reproduction, table: int, **fields: float) -> Reproduction:
    """The same with the printed cell of 64 candidates (batch 16, seq 1024) altered."""
    target = reproduction.cell(table, 16, 1024, 64)

    def alter(cell: Cell) -> Cell:
        return replace(cell, printed=replace(cell.printed, **fields)) if cell is target else cell

    cells = tuple(alter(cell) for cell in reproduction.cells)
    return replace(reproduction, cells=cells, gains=paper.gains(cells))


def test_another_printed_rate_is_no_44x(ours: Reproduction) -> None:
    found = claims.judge(changed(ours, 6, flops_per_s=40e12))
    assert named(found, "44x FLOP/s").verdict is not ClaimVerdict.REPRODUCED
    assert named(found, "41x Operational Intensity").verdict is ClaimVerdict.REPRODUCED


def test_another_printed_intensity_is_no_flat_column(ours: Reproduction) -> None:
    found = claims.judge(changed(ours, 7, operational_intensity=45.0))
    sentence = "Increasing the batch size does not improve"
    assert named(found, sentence).verdict is ClaimVerdict.NOT_REPRODUCED


def test_free_candidates_never_decline(ours: Reproduction) -> None:
    """Were Medusa's steps as fast as vanilla ones, the most candidates would be the best."""
    rows = tuple(replace(row, step=row.vanilla) for row in ours.speedups)
    found = claims.judge(replace(ours, speedups=rows))
    assert named(found, "beyond 64").verdict is ClaimVerdict.NOT_REPRODUCED
    assert named(found, "benefits decrease").verdict is ClaimVerdict.NOT_REPRODUCED
    assert named(found, "when the batch size exceeds 32").verdict is ClaimVerdict.NOT_REPRODUCED


def test_speedups_that_fall_only_beyond_batch_32_are_as_the_paper_says(ours: Reproduction) -> None:
    rows = tuple(
        replace(row, step=row.vanilla)
        if row.batch_size < 32 or (row.batch_size, row.num_candidates) == (32, 16)
        else replace(row, step=Latency.exact(9.0), vanilla=Latency.exact(1.0))
        for row in ours.speedups
    )
    found = claims.judge(replace(ours, speedups=rows))
    assert named(found, "when the batch size exceeds 32").verdict is ClaimVerdict.REPRODUCED


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [
        (1.099, ClaimVerdict.REPRODUCED),
        (1.101, ClaimVerdict.DIFFERS),
        (0.901, ClaimVerdict.REPRODUCED),
        (0.899, ClaimVerdict.DIFFERS),
    ],
)
def test_a_gain_is_reproduced_within_a_tenth(
    ours: Reproduction, factor: float, verdict: ClaimVerdict
) -> None:
    first, *others = ours.gains
    moved = replace(ours, gains=(replace(first, ours=factor * first.claimed), *others))
    assert named(claims.judge(moved), "44x FLOP/s").verdict is verdict


@pytest.mark.parametrize(
    ("below", "above", "shifts"),
    [(0.91, 0.29, True), (0.89, 0.29, False), (0.91, 0.31, False)],
)
def test_a_shift_is_a_slope_of_one_that_turns_flat(
    ours: Reproduction,
    monkeypatch: pytest.MonkeyPatch,
    below: float,
    above: float,
    shifts: bool,
) -> None:
    ridge = Evidence(ours).ridge_point

    def slope(cells: Sequence[Cell]) -> float:
        return below if cells[0].operational_intensity < ridge else above

    monkeypatch.setattr(candidates, "slope", slope)
    found = named(claims.judge(ours), "shift from a memory-bandwidth-bound region").verdict
    assert (found is ClaimVerdict.REPRODUCED) is shifts
