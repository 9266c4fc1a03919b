"""The parent's side of a worker: a Backend that survives whatever happens to the device.

Loads no torch. A worker that dies, hangs or is left with a broken device gives one Failure, and
the next call gets a new one.
"""

import multiprocessing
import os
import re
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from medusa_bench.base.errors import MedusaBenchError, UnknownNameError
from medusa_bench.measure import host, worker
from medusa_bench.measure import nvml as gpu
from medusa_bench.measure.worker import Answer, Measures, Options
from medusa_bench.results.rows import Environment, Failure, FailureKind, Measurement, Roofs, Task
from medusa_bench.specs.dtypes import Dtype

START_S = 180.0  # importing torch takes 3 s on a quiet machine, and a minute on a cold disk
ROOFS_S = 120.0
PATIENCE_S = 30.0  # beyond what a point should take: cool-downs, kernels loaded for the first time

# Before roofs are known, and as a share of them after: a device this slow counts as hung.
_SLOWEST_FLOPS_PER_S = {"cpu": 5e8, "cuda": 1e11}
_SLOWEST_SHARE_OF_ROOF = 0.01
_LONGEST_S = 6 * 3600.0
_CALLS_AT_LEAST = 6  # warm-up, check, and three calls of a long product


def pick_device(requested: str | None) -> str:
    """The device asked for, else a GPU where there is one, else the processor. Loads no torch.

    Raises UnknownNameError for a word that names no kind of device.
    """
    if requested is None:
        return "cuda" if gpu.is_present() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", requested):
        raise UnknownNameError("device", requested, ("cpu", "cuda", "cuda:0"))
    return requested


def device_name(device: str) -> str | None:
    """The device's exact name without opening it; None where that cannot be told. No torch."""
    if device == "cpu":
        return host.cpu_name()
    nvml, _ = gpu.load_nvml()
    gpus = gpu.all_gpus(nvml) if nvml else []
    index = int(device.partition(":")[2] or 0)
    return gpus[index].name if index < len(gpus) else None


# A worker that ends so at its start or over the roofs was asked for nothing of its own: another
# one may do, where a point that kills its worker is a failure of that point.
_DEATHS = frozenset({FailureKind.KILLED, FailureKind.CRASHED, FailureKind.HUNG})
_TRIES = 3


