"""An NVIDIA GPU as a device: CUDA graphs, events, and NVML beside them."""

import gc
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.measure import nvml as gpu
from medusa_bench.measure.kernels import Call
from medusa_bench.measure.measurer import DeviceMonitor
from medusa_bench.measure.nvml import FIRST_CAPABILITY
from medusa_bench.measure.operands import OperandSet
from medusa_bench.measure.stopping import StoppingRule, Timer
from medusa_bench.results.rows import Environment, Timing
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

_GRAPH_S = 2e-3
_MIN_L2_BYTES = 4 << 20  # where the driver does not tell


@dataclass(frozen=True, slots=True)
class _Graph:
    """Times a CUDA graph of calls between two events: no launch cost, operands rotate in it.

    Its nodes still follow each other with about a microsecond between: products of 2 to 5 us are
    expected to read 20 to 40 % longer than the kernel alone, which CUPTI tells.
    """

    call: Call
    next_set: Callable[[], OperandSet]

    @contextmanager
    def batch(self, num_calls: int) -> Iterator[Callable[[], float]]:
        # The library takes its workspace at the first call on a stream, which no graph may record.
        self.call(self.next_set())
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        gc_was_on = gc.isenabled()
        gc.disable()  # a tensor freed in a capture would break it
        try:
            # torch.cuda.graph() would collect garbage and empty the cache here: 50 ms a point.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                for _ in range(num_calls):
                    self.call(self.next_set())
            except BaseException:
                with suppress(RuntimeError):  # says that the capture failed, and not why
                    graph.capture_end()
                raise
            graph.capture_end()
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

            def sample() -> float:
                start.record()
                graph.replay()
                end.record()
                end.synchronize()
                return float(start.elapsed_time(end)) * 1e-3

            yield sample
        finally:
            graph.reset()
            if gc_was_on:
                gc.enable()


@dataclass(frozen=True, slots=True)
class _Launch:
    """Times one launched call until it is done, as the paper's harness did."""

    call: Call
    next_set: Callable[[], OperandSet]

    @contextmanager
    def batch(self, num_calls: int) -> Iterator[Callable[[], float]]:
        def sample() -> float:
            operand_sets = [self.next_set() for _ in range(num_calls)]
            torch.cuda.synchronize()
            start_s = time.perf_counter()
            for operands in operand_sets:
                self.call(operands)
            torch.cuda.synchronize()
            return time.perf_counter() - start_s

        yield sample


