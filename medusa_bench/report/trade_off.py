"""What Medusa-2 gives and costs: tokens a step against the distance from the frozen model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from medusa_bench.base.documents import JsonObject, parse_object
from medusa_bench.base.files import read_bytes
from medusa_bench.base.limits import CONFIG_BYTES
from medusa_bench.report import style


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


def read(folder: Path, num_candidates: int = 16) -> list[TradeOff]:
    """The trainings in a folder's folders (config.json and quality.json of `train --medusa 2`),
    the least moved first."""
    found = [_read(each.parent, str(num_candidates)) for each in folder.glob("*/quality.json")]
    return sorted(found, key=lambda each: each.kl_nats)


def _read(folder: Path, size: str) -> TradeOff:
    joint = _object(folder / "config.json")["medusa_bench"]["joint"]
    quality = _object(folder / "quality.json")
    held_out, after = quality["held_out"], quality["tokens_a_step"]["medusa_2"][size]
    return TradeOff(
        heads_weight=joint["heads_weight"],
        rise=joint["rise"],
        tokens_per_step=after["tokens_per_step"],
        low=after["low"],
        high=after["high"],
        medusa_1=quality["tokens_a_step"]["medusa_1"][size]["tokens_per_step"],
        kl_nats=held_out["kl_nats"],
        greedy_equal=held_out["greedy_equal"],
        perplexity_before=held_out["perplexity_before"],
        perplexity_after=held_out["perplexity_after"],
    )


def _object(path: Path) -> JsonObject:
    return parse_object(read_bytes(path, CONFIG_BYTES), where=str(path))


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
