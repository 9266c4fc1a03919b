"""How long the products of one model take here, each alone: what simulation stands on.

The layers timed are the model's own, packed as they are, so that a simulated step and a generated
one differ by nothing but how products behave in company. Also: the rest of the model, with its
products left out, and what the products take within a step.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from medusa_bench.compare import StepLatency, step_costs
from medusa_bench.decode.filler import Filler
from medusa_bench.decode.model import DecoderModel
from medusa_bench.decode.packing import PackedLinear
from medusa_bench.dtypes import Dtype
from medusa_bench.latency import LatencyModel
from medusa_bench.methods import Block, Pass, medusa, vanilla
from medusa_bench.operators import Product
from medusa_bench.shapes import ModelShape

Clock = Callable[[], float]


class OperatorTimes:
    """Latencies of products by round; the median of the rounds, and their range."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._rounds: dict[Product, list[float]] = {}

    def add(self, product: Product, latency_s: float) -> None:
        """One round's latency of a product."""
        self._rounds.setdefault(product, []).append(latency_s)

    def step(self, passes: Sequence[Pass]) -> StepLatency:
        """All products of a step's passes together. Raises KeyError for one not timed."""
        latency_s = low_s = high_s = 0.0
        for pass_ in passes:
            for operator, times in pass_.operators:
                rounds = self._rounds[operator.product(pass_.shape, pass_.setting)]
                count = times * pass_.count
                latency_s += count * median(rounds)
                low_s += count * min(rounds)
                high_s += count * max(rounds)
        return StepLatency(latency_s, low_s, high_s)


class SweptProducts:
    """The products of a step by a latency model, such as this machine's operator sweep."""

    def __init__(self, latency: LatencyModel, dtype: Dtype) -> None:
        self.name = latency.name
        self._latency, self._dtype = latency, dtype

    def step(self, passes: Sequence[Pass]) -> StepLatency:
        """All products of a step's passes together."""
        costs = step_costs([passes], self._latency, self._dtype)
        return StepLatency(float(costs.latency_s[0]), float(costs.low_s[0]), float(costs.high_s[0]))


def verification(
    shape: ModelShape, num_candidates: int, batch_size: int, seq_len: int
) -> tuple[Pass, ...]:
    """One pass of the whole model over so many candidates of each sequence."""
    method = vanilla() if num_candidates == 1 else medusa(num_candidates)
    return method.step(shape, batch_size, seq_len, Block.FULL)


def step_products(passes: Iterable[Pass]) -> list[Product]:
    """The distinct products of passes, in order."""
    return list(
        dict.fromkeys(
            operator.product(pass_.shape, pass_.setting)
            for pass_ in passes
            for operator, _ in pass_.operators
        )
    )


