"""Operands rotate and are cold, results are checked, throttled blocks are run again."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import pytest
import torch

from medusa_bench.measure import kernels, operands, sweep
from medusa_bench.measure.kernels import Call, WrongResultError
from medusa_bench.measure.measurer import MAX_TRIES, DeviceMonitor, Measurer
from medusa_bench.measure.operands import (
    RESULT,
    STORAGE,
    Arena,
    OperandSet,
    Rotation,
    rhs_is_transposed,
)
from medusa_bench.measure.stopping import StoppingRule
from medusa_bench.results.rows import Environment, Grid, Measurement, QualityFlag, Task, Timing
from medusa_bench.specs import models
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import OPERATORS
from medusa_bench.specs.products import Product
from medusa_bench.specs.settings import Phase

CPU = torch.device("cpu")
LINEAR = Product(1, 3, 40, 24)
QK = Product(4, 2, 48, 16)
PV = Product(4, 2, 16, 48)


def arena(capacity_bytes: int = 1 << 20, available_bytes: int | None = None) -> Arena:
    return Arena(CPU, capacity_bytes, lambda: available_bytes)


# -- operands -----------------------------------------------------------------------------------


def test_weights_and_keys_are_stored_transposed_and_values_are_not() -> None:
    assert rhs_is_transposed(LINEAR)
    assert rhs_is_transposed(QK)
    assert not rhs_is_transposed(PV)


@pytest.mark.parametrize("product", [LINEAR, QK, PV])
def test_operands_have_the_shapes_of_the_product(product: Product) -> None:
    lhs, rhs, out = Rotation.of(arena(), product, Dtype.FLOAT32).next()
    p = product
    batch = () if p.batch == 1 else (p.batch,)
    assert lhs.shape == (*batch, p.m, p.k)
    assert rhs.shape == (*batch, p.k, p.n)
    assert out.shape == (*batch, p.m, p.n)
    assert (rhs.stride(-2) == 1) is rhs_is_transposed(product)


@pytest.mark.parametrize("product", [LINEAR, QK, PV])
def test_no_operand_is_used_again_before_the_arena_is_through(product: Product) -> None:
    rotation = Rotation.of(arena(), product, Dtype.FLOAT32)
    turns = [rotation.next() for _ in range(rotation.num_sets)]
    spans = [
        (tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * 4)
        for operands in turns
        for tensor in operands
    ]
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    covered = sum(end - start for start, end in spans)
    assert 0.7 * (1 << 20) < covered <= 1 << 20
    assert rotation.next().lhs.data_ptr() == turns[0].lhs.data_ptr()


def test_every_operand_starts_aligned() -> None:
    rotation = Rotation.of(arena(), LINEAR, Dtype.BFLOAT16)
    base = rotation.inputs.data_ptr()
    for _ in range(5):
        lhs, rhs, _ = rotation.next()
        assert (lhs.data_ptr() - base) % 256 == 0
        assert (rhs.data_ptr() - base) % 256 == 0


@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.FLOAT16, Dtype.BFLOAT16, Dtype.FLOAT8])
def test_inputs_are_standard_normal_in_every_dtype(dtype: Dtype) -> None:
    values = arena().inputs(STORAGE[dtype], 1).float()
    assert values.numel() == (1 << 20) // dtype.bytes_per_element
    assert abs(float(values.mean())) < 0.01
    assert abs(float(values.std()) - 1) < 0.01


def test_the_arena_is_filled_once_and_grows_only_for_a_larger_product() -> None:
    own = arena()
    first = own.inputs(torch.float32, 10)
    assert own.inputs(torch.float32, 1000).data_ptr() == first.data_ptr()
    assert own.inputs(torch.float32, 1 << 19).numel() == 1 << 19


def test_a_product_larger_than_the_arena_has_one_set() -> None:
    rotation = Rotation.of(arena(1 << 10), Product(1, 64, 64, 64), Dtype.FLOAT32)
    assert rotation.num_sets == 1
    rotation.next()
    rotation.next()


def test_calls_that_allocate_get_no_room_for_results_and_large_room_is_given_back() -> None:
    own = arena(1 << 10)
    large = Product(1, 64, 64, 8)
    assert Rotation.of(own, large, Dtype.FLOAT32).next().out.numel() == 64 * 64
    assert own._results[torch.float32].numel() > 0
    assert Rotation.of(own, large, Dtype.FLOAT32, has_out=False).next().out.numel() == 0
    assert own._results[torch.float32].numel() == 0


def test_memory_that_is_not_there_is_refused_before_it_is_touched() -> None:
    with pytest.raises(MemoryError, match=r"needs 4\.0 GB more, and 1\.0 GB are free"):
        arena(available_bytes=10**9).inputs(torch.float32, 10**9)


def test_no_task_of_the_papers_grid_lacks_memory_on_80_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    usable_bytes = 78 << 30  # of 79 GiB that a card of 80 shows, less the context's own
    held_bytes = 0
    empty = torch.empty

    def give_back(num_bytes: int) -> None:
        nonlocal held_bytes
        held_bytes -= num_bytes

    def allocate(num_elements: int, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        nonlocal held_bytes
        held_bytes += (num_bytes := num_elements * dtype.itemsize)
        assert held_bytes <= usable_bytes
        buffer = empty(num_elements, dtype=dtype, device=device)
        weakref.finalize(buffer, give_back, num_bytes)
        return buffer

    monkeypatch.setattr(torch, "empty", allocate)
    monkeypatch.setattr(operands, "_fill", lambda buffer: None)
    own = Arena(torch.device("meta"), 300 << 20, lambda: usable_bytes - held_bytes)
    grid = Grid(
        shapes=tuple(models.load(name) for name in sweep.PAPER_ON_GPU.models),
        operators=OPERATORS,
        phases=tuple(Phase),
        batch_sizes=sweep.PAPER_ON_GPU.batch_sizes,
        seq_lens=sweep.PAPER_ON_GPU.seq_lens,
        num_candidates=sweep.PAPER_ON_GPU.num_candidates,
        dtypes=(Dtype.FLOAT16,),
        timings=tuple(Timing),
    )
    tasks = sweep.plan(grid, 79 << 30).tasks
    assert len(tasks) == 5_630
    for task in tasks:
        has_out = task.timing is Timing.KERNEL
        Rotation.of(own, task.product, task.dtype, has_out=has_out)
        p = task.product
        call_bytes = 0 if has_out else p.batch * p.m * p.n * task.dtype.bytes_per_element
        assert held_bytes + call_bytes <= usable_bytes, task


# -- the product and its check ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.FLOAT16, Dtype.BFLOAT16])
@pytest.mark.parametrize(
    "product", [LINEAR, QK, PV, Product(1, 1, 64, 1024), Product(1, 4, 96, 64)]
)
def test_the_library_multiplies_accurately(product: Product, dtype: Dtype) -> None:
    operands = Rotation.of(arena(), product, dtype).next()
    call = kernels.into_place(product, dtype, "cpu")
    assert kernels.is_accurate(call, operands, product, dtype)
    anew = kernels.allocating(product, dtype)(operands)
    assert isinstance(anew, torch.Tensor)
    assert anew.dtype is RESULT[dtype]
    torch.testing.assert_close(anew, operands.out)


def scaled_by(factor: float) -> Call:
    def call(operands: OperandSet) -> None:
        torch.mm(operands.lhs, operands.rhs, out=operands.out)
        operands.out.mul_(factor)

    return call


def operands_of_linear() -> OperandSet:
    return Rotation.of(arena(), LINEAR, Dtype.FLOAT32).next()


def test_a_result_off_by_a_thousandth_is_inaccurate() -> None:
    assert not kernels.is_accurate(scaled_by(1.001), operands_of_linear(), LINEAR, Dtype.FLOAT32)


def test_a_result_off_by_half_is_wrong() -> None:
    with pytest.raises(WrongResultError, match="off from float64"):
        kernels.is_accurate(scaled_by(1.5), operands_of_linear(), LINEAR, Dtype.FLOAT32)


def test_a_result_that_is_not_written_is_wrong_even_if_it_stood_there_before() -> None:
    operands = operands_of_linear()
    torch.mm(operands.lhs, operands.rhs, out=operands.out)
    with pytest.raises(WrongResultError, match="not written"):
        kernels.is_accurate(lambda _: None, operands, LINEAR, Dtype.FLOAT32)


def test_an_error_in_the_last_product_of_a_batch_is_seen() -> None:
    def call(operands: OperandSet) -> None:
        torch.bmm(operands.lhs, operands.rhs, out=operands.out)
        operands.out[-1, -1, -1] += 100

    operands = Rotation.of(arena(), QK, Dtype.FLOAT32).next()
    with pytest.raises(WrongResultError):
        kernels.is_accurate(call, operands, QK, Dtype.FLOAT32)


# -- the measurer, on a device whose time is made up --------------------------------------------

FLOPS_PER_S = 1e8
BYTES_PER_S = 1e7


@dataclass
class FakeClock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class FakeDevice:
    """Really multiplies, and says it took what a machine of 100 MFLOP/s and 10 MB/s takes."""

    clock: FakeClock
    throttled_blocks: int = 0
    num_blocks: int = 0
    used: list[Dtype] = field(default_factory=list)
    torch_device = CPU
    arena_bytes = 1 << 20
    traffic_bytes = 1 << 16
    roof_quantile = 0.5
    roof_budget_s = 0.15
    load_s = 2.0
    rules: ClassVar = {timing: StoppingRule(tolerance=0.01, batch_s=0.0) for timing in Timing}
    environment = Environment("fake", "cpu", 1 << 30)

    def available_bytes(self) -> int | None:
        return None

    def use(self, dtype: Dtype) -> None:
        self.used.append(dtype)

    def timer(
        self, call: Call, next_set: Callable[[], OperandSet], timing: Timing
    ) -> "FakeDevice.Timer":
        return FakeDevice.Timer(self, call, next_set)

    @dataclass
    class Timer:
        device: "FakeDevice"
        call: Call
        next_set: Callable[[], OperandSet]

        @contextmanager
        def batch(self, num_calls: int) -> Iterator[Callable[[], float]]:
            def sample() -> float:
                lhs, _, out = operands = self.next_set()
                self.call(operands)
                if lhs.dim() == 1:  # a traffic kernel: copy takes 2 arrays, read 1, triad 3
                    duration_s = 3 * lhs.numel() * 4 / BYTES_PER_S
                else:
                    duration_s = 2 * out.numel() * lhs.shape[-1] / FLOPS_PER_S
                self.device.clock.now_s += duration_s
                return duration_s

            yield sample

    @contextmanager
    def watch(self) -> Iterator[DeviceMonitor]:
        watch = DeviceMonitor()
        yield watch
        self.num_blocks += 1
        if self.num_blocks <= self.throttled_blocks:
            watch.flags = (QualityFlag.THROTTLED,)

    def peak_products(self, flops_per_s: float) -> Sequence[Product]:
        return (Product(1, 64, 64, 64), Product(1, 32, 64, 128))


def measurer(throttled_blocks: int = 0) -> tuple[Measurer, FakeDevice, list[float]]:
    clock = FakeClock()
    device = FakeDevice(clock, throttled_blocks)
    slept: list[float] = []
    return Measurer(device, clock, slept.append), device, slept


def measure(own: Measurer, product: Product = LINEAR) -> Measurement:
    return own.measure(Task(product, Dtype.FLOAT32, Timing.KERNEL), 1, budget_s=1e-6)


def test_a_point_takes_what_the_device_takes() -> None:
    own, _, _ = measurer()
    row = measure(own)
    assert row.latency_s == pytest.approx(LINEAR.flops / FLOPS_PER_S)
    assert row.round_index == 1
    assert row.flags == ()


def test_a_throttled_block_is_discarded_and_run_again_after_a_rest() -> None:
    own, device, slept = measurer(throttled_blocks=1)
    assert measure(own).flags == ()
    assert device.num_blocks == 2
    assert len(slept) == 1


def test_a_device_that_stays_throttled_is_measured_and_flagged() -> None:
    own, device, slept = measurer(throttled_blocks=100)
    assert measure(own).flags == (QualityFlag.THROTTLED,)
    assert device.num_blocks == MAX_TRIES
    assert len(slept) == MAX_TRIES - 1


def test_the_check_runs_once_for_each_kind_of_product_and_dtype(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked: list[tuple[Product, Dtype]] = []

    def is_accurate(call: Call, operands: OperandSet, product: Product, dtype: Dtype) -> bool:
        checked.append((product, dtype))
        return product.batch == 1

    monkeypatch.setattr(kernels, "is_accurate", is_accurate)
    own, _, _ = measurer()
    assert measure(own, LINEAR).flags == ()
    assert measure(own, Product(1, 7, 8, 9)).flags == ()
    assert measure(own, QK).flags == (QualityFlag.INACCURATE,)
    assert measure(own, QK).flags == (QualityFlag.INACCURATE,)
    measure(own, PV)
    assert [product for product, _ in checked] == [LINEAR, QK, PV]


def test_roofs_are_the_best_product_and_the_best_traffic() -> None:
    own, device, _ = measurer()
    roofs = own.roofs([Dtype.FLOAT32, Dtype.BFLOAT16])
    assert roofs.peak_flops_per_s[Dtype.FLOAT32] == pytest.approx(FLOPS_PER_S)
    assert roofs.peak_flops_per_s[Dtype.BFLOAT16] == pytest.approx(FLOPS_PER_S)
    assert roofs.memory_bandwidth_bytes_per_s == pytest.approx(BYTES_PER_S)
    assert set(device.used) == {Dtype.FLOAT32, Dtype.BFLOAT16}


def test_every_look_at_the_roofs_is_under_the_same_load() -> None:
    own, device, _ = measurer()
    own.roofs([Dtype.FLOAT32])
    assert device.clock.now_s >= device.load_s
    before_s = device.clock.now_s
    again = own.roofs([Dtype.FLOAT32], quick=True)
    assert device.load_s <= device.clock.now_s - before_s < device.load_s + 0.5
    assert again.peak_flops_per_s[Dtype.FLOAT32] == pytest.approx(FLOPS_PER_S)
    assert again.memory_bandwidth_bytes_per_s == pytest.approx(BYTES_PER_S)
