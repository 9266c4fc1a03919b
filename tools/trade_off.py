"""What Medusa-2 gives and costs: tokens a step against the distance from the frozen model.

`python -m tools.trade_off` prints the table of the committed trainings; `make figures` draws them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from medusa_bench.report import style
from tools.readme import ROOT

FOLDER = ROOT / "results" / "heads" / "smollm2-135m-medusa2"
NUM_CANDIDATES = 16


@dataclass(frozen=True, slots=True)
class TradeOff:
    """One joint training: how it was done, what it gives, how far the backbone moved.

    tokens_per_step has its 90 % interval over prompts beside it, on the trained model's own
    greedy answers; medusa_1 is the same replay with the backbone frozen.
    """

    heads_weight: float
    rise: str
    tokens_per_step: float
    low: float
    high: float
    medusa_1: float
    kl_nats: float
    greedy_equal: float
    perplexity_before: float
    perplexity_after: float


def read(folder: Path = FOLDER) -> list[TradeOff]:
    """The trainings in a folder's folders (config.json and quality.json of `train --medusa 2`),
    the least moved first."""
    found = [_read(each.parent) for each in folder.glob("*/quality.json")]
    return sorted(found, key=lambda each: each.kl_nats)


def _read(folder: Path) -> TradeOff:
    joint = json.loads((folder / "config.json").read_text())["medusa_bench"]["joint"]
    quality = json.loads((folder / "quality.json").read_text())
    held_out = quality["held_out"]
    before, after = (
        quality["tokens_a_step"][name][str(NUM_CANDIDATES)] for name in ("medusa_1", "medusa_2")
    )
    return TradeOff(
        heads_weight=joint["heads_weight"],
        rise=joint["rise"],
        tokens_per_step=after["tokens_per_step"],
        low=after["low"],
        high=after["high"],
        medusa_1=before["tokens_per_step"],
        kl_nats=held_out["kl_nats"],
        greedy_equal=held_out["greedy_equal"],
        perplexity_before=held_out["perplexity_before"],
        perplexity_after=held_out["perplexity_after"],
    )


@style.applied()
def trade_off_figure(points: Sequence[TradeOff]) -> Figure:
    """Tokens a step against KL, greedy tokens equal and perplexity; a dashed line is Medusa-1."""
    figure, panels = style.figure("two", height_in=2.3, columns=3)
    costs = (
        ("KL to the frozen model (nats)", 0.0, [each.kl_nats for each in points]),
        ("greedy tokens that differ (%)", 0.0, [100 * (1 - each.greedy_equal) for each in points]),
        (
            "perplexity of the frozen model's text",
            points[0].perplexity_before,
            [each.perplexity_after for each in points],
        ),
    )
    rates = [each.tokens_per_step for each in points]
    errors = [
        [each.tokens_per_step - each.low for each in points],
        [each.high - each.tokens_per_step for each in points],
    ]
    color = style.sequence(3)[1]
    for axes, (label, frozen, cost) in zip(panels, costs, strict=True):
        axes.errorbar(cost, rates, yerr=errors, fmt="o-", color=color, capsize=2)
        axes.plot(frozen, points[0].medusa_1, "s", color="black")
        axes.axhline(points[0].medusa_1, color="black", linestyle="--", linewidth=0.7)
        for each, x in zip(points, cost, strict=True):
            axes.annotate(
                f"{each.heads_weight:g}",
                (x, each.high),
                textcoords="offset points",
                xytext=(0, 3),
                ha="center",
                fontsize=6,
            )
        axes.set_xlabel(label)
        axes.margins(x=0.12, y=0.15)
    panels[0].set_ylabel("tokens a step (generated)")
    return figure


def table(points: Sequence[TradeOff]) -> str:
    """The trainings as a Markdown table, the frozen backbone first."""
    first = points[0]
    lines = [
        "| lambda_0 | tokens a step (90 %) | KL, nats | greedy tokens equal | perplexity |",
        "| --- | --- | --- | --- | --- |",
        f"| Medusa-1 | {first.medusa_1:.2f} | 0 | 100 % | {first.perplexity_before:.3f} |",
    ]
    lines += [
        f"| {each.heads_weight:g}, {each.rise} "
        f"| {each.tokens_per_step:.2f} ({each.low:.2f} to {each.high:.2f}) "
        f"| {each.kl_nats:.4f} | {each.greedy_equal:.1%} | {each.perplexity_after:.3f} |".replace(
            "%", " %"
        )
        for each in points
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(read()), end="")
