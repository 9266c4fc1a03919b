"""What can happen to a worker, on request: for tests of everything that has to survive it."""

import ctypes
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from medusa_bench.measure import worker
from medusa_bench.results.rows import Environment, FailureKind, Measurement, Roofs, Task
from medusa_bench.specs.dtypes import Dtype


class Fault(StrEnum):
    ABORT = "abort"
    SEGFAULT = "segfault"
    KILL = "kill"
    HANG = "hang"
    OUT_OF_MEMORY = "out of memory"
    STICKY_ERROR = "sticky error"
    EXIT = "exit"
    BUG = "bug"


EXPECTED = {
    Fault.ABORT: FailureKind.CRASHED,
    Fault.SEGFAULT: FailureKind.CRASHED,
    Fault.KILL: FailureKind.KILLED,
    Fault.HANG: FailureKind.HUNG,
    Fault.OUT_OF_MEMORY: FailureKind.OUT_OF_MEMORY,
    Fault.STICKY_ERROR: FailureKind.DEVICE_ERROR,
    Fault.EXIT: FailureKind.CRASHED,
    Fault.BUG: FailureKind.ERROR,
}


@dataclass
class FaultyMeasurer:
    """A measurer in which chosen tasks (by key) meet a fault."""

    inner: worker.Measures
    faults: Mapping[str, Fault]
    is_broken: bool = field(default=False, init=False)

    @property
    def environment(self) -> Environment:
        return self.inner.environment

    def roofs(self, dtypes: Sequence[Dtype], quick: bool = False) -> Roofs:
        return self.inner.roofs(dtypes, quick)

    def ping(self) -> None:
        self.inner.ping()

    def release(self) -> None:
        self.inner.release()

    def measure(self, task: Task, round_index: int, budget_s: float) -> Measurement:
        fault = self.faults.get(task.key)
        if fault is Fault.STICKY_ERROR or self.is_broken:
            # A CUDA context that has met an illegal access repeats it at every later call.
            self.is_broken = True
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore advice")
        if fault is not None:
            meet(fault)
        return self.inner.measure(task, round_index, budget_s)


def meet(fault: Fault) -> None:
    match fault:
        case Fault.ABORT:
            os.write(2, b"terminate called after throwing an instance of 'c10::Error'\n")
            os.abort()
        case Fault.SEGFAULT:
            ctypes.string_at(0)
        case Fault.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Fault.HANG:
            time.sleep(3600)
        case Fault.OUT_OF_MEMORY:
            raise MemoryError("needs 80.0 GB more, and 1.0 GB are free")
        case Fault.EXIT:
            os._exit(3)
        case Fault.BUG | Fault.STICKY_ERROR:
            raise ValueError("shapes do not match")


@dataclass(frozen=True)
class DiesAtFirst:
    """What WorkerBackend takes as make_measurer: its first workers die at their start or roofs.

    The deaths that were died are counted in a file: each worker is a process of its own.
    """

    fault: Fault
    at: str  # "start" or "roofs"
    deaths: int
    counted_in: Path

    def __call__(self, options: worker.Options) -> "DyingMeasurer":
        inner = worker.open_measurer(options)
        if self.at == "start":
            self.die_or_live()
        return DyingMeasurer(inner, {}, dies=self)

    def die_or_live(self) -> None:
        died = self.counted_in.stat().st_size if self.counted_in.exists() else 0
        if died < self.deaths:
            with self.counted_in.open("ab") as file:
                file.write(b"x")
            meet(self.fault)


@dataclass
class DyingMeasurer(FaultyMeasurer):
    """One whose look at the roofs may be its last."""

    dies: DiesAtFirst = field(kw_only=True)

    def roofs(self, dtypes: Sequence[Dtype], quick: bool = False) -> Roofs:
        if self.dies.at == "roofs":
            self.dies.die_or_live()
        return super().roofs(dtypes, quick)


@dataclass(frozen=True)
class MakeFaulty:
    """What WorkerBackend takes as make_measurer; travels to the worker."""

    faults: Mapping[str, Fault]

    def __call__(self, options: worker.Options) -> FaultyMeasurer:
        return FaultyMeasurer(worker.open_measurer(options), self.faults)
