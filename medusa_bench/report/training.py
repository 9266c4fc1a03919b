"""The course of training Medusa heads: loss and held-out accuracy of each head."""

import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Told apart in grey too: by darkness and by dash.
_COLOURS = ("#0b3c5d", "#d1495b", "#2a9d8f", "#e9a03b", "#7b5ea7", "#5c5c5c")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))


def read_curves(path: Path) -> dict[int, list[dict[str, float]]]:
    """head (from 1) -> its rows, in order: step, loss_nats, held_out_top_1, held_out_top_5."""
    heads: dict[int, list[dict[str, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = {key: float(value) for key, value in row.items() if key != "head"}
            heads.setdefault(int(row["head"]), []).append(numbers)
    return heads


def training_figure(heads: dict[int, list[dict[str, float]]], *, title: str) -> Figure:
    """Loss (left), top-1 (middle) and top-5 accuracy on held-out text (right), against the step."""
    figure = Figure(figsize=(7.2, 2.7), layout="constrained")
    loss, top_1, top_5 = figure.subplots(1, 3)
    _panel(loss, heads, "loss_nats", 1.0, "Training loss (nats)")
    _panel(top_1, heads, "held_out_top_1", 100.0, "Top-1 accuracy, held out (%)")
    _panel(top_5, heads, "held_out_top_5", 100.0, "Top-5 accuracy, held out (%)")
    for axes in (top_1, top_5):
        axes.set_ylim(bottom=0)
    loss.legend(frameon=False, fontsize=7, handlelength=2.6)
    figure.suptitle(title, fontsize=9)
    return figure


def _panel(
    axes: Axes,
    heads: dict[int, list[dict[str, float]]],
    column: str,
    scale: float,
    title: str,
) -> None:
    for place, (head, rows) in enumerate(sorted(heads.items())):
        axes.plot(
            [row["step"] for row in rows],
            [scale * row[column] for row in rows],
            color=_COLOURS[place % len(_COLOURS)],
            linestyle=_DASHES[place % len(_DASHES)],
            linewidth=1.4,
            label=f"head {head} (token t + {head + 1})",
        )
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("Step", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(visible=True, color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def save(figures: Sequence[tuple[Figure, Path]]) -> None:
    """Write each figure; the suffix of its path says in which format."""
    for figure, path in figures:
        figure.savefig(path, dpi=200)
