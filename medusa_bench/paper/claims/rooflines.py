"""Appendix G and G.1: where prefill and decoding stand under the roofs."""

import numpy as np

from medusa_bench.paper.claims.evidence import (
    FLAT,
    GROUPS,
    LINEAR,
    SIMILAR,
    Claim,
    ClaimVerdict,
    Evidence,
    Judgement,
    slope,
    spread,
    verdict_of,
)
from medusa_bench.specs import models
from medusa_bench.specs.columns import FloatArray
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import select
from medusa_bench.specs.paper_grid import (
    PAPER_GPUS,
    PAPER_MODELS,
    PAPER_SEQ_LENS,
    SIMULATED_MODEL,
)
from medusa_bench.specs.settings import Phase, Setting


def _matmuls_dominate(evidence: Evidence) -> Judgement:
    words = "no latency of any other operator is printed or modelled"
    return ClaimVerdict.NOT_TESTED, words, {}


def _clusters(evidence: Evidence) -> Judgement:
    intensities, rates, fractions = [], [], []
    for operator in GROUPS:
        for phase in (Phase.PREFILL, Phase.DECODE):
            mean = {
                (gpu, model): [
                    float(np.exp(np.log(column).mean()))
                    for column in _common(evidence, operator, phase, gpu, model)
                ]
                for gpu in PAPER_GPUS
                for model in PAPER_MODELS
            }
            intensities.append(spread(each[0] for each in mean.values()))
            rates.append(spread(each[1] for each in mean.values()))
            fractions.append(spread(each[2] for each in mean.values()))
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
    similar = numbers["intensity"] <= SIMILAR
    return verdict_of(similar and numbers["flops_per_s"] <= SIMILAR, similar), words, numbers


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
        "intensity": max(spread(mine.operational_intensity[path]) for path in paths),
        "flops_per_s": max(spread(mine.flops_per_s[path]) for path in paths),
    }
    words = (
        "at a fixed seq_len FLOP/s change up to {flops_per_s:.1f}x, the intensity {intensity:.2f}x "
        "(predicted; intensity computed)"
    )
    reproduced = numbers["intensity"] == 1 and numbers["flops_per_s"] > FLAT
    return verdict_of(reproduced), words, numbers


def _prefill_attention_over_length(evidence: Evidence) -> Judgement:
    mine = evidence.predicted("qk", Phase.PREFILL)
    paths = mine.along("seq_len")
    numbers = {
        "intensity": min(spread(mine.operational_intensity[path]) for path in paths),
        "flops_per_s": min(spread(mine.flops_per_s[path]) for path in paths),
    }
    words = (
        "at a fixed batch size the intensity changes by {intensity:.1f}x at least, FLOP/s by "
        "{flops_per_s:.1f}x (predicted; intensity computed)"
    )
    return verdict_of(min(numbers.values()) > FLAT), words, numbers


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
    return verdict_of(below and not numbers["launch_bound"], below), words, numbers


def _decode_attention_intensity(evidence: Evidence) -> Judgement:
    mine = evidence.predicted("qk", Phase.DECODE)
    numbers = {
        "intensity": spread(mine.operational_intensity),
        "flops_per_s": spread(mine.flops_per_s),
    }
    words = (
        "over the 49 settings FLOP/s rise {flops_per_s:.0f}x (predicted), the intensity "
        "{intensity:.3f}x (computed)"
    )
    reproduced = numbers["intensity"] <= FLAT < numbers["flops_per_s"]
    return verdict_of(reproduced), words, numbers


def _attention_wastes(evidence: Evidence) -> Judgement:
    mine = evidence.predicted("qk", Phase.DECODE)
    peak = evidence.profile.peak(Dtype.FLOAT16)
    numbers = {"share": 100 * mine.flops_per_s.max() / peak}
    words = "decode attention reaches {share:.2f} % of the peak FLOP/s at most (predicted)"
    return verdict_of(numbers["share"] < 10), words, numbers


def _prefill_linear_is_compute_bound(evidence: Evidence) -> Judgement:
    each = [evidence.predicted(name, Phase.PREFILL) for name in LINEAR]
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
    return verdict_of(mostly), words, numbers


def _decode_linear_slope(evidence: Evidence) -> Judgement:
    column = [cell for cell in evidence.reproduction.table(8) if cell.setting.num_candidates == 1]
    numbers = {"printed": slope(column)}
    for name in ("q", "up"):
        mine = evidence.predicted(name, Phase.DECODE)
        logs = np.log(mine.operational_intensity), np.log(mine.flops_per_s)
        numbers[name] = float(np.polyfit(*logs, 1)[0])
    words = (
        "slope of FLOP/s over intensity: {printed:.3f} in table 8's column of 1 candidate "
        "(reported), {up:.3f} up and {q:.3f} q of Llama-7B (predicted); 1 is the memory roof's"
    )
    return verdict_of(all(0.9 <= slope <= 1.1 for slope in numbers.values())), words, numbers


def _decode_linear_is_memory_bound(evidence: Evidence) -> Judgement:
    each = [evidence.predicted(name, Phase.DECODE) for name in LINEAR]
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
    return verdict_of(below and not numbers["launch_bound"], below), words, numbers


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
    return verdict_of(rising and numbers["roof"] <= 100), words, numbers


def linear_ignores_length(evidence: Evidence) -> Judgement:
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
    return verdict_of(numbers["operators"] == numbers["distinct"]), words, numbers


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
        linear_ignores_length,
    ),
)
