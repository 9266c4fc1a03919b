"""How long one model's operators take here without the rest of it, and the rest: what simulation
stands on.

The calls timed are the model's own linear layers, packed as they are, and its own attention, so
that a simulated step and a generated one differ by nothing but the company operators are in.
"""

import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from medusa_bench.compare.methods import medusa, vanilla
from medusa_bench.compare.passes import Block, Pass
from medusa_bench.compare.simulation import step_costs
from medusa_bench.decode.engine.cache import SlabCache
from medusa_bench.decode.engine.clock import Clock, now_s
from medusa_bench.decode.engine.model import DecoderModel
from medusa_bench.decode.engine.packing import PackedLinear
from medusa_bench.decode.study.arbitrary_tokens import star
from medusa_bench.predict.latency import LatencyModel
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.latency import Latency
from medusa_bench.specs.shapes import ModelShape

Call = Callable[[], Any]


class SweptProducts:
    """The products of a step by a latency model, such as this machine's operator sweep."""

    def __init__(self, latency: LatencyModel, dtype: Dtype) -> None:
        self.name = latency.name
        self._latency, self._dtype = latency, dtype

    def step(self, passes: Sequence[Pass]) -> Latency:
        """All products of a step's passes together."""
        costs = step_costs([passes], self._latency, self._dtype)
        return costs[0]


def verification(
    shape: ModelShape, num_candidates: int, batch_size: int, seq_len: int
) -> tuple[Pass, ...]:
    """One pass of the whole model over so many candidates of each sequence."""
    method = vanilla() if num_candidates == 1 else medusa(num_candidates)
    return method.step(shape, batch_size, seq_len, Block.FULL)


