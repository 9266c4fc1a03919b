"""Methods x latency x acceptance -> comparisons: where does parallel decoding pay?

Knows no GPU and draws nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medusa_bench.compare.acceptance import AcceptanceModel, lock_step_rate
from medusa_bench.compare.comparisons import Comparison, StepLatency
from medusa_bench.compare.methods import Block, Method, Pass, vanilla
from medusa_bench.predict.latency import LatencyModel
from medusa_bench.results.rows import Provenance
from medusa_bench.specs.columns import FloatArray, Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import ModelShape
from medusa_bench.specs.operators import symbols


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
