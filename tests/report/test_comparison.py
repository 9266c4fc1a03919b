"""Figures of comparisons show the numbers of their rows."""

from dataclasses import replace

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from medusa_bench.compare import acceptance, methods, simulation, trees
from medusa_bench.compare.comparisons import Comparison, best, by_setting
from medusa_bench.compare.passes import Block
from medusa_bench.compare.simulation import Variant
from medusa_bench.report import comparison
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.latency import Latency
from medusa_bench.specs.models import PRESETS
from tests.builders.latencies import SmoothLatency

COUNTS = (8, 16, 24, 32)


def medusa_rows(spread: float = 0.1, rate: float = 0.3) -> list[Comparison]:
    variants = [Variant(methods.medusa(n), acceptance.LogLaw(rate)) for n in COUNTS]
    settings = [(batch_size, seq_len) for seq_len in (128, 4096) for batch_size in (1, 8, 64)]
    latency = SmoothLatency(spread=spread)
    return simulation.simulate(variants, PRESETS["llama-7b"], latency, Dtype.FLOAT16, settings)


def texts(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def test_map_prints_the_best_of_every_cell_and_marks_the_uncertain_and_the_losing() -> None:
    rows = medusa_rows(spread=0.3)
    figure = comparison.break_even_map(rows, title="t")
    chosen = [best(group) for group in by_setting(rows).values()]
    marks = {"pays": "", "uncertain": "?", "loses": ""}
    assert texts(figure, 0) == [f"{row.speedup:.2f}{marks[row.outcome]}" for row in chosen]
    assert [text.rstrip("|") for text in texts(figure, 1)] == [
        str(row.num_candidates) for row in chosen
    ]
    losing = sum(row.speedup <= 1 for row in chosen)
    assert 0 < losing < len(chosen)
    assert len(figure.axes[0].patches) == losing
    assert any(text.endswith("?") for text in texts(figure, 0))


def test_map_marks_a_best_count_just_below_a_leap() -> None:
    flat = Latency.exact(1.0)
    rows = [
        replace(row, step=replace(flat, latency_s=1.0 + (row.num_candidates > 16)), vanilla=flat)
        for row in medusa_rows()
    ]
    assert set(texts(comparison.break_even_map(rows, title="t"), 1)) == {"16|"}


def test_map_of_several_methods_names_the_winner_of_each_cell() -> None:
    rows = medusa_rows()
    slower = [replace(row, method="eagle-3", acceleration_rate=1.05) for row in rows]
    better = [replace(row, acceleration_rate=9.0) for row in slower if row.batch_size == 8]
    figure = comparison.break_even_map([*rows, *slower, *better], title="on a card")
    winners = [best(group).method for group in by_setting([*rows, *slower, *better]).values()]
    assert {"medusa", "eagle-3"} <= set(winners)
    assert [text.partition("\n")[0] for text in texts(figure, 1)] == winners
    assert figure.get_suptitle() == "medusa, eagle-3: on a card"


def test_colour_bar_of_the_map_holds_what_occurs_and_no_more() -> None:
    rows = medusa_rows()
    speedups = [best(group).speedup for group in by_setting(rows).values()]
    bar = comparison.break_even_map(rows, title="t").axes[2]
    assert bar.get_ylim() == (min(speedups), max(speedups))


def test_every_point_of_a_curve_is_marked() -> None:
    for line in comparison.over_candidates(medusa_rows(), title="t").axes[1].get_lines():
        assert line.get_markevery() is None


def test_curves_are_the_rows_and_reported_points_stand_beside_them() -> None:
    rows = medusa_rows()
    figure = comparison.over_candidates(rows, title="t", reported={8: {16: 1.8}})
    first = figure.axes[0].get_lines()[2]
    expected = [row.speedup for row in rows if (row.batch_size, row.seq_len) == (1, 128)]
    assert np.asarray(first.get_ydata()).tolist() == expected
    points = [np.asarray(line.get_xydata()).tolist() for line in figure.axes[1].get_lines()]
    assert [[16.0, 1.8]] in points


def test_draft_grid_names_the_best_length_of_each_draft() -> None:
    variants = [
        Variant(methods.draft_model(PRESETS[name], n), acceptance.Chain(0.6))
        for name in ("llama-68m", "llama-160m")
        for n in range(1, 9)
    ]
    rows = simulation.simulate(
        variants, PRESETS["llama-7b"], SmoothLatency(), Dtype.FLOAT16, [(1, 1024)],
        block=Block.FULL,
    )  # fmt: skip
    legend = comparison.draft_grid(rows, title="t").axes[0].get_legend()
    assert legend is not None
    fastest = best(row for row in rows if row.draft == "llama-68m")
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[0] == f"llama-68m: {fastest.speedup:.2f}x at {fastest.draft_len}"


def test_tree_draws_every_node_with_its_probability_as_area() -> None:
    rates = trees.load_accuracy("vicuna-7b-v1.3")
    tree = trees.grow(rates, 16)
    figure = comparison.tree(tree, rates, title="t")
    (nodes,) = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    assert len(nodes.get_offsets()) == 16
    areas = nodes.get_sizes()
    likelihood = [1.0, *(rates.probability(path) for path in tree.paths)]
    assert np.argsort(areas).tolist() == np.argsort(likelihood).tolist()
    assert len(figure.axes[0].get_lines()) == 15
