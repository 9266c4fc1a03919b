"""The worker process: answers requests over a pipe until the pipe or the parent is gone.

Its module loads no torch, because the parent imports it to name what to run.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.measure.host import SteadyTime
from medusa_bench.results.rows import Environment, FailureKind, Measurement, Roofs, Task
from medusa_bench.specs.dtypes import Dtype


class Measures(Protocol):
    """What a worker serves. The real one is measurer.Measurer; tests wrap it with faults."""

    @property
    def environment(self) -> Environment: ...

    def roofs(self, dtypes: Sequence[Dtype], quick: bool = False) -> Roofs: ...

    def measure(self, task: Task, round_index: int, budget_s: float) -> Measurement: ...

    def release(self) -> None: ...

    def ping(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """What a worker is told about its device."""

    device: str  # "cpu", "cuda" or "cuda:N"
    num_threads: int | None = None
    arena_bytes: int | None = None
    share_gpu: bool = False
    steady_time: SteadyTime = field(default_factory=SteadyTime)


@dataclass(frozen=True, slots=True)
class Answer:
    """The value asked for, or what went wrong. After a fatal answer the worker ends."""

    value: Any = None
    kind: FailureKind | None = None
    reason: str = ""
    hint: str | None = None
    is_fatal: bool = False


def open_measurer(options: Options) -> Measures:
    """The measurer of a device. Imports torch, and opens CUDA where the device is a GPU."""
    from medusa_bench.measure import fork_preload  # noqa: F401  sets the environment torch reads
    import torch  # isort: skip

    from medusa_bench.measure.measurer import Measurer

    torch.set_grad_enabled(False)  # of this process, which does nothing but measure
    if options.device == "cpu":
        from medusa_bench.measure.cpu import Cpu

        return Measurer(
            Cpu(options.num_threads, options.arena_bytes), steady_time=options.steady_time
        )
    from medusa_bench.measure.cuda import Cuda

    device = Cuda(options.device, options.arena_bytes, options.share_gpu)
    return Measurer(device, steady_time=options.steady_time)


def main(
    connection: Connection,
    options: Options,
    log: str,
    make_measurer: Callable[[Options], Measures] = open_measurer,
) -> None:
    """Serve one device: first its environment, then an answer for each request."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _write_output_to(log)
    measurer: Measures | None = None

    def open_device() -> Environment:
        nonlocal measurer
        measurer = make_measurer(options)
        # What is alive now stays: collecting it again and again would disturb timings.
        gc.collect()
        gc.freeze()
        return measurer.environment

    answer = _answer(open_device)
    connection.send(answer)
    # EOFError: the parent has closed its end, or is gone.
    with contextlib.suppress(EOFError, BrokenPipeError):
        while measurer is not None and not answer.is_fatal:
            name, arguments = connection.recv()
            method = getattr(measurer, name)
            answer = _answer(lambda: method(*arguments))  # noqa: B023  called at once
            if answer.kind is FailureKind.OUT_OF_MEMORY:
                measurer.release()
            connection.send(answer)


def _answer(call: Callable[[], Any]) -> Answer:
    try:
        return Answer(call())
    except MedusaBenchError as error:
        return Answer(kind=FailureKind.ERROR, reason=error.message, hint=error.hint)
    except Exception as error:
        kind, is_fatal = classify(error)
        return Answer(kind=kind, reason=_in_a_line(error), is_fatal=is_fatal)


def classify(error: Exception) -> tuple[FailureKind, bool]:
    """What kind of failure an exception is, and whether its worker is of no more use.

    A CUDA error other than out of memory stays with the process: each later call repeats it.
    """
    name, text = type(error).__name__, str(error)
    if (
        isinstance(error, MemoryError)
        or name in ("OutOfMemoryError", "CudaOutOfMemoryError")
        or "can't allocate memory" in text
        or "CUDA out of memory" in text
        or "CUBLAS_STATUS_ALLOC_FAILED" in text
    ):
        return FailureKind.OUT_OF_MEMORY, False
    if name == "WrongResultError":
        return FailureKind.WRONG_RESULT, False
    if name == "AcceleratorError" or any(
        mark in text for mark in ("CUDA error", "CUBLAS_STATUS", "cuDNN error", "CUDA driver error")
    ):
        return FailureKind.DEVICE_ERROR, True
    return FailureKind.ERROR, False


def _in_a_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def _write_output_to(log: str) -> None:
    """Whatever libraries print goes to a file, whose end explains a crash; never to stdout."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
