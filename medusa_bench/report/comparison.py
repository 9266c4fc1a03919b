"""Figures of comparisons: where it pays, over candidates, over draft lengths; and trees."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medusa_bench.compare import tree_layout
from medusa_bench.compare.comparisons import (
    Comparison,
    Outcome,
    best,
    by_setting,
    cliffs,
    shown_seq_len,
)
from medusa_bench.compare.trees import CandidateTree, HeadAccuracy, JointFrequency
from medusa_bench.report import style


@style.applied()
def break_even_map(rows: Sequence[Comparison], *, title: str) -> Figure:
    """Best speedup, and the candidates that give it, over batch_size x seq_len.

    Of several methods each cell names the one that wins. Hatched: it does not pay. "?": the 90 %
    interval of the speedup crosses 1. A bar over the count: the step's latency leaps just after it.
    """
    cells = by_setting(rows)
    batch_sizes = sorted({batch for batch, _ in cells})
    seq_lens = sorted({seq for _, seq in cells})
    chosen = {key: best(group) for key, group in cells.items()}
    methods = [name for name in dict.fromkeys(row.method for row in rows) if name != "vanilla"]
    row_in = 0.24 if len(methods) < 2 else 0.3
    figure, (left, right) = style.figure("two", height_in=row_in * len(seq_lens) + 1.1, columns=2)
    grid = [[chosen[batch, seq] for batch in batch_sizes] for seq in seq_lens]
    _speedup_cells(figure, left, grid)
    leaps = {key: _cliffs_of(group, chosen[key]) for key, group in cells.items()}
    if len(methods) < 2:
        _candidate_cells(figure, right, grid, leaps)
    else:
        _winner_cells(right, grid, leaps, methods)
    winner = "candidates that give it" if len(methods) < 2 else "who wins, with how many candidates"
    for axes, words in ((left, "best speedup"), (right, winner)):
        axes.set_xticks(range(len(batch_sizes)), [str(b) for b in batch_sizes])
        axes.set_yticks(range(len(seq_lens)), [str(s) for s in seq_lens])
        axes.set_xlabel("batch size")
        axes.set_ylabel("cached tokens per sequence")
        axes.set_title(words)
        axes.tick_params(length=0)
        axes.grid(visible=False)
    figure.suptitle(f"{', '.join(methods)}: {title}", fontsize=8)
    figure.supxlabel(
        '"?": the 90 % interval crosses 1   hatched: does not pay   "|": latency leaps just after',
        fontsize=6.5,
    )
    return figure


def _speedup_cells(figure: Figure, axes: Axes, grid: Sequence[Sequence[Comparison]]) -> None:
    speedup = np.array([[row.speedup for row in line] for line in grid])
    low, high = float(speedup.min()), float(speedup.max())
    norm = TwoSlopeNorm(1.0, min(0.5, low), max(1.5, high))
    image = axes.imshow(speedup, cmap="PuOr_r", norm=norm, aspect="auto", origin="lower")
    bar = figure.colorbar(image, ax=axes, label="best speedup")
    if low < high:  # what occurs, of a scale that has 1 in its middle
        bar.ax.set_ylim(low, high)
    for y, line in enumerate(grid):
        for x, row in enumerate(line):
            mark = "?" if row.outcome is Outcome.UNCERTAIN else ""
            dark = abs(norm(row.speedup) - 0.5) > 0.32
            axes.text(x, y, f"{row.speedup:.2f}{mark}", **_cell(dark))
            if row.speedup <= 1:
                axes.add_patch(
                    Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, hatch="////", lw=0, alpha=0.35)
                )


_Leaps = Mapping[tuple[int, int], Sequence[int]]


def _candidate_cells(
    figure: Figure, axes: Axes, grid: Sequence[Sequence[Comparison]], leaps: _Leaps
) -> None:
    counts = np.array([[row.num_candidates for row in line] for line in grid])
    shades = axes.imshow(np.log2(counts), cmap="Blues", aspect="auto", origin="lower", vmin=0)
    bar = figure.colorbar(shades, ax=axes, label="candidates of the best")
    low, high = int(counts.min()), int(counts.max())
    ticks = [tick for tick in (1, 2, 4, 8, 16, 32, 64, 128, 256) if low <= tick <= high]
    bar.set_ticks([float(np.log2(tick)) for tick in ticks], labels=[str(tick) for tick in ticks])
    if low < high:
        bar.ax.set_ylim(np.log2(low), np.log2(high))
    for y, line in enumerate(grid):
        for x, row in enumerate(line):
            axes.text(x, y, _size(row, leaps), **_cell(row.num_candidates > high**0.6))


def _winner_cells(
    axes: Axes, grid: Sequence[Sequence[Comparison]], leaps: _Leaps, methods: Sequence[str]
) -> None:
    """A colour for each method, and in each cell its name and size."""
    colours = dict(zip(methods, style.sequence(len(methods)), strict=True))
    colours["vanilla"] = "#FFFFFF"
    shades = [[to_rgb(colours[row.method]) for row in line] for line in grid]
    axes.imshow(np.array(shades), aspect="auto", origin="lower", alpha=0.55)
    for y, line in enumerate(grid):
        for x, row in enumerate(line):
            words = f"{row.method[:_NAME_LENGTH]}\n{_size(row, leaps)}"
            axes.text(x, y, words, **_cell(dark=False) | {"fontsize": 5, "linespacing": 1.0})


_NAME_LENGTH = 9  # as fits into a cell


def _size(row: Comparison, leaps: _Leaps) -> str:
    on_edge = row.num_candidates in leaps[row.batch_size, row.seq_len]
    return f"{row.num_candidates}{'|' if on_edge else ''}"


def _cell(dark: bool) -> dict[str, Any]:
    return {"ha": "center", "va": "center", "fontsize": 6.5, "color": "white" if dark else "black"}


def _cliffs_of(group: Sequence[Comparison], chosen: Comparison) -> list[int]:
    return cliffs(
        {
            row.num_candidates: row.step.latency_s
            for row in group
            if (row.method, row.draft) == (chosen.method, chosen.draft)
        }
    )


@style.applied()
def over_candidates(
    rows: Sequence[Comparison],
    *,
    title: str,
    reported: Mapping[int, Mapping[int, float]] | None = None,
) -> Figure:
    """The paper's figures 21 to 23, of one method: rate, overhead and speedup at the smallest
    batch; speedup by batch size; speedup by seq_len (where there are several).

    Dotted: cliffs. reported: speedups read off the paper's figure 22, by batch size and
    candidates; drawn half-filled.
    """
    batch_sizes = sorted({row.batch_size for row in rows})
    seq_lens = sorted({row.seq_len for row in rows})
    seq_len = shown_seq_len(rows)
    figure, panels = style.figure(
        "two", height_in=2.4, columns=3 if len(seq_lens) > 1 else 2, sharex=True
    )
    first, second, *third = panels
    smallest = _curve(rows, batch_sizes[0], seq_len)
    for index, (label, colour, values) in enumerate(
        (
            ("acceleration rate", style.DARK, [row.acceleration_rate for row in smallest]),
            ("overhead", style.MIDDLE, [row.overhead for row in smallest]),
            ("speedup, 90 % interval", style.LIGHT, [row.speedup for row in smallest]),
        )
    ):
        _line(first, smallest, values, colour=colour, index=index, label=label)
    _band(first, smallest, style.LIGHT)
    steps = {row.num_candidates: row.step.latency_s for row in smallest if row.num_candidates > 1}
    for count in cliffs(steps):
        first.axvline(count, color=style.FAINT, lw=0.8, ls=":")
    first.set_title(f"batch size {batch_sizes[0]}, {seq_len} cached tokens")
    first.set_ylabel("ratio to vanilla decoding")
    by_batch = {batch: _curve(rows, batch, seq_len) for batch in batch_sizes}
    _family(second, by_batch, reported or {}, "batch size")
    second.set_title(f"{seq_len} cached tokens")
    if third:
        batch_size = 4 if 4 in batch_sizes else batch_sizes[0]
        by_length = {length: _curve(rows, batch_size, length) for length in seq_lens}
        _family(third[0], by_length, {}, "cached tokens")
        third[0].set_title(f"batch size {batch_size}")
    for axes in panels:
        axes.axhline(1, color=style.VANILLA_COLOR, lw=0.8)
        axes.set_xlabel("candidates, the root included")
        _candidate_axis(axes, [row.num_candidates for row in smallest])
        bottom, top = axes.get_ylim()
        axes.set_ylim(min(bottom, 0.9), top + 0.65 * (top - bottom))  # room for the legend
    first.legend(loc="upper left")
    figure.suptitle(title, fontsize=8)
    return figure


def _candidate_axis(axes: Axes, counts: Sequence[int]) -> None:
    """Doubling where the grid is dense at its start; even where it is even, as the paper's is."""
    if len(counts) < 3 or counts[1] - counts[0] >= 8 or counts[-1] < 32:
        return
    axes.set_xscale("log", base=2)
    ticks = [2**n for n in range(11) if counts[0] <= 2**n <= counts[-1]]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def _family(
    axes: Axes,
    curves: Mapping[int, Sequence[Comparison]],
    reported: Mapping[int, Mapping[int, float]],
    name: str,
) -> None:
    """Speedup over candidates, a line for each key, light to dark."""
    colours = style.sequence(len(curves))
    for index, (key, curve) in enumerate(curves.items()):
        values = [row.speedup for row in curve]
        _line(axes, curve, values, colour=colours[index], index=index, label=str(key))
        axes.plot(
            list(reported.get(key, {})),
            list(reported.get(key, {}).values()),
            ls="",
            marker=style.sequence_marker(index),
            fillstyle="bottom",
            color=colours[index],
            ms=6,
        )
    if reported:
        axes.plot(
            [], [], ls="", marker="o", fillstyle="bottom", color="0.4", ms=6, label="as reported"
        )
    axes.set_ylabel("speedup")
    axes.legend(title=name, title_fontsize=6.5, ncols=3, loc="upper right", columnspacing=0.9,
                handlelength=1.3)  # fmt: skip


