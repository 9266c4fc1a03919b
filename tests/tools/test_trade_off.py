import itertools

import pytest

from tools.trade_off import FOLDER, read, table, trade_off_figure

POINTS = read()


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


def test_figure_draws_every_training_with_its_interval_over_each_cost() -> None:
    costs = (
        [each.kl_nats for each in POINTS],
        [100 - 100 * each.greedy_equal for each in POINTS],
        [each.perplexity_after for each in POINTS],
    )
    for axes, cost in zip(trade_off_figure(POINTS).axes, costs, strict=True):
        bars = axes.containers[0].lines[2][0].get_segments()
        for each, x, (low, high) in zip(POINTS, cost, bars, strict=True):
            assert [*low, *high] == pytest.approx([x, each.low, x, each.high])
