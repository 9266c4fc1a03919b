"""Methods x latency x acceptance -> Comparison: where does parallel decoding pay?

Knows no GPU and draws nothing. A simulated row and a generated one are the same record.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medusa_bench.compare.acceptance import AcceptanceModel, lock_step_rate
from medusa_bench.compare.methods import Block, Method, Pass, vanilla
from medusa_bench.predict.cliffs import SMALLEST_STEP
from medusa_bench.predict.latency import LatencyModel
from medusa_bench.results.rows import Provenance
from medusa_bench.specs.columns import FloatArray, Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import ModelShape
from medusa_bench.specs.operators import symbols


class Outcome(StrEnum):
    """Whether a method pays, given the interval of its speedup."""

    PAYS = "pays"
    UNCERTAIN = "uncertain"
    LOSES = "loses"
    EVEN = "even"  # it is vanilla decoding


@dataclass(frozen=True, slots=True)
class StepLatency:
    """Seconds of one decoding step, with their interval (equal ends: none is known).

    90 % where they are predicted; the range of repetitions where they were timed.
    """

    latency_s: float
    low_s: float
    high_s: float


def speedup_interval(
    step: StepLatency, vanilla: StepLatency, acceleration_rate: float
) -> tuple[float, float]:
    """acceleration_rate / (step / vanilla) at the ends of the latencies' intervals.

    Their errors are taken as independent of each other; products that share one model are not, so
    this is rather too wide than too narrow.
    """
    speedup = acceleration_rate / (step.latency_s / vanilla.latency_s)
    if step == vanilla:
        return speedup, speedup
    slower = math.hypot(
        math.log(step.high_s / step.latency_s), math.log(vanilla.latency_s / vanilla.low_s)
    )
    faster = math.hypot(
        math.log(step.latency_s / step.low_s), math.log(vanilla.high_s / vanilla.latency_s)
    )
    return speedup * math.exp(-slower), speedup * math.exp(faster)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One method in one setting beside vanilla decoding in the same setting.

    speedup = acceleration_rate / overhead, always. The interval is that of the latencies; an
    acceptance model carries none.
    """

    method: str
    model: str
    device: str
    dtype: Dtype
    batch_size: int
    seq_len: int
    num_candidates: int  # tokens each sequence verifies in a step, the root included
    step: StepLatency
    vanilla: StepLatency
    acceleration_rate: float  # tokens of one sequence per step
    latency_source: str
    acceptance_source: str
    source: Provenance
    draft: str = ""  # the drafting model
    draft_len: int | None = None
    block: Block | None = None  # what a simulated step counts
    bound: str = ""  # the largest part of the step: launch, memory or compute
    required_parameter_name: str = ""
    required_parameter: float | None = None  # of the acceptance model, to break even here
    lossless: bool = True

    @property
    def overhead(self) -> float:
        """Step latency over vanilla step latency; the acceleration rate needed to break even."""
        return self.step.latency_s / self.vanilla.latency_s

    @property
    def speedup(self) -> float:
        return self.acceleration_rate / self.overhead

    @property
    def speedup_interval(self) -> tuple[float, float]:
        """From the intervals of both latencies: 90 % where theirs are."""
        return speedup_interval(self.step, self.vanilla, self.acceleration_rate)

    @property
    def outcome(self) -> Outcome:
        if self.step == self.vanilla and self.acceleration_rate == 1:
            return Outcome.EVEN
        low, high = self.speedup_interval
        if low > 1:
            return Outcome.PAYS
        return Outcome.LOSES if high <= 1 else Outcome.UNCERTAIN

    @property
    def tokens_per_s(self) -> float | None:
        """Of the whole batch, sequences advancing each at its own pace (or as the acceleration
        rate says in lock-step). None where the step is not a whole model's."""
        if self.block is Block.PAPER:
            return None
        return self.batch_size * self.acceleration_rate / self.step.latency_s

    def as_dict(self) -> dict[str, Any]:
        """Every field and derived value, for JSON."""
        low, high = self.speedup_interval
        return {
            "source": self.source,
            "method": self.method,
            "model": self.model,
            "draft": self.draft or None,
            "device": self.device,
            "dtype": self.dtype,
            "block": self.block,
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "num_candidates": self.num_candidates,
            "draft_len": self.draft_len,
            "step_latency_s": self.step.latency_s,
            "step_latency_low_s": self.step.low_s,
            "step_latency_high_s": self.step.high_s,
            "vanilla_latency_s": self.vanilla.latency_s,
            "vanilla_latency_low_s": self.vanilla.low_s,
            "vanilla_latency_high_s": self.vanilla.high_s,
            "overhead": self.overhead,
            "acceleration_rate": self.acceleration_rate,
            "speedup": self.speedup,
            "speedup_low": low,
            "speedup_high": high,
            "outcome": self.outcome,
            "tokens_per_s": self.tokens_per_s,
            "required_acceleration_rate": self.overhead,
            "required_parameter_name": self.required_parameter_name or None,
            "required_parameter": self.required_parameter,
            "bound": self.bound or None,
            "lossless": self.lossless,
            "latency_source": self.latency_source,
            "acceptance_source": self.acceptance_source,
        }