def _curve(rows: Sequence[Comparison], batch_size: int, seq_len: int) -> list[Comparison]:
    found = [row for row in rows if (row.batch_size, row.seq_len) == (batch_size, seq_len)]
    return sorted(found, key=lambda row: row.num_candidates)


def _line(
    axes: Axes,
    curve: Sequence[Comparison],
    values: Sequence[float],
    *,
    colour: str,
    index: int,
    label: str,
) -> None:
    counts = [row.num_candidates for row in curve]
    axes.plot(
        counts,
        values,
        color=colour,
        marker=style.sequence_marker(index),
        fillstyle=style.FILL_STYLES[curve[0].source],
        ms=3.2,
        label=label,
    )


def _band(axes: Axes, curve: Sequence[Comparison], colour: str) -> None:
    intervals = [row.speedup_interval for row in curve]
    axes.fill_between(
        [row.num_candidates for row in curve],
        [low for low, _ in intervals],
        [high for _, high in intervals],
        color=colour,
        alpha=0.2,
        lw=0,
    )


@style.applied()
def draft_grid(
    rows: Sequence[Comparison],
    *,
    title: str,
    reported: Mapping[str, Mapping[int, float]] | None = None,
) -> Figure:
    """The paper's figure 7: speedup over draft length, a line for each draft model, the best
    named. reported: speedups by draft model and draft length; dashed."""
    figure, (axes,) = style.figure("one", height_in=2.5)
    drafts = list(dict.fromkeys(row.draft for row in rows))
    for index, (draft, colour) in enumerate(zip(drafts, _distinct(len(drafts)), strict=True)):
        curve = sorted(
            (row for row in rows if row.draft == draft), key=lambda row: row.num_candidates
        )
        lengths = [row.num_candidates - 1 for row in curve]
        top = best(curve)
        axes.plot(
            lengths,
            [row.speedup for row in curve],
            color=colour,
            marker=style.sequence_marker(index),
            fillstyle=style.FILL_STYLES[curve[0].source],
            label=f"{draft}: {top.speedup:.2f}x at {top.num_candidates - 1}",
        )
        if points := (reported or {}).get(draft):
            axes.plot(
                list(points), list(points.values()), ls="--", color=colour,
                marker=style.sequence_marker(index), fillstyle="bottom",
                label=f"{draft}, as reported",
            )  # fmt: skip
    axes.axhline(1, color=style.VANILLA_COLOR, lw=0.8)
    axes.set_xlabel("drafted tokens per step")
    axes.set_ylabel("speedup over vanilla decoding")
    axes.set_title(title)
    axes.margins(y=0.12)
    axes.autoscale_view()
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.1 * (len(drafts) + 1) * (high - low))  # room for the legend
    axes.legend()
    return figure


