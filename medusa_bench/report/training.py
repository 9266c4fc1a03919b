"""The course of training Medusa heads: loss and held-out accuracy of each head."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medusa_bench.report import style

Row = Mapping[str, float]

# Beside each head's colour, so that grey print and colour-blind readers tell them apart.
_DASHES = ("-", "--", "-.", ":")


def read_curves(path: Path) -> dict[int, list[Row]]:
    """head (from 1) -> its rows, in order: step, loss_nats, held_out_top_1, held_out_top_5."""
    heads: dict[int, list[Row]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = {key: float(value) for key, value in row.items() if key != "head"}
            heads.setdefault(int(row["head"]), []).append(numbers)
    return heads


@style.applied()
def training_figure(heads: Mapping[int, Sequence[Row]], *, title: str) -> Figure:
    """Training loss, and top-1 and top-5 accuracy on held-out text, against the step."""
    figure, axes = style.figure("two", height_in=2.1, columns=3)
    loss, top_1, top_5 = axes
    _panel(loss, heads, "loss_nats", 1.0, "training loss (nats)")
    _panel(top_1, heads, "held_out_top_1", 100.0, "top-1 accuracy on held-out text (%)")
    _panel(top_5, heads, "held_out_top_5", 100.0, "top-5 accuracy on held-out text (%)")
    for each in axes:
        each.set_ylim(bottom=0)
    loss.legend(handlelength=2.8)
    figure.suptitle(title, fontsize=8)
    return figure


def _panel(
    axes: Axes, heads: Mapping[int, Sequence[Row]], column: str, scale: float, label: str
) -> None:
    colors = style.sequence(len(heads))[::-1]
    for place, (head, rows) in enumerate(sorted(heads.items())):
        axes.plot(
            [row["step"] for row in rows],
            [scale * row[column] for row in rows],
            color=colors[place],
            linestyle=_DASHES[place % len(_DASHES)],
            label=f"head {head}: token t + {head + 1}",
        )
    axes.set_xlabel("step")
    axes.set_title(label)