class Cuda:
    """One GPU. Raises MedusaBenchError where there is none, or others compute on it."""

    rules: Mapping[Timing, StoppingRule] = {
        Timing.KERNEL: StoppingRule(tolerance=0.01, batch_s=_GRAPH_S),
        Timing.EAGER: StoppingRule(tolerance=0.01, batch_s=0.0),
    }
    roof_quantile = 0.5
    roof_budget_s = 0.15
    load_s = 2.0

    def __init__(
        self, device: str, arena_bytes: int | None = None, share_gpu: bool = False
    ) -> None:
        if not torch.cuda.is_available():
            raise MedusaBenchError(why_no_cuda(), hint="--device cpu measures the processor.")
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise MedusaBenchError(
                f"There is no {device}; visible GPUs: {torch.cuda.device_count()}",
                hint="they count from cuda:0; CUDA_VISIBLE_DEVICES hides others.",
            )
        properties = torch.cuda.get_device_properties(index)
        nvml, why_no_nvml = gpu.load_nvml()
        uuid = str(getattr(properties, "uuid", ""))
        self._gpu = gpu.find(nvml, uuid) if nvml else None
        # Asked before this process computes, so that whoever is listed is another.
        others = self._gpu.processes() if self._gpu else ()
        if others and not share_gpu:
            raise MedusaBenchError(
                f"Others compute on {device}: {', '.join(others[:5])}",
                hint="wait for them, choose another GPU, or allow it with --share-gpu.",
            )
        self.torch_device = torch.device("cuda", index)
        torch.cuda.set_device(self.torch_device)
        # One stream for all, other than the default one: graphs are recorded on no other.
        stream = torch.cuda.Stream(self.torch_device)  # type: ignore[no-untyped-call]
        torch.cuda.set_stream(stream)
        self._capability = (properties.major, properties.minor)
        l2_bytes = int(getattr(properties, "L2_cache_size", 0)) or _MIN_L2_BYTES
        # Twice what has to rotate: sets that do not divide it still cover 3 x L2. A graph of 2 ms
        # moves more than that wherever memory is near to binding.
        self.arena_bytes = arena_bytes or max(6 * l2_bytes, 64 << 20)
        self.traffic_bytes = max(8 * l2_bytes, 64 << 20)
        known = self._gpu
        self._environment = Environment(
            device=(known.name if known else None) or properties.name,
            device_type="cuda",
            memory_bytes=properties.total_memory,
            num_sms=properties.multi_processor_count,
            l2_bytes=l2_bytes,
            power_limit_w=known.power_limit_w if known else None,
            driver=(known.driver if known else None) or _driver_from_kernel(),
            torch=str(torch.__version__),
            cuda=str(torch.version.cuda),
            details={
                "host": platform.node(),
                "kernel": platform.release(),
                "python": platform.python_version(),
                "uuid": uuid,
                "visible GPUs": str(torch.cuda.device_count()),
                "compute capability": f"{properties.major}.{properties.minor}",
                "mig": "on" if known and known.is_mig else "off",
                "other processes": ", ".join(others) or "none",
                # Engines set use_fast_accum=True; kernels.py does not, and so says what it times.
                "float8 accumulation": "exact (use_fast_accum=False)",
                "half-precision reduction": _reduction(),
                "nvml": "used"
                if known
                else f"not used: {why_no_nvml or 'it does not list this GPU'}",
            },
        )

    @property
    def environment(self) -> Environment:
        return self._environment

    def available_bytes(self) -> int | None:
        free_bytes, _ = torch.cuda.mem_get_info(self.torch_device)
        # What torch's allocator keeps and does not use is free for us too.
        return free_bytes + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()

    def use(self, dtype: Dtype) -> None:
        torch.set_float32_matmul_precision("high" if dtype is Dtype.TF32 else "highest")
        if self._capability < FIRST_CAPABILITY.get(dtype, (0, 0)):
            raise MedusaBenchError(f"{self._environment.device} has no {dtype} matrix units")

    def timer(self, call: Call, next_set: Callable[[], OperandSet], timing: Timing) -> Timer:
        match timing:
            case Timing.KERNEL:
                return _Graph(call, next_set)
            case Timing.EAGER:
                return _Launch(call, next_set)

    @contextmanager
    def watch(self) -> Iterator[DeviceMonitor]:
        watch = DeviceMonitor()
        if self._gpu is None:
            yield watch
            return
        with gpu.Recorder(self._gpu) as recorder:
            yield watch
        watch.telemetry = recorder.telemetry
        watch.flags = recorder.flags

    def peak_products(self, flops_per_s: float) -> Sequence[Product]:
        return (
            Product(1, 8192, 8192, 8192),
            Product(1, 4096, 4096, 4096),
            Product(1, 8192, 28672, 4096),
            Product(1, 16384, 4096, 8192),
        )


def _reduction() -> str:
    """Which half-precision products may add partial sums in half precision."""
    matmul = torch.backends.cuda.matmul
    allowed = {
        "float16": matmul.allow_fp16_reduced_precision_reduction,
        "bfloat16": matmul.allow_bf16_reduced_precision_reduction,
    }
    return ", ".join(f"{dtype} {'on' if on else 'off'}" for dtype, on in allowed.items())


def why_no_cuda() -> str:
    """Why torch sees no GPU, in words."""
    if torch.version.cuda is None:
        return f"This torch ({torch.__version__}) is built without CUDA"
    return "torch finds no CUDA device"


def _driver_from_kernel() -> str:
    """The driver's version where NVML does not tell."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        return ""
    numbers = (word for word in words if word[0].isdigit() and word.count(".") >= 1)
    return next(numbers, "")