@dataclass(frozen=True, slots=True)
class Generation:
    """What decoding text with one method gave, prefill left out of tokens, steps and time.

    num_sequence_steps: steps summed over the sequences that took part in each, so that tokens
    over it is the acceleration rate however unevenly a batch advances. num_tokens stops at each
    sequence's end token.
    """

    method: str
    model: str
    device: str
    dtype: Dtype
    batch_size: int
    seq_len: int  # cached tokens, on average over the steps
    num_candidates: int
    num_tokens: int
    num_steps: int
    num_sequence_steps: int
    decode_s: float
    latency_source: str  # how and on what it was timed
    acceptance_source: str  # which text
    draft: str = ""
    draft_len: int | None = None
    lossless: bool = True

    @property
    def step_latency_s(self) -> float:
        return self.decode_s / self.num_steps

    @property
    def acceleration_rate(self) -> float:
        return self.num_tokens / self.num_sequence_steps


def compare_generation(
    generation: Generation, baseline: Generation, *, step_spread_s: float = 0.0
) -> Comparison:
    """A generated row: the same record as a simulated one, beside vanilla decoding of the same
    prompts. step_spread_s: half the spread of the step latency between repetitions."""
    step_s, vanilla_s = generation.step_latency_s, baseline.step_latency_s
    return Comparison(
        method=generation.method,
        model=generation.model,
        device=generation.device,
        dtype=generation.dtype,
        batch_size=generation.batch_size,
        seq_len=generation.seq_len,
        num_candidates=generation.num_candidates,
        step=StepLatency(step_s, step_s - step_spread_s, step_s + step_spread_s),
        vanilla=StepLatency(vanilla_s, vanilla_s, vanilla_s),
        acceleration_rate=generation.acceleration_rate,
        latency_source=generation.latency_source,
        acceptance_source=generation.acceptance_source,
        source=Provenance.GENERATED,
        draft=generation.draft,
        draft_len=generation.draft_len,
        lossless=generation.lossless,
    )


