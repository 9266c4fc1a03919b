"""Draws and tables the committed Medusa-2 trainings: `python -m tools.trade_off`."""

from collections.abc import Sequence

from medusa_bench.report import style
from medusa_bench.report.trade_off import TradeOff, read, trade_off_figure
from tools.readme import ROOT

FOLDER = ROOT / "results" / "heads" / "smollm2-135m-medusa2"


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
    found = read(FOLDER)
    style.save(trade_off_figure(found), FOLDER / "trade-off.png")
    print(table(found), end="")
