import itertools

import pytest

from medusa_bench.report.trade_off import read, trade_off_figure
from tools.trade_off import FOLDER, table

POINTS = read(FOLDER)


def test_readme_holds_the_table_of_what_is_committed() -> None:
    assert table(POINTS) in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_further_the_backbone_moves_the_more_tokens_a_step_and_the_less_equal() -> None:
    assert len(POINTS) >= 4
    for nearer, further in itertools.pairwise(POINTS):
        assert nearer.heads_weight < further.heads_weight
        assert nearer.tokens_per_step < further.tokens_per_step
        assert nearer.greedy_equal > further.greedy_equal
        assert nearer.perplexity_after < further.perplexity_after


def test_each_training_is_set_beside_the_same_frozen_backbone() -> None:
    assert len({(each.medusa_1, each.perplexity_before) for each in POINTS}) == 1


def test_figure_draws_every_training_with_its_interval() -> None:
    figure = trade_off_figure(POINTS)
    for axes in figure.axes:
        bars = axes.containers[0].lines[2][0]
        heights = [(low[1], high[1]) for low, high in bars.get_segments()]
        assert heights == [pytest.approx((each.low, each.high)) for each in POINTS]