class WorkerBackend:
    """One device, measured by a worker process.

    num_threads: of a CPU; None lets the worker choose. Give a resumed run the number its folder
    was measured with. share_gpu: measure although other processes use the GPU.
    """

    def __init__(
        self,
        device: str,
        *,
        num_threads: int | None = None,
        share_gpu: bool = False,
        arena_bytes: int | None = None,
        patience_s: float = PATIENCE_S,
        make_measurer: Callable[[Options], Measures] = worker.open_measurer,
    ) -> None:
        self._options = Options(device, num_threads, arena_bytes, share_gpu)
        self._patience_s = patience_s
        self._make_measurer = make_measurer
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._environment: Environment | None = None
        self._roofs: Roofs | None = None
        self._log: BinaryIO | None = None
        self.deaths: list[str] = []  # workers that died at their start or over the roofs, in words

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def environment(self) -> Environment:
        """The device and libraries. Raises MedusaBenchError where the device cannot be opened."""
        if self._environment is None:
            self._start_or_retry()
        assert self._environment is not None
        return self._environment

    def roofs(self, dtypes: Sequence[Dtype], *, quick: bool = False) -> Roofs:
        """Measure this device's ceilings; quick: only those that were highest, for drift.

        Raises MedusaBenchError where that fails.
        """
        for _ in range(_TRIES):
            answer = self._ask("roofs", (tuple(dtypes), quick), ROOFS_S + self._patience_s)
            if answer.kind not in _DEATHS:
                break
            self.deaths.append(f"while the roofs were measured: {answer.reason}")
        if answer.kind is not None:
            raise MedusaBenchError(
                f"The roofs could not be measured: {answer.reason}.", hint=answer.hint or _DOCTOR
            )
        roofs: Roofs = answer.value
        if not quick:
            self._roofs = roofs
        return roofs

    def measure(self, task: Task, round_index: int, budget_s: float) -> Measurement | Failure:
        """One round of one task. What happens to the device becomes a Failure, never a raise."""
        started_at_s = self._options.steady_time()
        answer = self._ask(
            "measure", (task, round_index, budget_s), self.deadline_s(task, budget_s)
        )
        if answer.kind is not None:
            return Failure(task, round_index, answer.kind, answer.reason, started_at_s)
        measurement: Measurement = answer.value
        return measurement

    def ping(self) -> None:
        """Let the worker answer without measuring: what the pipe costs."""
        self._ask("ping", (), self._patience_s)

    def deadline_s(self, task: Task, budget_s: float) -> float:
        """From when on a worker that has not answered counts as hung."""
        slowest = _SLOWEST_FLOPS_PER_S[self._options.device.partition(":")[0]]
        if self._roofs and task.dtype in self._roofs.peak_flops_per_s:
            slowest = _SLOWEST_SHARE_OF_ROOF * self._roofs.attainable_flops_per_s(
                task.product.operational_intensity(task.dtype), task.dtype
            )
        expected_s = 20 * budget_s + _CALLS_AT_LEAST * task.product.flops / slowest
        return self._patience_s + min(expected_s, _LONGEST_S)

    def close(self) -> None:
        """End the worker."""
        self._discard()

    def _ask(self, name: str, arguments: tuple[object, ...], deadline_s: float) -> Answer:
        if self._connection is None:
            try:
                self._start_or_retry()
            except MedusaBenchError as error:
                return Answer(kind=FailureKind.ERROR, reason=error.message, hint=error.hint)
        assert self._connection is not None
        try:
            self._connection.send((name, arguments))
        except OSError:  # it died while idle
            return self._died()
        return self._wait(deadline_s)

    def _wait(self, deadline_s: float) -> Answer:
        assert self._connection is not None
        try:
            if not self._connection.poll(deadline_s):
                self._discard()
                return Answer(kind=FailureKind.HUNG, reason=f"no answer within {deadline_s:.0f} s")
            answer: Answer = self._connection.recv()
        except (EOFError, OSError):
            return self._died()
        except BaseException:
            self._discard()  # Ctrl-C: its answer, still to come, belongs to no later request
            raise
        if answer.is_fatal:
            self._discard()
        return answer

    def _start_or_retry(self) -> None:
        """Start a worker; one that dies of nothing it was asked for gets a successor."""
        for tries_left in reversed(range(_TRIES)):
            answer = self._start()
            if answer.kind is None:
                self._environment = self._environment or answer.value
                return
            self._discard()
            if answer.kind not in _DEATHS or not tries_left:
                raise MedusaBenchError(
                    f"{self._options.device} cannot be measured: {answer.reason}.",
                    hint=answer.hint or _DOCTOR,
                )
            self.deaths.append(f"at its start: {answer.reason}")

    def _start(self) -> Answer:
        """A new worker, and what it says of its device."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["medusa_bench.measure.fork_preload"])
        self._connection, theirs = context.Pipe()
        options = self._options
        if self._environment is not None:
            # A replacement measures as its predecessor did, which the driver may still list.
            options = replace(options, num_threads=self._environment.num_threads, share_gpu=True)
        descriptor, log = tempfile.mkstemp(prefix="medusa-bench-worker-", suffix=".log")
        self._log = os.fdopen(descriptor, "rb")
        self._process = context.Process(
            target=worker.main,
            args=(theirs, options, log, self._make_measurer),
            name=f"medusa-bench worker ({options.device})",
            daemon=True,
        )
        try:
            _start_server()
            self._process.start()
            theirs.close()
            answer = self._wait(START_S)
        except (OSError, EOFError) as error:
            self._process = None
            self._discard()
            raise MedusaBenchError(
                f"No worker process could be started: {error}.", hint=_DOCTOR
            ) from None
        finally:
            theirs.close()
            Path(log).unlink(missing_ok=True)  # both sides hold it open; nothing is left behind
        return answer

    def _died(self) -> Answer:
        assert self._process is not None
        self._process.join(self._patience_s)
        exit_code = self._process.exitcode
        last_words = _last_line(self._log)
        self._discard()
        kind, reason = explain_exit(exit_code)
        return Answer(kind=kind, reason=f"{reason} ({last_words})" if last_words else reason)

    def _discard(self) -> None:
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        log, self._log = self._log, None
        if log is not None:
            log.close()
        if connection is not None:
            connection.close()
        if process is not None and process.pid is not None:  # Ctrl-C may come before it starts
            process.kill()
            process.join(self._patience_s)


def _start_server() -> None:
    """Start the process that workers are forked from, deaf to Ctrl-C: that is for us to handle.

    It hears signals while it imports torch, and would end in a traceback of its own.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return
    resource_tracker.ensure_running()  # it unblocks SIGINT, so it goes first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_DOCTOR = "`medusa-bench doctor` says what this machine can measure and what is missing."


def explain_exit(exit_code: int | None) -> tuple[FailureKind, str]:
    """How a worker ended, from its exit code (negative: a signal)."""
    if exit_code is None:
        return FailureKind.HUNG, "the worker closed its pipe and did not end"
    if exit_code >= 0:
        return FailureKind.CRASHED, f"the worker ended with exit status {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    if name == "SIGKILL":
        return FailureKind.KILLED, "the worker was killed by SIGKILL: by hand, or short of memory"
    if name in ("SIGTERM", "SIGHUP", "SIGINT"):
        return FailureKind.KILLED, f"the worker was ended by {name}"
    return FailureKind.CRASHED, f"the worker crashed with {name}"


def _last_line(log: BinaryIO | None) -> str:
    """The end of what the worker printed, as a few printable words."""
    text = log.read()[-4000:].decode(errors="replace") if log else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "".join(char for char in lines[-1] if char.isprintable())[:200] if lines else ""
