"""Figures of comparisons: where it pays, over candidates, over draft lengths; and trees."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
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

    Hatched: it does not pay. "?": the 90 % interval of the speedup crosses 1. A bar over the
    count: the step's latency leaps just after it.
    """
    cells = by_setting(rows)
    batch_sizes = sorted({batch for batch, _ in cells})
    seq_lens = sorted({seq for _, seq in cells})
    chosen = {key: best(group) for key, group in cells.items()}
    leaps = {key: _cliffs_of(group, chosen[key]) for key, group in cells.items()}
    speedup = np.array([[chosen[b, s].speedup for b in batch_sizes] for s in seq_lens])
    counts = np.array([[chosen[b, s].num_candidates for b in batch_sizes] for s in seq_lens])
    figure, (left, right) = style.figure("two", height_in=0.24 * len(seq_lens) + 1.05, columns=2)
    norm = TwoSlopeNorm(1.0, min(0.5, float(speedup.min())), max(1.5, float(speedup.max())))
    image = left.imshow(speedup, cmap="PuOr_r", norm=norm, aspect="auto", origin="lower")
    figure.colorbar(image, ax=left, label="best speedup")
    shades = right.imshow(np.log2(counts), cmap="Blues", aspect="auto", origin="lower", vmin=0)
    bar = figure.colorbar(shades, ax=right, label="candidates of the best")
    ticks = [t for t in (1, 2, 4, 8, 16, 32, 64, 128, 256) if t <= counts.max()]
    bar.set_ticks([float(np.log2(t)) for t in ticks], labels=[str(t) for t in ticks])
    for y, seq_len in enumerate(seq_lens):
        for x, batch_size in enumerate(batch_sizes):
            row = chosen[batch_size, seq_len]
            mark = "?" if row.outcome is Outcome.UNCERTAIN else ""
            dark = abs(norm(row.speedup) - 0.5) > 0.32
            left.text(x, y, f"{row.speedup:.2f}{mark}", **_cell(dark))
            if row.speedup <= 1:
                left.add_patch(
                    Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, hatch="////", lw=0, alpha=0.35)
                )
            on_edge = row.num_candidates in leaps[batch_size, seq_len]
            dark = row.num_candidates > counts.max() ** 0.6
            right.text(x, y, f"{row.num_candidates}{'|' if on_edge else ''}", **_cell(dark))
    for axes, words in ((left, "best speedup"), (right, "candidates that give it")):
        axes.set_xticks(range(len(batch_sizes)), [str(b) for b in batch_sizes])
        axes.set_yticks(range(len(seq_lens)), [str(s) for s in seq_lens])
        axes.set_xlabel("batch size")
        axes.set_ylabel("cached tokens per sequence")
        axes.set_title(words)
        axes.tick_params(length=0)
        axes.grid(visible=False)
    figure.suptitle(title, fontsize=8)
    figure.supxlabel(
        '"?": the 90 % interval crosses 1   hatched: does not pay   "|": latency leaps just after',
        fontsize=6.5,
    )
    return figure


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
    for count in cliffs({row.num_candidates: row.step.latency_s for row in smallest}):
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
        bottom, top = axes.get_ylim()
        axes.set_ylim(min(bottom, 0.9), top + 0.65 * (top - bottom))  # room for the legend
    first.legend(loc="upper left")
    figure.suptitle(title, fontsize=8)
    return figure


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
        markevery=(index % 4, max(1, len(counts) // 8)),
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
    axes.set_ylim(bottom=0)
    axes.margins(y=0.12)
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
            # On the side that the edge from its parent does not come from.
            side = -1 if across[path] < across[path[:-1]] else 1
            axes.annotate(
                f"{probability[path]:.2f}".lstrip("0"),
                (across[path], -len(path)),
                xytext=(side * (3 + 4 * probability[path]), 2.5),
                textcoords="offset points",
                ha="right" if side < 0 else "left",
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