def sync(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def time_products(
    times: OperatorTimes,
    model: DecoderModel,
    products: Sequence[Product],
    *,
    clock: Clock = time.perf_counter,
    min_calls: int = 4,
) -> None:
    """One round: every product once through all layers that hold such a weight, so that weights
    come from memory as in a step; products of activations over as many operands as layers."""
    linears = _linears(model)
    device, dtype = model.device, model.dtype
    for product in products:
        layers = linears.get((product.k, product.n), []) if product.batch == 1 else []
        rows = torch.randn(1, product.m, product.k, device=device, dtype=dtype)
        calls: list[Callable[[], Any]] = [partial(layer, rows) for layer in layers]
        if not calls:
            calls = [_activations_product(product, device, dtype) for _ in range(model.num_layers)]
        calls[0]()  # the first call of a shape chooses its kernel
        num_calls = max(min_calls, len(calls))
        sync(device)
        start_s = clock()
        for index in range(num_calls):
            calls[index % len(calls)]()
        sync(device)
        times.add(product, (clock() - start_s) / num_calls)


def _activations_product(
    product: Product, device: torch.device, dtype: torch.dtype
) -> Callable[[], Tensor]:
    left = torch.randn(product.batch, product.m, product.k, device=device, dtype=dtype)
    right = torch.randn(product.batch, product.k, product.n, device=device, dtype=dtype)
    return partial(torch.bmm, left, right)


def _linears(model: DecoderModel) -> dict[tuple[int, int], list[Any]]:
    """The model's linear layers by (in_features, out_features), first layer first."""
    found: dict[tuple[int, int], list[Any]] = {}
    for root in (model.backbone, model.lm_head):
        for module in root.modules():
            if isinstance(module, nn.Linear | PackedLinear):
                found.setdefault((module.in_features, module.out_features), []).append(module)
    return found


@dataclass(frozen=True, slots=True)
class InStep:
    """One whole pass, and what its products took within it."""

    pass_s: float
    products_s: float


@torch.inference_mode()
def time_in_step(
    model: DecoderModel,
    num_candidates: int,
    batch_size: int,
    seq_len: int,
    *,
    clock: Clock = time.perf_counter,
    steps: int = 2,
) -> InStep:
    """The medians of `steps` passes, every linear layer and attention call timed within."""
    spent_s = [0.0]

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            sync(model.device)
            start_s = clock()
            result = call(*args, **kwargs)
            sync(model.device)
            spent_s[-1] += clock() - start_s
            return result

        return run

    run_pass = _pass_over(model, num_candidates, batch_size, seq_len)
    passes_s = []
    with _products_through(model, timed):
        for _ in range(steps + 1):
            spent_s.append(0.0)
            passes_s.append(_timed(run_pass, model.device, clock))
    return InStep(median(passes_s[1:]), median(spent_s[2:]))


@torch.inference_mode()
def time_rest(
    model: DecoderModel,
    num_candidates: int,
    batch_size: int,
    seq_len: int,
    *,
    clock: Clock = time.perf_counter,
    steps: int = 5,
) -> float:
    """Seconds that a pass's norms, rotations, masks, cache writes and calls take, its products
    answered at once with what was laid ready. The median of `steps`."""
    ready: dict[tuple[int, ...], Tensor] = {}

    def answered(call: Callable[..., Any]) -> Callable[..., Any]:
        width = getattr(getattr(call, "__self__", None), "out_features", None)

        def run(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            shape = (*x.shape[:-1], width or x.shape[-1])
            if shape not in ready:
                ready[shape] = torch.zeros(shape, dtype=x.dtype, device=x.device)
            return ready[shape]

        return run

    run_pass = _pass_over(model, num_candidates, batch_size, seq_len)
    with _products_through(model, answered):
        samples_s = [_timed(run_pass, model.device, clock) for _ in range(steps + 1)]
    return median(samples_s[1:])


def _pass_over(
    model: DecoderModel, num_candidates: int, batch_size: int, seq_len: int
) -> Callable[[], Any]:
    """A pass over candidates after seq_len cached tokens, to be called again and again."""
    layout = Filler(num_candidates).layout.to(model.device)
    cache = model.new_cache(batch_size, seq_len + num_candidates)
    model.prefill(cache, [[0]] * batch_size)
    cache.lengths = [seq_len] * batch_size
    tokens = torch.zeros(batch_size, num_candidates, dtype=torch.long, device=model.device)
    return lambda: model.step(cache, tokens, layout)


def _timed(call: Callable[[], Any], device: torch.device, clock: Clock) -> float:
    sync(device)
    start_s = clock()
    call()
    sync(device)
    return clock() - start_s


@contextmanager
def _products_through(
    model: DecoderModel, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Every linear layer and attention call of the model goes through a wrapper meanwhile."""
    layers = [layer for same in _linears(model).values() for layer in same]
    functional: Any = nn.functional
    attention = functional.scaled_dot_product_attention
    for layer in layers:
        layer.forward = wrap(layer.forward)
    functional.scaled_dot_product_attention = wrap(attention)
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = attention
        for layer in layers:
            del layer.forward


class ModelTimes:
    """One model's products and the rest of it, timed alone over so many candidates.

    batch_size and seq_len are those of the steps to be simulated. `swept` takes the products from
    a latency model instead. What is not a product is timed in eager mode on a CPU alone: elsewhere
    it overlaps with the products, and simulation counts these only.
    """

    def __init__(
        self,
        model: DecoderModel,
        shape: ModelShape,
        batch_size: int,
        seq_len: int,
        *,
        swept: SweptProducts | None = None,
    ) -> None:
        self.model, self.shape = model, shape
        self.batch_size, self.seq_len = batch_size, seq_len
        self._timed = OperatorTimes(f"operators of {shape.name}, timed alone as they run here")
        self.products: SweptProducts | OperatorTimes = swept or self._timed
        self._rests_s: dict[int, list[float]] = {}
        self._in_step: dict[int, list[InStep]] = {}

    def time_round(self, counts: Iterable[int], *, clock: Clock = time.perf_counter) -> None:
        """One more round at each number of candidates."""
        where = (self.batch_size, self.seq_len)
        counts = list(counts)
        if self.products is self._timed:
            passes = [one for count in counts for one in verification(self.shape, count, *where)]
            time_products(self._timed, self.model, step_products(passes), clock=clock)
        if self.model.compiled or self.model.device.type != "cpu":
            return
        for count in counts:
            rest_s = time_rest(self.model, count, *where, clock=clock)
            self._rests_s.setdefault(count, []).append(rest_s)
            in_step = time_in_step(self.model, count, *where, clock=clock)
            self._in_step.setdefault(count, []).append(in_step)

    def products_s(self, num_candidates: int) -> StepLatency:
        """The products of a pass over so many candidates, each timed alone."""
        where = (self.batch_size, self.seq_len)
        return self.products.step(verification(self.shape, num_candidates, *where))

    def rest_s(self, num_candidates: int) -> float:
        """The rest of such a pass; 0 where it could not be timed."""
        return median(self._rests_s.get(num_candidates, [0.0]))

    def products_share(self, num_candidates: int) -> float | None:
        """The share of a pass that its products take within it."""
        known = self._in_step.get(num_candidates)
        return median(one.products_s / one.pass_s for one in known) if known else None

    def simulated(self, num_candidates: int) -> StepLatency:
        """A pass: its products, and the rest."""
        products, rest_s = self.products_s(num_candidates), self.rest_s(num_candidates)
        return StepLatency(
            products.latency_s + rest_s, products.low_s + rest_s, products.high_s + rest_s
        )

    def at(self, num_candidates: int) -> StepLatency | None:
        """`simulated`, or None for a number of candidates that was not timed."""
        try:
            return self.simulated(num_candidates)
        except KeyError:
            return None
