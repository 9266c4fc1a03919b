"""Takes tasks through one device, inside the worker. What is particular to a device is a Device."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch

from medusa_bench.measure import host, stopping
from medusa_bench.measure import kernels as products
from medusa_bench.measure.kernels import Call
from medusa_bench.measure.operands import Arena, OperandSet, Rotation, rhs_is_transposed
from medusa_bench.measure.stopping import StoppingRule, Timer
from medusa_bench.results.rows import (
    Environment,
    Measurement,
    QualityFlag,
    Roofs,
    Task,
    Telemetry,
    Timing,
)
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

MAX_TRIES = 3
COOL_DOWN_S = 2.0


@dataclass(slots=True)
class DeviceMonitor:
    """What a device noticed while a block of calls ran; filled when the block ends."""

    flags: tuple[QualityFlag, ...] = ()
    telemetry: Telemetry | None = None


class Device(Protocol):
    """What differs between devices: timers, the stop rule, what is watched, what is peak."""

    torch_device: torch.device
    rules: Mapping[Timing, StoppingRule]
    arena_bytes: int
    traffic_bytes: int  # one array of the copy, read and triad roofs
    roof_quantile: float  # of a roof's samples, which counts: 0 the fastest, 0.5 the median
    roof_budget_s: float  # for each product and kind of traffic
    load_s: float  # load before roofs are measured, so that clocks and heat are those of work

    @property
    def environment(self) -> Environment: ...

    def available_bytes(self) -> int | None: ...

    def use(self, dtype: Dtype) -> None:
        """Set matrix units up for a dtype. Raises MedusaBenchError where there are none."""
        ...

    def timer(self, call: Call, next_set: Callable[[], OperandSet], timing: Timing) -> Timer: ...

    def watch(self) -> AbstractContextManager[DeviceMonitor]: ...

    def peak_products(self, flops_per_s: float) -> Sequence[Product]:
        """Large and rectangular products of which the fastest is the compute roof."""
        ...


@dataclass(slots=True)
class Measurer:
    """Measures roofs and tasks on one device. Raises what goes wrong; the worker names it.

    clock times calls. steady_time dates rows and roofs, in seconds since 1970: it must never go
    back, or no row would lie between two looks at the roofs.
    """

    device: Device
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    steady_time: Callable[[], float] = field(default_factory=host.SteadyTime)
    _arena: Arena = field(init=False)
    _checked: dict[tuple[bool, bool, bool, Dtype], bool] = field(init=False, default_factory=dict)
    _best_products: dict[Dtype, Product] = field(init=False, default_factory=dict)
    _best_traffic: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        device = self.device
        self._arena = Arena(device.torch_device, device.arena_bytes, device.available_bytes)

    @property
    def environment(self) -> Environment:
        return self.device.environment

    @property
    def _device_type(self) -> str:
        return self.device.torch_device.type

    def ping(self) -> None:
        """Nothing: what the worker's pipe costs is measured with it."""

    def release(self) -> None:
        """Give memory back after a task that did not fit."""
        self._arena.release()

    def measure(self, task: Task, round_index: int, budget_s: float) -> Measurement:
        """One round of one task. A block in which the device throttled is run again."""
        started_at_s = self.steady_time()
        self.device.use(task.dtype)
        accurate = self._is_accurate(task)
        has_out = task.timing is Timing.KERNEL
        rotation = Rotation.of(self._arena, task.product, task.dtype, has_out=has_out)
        call = (
            products.into_place(task.product, task.dtype, self._device_type)
            if has_out
            else products.allocating(task.product, task.dtype)
        )
        timer = self.device.timer(call, rotation.next, task.timing)
        rules = self.device.rules[task.timing]
        for attempt in range(MAX_TRIES):
            with self.device.watch() as watch:
                block = stopping.run(timer, rules, budget_s, self.clock)
            if QualityFlag.THROTTLED not in watch.flags:
                break
            if attempt < MAX_TRIES - 1:
                self.sleep(COOL_DOWN_S)
                # The clock climbs again after a rest: those calls are no block of their own.
                stopping.run(timer, rules, budget_s, self.clock)
        return stopping.measurement(
            task,
            round_index,
            block,
            flags=watch.flags if accurate else (*watch.flags, QualityFlag.INACCURATE),
            telemetry=watch.telemetry,
            started_at_s=started_at_s,
        )

    def _is_accurate(self, task: Task) -> bool:
        """The float64 check, once for each kind of product and dtype."""
        product = task.product
        kind = (
            product.batch > 1,
            rhs_is_transposed(product),
            products.is_skinny(product, task.dtype, self._device_type),
            task.dtype,
        )
        if kind not in self._checked:
            call = products.into_place(product, task.dtype, self._device_type)
            operands = Rotation.of(self._arena, product, task.dtype).next()
            self._checked[kind] = products.is_accurate(call, operands, product, task.dtype)
        return self._checked[kind]

    def roofs(self, dtypes: Sequence[Dtype], quick: bool = False) -> Roofs:
        """The best product for each dtype and the best memory traffic.

        quick: only those that were best before, for a look at drift. The device is under the same
        load before every look, as a card at its power limit computes more slowly than in a burst.
        """
        measured_at_s = self.steady_time()
        budget_s = self.device.roof_budget_s / (2 if quick else 1)
        if self.device.load_s and dtypes:
            self._load(dtypes[0])
        peaks = {dtype: self._peak_flops_per_s(dtype, quick, budget_s) for dtype in dtypes}
        return Roofs(peaks, self._bandwidth_bytes_per_s(quick, budget_s), measured_at_s)

    def _load(self, dtype: Dtype) -> None:
        end_s = self.clock() + self.device.load_s
        while self.clock() < end_s:
            self._latency_s(self.device.peak_products(0.0)[0], dtype, budget_s=0.2)

    def _latency_s(self, product: Product, dtype: Dtype, budget_s: float) -> float:
        self.device.use(dtype)
        rotation = Rotation.of(self._arena, product, dtype)
        call = products.into_place(product, dtype, self._device_type)
        timer = self.device.timer(call, rotation.next, Timing.KERNEL)
        rules = self.device.rules[Timing.KERNEL]
        block = stopping.run(timer, rules, budget_s, self.clock)
        return stopping.quantile_s(block, self.device.roof_quantile)

    def _peak_flops_per_s(self, dtype: Dtype, quick: bool, budget_s: float) -> float:
        best = self._best_products.get(dtype)
        if quick and best:
            return best.flops / self._latency_s(best, dtype, budget_s)
        probe = Product(1, 256, 256, 256)
        rough_flops_per_s = probe.flops / self._latency_s(probe, dtype, budget_s=0.02)
        flops_per_s = {
            product: product.flops / self._latency_s(product, dtype, budget_s)
            for product in self.device.peak_products(rough_flops_per_s)
        }
        self._best_products[dtype] = max(flops_per_s, key=flops_per_s.__getitem__)
        return max(flops_per_s.values())

    def _bandwidth_bytes_per_s(self, quick: bool, budget_s: float) -> float:
        kernels = self._traffic_kernels()
        names = [self._best_traffic] if quick and self._best_traffic else list(kernels)
        bytes_per_s = {}
        for name in names:
            call, num_bytes, next_set = kernels[name]
            timer = self.device.timer(call, next_set, Timing.KERNEL)
            rules = self.device.rules[Timing.KERNEL]
            block = stopping.run(timer, rules, budget_s, self.clock)
            bytes_per_s[name] = num_bytes / stopping.quantile_s(block, self.device.roof_quantile)
        self._best_traffic = max(bytes_per_s, key=bytes_per_s.__getitem__)
        return max(bytes_per_s.values())

    def _traffic_kernels(self) -> dict[str, tuple[Call, int, Callable[[], OperandSet]]]:
        """name -> call, bytes it moves, and its operands: two arrays read, one written."""
        num_columns = 4096
        num_rows = max(self.device.traffic_bytes // (4 * num_columns), 1)
        size = num_rows * num_columns
        num_sets = max(self._arena.capacity_bytes // (8 * size), 1)
        inputs = self._arena.inputs(torch.float32, 2 * size * num_sets)
        results = self._arena.results(torch.float32, size * num_sets)
        vector = inputs[:num_columns]

        def sets() -> Iterator[OperandSet]:
            while True:
                for turn in range(num_sets):
                    first, second = (inputs[(2 * turn + i) * size :][:size] for i in (0, 1))
                    yield OperandSet(first, second, results[turn * size :][:size])

        next_set = sets().__next__
        return {
            "copy": (lambda x: x.out.copy_(x.lhs), 8 * size, next_set),
            "read": (
                lambda x: torch.mv(x.lhs.view(num_rows, num_columns), vector, out=x.out[:num_rows]),
                4 * size,
                next_set,
            ),
            "triad": (lambda x: torch.add(x.lhs, x.rhs, alpha=3.0, out=x.out), 12 * size, next_set),
        }
