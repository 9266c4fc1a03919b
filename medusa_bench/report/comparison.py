"""Figures of comparisons: where it pays, over candidates, over draft lengths; and trees."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medusa_bench.compare import Comparison, Outcome, best, by_setting, cliffs
from medusa_bench.trees import CandidateTree, HeadAccuracy, JointFrequency, Path

# Okabe and Ito's colours, safe for colour-blind readers; markers tell them apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "os^Dv<>"
_BESIDE: dict[str, Any] = {
    "fontsize": 8,
    "frameon": False,
    "loc": "upper left",
    "bbox_to_anchor": (1.0, 1.0),
    "handlelength": 1.4,
}
_PLATE: dict[str, Any] = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"}


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
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 0.42 * len(seq_lens) + 1.9), layout="constrained"
    )
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
        axes.set_title(words, fontsize=10)
        axes.tick_params(length=0)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(
        '"?": the 90 % interval crosses 1   hatched: does not pay   "|": latency leaps just after',
        fontsize=8,
    )
    return figure


def _cell(dark: bool) -> dict[str, Any]:
    return {"ha": "center", "va": "center", "fontsize": 9, "color": "white" if dark else "black"}


def _cliffs_of(group: Sequence[Comparison], chosen: Comparison) -> list[int]:
    return cliffs(
        {
            row.num_candidates: row.step.latency_s
            for row in group
            if (row.method, row.draft) == (chosen.method, chosen.draft)
        }
    )


def over_candidates(
    rows: Sequence[Comparison],
    *,
    title: str,
    reported: Mapping[int, Mapping[int, float]] | None = None,
) -> Figure:
    """The paper's figures 21 to 23, of one method: rate, overhead and speedup at the smallest
    batch; speedup by batch size; speedup by seq_len.

    reported: speedups read off the paper's figure 22, by batch size and candidates; drawn hollow.
    """
    batch_sizes = sorted({row.batch_size for row in rows})
    seq_lens = sorted({row.seq_len for row in rows})
    seq_len = 1024 if 1024 in seq_lens else seq_lens[(len(seq_lens) - 1) // 2]
    panels = 3 if len(seq_lens) > 1 else 2
    figure, all_axes = plt.subplots(1, panels, figsize=(5.2 * panels, 3.6), layout="constrained")
    first, second = all_axes[0], all_axes[1]
    smallest = _curve(rows, batch_sizes[0], seq_len)
    counts = [row.num_candidates for row in smallest]
    for index, (label, values) in enumerate(
        (
            ("acceleration rate", [row.acceleration_rate for row in smallest]),
            ("overhead", [row.overhead for row in smallest]),
            ("speedup", [row.speedup for row in smallest]),
        )
    ):
        _line(first, counts, values, index, label)
    _band(first, smallest, 2)
    for count in cliffs({row.num_candidates: row.step.latency_s for row in smallest}):
        first.axvline(count, color="0.6", lw=0.8, ls=":")
    first.set_title(f"batch size {batch_sizes[0]}, {seq_len} cached tokens", fontsize=10)
    first.set_ylabel("ratio to vanilla decoding")
    for index, batch_size in enumerate(batch_sizes):
        curve = _curve(rows, batch_size, seq_len)
        _line(second, counts, [row.speedup for row in curve], index, f"batch size {batch_size}")
        points = (reported or {}).get(batch_size, {})
        second.plot(
            list(points),
            list(points.values()),
            ls="",
            marker=_MARKERS[index % len(_MARKERS)],
            mfc="white",
            mec=_COLOURS[index % len(_COLOURS)],
            ms=6,
        )
    second.set_title(f"by batch size, {seq_len} cached tokens", fontsize=10)
    if panels == 3:
        third: Axes = all_axes[2]
        batch_size = 4 if 4 in batch_sizes else batch_sizes[0]
        for index, length in enumerate(seq_lens):
            curve = _curve(rows, batch_size, length)
            _line(third, counts, [row.speedup for row in curve], index, f"{length} tokens")
        third.set_title(f"by cached tokens, batch size {batch_size}", fontsize=10)
    for axes in all_axes:
        axes.axhline(1, color="0.3", lw=0.8)
        axes.set_xlabel("candidates (root included)")
        axes.legend(**_BESIDE)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in all_axes[1:]:
        axes.set_ylabel("speedup")
    if reported:
        second.plot([], [], ls="", marker="o", mfc="white", mec="0.3", label="read off the paper")
        second.legend(**_BESIDE)
    figure.suptitle(title, fontsize=11)
    return figure


def _curve(rows: Sequence[Comparison], batch_size: int, seq_len: int) -> list[Comparison]:
    found = [row for row in rows if (row.batch_size, row.seq_len) == (batch_size, seq_len)]
    return sorted(found, key=lambda row: row.num_candidates)


def _line(
    axes: Axes, counts: Sequence[int], values: Sequence[float], index: int, label: str
) -> None:
    axes.plot(
        counts,
        values,
        color=_COLOURS[index % len(_COLOURS)],
        marker=_MARKERS[index % len(_MARKERS)],
        ms=3.5,
        markevery=max(1, len(counts) // 8),
        lw=1.3,
        label=label,
    )


def _band(axes: Axes, curve: Sequence[Comparison], index: int) -> None:
    intervals = [row.speedup_interval for row in curve]
    axes.fill_between(
        [row.num_candidates for row in curve],
        [low for low, _ in intervals],
        [high for _, high in intervals],
        color=_COLOURS[index % len(_COLOURS)],
        alpha=0.15,
        lw=0,
    )


def draft_grid(
    rows: Sequence[Comparison],
    *,
    title: str,
    reported: Mapping[str, Mapping[int, float]] | None = None,
) -> Figure:
    """The paper's figure 7: speedup over draft length, a line for each draft model, the best
    marked. reported: speedups by draft model and draft length; drawn hollow and dashed."""
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for index, draft in enumerate(dict.fromkeys(row.draft for row in rows)):
        curve = sorted(
            (row for row in rows if row.draft == draft), key=lambda row: row.num_candidates
        )
        lengths = [row.num_candidates - 1 for row in curve]
        colour = _COLOURS[index % len(_COLOURS)]
        _line(axes, lengths, [row.speedup for row in curve], index, draft)
        top = best(curve)
        axes.annotate(
            f"{top.speedup:.2f}x",
            (top.num_candidates - 1, top.speedup),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colour,
            bbox=_PLATE,
        )
        if points := (reported or {}).get(draft):
            axes.plot(
                list(points), list(points.values()), ls="--", lw=0.8, marker="o", mfc="white",
                color=colour, ms=5, label=f"{draft}, read off the paper",
            )  # fmt: skip
    axes.axhline(1, color="0.3", lw=0.8)
    axes.set_xlabel("drafted tokens per step")
    axes.set_ylabel("speedup over vanilla decoding")
    axes.set_title(title, fontsize=11)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.12)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def tree(
    shown: CandidateTree, rates: HeadAccuracy | JointFrequency | None, *, title: str
) -> Figure:
    """The paper's figure 6: depth downwards, a node's area its probability of being accepted."""
    across = _layout(shown)
    width = max(across.values(), default=0.0)
    figure, axes = plt.subplots(
        figsize=(min(14.0, 3 + 0.22 * width), 1.4 + 0.95 * shown.depth), layout="constrained"
    )
    probability = {path: rates.probability(path) if rates else 1.0 for path in shown.paths}
    probability[()] = 1.0
    likely = _likeliest(shown, probability)
    for path in shown.paths:
        parent = path[:-1]
        axes.plot(
            [across[parent], across[path]],
            [-len(parent), -len(path)],
            color="#D55E00" if path in likely else "0.7",
            lw=1.8 if path in likely else 0.8,
            zorder=1,
        )
    nodes = [(), *shown.paths]
    axes.scatter(
        [across[path] for path in nodes],
        [-len(path) for path in nodes],
        s=[18 + 260 * probability[path] if rates else 60 for path in nodes],
        c=["#D55E00" if path in likely else "#0072B2" for path in nodes],
        edgecolors="white",
        linewidths=0.8,
        zorder=2,
    )
    for path in shown.paths:
        if rates and (len(path) == 1 or path in likely) and probability[path] >= 0.02:
            # On the side that the edge from its parent does not come from.
            side = -1 if across[path] < across[path[:-1]] else 1
            axes.annotate(
                f"{probability[path]:.2f}".lstrip("0"),
                (across[path], -len(path)),
                xytext=(side * (5 + 5 * probability[path]), 4),
                textcoords="offset points",
                ha="right" if side < 0 else "left",
                fontsize=8,
            )
    axes.set_yticks(
        range(-shown.depth, 1), [f"head {d}" for d in range(shown.depth, 0, -1)] + ["root"]
    )
    axes.set_xticks([])
    axes.set_title(title, fontsize=10)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.margins(x=0.03, y=0.14)
    return figure


def _likeliest(shown: CandidateTree, probability: Mapping[Path, float]) -> set[Path]:
    """The root and the path of likeliest guesses below it."""
    path: Path = ()
    found = {path}
    while children := [p for p in shown.paths if p[:-1] == path]:
        path = max(children, key=lambda child: probability[child])
        found.add(path)
    return found


def _layout(shown: CandidateTree) -> dict[Path, float]:
    """Where each node stands across: leaves side by side, parents over the middle of theirs."""
    children: dict[Path, list[Path]] = {}
    for path in shown.paths:
        children.setdefault(path[:-1], []).append(path)
    across: dict[Path, float] = {}
    leaves = 0

    def place(path: Path) -> None:
        nonlocal leaves
        if below := children.get(path):
            for child in below:
                place(child)
            across[path] = (across[below[0]] + across[below[-1]]) / 2
        else:
            across[path] = float(leaves)
            leaves += 1

    place(())
    return across
