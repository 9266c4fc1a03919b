"""The sentences of the paper's appendix G, each judged by numbers: reproduced, differs, or not.

Every sentence is quoted from arXiv 2401.10774v3, shortened where "..." stands. Each check computes
its numbers from the operator table (computed), the printed tables (reported), or latencies that
calibrations predict (predicted, simulated); nothing here was measured.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from medusa_bench.compare import acceptance
from medusa_bench.compare.comparisons import Comparison, best
from medusa_bench.paper.reproduction import Cell, Predictor, Reproduction
from medusa_bench.predict import latency, priors
from medusa_bench.results.rows import Timing
from medusa_bench.specs import models, profiles
from medusa_bench.specs.columns import FloatArray, Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import Operator, Point, points, select
from medusa_bench.specs.paper_grid import (
    PAPER_BATCH_SIZES,
    PAPER_GPU,
    PAPER_GPUS,
    PAPER_MODELS,
    PAPER_SEQ_LENS,
    SIMULATED_MODEL,
)
from medusa_bench.specs.profiles import DeviceProfile
from medusa_bench.specs.settings import Phase, Setting, settings

_FLAT = 1.05  # "nearly unchanged": within 5 %
_SIMILAR = 1.5  # "very similar positions": 4 % of the four decades that the axes span


class ClaimVerdict(StrEnum):
    """What became of a sentence."""

    REPRODUCED = "reproduced"
    DIFFERS = "differs"
    NOT_REPRODUCED = "not reproduced"
    NOT_TESTED = "not tested"  # no number that it could be held against


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """A sentence, its verdict, and the numbers that it rests on, in words and by name."""

    section: str
    sentence: str
    verdict: ClaimVerdict
    evidence: str
    numbers: Mapping[str, float]


def judge(reproduction: Reproduction) -> list[ClaimResult]:
    """Every sentence in the paper's order."""
    evidence = Evidence(reproduction)
    found = []
    for claim in CLAIMS:
        verdict, words, numbers = claim.check(evidence)
        numbers = {name: float(value) for name, value in numbers.items()}
        found.append(
            ClaimResult(claim.section, claim.sentence, verdict, words.format(**numbers), numbers)
        )
    return found


