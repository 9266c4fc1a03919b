"""Methods x latency x acceptance -> comparisons: where does parallel decoding pay?

Knows no GPU and draws nothing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.compare.acceptance import AcceptanceModel, first_accepted, lock_step_rate
from medusa_bench.compare.comparisons import Comparison
from medusa_bench.compare.methods import vanilla
from medusa_bench.compare.passes import Block, Method, Pass, all_reduced
from medusa_bench.compare.serving import NO_ENGINE, Costs, EngineCost, Known, Steps, drafting_share
from medusa_bench.predict import operator_costs, quantised
from medusa_bench.predict.allreduce import SPREAD, AllReduce
from medusa_bench.predict.latency import LatencyModel, Predictions
from medusa_bench.results.rows import Provenance
from medusa_bench.specs.columns import FloatArray, Latencies, Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import symbols
from medusa_bench.specs.schemes import Scheme
from medusa_bench.specs.shapes import ModelShape


@dataclass(frozen=True, slots=True)
class Variant:
    """A method with the acceptance that goes with it.

    acceptance_half_width: of the 90 % interval of ln(tokens a step), where that is an estimate.
    unfit: why it cannot be run for this model or served, in words.
    """

    method: Method
    acceptance: AcceptanceModel
    acceptance_half_width: float = 0.0
    unfit: str = ""

    @property
    def drafting(self) -> float:
        """The share of sequences that draft in a step: a lookup finds not always something."""
        method = self.method
        if not method.looks_up or method.num_candidates < 2:
            return 1.0
        if method.drafting_share is not None:
            return method.drafting_share
        return drafting_share(first_accepted(self.acceptance, method.num_candidates))


@dataclass(frozen=True, slots=True)
class StepCosts(Latencies):
    """Columns of shape (num_steps,): latencies of whole steps, what binds and where from."""

    bound_s: Mapping[str, FloatArray]  # the seconds that each of launch, memory, compute binds
    sources: list[frozenset[str]]


def step_costs(steps: Sequence[Sequence[Pass]], latency: LatencyModel, dtype: Dtype) -> StepCosts:
    """What each step costs: every distinct product of all of them is predicted once.

    Experts and latent attention are predicted as a whole where there are laws of them. A step's
    interval is the sum of its products' intervals: their errors come from one model and are taken
    to fall on the same side.
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
    whole: list[tuple[Predictions, FloatArray, NDArray[np.int64]]] = []
    formats: dict[Scheme | None, int] = {None: 0}
    for key, rows in groups.items():
        # Floats: exact to 2^53, and no product of absurd sizes overflows.
        index, batch_size, seq_len, query_len, count = np.array(rows, dtype=np.float64).T
        shape = kinds[key].shape
        size = symbols(shape, batch_size, seq_len, query_len)
        operators, cell = kinds[key].operators, index.astype(np.int64)
        by_law, replaced = operator_costs.of_pass(shape, operators, size, latency, dtype)
        whole += [(predicted, times * count, cell) for times, predicted in by_law]
        for operator, times in operators:
            if operator.name in replaced:
                continue
            sizes = operator.sizes(size)
            for scheme, share in operator.formats(shape):
                stored = formats.setdefault(scheme, len(formats))
                columns.append(np.stack(np.broadcast_arrays(*sizes, stored, index)[:5]))
                weights.append(times * share * count)
                cells.append(cell)
    products, where = _distinct(np.concatenate(columns, axis=1))
    predictions = quantised.predict_stored(
        latency, Products(*products[:4]), dtype, list(formats), products[4].astype(np.int64)
    )
    if whole:
        found = [predictions, *(each for each, *_ in whole)]
        order = np.arange(sum(map(len, found)))
        where = np.concatenate([where, order[len(predictions) :]])
        predictions = quantised.joined(found, order)
    weight = np.concatenate([*weights, *(each for _, each, _ in whole)])
    cell = np.concatenate([*cells, *(each for *_, each in whole)])

    def total(per_product: FloatArray) -> FloatArray:
        sums = np.bincount(cell, weights=weight * per_product[where], minlength=len(steps))
        return sums.astype(np.float64)

    bounds, bound_code = np.unique(predictions.bound, return_inverse=True)
    sources, source_code = np.unique(predictions.source, return_inverse=True)
    seen = np.zeros((len(steps), len(sources)), dtype=bool)
    seen[cell, source_code.reshape(-1)[where]] = True
    return StepCosts(
        total(predictions.latency_s),
        total(predictions.low_s),
        total(predictions.high_s),
        {
            str(bound): total(predictions.latency_s * (bound_code.reshape(-1) == code))
            for code, bound in enumerate(bounds)
        },
        [frozenset(map(str, sources[used])) for used in seen],
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


@dataclass(frozen=True, slots=True)
class _Passes:
    """Every forward pass of some steps once, and where each step's stand: columns over steps."""

    costs: StepCosts
    batch_size: FloatArray
    num_candidates: FloatArray
    layers: FloatArray
    decode: NDArray[np.int64]
    verify: NDArray[np.int64]
    draft: NDArray[np.int64]  # (steps, drafts)
    draft_layers: FloatArray
    draft_count: FloatArray  # 0 where a step has fewer drafts
    drafting: FloatArray

    def steps(self, pass_s: FloatArray) -> Steps:
        """The steps, of seconds of each pass."""
        return Steps(
            self.batch_size,
            self.num_candidates,
            self.layers,
            pass_s[self.decode],
            pass_s[self.verify],
            pass_s[self.draft],
            self.draft_layers,
            self.draft_count,
            self.drafting,
        )

    def bounds(self, step_s: FloatArray) -> list[str]:
        """The largest part of each step: launch, memory or compute of products, or the engine."""
        names = list(self.costs.bound_s)
        parts = [self._products(self.steps(each)) for each in self.costs.bound_s.values()]
        engine_s = step_s - self._products(self.steps(self.costs.latency_s))
        largest = np.stack([*parts, engine_s]).argmax(axis=0)
        return [[*names, "engine"][index] for index in largest]

    def _products(self, steps: Steps) -> FloatArray:
        return Costs.of(NO_ENGINE).step_latency_s(steps)

    def source(self, step: int) -> str:
        used = [self.verify[step], *self.draft[step][self.draft_count[step] > 0]]
        return " + ".join(sorted(frozenset().union(*(self.costs.sources[i] for i in used))))


def _passes(
    steps: Sequence[tuple[Variant, int, int]],
    target: ModelShape,
    latency: LatencyModel,
    dtype: Dtype,
    block: Block,
    *,
    served: bool,
    group: AllReduce | None = None,
) -> _Passes:
    """steps: a variant at a batch_size and seq_len, each. served: lookups draft in turns.

    group: the GPUs over which every pass is split.
    """
    index: dict[tuple[int, int, int, int, int], int] = {}
    passes: list[tuple[Pass]] = []

    def place(pass_: Pass) -> int:
        setting = pass_.setting
        key = (id(pass_.shape), id(pass_.operators))
        where = (*key, setting.batch_size, setting.seq_len, setting.query_len)
        if where not in index:
            index[where] = len(passes)
            passes.append((replace(pass_, count=1),))
        return index[where]

    rows = [variant.method.step(target, b, s, block) for variant, b, s in steps]
    depth = max(len(row) for row in rows) - 1 if rows else 0
    draft, draft_layers, draft_count = np.zeros((3, len(rows), depth))
    counted = target.num_layers if block is Block.PAPER else 1
    for step, (*drafts, _) in enumerate(rows):
        for position, pass_ in enumerate(drafts):
            draft[step, position] = place(pass_)
            draft_layers[step, position] = pass_.shape.num_layers / counted
            draft_count[step, position] = pass_.count
    baseline = vanilla()
    decode = [place(baseline.step(target, b, s, block)[0]) for _, b, s in steps]
    verify = [place(row[-1]) for row in rows]
    costs = step_costs(_split(passes, group), latency, dtype)
    if group:
        costs = _with_sums(costs, [each for (each,) in passes], group, dtype)
    return _Passes(
        costs,
        np.array([batch_size for _, batch_size, _ in steps], dtype=np.float64),
        np.array([variant.method.num_candidates for variant, *_ in steps], dtype=np.float64),
        np.full(len(steps), target.num_layers / counted),
        np.array(decode, dtype=np.int64),
        np.array(verify, dtype=np.int64),
        draft.astype(np.int64),
        draft_layers,
        draft_count,
        np.array([variant.drafting if served else 1.0 for variant, *_ in steps]),
    )


def _split(passes: Sequence[tuple[Pass]], group: AllReduce | None) -> list[tuple[Pass]]:
    """What one GPU of the group computes. Raises MedusaBenchError where a model does not divide."""
    if group is None:
        return list(passes)
    shapes: dict[int, ModelShape] = {}
    for (each,) in passes:
        if id(each.shape) not in shapes:
            try:
                shapes[id(each.shape)] = each.shape.split(group.num_gpus)
            except ValueError as error:
                raise MedusaBenchError(f"{error}.", hint="choose another --tp.") from None
    return [(replace(each, shape=shapes[id(each.shape)]),) for (each,) in passes]


def _with_sums(
    costs: StepCosts, passes: Sequence[Pass], group: AllReduce, dtype: Dtype
) -> StepCosts:
    """The same with what the group's GPUs take to sum their parts, pass by pass."""
    sums = [all_reduced(each.shape, each.setting, dtype) for each in passes]
    count, message_bytes = np.array(sums, dtype=np.float64).reshape(-1, 2).T
    sums_s = count * group.latency_s(message_bytes)
    width = math.exp(SPREAD)
    return replace(
        costs,
        latency_s=costs.latency_s + sums_s,
        low_s=costs.low_s + sums_s / width,
        high_s=costs.high_s + sums_s * width,
        bound_s={**costs.bound_s, "communication": sums_s},
    )


def product_steps(
    steps: Sequence[tuple[Variant, int, int]],
    target: ModelShape,
    latency: LatencyModel,
    dtype: Dtype,
    group: AllReduce | None = None,
) -> Steps:
    """The products of whole models' steps: a variant at a batch_size and seq_len, each."""
    passes = _passes(steps, target, latency, dtype, Block.FULL, served=True, group=group)
    return passes.steps(passes.costs.latency_s)


def simulate(
    variants: Sequence[Variant],
    target: ModelShape,
    latency: LatencyModel,
    dtype: Dtype,
    settings: Iterable[tuple[int, int]],
    *,
    engine: EngineCost = NO_ENGINE,
    block: Block = Block.PAPER,
    lock_step: bool = False,
    group: AllReduce | None = None,
) -> list[Comparison]:
    """One row for each setting (batch_size, seq_len) and variant, setting by setting.

    engine: what serving adds to the products. lock_step: all sequences of a batch advance by the
    shortest acceptance among them. group: the GPUs over which target and drafts are split. Raises
    MedusaBenchError where an acceptance model cannot tell, the latency model has no such dtype, or
    a model does not divide over the group.
    """
    steps = [(variant, *setting) for setting in settings for variant in variants]
    passes = _passes(
        steps, target, latency, dtype, block,
        served=engine.known is not Known.NO_ENGINE, group=group,
    )  # fmt: skip
    costs = Costs.of(engine, target.num_layers if block is Block.PAPER else 1)
    products = [passes.costs.latency_s, passes.costs.low_s, passes.costs.high_s]
    columns = [passes.steps(pass_s) for pass_s in products]
    vanilla_latencies = Latencies(*map(costs.vanilla_s, columns))
    step_latencies = Latencies(*map(costs.step_latency_s, columns))
    bounds = passes.bounds(step_latencies.latency_s)
    rates = _rates(variants, {batch_size for _, batch_size, _ in steps}, lock_step=lock_step)
    rows = []
    for index, (variant, batch_size, seq_len) in enumerate(steps):
        method, acceptance = variant.method, variant.acceptance
        step, base = step_latencies[index], vanilla_latencies[index]
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
                acceleration_rate=rates[id(variant), batch_size],
                latency_source=passes.source(index),
                acceptance_source=acceptance.name,
                source=Provenance.SIMULATED,
                draft=method.drafts[0].shape.name if method.drafts else "",
                draft_len=method.draft_len,
                block=block,
                bound=bounds[index],
                required_parameter_name=acceptance.parameter_name,
                required_parameter=acceptance.required_parameter(
                    method.num_candidates, step.latency_s / base.latency_s
                ),
                engine=engine.name,
                half_width=_half_width(engine, variant),
                interval_covers=_covers(engine, variant),
                unfit=variant.unfit,
            )
        )
    return rows


def _half_width(engine: EngineCost, variant: Variant) -> float | None:
    if engine.half_width is None:
        return None
    return math.hypot(engine.half_width, variant.acceptance_half_width)


def _covers(engine: EngineCost, variant: Variant) -> str:
    if engine.half_width is None:
        return "products"
    acceptance = ", acceptance" if variant.acceptance_half_width else ""
    return f"products, engine{acceptance}"


def _rates(
    variants: Sequence[Variant], batch_sizes: Iterable[int], *, lock_step: bool
) -> dict[tuple[int, int], float]:
    """Tokens a step of each variant (by id) at each batch size."""
    found = {}
    for variant in variants:
        count = variant.method.num_candidates
        for batch_size in batch_sizes:
            found[id(variant), batch_size] = (
                lock_step_rate(variant.acceptance, count, batch_size)
                if lock_step and count > 1
                else variant.acceptance.acceleration_rate(count)
            )
    return found
