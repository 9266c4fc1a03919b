"""The order of CUDA calls on a fake torch.cuda, and invariants on a real GPU."""

import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.measure import cuda
from medusa_bench.measure import nvml as gpu
from medusa_bench.measure.client import WorkerBackend
from medusa_bench.measure.cuda import Cuda
from medusa_bench.measure.operands import OperandSet
from medusa_bench.results.rows import Measurement, Task, Timing
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product
from tests.measure.test_nvml import FakeNvml

OPERANDS = OperandSet(*(torch.zeros(1) for _ in range(3)))


class FakeCuda:
    """Stands for torch.cuda: logs what is called, and says how long a replay takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.gc_in_capture: list[bool] = []
        properties = SimpleNamespace(
            name="NVIDIA A40",
            uuid="1234",
            major=8,
            minor=6,
            total_memory=48 << 30,
            multi_processor_count=84,
            L2_cache_size=6 << 20,
        )
        for name, value in {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "get_device_properties": lambda _: properties,
            "set_device": lambda _: None,
            "set_stream": lambda _: self.log.append("set_stream"),
            "Stream": lambda _: None,
            "synchronize": lambda: self.log.append("synchronize"),
            "CUDAGraph": self._graph,
            "Event": self._event,
            "mem_get_info": lambda _: (40 << 30, 48 << 30),
            "memory_reserved": lambda: 5 << 30,
            "memory_allocated": lambda: 3 << 30,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def _graph(self) -> Any:
        def begin(**_: Any) -> None:
            self.log.append("begin")
            self.gc_in_capture.append(gc.isenabled())

        return SimpleNamespace(
            capture_begin=begin,
            capture_end=lambda: self.log.append("end"),
            replay=lambda: self.log.append("replay"),
            reset=lambda: self.log.append("reset"),
        )

    def _event(self, *, enable_timing: bool) -> Any:
        assert enable_timing
        return SimpleNamespace(
            record=lambda: self.log.append("record"),
            synchronize=lambda: self.log.append("wait"),
            elapsed_time=lambda _: 2.5,  # ms
        )

    def call(self, operands: OperandSet) -> None:
        assert operands is OPERANDS
        self.log.append("call")


def a40(nvml: Any = None, **options: Any) -> Cuda:
    nvml = nvml or FakeNvml()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "load_nvml", lambda: (nvml, ""))
        return Cuda("cuda", **options)


def test_a_graph_holds_the_calls_and_is_timed_by_events(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(monkeypatch)
    timer = a40().timer(fake.call, lambda: OPERANDS, Timing.KERNEL)
    fake.log.clear()
    with timer.batch(3) as sample:
        assert fake.log == ["call", "synchronize", "begin", "call", "call", "call", "end"]
        fake.log.clear()
        assert sample() == 2.5e-3
        assert fake.log == ["record", "replay", "record", "wait"]
    assert fake.log[-1] == "reset"
    assert fake.gc_in_capture == [False]
    assert gc.isenabled()


def test_a_graph_is_ended_and_released_when_a_call_in_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeCuda(monkeypatch)
    num_calls = 0

    def failing(operands: OperandSet) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 2:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    timer = a40().timer(failing, lambda: OPERANDS, Timing.KERNEL)
    with pytest.raises(RuntimeError, match="illegal"), timer.batch(3):
        pass
    assert fake.log[-2:] == ["end", "reset"]
    assert gc.isenabled()


def test_the_first_error_of_a_capture_is_told_and_not_that_the_capture_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeCuda(monkeypatch)
    graph = fake._graph()

    def ending() -> None:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    graph.capture_end = ending
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)

    def failing(operands: OperandSet) -> None:
        if fake.log[-1] == "begin":
            raise RuntimeError("CUDA error: out of resources")
        fake.log.append("call")

    timer = a40().timer(failing, lambda: OPERANDS, Timing.KERNEL)
    with pytest.raises(RuntimeError, match="out of resources"), timer.batch(3):
        pass
    assert fake.log[-1] == "reset"


def test_an_eager_call_is_timed_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(monkeypatch)
    now_s = iter((1.0, 1.5))
    monkeypatch.setattr(cuda.time, "perf_counter", lambda: next(now_s))
    timer = a40().timer(fake.call, lambda: OPERANDS, Timing.EAGER)
    fake.log.clear()
    with timer.batch(1) as sample:
        assert sample() == 0.5
    assert fake.log == ["synchronize", "call", "synchronize"]


def test_the_environment_is_the_drivers_word(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    device = a40()
    environment = device.environment
    assert environment.device == "NVIDIA A40"
    assert environment.device_type == "cuda"
    assert environment.num_sms == 84
    assert environment.l2_bytes == 6 << 20
    assert environment.power_limit_w == 300.0
    assert environment.driver == "550.54.15"
    assert environment.details["uuid"] == "1234"
    assert "use_fast_accum=False" in environment.details["float8 accumulation"]
    assert environment.details["half-precision reduction"] == "float16 on, bfloat16 on"
    assert device.arena_bytes >= 2 * 3 * environment.l2_bytes
    assert device.traffic_bytes >= 8 * environment.l2_bytes
    # Free memory, and what torch's allocator holds without using it.
    assert device.available_bytes() == 42 << 30


def test_without_nvml_a_gpu_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    monkeypatch.setattr(gpu, "load_nvml", lambda: (None, "Driver Not Loaded"))
    device = Cuda("cuda")
    assert device.environment.device == "NVIDIA A40"
    assert device.environment.power_limit_w is None
    assert "Driver Not Loaded" in device.environment.details["nvml"]
    with device.watch() as watch:
        pass
    assert (watch.flags, watch.telemetry) == ((), None)


def test_a_gpu_that_others_use_is_refused_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    others = [SimpleNamespace(pid=4711, usedGpuMemory=None)]
    busy = FakeNvml(nvmlDeviceGetComputeRunningProcesses=others)
    with pytest.raises(MedusaBenchError, match="4711") as caught:
        a40(busy)
    assert caught.value.hint
    assert "4711" in a40(busy, share_gpu=True).environment.details["other processes"]


def test_a_gpu_that_is_not_there_is_an_error_with_the_number_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeCuda(monkeypatch)
    with pytest.raises(MedusaBenchError, match="visible GPUs: 1"):
        Cuda("cuda:3")


def test_matrix_units_are_set_for_the_dtype_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    chosen: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", chosen.append)
    device = a40()
    device.use(Dtype.TF32)
    device.use(Dtype.FLOAT32)
    device.use(Dtype.BFLOAT16)
    assert chosen == ["high", "highest", "highest"]
    with pytest.raises(MedusaBenchError, match="float8"):
        device.use(Dtype.FLOAT8)


def test_a_hot_block_is_seen_through_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    device = a40(FakeNvml(nvmlDeviceGetCurrentClocksEventReasons=0x40))
    with device.watch() as watch:
        pass
    assert [flag.value for flag in watch.flags] == ["throttled"]
    assert watch.telemetry is not None
    assert watch.telemetry.throttle_reasons == ("hardware thermal slow-down",)


@pytest.mark.gpu
@pytest.mark.skipif(not gpu.is_present(), reason="no NVIDIA GPU is here")
@pytest.mark.parametrize("timing", Timing)
def test_a_real_gpu_stays_under_its_own_roof(timing: Timing) -> None:
    with WorkerBackend("cuda", share_gpu=True) as backend:
        roofs = backend.roofs([Dtype.FLOAT16])
        for product in (
            Product(1, 1, 4096, 4096),
            Product(1, 64, 11008, 4096),
            Product(1, 4096, 4096, 4096),
            Product(32, 16, 1024, 128),
        ):
            row = backend.measure(Task(product, Dtype.FLOAT16, timing), 0, 0.05)
            assert isinstance(row, Measurement), row
            roof = roofs.attainable_flops_per_s(
                product.operational_intensity(Dtype.FLOAT16), Dtype.FLOAT16
            )
            assert 0 < product.flops / row.latency_s < 1.05 * roof