Judgement = tuple[ClaimVerdict, str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence and how it is judged."""

    section: str
    sentence: str
    check: "Callable[[Evidence], Judgement]"


@dataclass(frozen=True, slots=True)
class Predicted:
    """Points of one model and operator on one GPU, as columns of shape (num_points,)."""

    settings: tuple[Setting, ...]
    operational_intensity: FloatArray
    flops_per_s: FloatArray
    roof_fraction: FloatArray
    bound: NDArray[np.str_]

    def along(self, name: str) -> list[NDArray[np.intp]]:
        """Indices of the points that differ in this setting alone, in its order."""
        groups: dict[tuple[int, ...], list[int]] = {}
        others = [each for each in ("batch_size", "seq_len", "num_candidates") if each != name]
        for index, setting in enumerate(self.settings):
            groups.setdefault(tuple(getattr(setting, o) for o in others), []).append(index)
        return [np.array(group) for group in groups.values() if len(group) > 1]


class Evidence:
    """What the checks look at: the reproduction, and predictions in the paper's 49 settings."""

    def __init__(self, reproduction: Reproduction) -> None:
        self.reproduction = reproduction

    @cached_property
    def profile(self) -> DeviceProfile:
        return profiles.load(PAPER_GPU)

    @property
    def ridge_point(self) -> float:
        return self.profile.ridge_point(Dtype.FLOAT16)

    def rows(self, batch_size: int, seq_len: int = 1024) -> list[Comparison]:
        """The simulated points of one curve of figure 22 or 23, by candidates."""
        return [
            row
            for row in self.reproduction.speedups
            if (row.batch_size, row.seq_len) == (batch_size, seq_len)
        ]

    def overhead(self, operators: str, batch_size: int, seq_len: int, num_candidates: int) -> float:
        """Of these operators of Llama-7B together: Medusa's latency over vanilla's."""
        medusa_s, vanilla_s = (
            self.latency_s(operators, batch_size, seq_len, count) for count in (num_candidates, 1)
        )
        return medusa_s / vanilla_s

    def latency_s(
        self, operators: str, batch_size: int, seq_len: int, num_candidates: int
    ) -> float:
        """Of these operators of Llama-7B together, one after the other."""
        setting = Setting(Phase.MEDUSA, batch_size, seq_len, num_candidates)
        return float(
            _predict(PAPER_GPU, SIMULATED_MODEL, select(operators.split()), (setting,))[0].sum()
        )

    @staticmethod
    def predicted(
        operator: str, phase: Phase, gpu: str = PAPER_GPU, model: str = SIMULATED_MODEL
    ) -> Predicted:
        """One operator in the paper's settings of a phase, those that fit in the GPU's memory."""
        return _in_all_settings(operator, phase, gpu, model)


@cache
def _in_all_settings(operator: str, phase: Phase, gpu: str, model: str) -> Predicted:
    profile = profiles.load(gpu)
    found = points([models.load(model)], select([operator]), settings([phase]), [Dtype.FLOAT16])
    fitting = [p for p in found if p.product.bytes_moved(p.dtype) <= profile.memory_bytes]
    chosen = tuple(point.setting for point in fitting)
    latency_s, bound = _predict(gpu, model, select([operator]), chosen)
    intensity = np.array([p.product.operational_intensity(p.dtype) for p in fitting])
    flops_per_s = np.array([p.product.flops for p in fitting]) / latency_s
    roof = [profile.attainable_flops_per_s(x, Dtype.FLOAT16) for x in intensity.tolist()]
    return Predicted(chosen, intensity, flops_per_s, flops_per_s / np.array(roof), bound)


def _predict(
    gpu: str, model: str, operators: Sequence[Operator], in_settings: Sequence[Setting]
) -> tuple[FloatArray, NDArray[np.str_]]:
    """Latencies in seconds as the paper's harness would time them, and what binds them."""
    shape = models.load(model)
    found = [
        Point(shape, operator, setting, Dtype.FLOAT16)
        for operator in operators
        for setting in in_settings
    ]
    predicted = _model(gpu).predict(Products.of([p.product for p in found]), Dtype.FLOAT16)
    return predicted.latency_s, predicted.bound


@cache
def _model(gpu: str) -> latency.Calibrated:
    return priors.calibrated(profiles.load(gpu), Timing.EAGER)


def _verdict(reproduced: bool, differs: bool = False) -> ClaimVerdict:
    if reproduced:
        return ClaimVerdict.REPRODUCED
    return ClaimVerdict.DIFFERS if differs else ClaimVerdict.NOT_REPRODUCED


def _spread(values: Iterable[float] | FloatArray) -> float:
    """The largest over the smallest."""
    column = np.array(list(values))
    return float(column.max() / column.min())


def _slope(cells: Sequence[Cell]) -> float:
    """Of FLOP/s over intensity in logarithms, both as printed: 1 along a memory roof."""
    return float(
        np.polyfit(
            np.log([cell.printed.operational_intensity for cell in cells]),
            np.log([cell.printed.flops_per_s for cell in cells]),
            1,
        )[0]
    )


_LINEAR = ("q", "up", "down")  # k and v are q's product, gate is up's
_GROUPS = ("q", "up", "qk")


# -- G and G.1 ----------------------------------------------------------------------------------


def _matmuls_dominate(evidence: Evidence) -> Judgement:
    words = "no latency of any other operator is printed or modelled"
    return ClaimVerdict.NOT_TESTED, words, {}


def _clusters(evidence: Evidence) -> Judgement:
    intensities, rates, fractions = [], [], []
    for operator in _GROUPS:
        for phase in (Phase.PREFILL, Phase.DECODE):
            mean = {
                (gpu, model): [
                    float(np.exp(np.log(column).mean()))
                    for column in _common(evidence, operator, phase, gpu, model)
                ]
                for gpu in PAPER_GPUS
                for model in PAPER_MODELS
            }
            intensities.append(_spread(each[0] for each in mean.values()))
            rates.append(_spread(each[1] for each in mean.values()))
            fractions.append(_spread(each[2] for each in mean.values()))
    numbers = {
        "intensity": max(intensities),
        "flops_per_s": max(rates),
        "roof_fraction": max(fractions),
    }
    words = (
        "between 3 models and 3 GPUs a group's mean intensity differs by {intensity:.2f}x at most, "
        "its FLOP/s by {flops_per_s:.1f}x, as the GPUs' roofs do, its share of the own roof by "
        "{roof_fraction:.1f}x (predicted; intensity computed)"
    )
    similar = numbers["intensity"] <= _SIMILAR
    return _verdict(similar and numbers["flops_per_s"] <= _SIMILAR, similar), words, numbers


def _common(
    evidence: Evidence, operator: str, phase: Phase, gpu: str, model: str
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Columns of the settings that fit on every GPU for every model."""
    everywhere = set.intersection(
        *(
            set(evidence.predicted(operator, phase, g, m).settings)
            for g in PAPER_GPUS
            for m in PAPER_MODELS
        )
    )
    mine = evidence.predicted(operator, phase, gpu, model)
    chosen = [index for index, setting in enumerate(mine.settings) if setting in everywhere]
    return (
        mine.operational_intensity[chosen],
        mine.flops_per_s[chosen],
        mine.roof_fraction[chosen],
    )


def _prefill_attention_over_batch(evidence: Evidence) -> Judgement:
    mine = evidence.predicted("qk", Phase.PREFILL)
    paths = mine.along("batch_size")
    numbers = {
        "intensity": max(_spread(mine.operational_intensity[path]) for path in paths),
        "flops_per_s": max(_spread(mine.flops_per_s[path]) for path in paths),
    }
    words = (
        "at a fixed seq_len FLOP/s change up to {flops_per_s:.1f}x, the intensity {intensity:.2f}x "
        "(predicted; intensity computed)"
    )
    reproduced = numbers["intensity"] == 1 and numbers["flops_per_s"] > _FLAT
    return _verdict(reproduced), words, numbers


def _prefill_attention_over_length(evidence: Evidence) -> Judgement:
    mine = evidence.predicted("qk", Phase.PREFILL)
    paths = mine.along("seq_len")
    numbers = {
        "intensity": min(_spread(mine.operational_intensity[path]) for path in paths),
        "flops_per_s": min(_spread(mine.flops_per_s[path]) for path in paths),
    }
    words = (
        "at a fixed batch size the intensity changes by {intensity:.1f}x at least, FLOP/s by "
        "{flops_per_s:.1f}x (predicted; intensity computed)"
    )
    return _verdict(min(numbers.values()) > _FLAT), words, numbers


def _decode_attention_is_memory_bound(evidence: Evidence) -> Judgement:
    mine = evidence.predicted("qk", Phase.DECODE)
    numbers = {
        "num_points": len(mine.settings),
        "below_ridge": float((mine.operational_intensity < evidence.ridge_point).sum()),
        "launch_bound": float((mine.bound == "launch").sum()),
        "ridge_point": evidence.ridge_point,
        "highest": mine.operational_intensity.max(),
    }
    below = numbers["below_ridge"] == numbers["num_points"]
    words = (
        "{below_ridge:.0f} of {num_points:.0f} points have an intensity below the ridge "
        "({highest:.2f} at most, ridge {ridge_point:.0f} FLOP/byte; computed); in "
        "{launch_bound:.0f} of them the largest part of the latency is the harness's launch, not "
        "memory (predicted)"
    )
    return _verdict(below and not numbers["launch_bound"], below), words, numbers


def _decode_attention_intensity(evidence: Evidence) -> Judgement:
    mine = evidence.predicted("qk", Phase.DECODE)
    numbers = {
        "intensity": _spread(mine.operational_intensity),
        "flops_per_s": _spread(mine.flops_per_s),
    }
    words = (
        "over the 49 settings FLOP/s rise {flops_per_s:.0f}x (predicted), the intensity "
        "{intensity:.3f}x (computed)"
    )
    reproduced = numbers["intensity"] <= _FLAT < numbers["flops_per_s"]
    return _verdict(reproduced), words, numbers


def _attention_wastes(evidence: Evidence) -> Judgement:
    mine = evidence.predicted("qk", Phase.DECODE)
    peak = evidence.profile.peak(Dtype.FLOAT16)
    numbers = {"share": 100 * mine.flops_per_s.max() / peak}
    words = "decode attention reaches {share:.2f} % of the peak FLOP/s at most (predicted)"
    return _verdict(numbers["share"] < 10), words, numbers


def _prefill_linear_is_compute_bound(evidence: Evidence) -> Judgement:
    each = [evidence.predicted(name, Phase.PREFILL) for name in _LINEAR]
    numbers = {
        "num_points": sum(len(one.settings) for one in each),
        "above_ridge": sum(
            (one.operational_intensity >= evidence.ridge_point).sum() for one in each
        ),
        "compute_bound": sum((one.bound == "compute").sum() for one in each),
    }
    words = (
        "{above_ridge:.0f} of {num_points:.0f} points have an intensity above the ridge "
        "(computed); compute is the largest part of {compute_bound:.0f} latencies (predicted)"
    )
    mostly = min(numbers["above_ridge"], numbers["compute_bound"]) > numbers["num_points"] / 2
    return _verdict(mostly), words, numbers


def _decode_linear_slope(evidence: Evidence) -> Judgement:
    column = [cell for cell in evidence.reproduction.table(8) if cell.setting.num_candidates == 1]
    numbers = {"printed": _slope(column)}
    for name in ("q", "up"):
        mine = evidence.predicted(name, Phase.DECODE)
        logs = np.log(mine.operational_intensity), np.log(mine.flops_per_s)
        numbers[name] = float(np.polyfit(*logs, 1)[0])
    words = (
        "slope of FLOP/s over intensity: {printed:.3f} in table 8's column of 1 candidate "
        "(reported), {up:.3f} up and {q:.3f} q of Llama-7B (predicted); 1 is the memory roof's"
    )
    return _verdict(all(0.9 <= slope <= 1.1 for slope in numbers.values())), words, numbers


def _decode_linear_is_memory_bound(evidence: Evidence) -> Judgement:
    each = [evidence.predicted(name, Phase.DECODE) for name in _LINEAR]
    numbers = {
        "num_points": sum(len(one.settings) for one in each),
        "below_ridge": sum(
            (one.operational_intensity < evidence.ridge_point).sum() for one in each
        ),
        "launch_bound": sum((one.bound == "launch").sum() for one in each),
        "memory_bound": sum((one.bound == "memory").sum() for one in each),
    }
    words = (
        "{below_ridge:.0f} of {num_points:.0f} points have an intensity below the ridge "
        "(computed); the largest part of the latency is memory in {memory_bound:.0f}, the "
        "harness's launch in {launch_bound:.0f} (predicted)"
    )
    below = numbers["below_ridge"] == numbers["num_points"]
    return _verdict(below and not numbers["launch_bound"], below), words, numbers


def _decode_linear_over_batch(evidence: Evidence) -> Judgement:
    column = [cell for cell in evidence.reproduction.table(8) if cell.setting.num_candidates == 1]
    column.sort(key=lambda cell: cell.setting.batch_size)
    rates = [cell.printed.flops_per_s for cell in column]
    intensities = [cell.operational_intensity for cell in column]
    numbers = {
        "flops_per_s": rates[-1] / rates[0],
        "intensity": intensities[-1] / intensities[0],
        "roof": max(
            rate / evidence.profile.attainable_flops_per_s(intensity, Dtype.FLOAT16)
            for rate, intensity in zip(rates, intensities, strict=True)
        )
        * 100,
    }
    words = (
        "from batch size 1 to 64 FLOP/s rise {flops_per_s:.1f}x (reported), the intensity "
        "{intensity:.1f}x (computed), at {roof:.0f} % of the memory roof at most"
    )
    rising = rates == sorted(rates) and intensities == sorted(intensities)
    return _verdict(rising and numbers["roof"] <= 100), words, numbers


def _linear_ignores_length(evidence: Evidence) -> Judgement:
    shape = models.load(SIMULATED_MODEL)
    names = "q k v up gate down"
    distinct = {
        (operator.name, operator.product(shape, Setting(Phase.MEDUSA, 4, seq_len, 64)))
        for operator in select(names.split())
        for seq_len in PAPER_SEQ_LENS
    }
    numbers = {"operators": len(names.split()), "distinct": len(distinct), "seq_lens": 7}
    words = (
        "{operators:.0f} linear operators have {distinct:.0f} distinct products over "
        "{seq_lens:.0f} seq_lens (computed)"
    )
    return _verdict(numbers["operators"] == numbers["distinct"]), words, numbers


# -- G.2 ----------------------------------------------------------------------------------------


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
        _verdict(min(rising.values()) == steps, rising["flops_per_s"] > steps / 2),
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
        return _verdict(exact and within <= 0.1, exact), words, numbers

    return check


def _batch_leaves_intensity(evidence: Evidence) -> Judgement:
    by_count: dict[int, list[float]] = {}
    for cell in evidence.reproduction.table(7):
        by_count.setdefault(cell.setting.num_candidates, []).append(
            cell.printed.operational_intensity
        )
    numbers = {"spread": max(map(_spread, by_count.values())), "counts": len(by_count)}
    words = (
        "in table 7 the intensity at each of {counts:.0f} counts changes by {spread:.2f}x "
        "over all batch sizes (reported and computed)"
    )
    return _verdict(numbers["spread"] == 1), words, numbers


def _linear_shift(evidence: Evidence) -> Judgement:
    cells = sorted(evidence.reproduction.table(8), key=lambda cell: cell.operational_intensity)
    below = [c for c in cells if c.operational_intensity < evidence.ridge_point]
    above = [c for c in cells if c.operational_intensity >= evidence.ridge_point]
    peak = evidence.profile.peak(Dtype.FLOAT16)
    numbers = {
        "below": len(below),
        "above": len(above),
        "slope_below": _slope(below),
        "slope_above": _slope(above),
        "plateau": 100 * max(cell.printed.flops_per_s for cell in cells) / peak,
    }
    words = (
        "table 8: {below:.0f} cells left of the ridge with slope {slope_below:.2f}, {above:.0f} "
        "right of it with slope {slope_above:.2f}, up to {plateau:.0f} % of the peak (reported)"
    )
    shifts = numbers["slope_below"] > 0.9 and numbers["slope_above"] < 0.3 and bool(below)
    return _verdict(shifts), words, numbers


# -- G.3 ----------------------------------------------------------------------------------------


def _log_law(evidence: Evidence) -> Judgement:
    readings = evidence.reproduction.rate_readings
    ours = acceptance.PAPER
    numbers = {
        "printed": max(abs(r.as_printed - r.read) for r in readings),
        "ours": max(abs(ours.acceleration_rate(r.num_candidates) - r.read) for r in readings),
        "at_one": acceptance.PAPER_PRINTED.acceleration_rate(1),
        "readings": len(readings),
    }
    words = (
        "as printed it gives {at_one:.0f} tokens a step at 1 candidate and is off by up to "
        "{printed:.2f} on {readings:.0f} readings of figures 4a and 21; 1 + 0.477 ln(candidates), "
        "our reading, by {ours:.2f}"
    )
    return _verdict(numbers["printed"] <= 0.2, numbers["ours"] <= 0.2), words, numbers


def _initially_better(evidence: Evidence) -> Judgement:
    rows = evidence.rows(1)
    numbers = {
        "rate": rows[1].acceleration_rate,
        "speedup": rows[1].speedup,
        "count": rows[1].num_candidates,
        "second_rate": rows[2].acceleration_rate,
        "second": rows[2].speedup,
    }
    words = (
        "from 1 to {count:.0f} candidates the rate rises to {rate:.2f} and the speedup to "
        "{speedup:.2f}, then to {second_rate:.2f} and {second:.2f} (simulated)"
    )
    rising = 1 < numbers["speedup"] < numbers["second"] and numbers["rate"] > 1
    return _verdict(rising), words, numbers


def _declines_beyond_64(evidence: Evidence) -> Judgement:
    rows = evidence.rows(1)
    top = best(rows)
    last = rows[-1]
    numbers = {
        "best": top.num_candidates,
        "speedup": top.speedup,
        "last": last.num_candidates,
        "last_speedup": last.speedup,
    }
    words = (
        "best at {best:.0f} candidates with {speedup:.2f}, {last_speedup:.2f} at {last:.0f} "
        "(simulated)"
    )
    return _verdict(top.num_candidates == 64, 32 <= top.num_candidates <= 96), words, numbers


def _aligns_with_figure_4b(evidence: Evidence) -> Judgement:
    return ClaimVerdict.NOT_TESTED, "figure 4b's tokens per second are not among the readings", {}


def _optimal_range(evidence: Evidence) -> Judgement:
    rows = evidence.rows(1)
    top = best(rows)
    near = [row.num_candidates for row in rows if row.speedup >= 0.95 * top.speedup]
    numbers = {"low": min(near), "high": max(near), "tried": len(rows), "near": len(near)}
    words = (
        "{low:.0f} to {high:.0f} candidates are within 5 % of the best at batch size 1 (simulated)"
    )
    return _verdict(len(near) < len(rows)), words, numbers


def _beyond_batch_32(evidence: Evidence) -> Judgement:
    tops = {
        batch: max(row.speedup for row in evidence.rows(batch) if row.num_candidates > 1)
        for batch in PAPER_BATCH_SIZES
    }
    numbers = {f"batch_{batch}": value for batch, value in tops.items()}
    losing = [row.num_candidates for row in evidence.rows(32) if row.speedup < 1]
    numbers["losing_from"] = min(losing, default=0)
    words = (
        "the best speedup falls from batch size 2 on, not from 32: {batch_1:.2f}, {batch_2:.2f}, "
        "{batch_4:.2f}, {batch_8:.2f}, {batch_16:.2f}, {batch_32:.2f}, {batch_64:.2f} at 1 to 64; "
        "at 32 it is a loss from {losing_from:.0f} candidates on (simulated)"
    )
    falling_early = tops[32] < tops[16] < tops[8] < tops[1]
    if not falling_early:
        words = words.replace("from batch size 2 on, not from 32", "as the batch grows")
    negative = tops[64] < tops[32] and bool(losing)
    return _verdict(negative and not falling_early, negative), words, numbers


def _linear_causes_it(evidence: Evidence) -> Judgement:
    linear, whole = "q k v up gate down", "q k v qk pv up gate down"
    added = [
        evidence.latency_s(names, 32, 1024, 64) - evidence.latency_s(names, 32, 1024, 1)
        for names in (linear, whole)
    ]
    shape = models.load(SIMULATED_MODEL)
    (up,) = select(["up"])

    def intensity(batch_size: int, count: int) -> float:
        setting = Setting(Phase.MEDUSA, batch_size, 1024, count)
        return up.product(shape, setting).operational_intensity(Dtype.FLOAT16)

    numbers = {
        "share": 100 * added[0] / added[1],
        "vanilla": intensity(32, 1),
        "medusa": intensity(32, 64),
        "ridge_point": evidence.ridge_point,
        "first": min(b for b in PAPER_BATCH_SIZES if intensity(b, 64) > evidence.ridge_point),
    }
    words = (
        "at batch size 32, {share:.0f} % of what 64 candidates add to a step is linear (simulated);"
        " their intensity goes from {vanilla:.0f} to {medusa:.0f} FLOP/byte over the ridge at "
        "{ridge_point:.0f} (computed), which is crossed from batch size {first:.0f} on"
    )
    crosses = numbers["vanilla"] < numbers["ridge_point"] < numbers["medusa"]
    return _verdict(crosses and numbers["share"] > 50), words, numbers


def _same_optimum_at_all_lengths(evidence: Evidence) -> Judgement:
    optima = [best(evidence.rows(4, seq_len)).num_candidates for seq_len in PAPER_SEQ_LENS]
    numbers = {"low": min(optima), "high": max(optima)}
    counts = "{low:.0f}" if min(optima) == max(optima) else "{low:.0f} to {high:.0f}"
    words = f"best at {counts} candidates at every seq_len from 128 to 8192 (simulated)"
    return _verdict(max(optima) - min(optima) <= 16), words, numbers


def _longer_is_slower(evidence: Evidence) -> Judgement:
    short, long = evidence.rows(4, 128), evidence.rows(4, 8192)
    falls = [a.num_candidates for a, b in zip(short, long, strict=True) if b.speedup < a.speedup]
    rises = [
        a.num_candidates
        for a, b in zip(short, long, strict=True)
        if b.speedup > a.speedup and a.num_candidates > 1
    ]
    numbers = {
        "short": best(short).speedup,
        "long": best(long).speedup,
        "falls": len(falls),
        "rises": len(rises),
        "last_short": short[-1].speedup,
        "last_long": long[-1].speedup,
        "last": short[-1].num_candidates,
    }
    words = (
        "from seq_len 128 to 8192 the best speedup goes from {short:.2f} to {long:.2f}; it falls "
        "at {falls:.0f} candidate counts and rises at {rises:.0f} ({last_short:.2f} to "
        "{last_long:.2f} at {last:.0f}) (simulated)"
    )
    best_falls = numbers["long"] < numbers["short"]
    return _verdict(best_falls and not rises, best_falls), words, numbers


def _attention_causes_it(evidence: Evidence) -> Judgement:
    count = best(evidence.rows(4)).num_candidates
    numbers = {
        "count": count,
        "share_short": 100 * _attention_share(evidence, 128),
        "share_long": 100 * _attention_share(evidence, 8192),
        "attention_short": evidence.overhead("qk pv", 4, 128, count),
        "attention_long": evidence.overhead("qk pv", 4, 8192, count),
        "linear": evidence.overhead("q k v up gate down", 4, 1024, count),
        "printed_short": _printed_overhead(evidence, 128),
        "printed_long": _printed_overhead(evidence, 8192),
    }
    words = (
        "attention is {share_short:.0f} % of a vanilla step at seq_len 128, {share_long:.0f} % at "
        "8192; {count:.0f} candidates make it {attention_short:.2f}x and {attention_long:.2f}x as "
        "long, the linear layers {linear:.2f}x (simulated). Table 6: 64 candidates, "
        "{printed_short:.2f}x and {printed_long:.2f}x (reported)"
    )
    rises = numbers["attention_long"] > numbers["attention_short"]
    return _verdict(rises and numbers["attention_long"] > numbers["linear"], rises), words, numbers


def _attention_share(evidence: Evidence, seq_len: int) -> float:
    whole = evidence.latency_s("q k v qk pv up gate down", 4, seq_len, 1)
    return evidence.latency_s("qk pv", 4, seq_len, 1) / whole


def _printed_overhead(evidence: Evidence, seq_len: int) -> float:
    """Of attention with 64 candidates at batch size 16: 64 times the work over the printed gain."""
    vanilla, medusa = (evidence.reproduction.cell(6, 16, seq_len, count) for count in (1, 64))
    return 64 * vanilla.printed.flops_per_s / medusa.printed.flops_per_s


def _post_processing_is_marginal(evidence: Evidence) -> Judgement:
    rows = [row for row in evidence.reproduction.divisions if row.table == 1]
    (block,) = (row for row in evidence.rows(1) if row.num_candidates == 64)
    gaps = [row.overhead - row.overhead_simulated for row in rows]
    numbers = {
        "block": block.overhead,
        "least": min(gaps),
        "most": max(gaps),
        "printed_low": min(row.overhead for row in rows),
        "printed_high": max(row.overhead for row in rows),
        "simulated_low": min(row.overhead_simulated for row in rows),
        "simulated_high": max(row.overhead_simulated for row in rows),
    }
    words = (
        "a step of 64 candidates costs {block:.2f} of a vanilla one in the paper's block, "
        "{simulated_low:.2f} to {simulated_high:.2f} with all layers and the heads (simulated), "
        "but {printed_low:.2f} to {printed_high:.2f} in whole models (table 1, re-divided): what "
        "no product explains is {least:.2f} to {most:.2f} of a vanilla step"
    )
    return _verdict(numbers["most"] <= _FLAT - 1, numbers["least"] <= _FLAT - 1), words, numbers


def _benefits_decrease(evidence: Evidence) -> Judgement:
    optima = {batch: best(evidence.rows(batch)) for batch in PAPER_BATCH_SIZES}
    last = {batch: evidence.rows(batch)[-1] for batch in PAPER_BATCH_SIZES}
    numbers = {f"best_{batch}": row.num_candidates for batch, row in optima.items()}
    numbers["past"] = sum(
        optima[batch].speedup > last[batch].speedup for batch in PAPER_BATCH_SIZES
    )
    numbers["batches"] = len(optima)
    words = (
        "the best count is {best_1:.0f}, {best_2:.0f}, {best_4:.0f}, {best_8:.0f}, {best_16:.0f}, "
        "{best_32:.0f}, {best_64:.0f} at batch sizes 1 to 64, and more costs speedup at "
        "{past:.0f} of {batches:.0f} (simulated)"
    )
    return _verdict(numbers["past"] == numbers["batches"]), words, numbers


def _batch_first_helps(evidence: Evidence) -> Judgement:
    first, second, last = (best(evidence.rows(batch)).speedup for batch in (1, 2, 32))
    rates = [
        evidence.reproduction.cell(8, batch, 1024, 16).printed.flops_per_s for batch in (1, 2, 32)
    ]
    numbers = {
        "rate_1": rates[0] / 1e12,
        "rate_2": rates[1] / 1e12,
        "rate_32": rates[2] / 1e12,
        "speedup_1": first,
        "speedup_2": second,
        "speedup_32": last,
    }
    words = (
        "at 16 candidates linear layers reach {rate_1:.0f}, {rate_2:.0f} and {rate_32:.0f} TFLOP/s "
        "at batch sizes 1, 2 and 32 (table 8, reported), but the speedup over vanilla decoding of "
        "the same batch only falls: {speedup_1:.2f}, {speedup_2:.2f}, {speedup_32:.2f} (simulated)"
    )
    rates_rise, falls_at_last = rates[1] > rates[0], last < second
    return (
        _verdict(rates_rise and second > first and falls_at_last, rates_rise and falls_at_last),
        words,
        numbers,
    )


CLAIMS = (
    Claim(
        "G",
        "the operators involving matrix multiplications ... are the primary sources of overhead",
        _matmuls_dominate,
    ),
    Claim(
        "G.1",
        "the datapoints of each operator in the prefill and decoding stages cluster at very "
        "similar positions across all GPUs and for various model sizes",
        _clusters,
    ),
    Claim(
        "G.1",
        "During the prefill phase, increasing the batch size changes the FLOP/s of the attention "
        "matrix multiplications ... but does not affect the Operational Intensity",
        _prefill_attention_over_batch,
    ),
    Claim(
        "G.1",
        "increasing the sequence length impacts both FLOP/s and Operational Intensity in the "
        "prefill phase",
        _prefill_attention_over_length,
    ),
    Claim(
        "G.1",
        "During the decoding phase, the attention matrix multiplications are significantly limited "
        "by memory bandwidth",
        _decode_attention_is_memory_bound,
    ),
    Claim(
        "G.1",
        "Despite an increase in FLOP/s with changes in batch size and sequence length, the "
        "Operational Intensity remains nearly unchanged",
        _decode_attention_intensity,
    ),
    Claim(
        "G.1",
        "This indicates suboptimal resource utilization in the self-attention mechanism",
        _attention_wastes,
    ),
    Claim(
        "G.1",
        "The linear layers in the prefill phase are mostly compute-bound",
        _prefill_linear_is_compute_bound,
    ),
    Claim(
        "G.1",
        "During the decoding phase, the datapoints of the linear layer form a line with the same "
        "slope as the GPU's memory bandwidth",
        _decode_linear_slope,
    ),
    Claim(
        "G.1",
        "the linear layers in the decoding stage are also bounded by memory bandwidth",
        _decode_linear_is_memory_bound,
    ),
    Claim(
        "G.1",
        "Increasing the batch size improves the achieved FLOP/s and Operational Intensity under "
        "memory bandwidth constraints",
        _decode_linear_over_batch,
    ),
    Claim(
        "G.1",
        "linear layers only process the new token and are independent of sequence length",
        _linear_ignores_length,
    ),
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
        _linear_ignores_length,
    ),
    Claim(
        "G.2",
        "As Medusa increases the number of candidate tokens with the increasing batch size, we "
        "observe a shift from a memory-bandwidth-bound region to a computation-bound region",
        _linear_shift,
    ),
    Claim(
        "G.3",
        "the acceleration rate can be approximated by a simple logarithmic function ... "
        "acc_rate = 0.477 log(num_candidate)",
        _log_law,
    ),
    Claim(
        "G.3",
        "We omit the latency of the post-processing steps including verification and acceptance "
        "for Medusa since they introduce marginal overhead",
        _post_processing_is_marginal,
    ),
    Claim(
        "G.3",
        "As the number of candidate tokens increases, both the acceleration rate and speedup "
        "initially show improvements",
        _initially_better,
    ),
    Claim("G.3", "However, beyond 64, the speedup starts to decline", _declines_beyond_64),
    Claim(
        "G.3",
        "This aligns with the experimental results in Figure 4(b)",
        _aligns_with_figure_4b,
    ),
    Claim(
        "G.3",
        "there is an optimal range for the numbers of candidate tokens where Medusa provides the "
        "most significant performance gains",
        _optimal_range,
    ),
    Claim(
        "G.3",
        "when the batch size exceeds 32, the speedup decreases and may even have a negative effect",
        _beyond_batch_32,
    ),
    Claim(
        "G.3",
        "This occurs because the linear layers shift from being memory-bandwidth-bound to "
        "computationally bound",
        _linear_causes_it,
    ),
    Claim(
        "G.3",
        "the optimal number of candidate tokens remains relatively consistent across different "
        "sequence lengths",
        _same_optimum_at_all_lengths,
    ),
    Claim(
        "G.3",
        "as the sequence length increases, the overall performance decreases",
        _longer_is_slower,
    ),
    Claim(
        "G.3",
        "This performance drop is primarily due to the overhead from attention matrix "
        "multiplication",
        _attention_causes_it,
    ),
    Claim(
        "G.3",
        "the linear layer computation remains constant since the computation of linear layers is "
        "independent of the sequence length",
        _linear_ignores_length,
    ),
    Claim(
        "G.3",
        "the optimal number of candidate tokens is key for model scaling with Medusa, as benefits "
        "decrease beyond a certain range",
        _benefits_decrease,
    ),
    Claim(
        "G.3",
        "Initially, increasing batch size improves performance through parallelism, but too large "
        "a batch size shifts linear layers from memory-bandwidth-bound to compute-bound, reducing "
        "speedup",
        _batch_first_helps,
    ),
    Claim(
        "G.3",
        "Longer sequences increase attention matrix multiplication overhead, lowering performance",
        _longer_is_slower,
    ),
)
