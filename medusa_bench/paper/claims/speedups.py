"""Appendix G.3: the acceleration rate, the speedup, and what lowers it."""

from medusa_bench.compare import acceptance
from medusa_bench.compare.comparisons import best
from medusa_bench.paper.claims.evidence import (
    FLAT,
    Claim,
    ClaimVerdict,
    Evidence,
    Judgement,
    verdict_of,
)
from medusa_bench.paper.claims.rooflines import linear_ignores_length
from medusa_bench.specs import models
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import select
from medusa_bench.specs.paper_grid import (
    PAPER_BATCH_SIZES,
    PAPER_SEQ_LENS,
    SIMULATED_MODEL,
)
from medusa_bench.specs.settings import Phase, Setting


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
    return verdict_of(numbers["printed"] <= 0.2, numbers["ours"] <= 0.2), words, numbers


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
    return verdict_of(rising), words, numbers


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
    return verdict_of(top.num_candidates == 64, 32 <= top.num_candidates <= 96), words, numbers


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
    return verdict_of(len(near) < len(rows)), words, numbers


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
    return verdict_of(negative and not falling_early, negative), words, numbers


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
    return verdict_of(crosses and numbers["share"] > 50), words, numbers


def _same_optimum_at_all_lengths(evidence: Evidence) -> Judgement:
    optima = [best(evidence.rows(4, seq_len)).num_candidates for seq_len in PAPER_SEQ_LENS]
    numbers = {"low": min(optima), "high": max(optima)}
    counts = "{low:.0f}" if min(optima) == max(optima) else "{low:.0f} to {high:.0f}"
    words = f"best at {counts} candidates at every seq_len from 128 to 8192 (simulated)"
    return verdict_of(max(optima) - min(optima) <= 16), words, numbers


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
    return verdict_of(best_falls and not rises, best_falls), words, numbers


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
    return (
        verdict_of(rises and numbers["attention_long"] > numbers["linear"], rises),
        words,
        numbers,
    )


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
    return verdict_of(numbers["most"] <= FLAT - 1, numbers["least"] <= FLAT - 1), words, numbers


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
    return verdict_of(numbers["past"] == numbers["batches"]), words, numbers


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
        verdict_of(rates_rise and second > first and falls_at_last, rates_rise and falls_at_last),
        words,
        numbers,
    )


CLAIMS = (
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
        linear_ignores_length,
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