# --- simulation -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contender:
    """A method with the acceptance that goes with it."""

    method: Method
    acceptance: AcceptanceModel


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Columns of shape (num_steps,): latencies of whole steps, what binds and where from."""

    latency_s: FloatArray
    low_s: FloatArray
    high_s: FloatArray
    bound: list[str]
    source: list[str]


def step_costs(steps: Sequence[Sequence[Pass]], latency: LatencyModel, dtype: Dtype) -> StepCosts:
    """What each step costs: every distinct product of all of them is predicted once.

    A step's interval is the sum of its products' intervals: their errors come from one model and
    are taken to fall on the same side.
    """
    groups: dict[tuple[int, int], list[tuple[int, int, int, int, int]]] = {}
    kinds: dict[tuple[int, int], Pass] = {}
    for index, step in enumerate(steps):
        for pass_ in step:
            key = (id(pass_.shape), id(pass_.operators))
            setting = pass_.setting
            kinds[key] = pass_
            groups.setdefault(key, []).append(
                (index, setting.batch_size, setting.seq_len, setting.query_len, pass_.count)
            )
    columns, weights, cells = [], [], []
    for key, rows in groups.items():
        # Floats: exact to 2^53, and no product of absurd sizes overflows.
        index, batch_size, seq_len, query_len, count = np.array(rows, dtype=np.float64).T
        size = symbols(kinds[key].shape, batch_size, seq_len, query_len)
        for operator, times in kinds[key].operators:
            columns.append(np.stack(np.broadcast_arrays(*operator.sizes(size), index)[:4]))
            weights.append(times * count)
            cells.append(index.astype(np.int64))
    products, where = _distinct(np.concatenate(columns, axis=1))
    weight, cell = np.concatenate(weights), np.concatenate(cells)
    predictions = latency.predict(Products(*products), dtype)

    def total(per_product: FloatArray) -> FloatArray:
        sums = np.bincount(cell, weights=weight * per_product[where], minlength=len(steps))
        return sums.astype(np.float64)

    bounds, bound_code = np.unique(predictions.bound, return_inverse=True)
    shares = np.stack(
        [
            total(predictions.latency_s * (bound_code.reshape(-1) == code))
            for code in range(len(bounds))
        ]
    )
    sources, source_code = np.unique(predictions.source, return_inverse=True)
    seen = np.zeros((len(sources), len(steps)), dtype=bool)
    seen[source_code.reshape(-1)[where], cell] = True
    names = {
        pattern: " + ".join(sources[list(pattern)])
        for pattern in {tuple(column) for column in seen.T.tolist()}
    }
    return StepCosts(
        total(predictions.latency_s),
        total(predictions.low_s),
        total(predictions.high_s),
        [str(bounds[code]) for code in shares.argmax(axis=0)],
        [names[tuple(column)] for column in seen.T.tolist()],
    )


def _distinct(columns: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """The distinct columns, and which of them each column is. np.unique(axis=1), but quick."""
    order = np.lexsort(columns)
    ranked = columns[:, order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (ranked[:, 1:] != ranked[:, :-1]).any(axis=0)
    where = np.empty(len(order), dtype=np.int64)
    where[order] = np.cumsum(first) - 1
    return ranked[:, first], where


def simulate(
    contenders: Sequence[Contender],
    target: ModelShape,
    latency: LatencyModel,
    dtype: Dtype,
    settings: Iterable[tuple[int, int]],
    *,
    block: Block = Block.PAPER,
    lock_step: bool = False,
) -> list[Comparison]:
    """One row for each setting (batch_size, seq_len) and contender, setting by setting.

    lock_step: all sequences of a batch advance by the shortest acceptance among them. Raises
    MedusaBenchError where an acceptance model cannot tell, or the latency model has no such dtype.
    """
    settings = list(settings)
    baseline = vanilla()
    steps = [
        contender_step
        for batch_size, seq_len in settings
        for contender_step in (
            baseline.step(target, batch_size, seq_len, block),
            *(c.method.step(target, batch_size, seq_len, block) for c in contenders),
        )
    ]
    costs = step_costs(steps, latency, dtype)
    rates = {
        (index, batch_size): lock_step_rate(
            contender.acceptance, contender.method.num_candidates, batch_size
        )
        if lock_step and contender.method.num_candidates > 1
        else contender.acceptance.acceleration_rate(contender.method.num_candidates)
        for index, contender in enumerate(contenders)
        for batch_size in ({b for b, _ in settings} if lock_step else {0})
    }
    rows = []
    position = 0
    for batch_size, seq_len in settings:
        base = _step_latency(costs, position, 0.0)
        for index, contender in enumerate(contenders):
            position += 1
            method, acceptance = contender.method, contender.acceptance
            step = _step_latency(costs, position, method.host_s)
            rows.append(
                Comparison(
                    method=method.name,
                    model=target.name,
                    device=latency.device,
                    dtype=dtype,
                    batch_size=batch_size,
                    seq_len=seq_len,
                    num_candidates=method.num_candidates,
                    step=step,
                    vanilla=base,
                    acceleration_rate=rates[index, batch_size if lock_step else 0],
                    latency_source=costs.source[position],
                    acceptance_source=acceptance.name,
                    source=Provenance.SIMULATED,
                    draft=method.drafts[0].shape.name if method.drafts else "",
                    draft_len=method.draft_len,
                    block=block,
                    bound=costs.bound[position],
                    required_parameter_name=acceptance.parameter_name,
                    required_parameter=acceptance.required_parameter(
                        method.num_candidates, step.latency_s / base.latency_s
                    ),
                )
            )
        position += 1
    return rows


def _step_latency(costs: StepCosts, index: int, host_s: float) -> StepLatency:
    return StepLatency(
        float(costs.latency_s[index]) + host_s,
        float(costs.low_s[index]) + host_s,
        float(costs.high_s[index]) + host_s,
    )


# --- what the rows say ----------------------------------------------------------------------------


def best(rows: Iterable[Comparison]) -> Comparison:
    """The fastest row; among equals, the one with the fewest candidates."""
    return max(rows, key=lambda row: (row.speedup, -row.num_candidates))


def by_setting(rows: Iterable[Comparison]) -> dict[tuple[int, int], list[Comparison]]:
    """Rows by (batch_size, seq_len)."""
    groups: dict[tuple[int, int], list[Comparison]] = {}
    for row in rows:
        groups.setdefault((row.batch_size, row.seq_len), []).append(row)
    return groups


def cliffs(latency_by_candidates: Mapping[int, float]) -> list[int]:
    """Candidate counts after which the next costs a leap: 12 % or more, at twice the slope of the
    steps before and after it (so that growth in proportion is none). The count to use is at or
    below one of these.

    For a model's curve, on any grid of counts; cliffs.find tells steps from a measurement's noise.
    """
    curve = sorted(latency_by_candidates.items())
    slopes = [
        (there_s - here_s) / (following - count)
        for (count, here_s), (following, there_s) in pairwise(curve)
    ]
    return [
        curve[i][0]
        for i, slope in enumerate(slopes)
        if curve[i + 1][1] >= (1 + SMALLEST_STEP) * curve[i][1]
        and all(slope >= 2 * beside for beside in slopes[max(0, i - 1) : i] + slopes[i + 1 : i + 2])
        and len(slopes) > 1
    ]


@dataclass(frozen=True, slots=True)
class BreakEven:
    """How far a method pays at its best size, as the batch grows."""

    method: str
    seq_len: int
    last_paying_batch: int  # 0: it pays at no batch size
    tried_up_to: int

    @property
    def pays_throughout(self) -> bool:
        return self.last_paying_batch == self.tried_up_to


def break_even(
    contenders: Sequence[Contender],
    target: ModelShape,
    latency: LatencyModel,
    dtype: Dtype,
    rows: Sequence[Comparison],
    *,
    block: Block = Block.PAPER,
    lock_step: bool = False,
) -> list[BreakEven]:
    """For each method and seq_len of the rows: the batch size at which it stops paying.

    The rows' own batch sizes are looked through first; between the last that pays and the next,
    the whole-numbered batch is found by halving, so one crossing is taken to lie between them.
    """
    speedup: dict[tuple[str, int], dict[int, float]] = {}
    for row in rows:
        if row.num_candidates > 1:
            curve = speedup.setdefault((row.method, row.seq_len), {})
            curve[row.batch_size] = max(row.speedup, curve.get(row.batch_size, 0.0))
    pays, stops = {}, {}
    for key, curve in speedup.items():
        batch_sizes = sorted(curve)
        failing = next((b for b in batch_sizes if curve[b] <= 1), None)
        stops[key] = failing if failing is not None else batch_sizes[-1] + 1
        pays[key] = max((b for b in batch_sizes if b < stops[key]), default=0)
    while open_keys := [key for key in pays if stops[key] - pays[key] > 1 and pays[key]]:
        middle = {key: (pays[key] + stops[key]) // 2 for key in open_keys}
        tried = simulate(
            [c for c in contenders if c.method.num_candidates > 1],
            target,
            latency,
            dtype,
            sorted({(middle[key], key[1]) for key in open_keys}),
            block=block,
            lock_step=lock_step,
        )
        for key in open_keys:
            fastest = max(
                row.speedup
                for row in tried
                if (row.method, row.seq_len, row.batch_size) == (*key, middle[key])
            )
            (pays if fastest > 1 else stops)[key] = middle[key]
    return [BreakEven(*key, pays[key], max(speedup[key])) for key in speedup]


def cliffs_by_batch(rows: Iterable[Comparison]) -> dict[tuple[str, int, int], list[int]]:
    """The cliffs of every method's curve, by (method, batch_size, seq_len), where there are any."""
    curves: dict[tuple[str, str, int, int], dict[int, float]] = {}
    for row in rows:
        key = (row.method, row.draft, row.batch_size, row.seq_len)
        curves.setdefault(key, {})[row.num_candidates] = row.step.latency_s
    found: dict[tuple[str, int, int], list[int]] = {}
    for (method, _, batch_size, seq_len), curve in curves.items():
        if counts := cliffs(curve):
            found[method, batch_size, seq_len] = counts
    return found