def _distinct(count: int) -> list[str]:
    three = [style.DARK, style.MIDDLE, style.LIGHT]
    return three[:count] if count <= len(three) else style.sequence(count)


@style.applied()
def tree(
    shown: CandidateTree, rates: HeadAccuracy | JointFrequency | None, *, title: str
) -> Figure:
    """The paper's figure 6: depth downwards, a node's area its probability of being accepted."""
    across = tree_layout.across(shown)
    width = max(across.values(), default=0.0)
    scale = min(1.0, 30 / max(width, 1))  # many leaves: smaller nodes
    figure, (axes,) = style.figure("two", height_in=0.7 + 0.55 * shown.depth)
    probability = {path: rates.probability(path) if rates else 1.0 for path in shown.paths}
    probability[()] = 1.0
    likely = tree_layout.likeliest(shown, probability)
    for path in shown.paths:
        parent = path[:-1]
        axes.plot(
            [across[parent], across[path]],
            [-len(parent), -len(path)],
            color=style.MIDDLE if path in likely else style.FAINT,
            lw=1.4 if path in likely else 0.6,
            zorder=1,
        )
    nodes = [(), *shown.paths]
    axes.scatter(
        [across[path] for path in nodes],
        [-len(path) for path in nodes],
        s=[scale * (9 + 150 * probability[path] if rates else 20) for path in nodes],
        c=[style.MIDDLE if path in likely else style.DARK for path in nodes],
        edgecolors="white",
        linewidths=0.5,
        zorder=2,
    )
    for path in shown.paths:
        if rates and (len(path) == 1 or path in likely) and probability[path] >= 0.02:
            # Where no edge is: those of the parent's other children pass on the right of a node
            # that is on its right, and its own edge comes from above.
            left_of_parent = across[path] < across[path[:-1]]
            axes.annotate(
                f"{probability[path]:.2f}".lstrip("0"),
                (across[path], -len(path)),
                xytext=(-(3 + 4 * probability[path]), 2.5 if left_of_parent else -1.5),
                textcoords="offset points",
                ha="right",
                va="baseline" if left_of_parent else "center",
                fontsize=6.5,
            )
    axes.set_yticks(
        range(-shown.depth, 1), [f"head {d}" for d in range(shown.depth, 0, -1)] + ["root"]
    )
    axes.set_xticks([])
    axes.set_title(title)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.margins(x=0.03, y=0.14)
    return figure