class PassTimer:
    """Times one pass over num_candidates tokens of each sequence, after seq_len that `cache` holds.

    `clock` is injected by tests.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: DecoderModel,
        cache: SlabCache,
        num_candidates: int,
        seq_len: int,
        *,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.model = model
        self._now_s = partial(now_s, model.device, clock)
        layout = star(num_candidates).to(model.device)
        batch_size = len(cache.lengths)
        shape = (batch_size, num_candidates)
        tokens = torch.zeros(shape, dtype=torch.long, device=model.device)

        def run() -> None:
            cache.lengths = [seq_len] * batch_size
            model.step(cache, tokens, layout)

        self._run: Call = run

    @torch.inference_mode()
    def operators(self) -> list[Call]:
        """The linear layers and attention calls of the pass, each with what it was given.

        They stand in the order of the pass, in which weights come from memory as in a step: run
        by kind, the small ones of all layers would stay in the cache.
        """
        found: list[Call] = []

        def noted(call: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                found.append(partial(call, *args, **kwargs))
                return call(*args, **kwargs)

            return run

        with self.model.eagerly(), self._through(noted):
            self._run()
        return found

    @torch.inference_mode()
    def time(self, calls: Sequence[Call]) -> float:
        """Seconds of these calls, one after the other with nothing between."""
        start_s = self._now_s()
        for call in calls:
            call()
        return self._now_s() - start_s

    @torch.inference_mode()
    def within(self) -> "WithinPass":
        """A whole pass, every operator timed within it."""
        operators_s = 0.0

        def timed(call: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                nonlocal operators_s
                start_s = self._now_s()
                result = call(*args, **kwargs)
                operators_s += self._now_s() - start_s
                return result

            return run

        with self._through(timed):
            pass_s = self.time([self._run])
        return WithinPass(pass_s, operators_s)

    @contextmanager
    def _through(self, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
        """Every linear layer and attention call goes through a wrapper meanwhile."""
        layers = [
            module
            for root in (self.model.backbone, self.model.lm_head)
            for module in root.modules()
            if isinstance(module, nn.Linear | PackedLinear)
        ]
        eager = self.model.attention == "eager"
        home: Any = torch if eager else nn.functional
        name = "matmul" if eager else "scaled_dot_product_attention"
        attention = getattr(home, name)
        for layer in layers:
            layer.forward = wrap(layer.forward)  # type: ignore[method-assign]
        setattr(home, name, wrap(attention))
        try:
            yield
        finally:
            setattr(home, name, attention)
            for layer in layers:
                del layer.forward


@dataclass(frozen=True, slots=True)
class WithinPass:
    """One whole pass, and what its operators took within it."""

    pass_s: float
    operators_s: float

    @property
    def rest_s(self) -> float:
        """Norms, rotations, masks, cache writes, and Python."""
        return self.pass_s - self.operators_s


class ModelTimes:
    """One model's operators alone, and the rest of it, over each of some numbers of candidates.

    batch_size and seq_len are those of the steps to be simulated. `swept` takes the operators from
    a latency model instead. The rest is timed in eager mode on a CPU alone: elsewhere it overlaps
    with the operators, and simulation counts these only. `clock` is injected by tests.
    """

    def __init__(
        self,
        model: DecoderModel,
        shape: ModelShape,
        counts: Collection[int],
        batch_size: int,
        seq_len: int,
        *,
        swept: SweptProducts | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.shape, self.batch_size, self.seq_len = shape, batch_size, seq_len
        self.name = swept.name if swept else f"operators of {shape.name}, timed as they run here"
        self._swept = swept
        self._has_rest = not model.compiled and model.device.type == "cpu"
        cache = model.new_cache(batch_size, seq_len + max(counts))
        model.prefill(cache, [[0]] * batch_size)
        self._timers = {
            count: PassTimer(model, cache, count, seq_len, clock=clock) for count in sorted(counts)
        }
        # Calls hold what they were given; a GPU's memory has no room for that of every count.
        self._keeps_operators = model.device.type == "cpu"
        self._operators: dict[int, list[Call]] = {}
        self._alone_s: dict[int, list[float]] = {}
        self._within: dict[int, list[WithinPass]] = {}

    @property
    def counts(self) -> list[int]:
        """The numbers of candidates, ascending."""
        return list(self._timers)

    def time_round(self, dice: random.Random) -> None:
        """Every number of candidates once more, in an order that `dice` chooses; the first, which
        the others are set against, three times."""
        turns = [*self.counts, *2 * self.counts[:1]]
        for count in dice.sample(turns, len(turns)):
            timer = self._timers[count]
            if self._swept is None:
                calls = self._operators.get(count) or timer.operators()
                if self._keeps_operators:
                    self._operators[count] = calls
                self._alone_s.setdefault(count, []).append(timer.time(calls))
            if self._has_rest:
                self._within.setdefault(count, []).append(timer.within())

    def operators_s(self, num_candidates: int) -> Latency:
        """The operators of a pass over so many candidates, without the rest of it.

        Raises KeyError for a number that was not timed.
        """
        if self._swept is not None:
            where = (num_candidates, self.batch_size, self.seq_len)
            return self._swept.step(verification(self.shape, *where))
        return _median(self._alone_s[num_candidates])

    def rest_s(self, num_candidates: int) -> Latency:
        """The rest of such a pass; 0 where it cannot be timed. Raises KeyError as `operators_s`."""
        if not self._within:
            return Latency.exact(0.0)
        return _median([one.rest_s for one in self._within[num_candidates]])

    def operators_share(self, num_candidates: int) -> float | None:
        """The share of a pass that its operators take within it."""
        known = self._within.get(num_candidates)
        return median(one.operators_s / one.pass_s for one in known) if known else None

    def simulated(self, num_candidates: int) -> Latency:
        """A pass: its operators, and the rest. Raises KeyError as `operators_s` does."""
        operators, rest = self.operators_s(num_candidates), self.rest_s(num_candidates)
        return Latency(
            operators.latency_s + rest.latency_s,
            operators.low_s + rest.low_s,
            operators.high_s + rest.high_s,
        )

    def mean(self, turns: Mapping[int, int]) -> Latency | None:
        """Of passes over so many candidates so often; None where one was not timed."""
        try:
            steps = [(self.simulated(count), often) for count, often in turns.items()]
        except KeyError:
            return None
        total = sum(turns.values())
        return Latency(
            sum(step.latency_s * often for step, often in steps) / total,
            sum(step.low_s * often for step, often in steps) / total,
            sum(step.high_s * often for step, often in steps) / total,
        )


_PARTS = 3


def _median(samples_s: Sequence[float]) -> Latency:
    """The median, between the least and greatest median of a third of the time: a machine that
    others share is slower for minutes, and says so."""
    size = math.ceil(len(samples_s) / _PARTS)
    parts_s = [median(samples_s[at : at + size]) for at in range(0, len(samples_s), size)]
    latency_s = median(samples_s)
    return Latency(latency_s, min(latency_s, *parts_s), max(latency_s, *parts_s))
