"""Appendix G.2: what candidate tokens do to FLOP/s and operational intensity."""

from collections.abc import Callable
from itertools import pairwise

from medusa_bench.paper.claims.evidence import Claim, Evidence, Judgement, slope, spread, verdict_of
from medusa_bench.paper.claims.rooflines import linear_ignores_length
from medusa_bench.paper.reproduction import Predictor
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.paper_grid import PAPER_SEQ_LENS


def _more_candidates_more_of_both(evidence: Evidence) -> Judgement:
    rising = {"flops_per_s": 0, "intensity": 0, "predicted": 0}
    steps = 0
    for seq_len in PAPER_SEQ_LENS:
        row = [c for c in evidence.reproduction.table(6) if c.setting.seq_len == seq_len]
        row.sort(key=lambda cell: cell.setting.num_candidates)
        for here, there in pairwise(row):
            steps += 1
            rising["flops_per_s"] += there.printed.flops_per_s > here.printed.flops_per_s
            rising["intensity"] += there.operational_intensity > here.operational_intensity
            rising["predicted"] += (
                there.predicted_flops_per_s[Predictor.LAUNCH]
                > here.predicted_flops_per_s[Predictor.LAUNCH]
            )
    numbers = {**rising, "steps": steps}
    words = (
        "of {steps:.0f} steps to more candidates in table 6, FLOP/s rise in {flops_per_s:.0f} "
        "(reported) and {predicted:.0f} (predicted), the intensity in {intensity:.0f} (computed)"
    )
    return (
        verdict_of(min(rising.values()) == steps, rising["flops_per_s"] > steps / 2),
        words,
        numbers,
    )


def _gain(index: int) -> Callable[[Evidence], Judgement]:
    def check(evidence: Evidence) -> Judgement:
        gain = evidence.reproduction.gains[index]
        numbers = {"printed": gain.printed, "ours": gain.ours, "claimed": gain.claimed}
        vanilla, medusa = gain.vanilla_printed, gain.medusa_printed
        scale, unit = (1e12, "TFLOP/s") if index == 0 else (1.0, "FLOP/byte")
        words = (
            f"table 6 prints {medusa / scale:.2f} over {vanilla / scale:.2f} {unit}: "
            f"{{printed:.2f}}x (reported); {{ours:.2f}}x ({gain.ours_is})"
        )
        words += "".join(
            f"; {times:.1f}x ({rate.device}, {rate.timing}, measured)"
            for rate, times in gain.measured
        )
        within = abs(gain.ours / gain.claimed - 1)
        exact = round(gain.printed) == gain.claimed
        return verdict_of(exact and within <= 0.1, exact), words, numbers

    return check


def _batch_leaves_intensity(evidence: Evidence) -> Judgement:
    by_count: dict[int, list[float]] = {}
    for cell in evidence.reproduction.table(7):
        by_count.setdefault(cell.setting.num_candidates, []).append(
            cell.printed.operational_intensity
        )
    numbers = {"spread": max(map(spread, by_count.values())), "counts": len(by_count)}
    words = (
        "in table 7 the intensity at each of {counts:.0f} counts changes by {spread:.2f}x "
        "over all batch sizes (reported and computed)"
    )
    return verdict_of(numbers["spread"] == 1), words, numbers


def _linear_shift(evidence: Evidence) -> Judgement:
    cells = sorted(evidence.reproduction.table(8), key=lambda cell: cell.operational_intensity)
    below = [c for c in cells if c.operational_intensity < evidence.ridge_point]
    above = [c for c in cells if c.operational_intensity >= evidence.ridge_point]
    peak = evidence.profile.peak(Dtype.FLOAT16)
    numbers = {
        "below": len(below),
        "above": len(above),
        "slope_below": slope(below),
        "slope_above": slope(above),
        "plateau": 100 * max(cell.printed.flops_per_s for cell in cells) / peak,
    }
    words = (
        "table 8: {below:.0f} cells left of the ridge with slope {slope_below:.2f}, {above:.0f} "
        "right of it with slope {slope_above:.2f}, up to {plateau:.0f} % of the peak (reported)"
    )
    shifts = numbers["slope_below"] > 0.9 and numbers["slope_above"] < 0.3 and bool(below)
    return verdict_of(shifts), words, numbers


CLAIMS = (
    Claim(
        "G.2",
        "We observe increased FLOP/s and Operational Intensity as more candidate tokens are added",
        _more_candidates_more_of_both,
    ),
    Claim(
        "G.2",
        "Medusa achieves 44x FLOP/s ... under the setting of batch size 16 and sequence length "
        "1024 with 64 candidate tokens",
        _gain(0),
    ),
    Claim(
        "G.2",
        "Medusa achieves ... 41x Operational Intensity under the setting of batch size 16 and "
        "sequence length 1024 with 64 candidate tokens",
        _gain(1),
    ),
    Claim(
        "G.2",
        "Increasing the batch size does not improve Operational Intensity in this scenario",
        _batch_leaves_intensity,
    ),
    Claim(
        "G.2",
        "Since the linear layers in the decoding phase only process the future tokens ... they "
        "are independent of the sequence length",
        linear_ignores_length,
    ),
    Claim(
        "G.2",
        "As Medusa increases the number of candidate tokens with the increasing batch size, we "
        "observe a shift from a memory-bandwidth-bound region to a computation-bound region",
        _linear_shift,
    ),
)
