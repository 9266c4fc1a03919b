"""A backend survives whatever happens to its worker, and leaves none behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.measure.client import WorkerBackend, explain_exit
from medusa_bench.results.rows import (
    Environment,
    Failure,
    FailureKind,
    Measurement,
    Roofs,
    Task,
    Timing,
)
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product
from tests.builders.faults import EXPECTED, DiesAtFirst, Fault, MakeFaulty

TASKS = [Task(Product(1, 1, 16, k), Dtype.FLOAT32, Timing.KERNEL) for k in (16, 32, 48)]
ARENA_BYTES = 1 << 20
BUDGET_S = 1e-3


def backend(faults: Mapping[str, Fault], patience_s: float = 30.0) -> WorkerBackend:
    return WorkerBackend(
        "cpu",
        num_threads=1,
        arena_bytes=ARENA_BYTES,
        patience_s=patience_s,
        make_measurer=MakeFaulty(faults),
    )


@pytest.fixture(scope="module")
def healthy() -> Iterator[WorkerBackend]:
    with backend({}) as opened:
        yield opened


@pytest.mark.parametrize("position", [0, 1, 2], ids=["first", "middle", "last"])
@pytest.mark.parametrize("fault", Fault)
def test_a_fault_is_one_failure_and_the_other_points_are_measured(
    fault: Fault, position: int
) -> None:
    patience_s = 1.0 if fault is Fault.HANG else 30.0
    with backend({TASKS[position].key: fault}, patience_s) as opened:
        rows = [opened.measure(task, 0, BUDGET_S) for task in TASKS]
    failure = rows.pop(position)
    assert isinstance(failure, Failure)
    assert failure.kind is EXPECTED[fault]
    assert failure.task == TASKS[position]
    assert failure.reason
    assert "\n" not in failure.reason
    assert all(isinstance(row, Measurement) for row in rows)


def test_two_faults_in_a_row_are_two_failures() -> None:
    with backend({TASKS[0].key: Fault.ABORT, TASKS[1].key: Fault.STICKY_ERROR}) as opened:
        kinds = [getattr(opened.measure(task, 0, BUDGET_S), "kind", None) for task in TASKS]
    assert kinds == [FailureKind.CRASHED, FailureKind.DEVICE_ERROR, None]


def test_a_crash_is_explained_by_what_the_worker_last_printed() -> None:
    with backend({TASKS[0].key: Fault.ABORT}) as opened:
        failure = opened.measure(TASKS[0], 0, BUDGET_S)
    assert isinstance(failure, Failure)
    assert "SIGABRT" in failure.reason
    assert "c10::Error" in failure.reason


def test_a_worker_killed_while_idle_fails_one_point_and_is_replaced(
    healthy: WorkerBackend,
) -> None:
    assert isinstance(healthy.measure(TASKS[0], 0, BUDGET_S), Measurement)
    pid = worker_pid(healthy)
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    failure = healthy.measure(TASKS[1], 0, BUDGET_S)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.KILLED
    assert isinstance(healthy.measure(TASKS[1], 0, BUDGET_S), Measurement)
    assert worker_pid(healthy) != pid


def test_ctrl_c_is_the_parents_to_handle(healthy: WorkerBackend) -> None:
    assert isinstance(healthy.measure(TASKS[0], 0, BUDGET_S), Measurement)
    os.kill(worker_pid(healthy), signal.SIGINT)
    assert isinstance(healthy.measure(TASKS[0], 0, BUDGET_S), Measurement)


def test_an_answer_that_ctrl_c_left_behind_is_not_taken_for_the_next(
    healthy: WorkerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(healthy.measure(TASKS[0], 0, BUDGET_S), Measurement)

    def interrupted(timeout: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(healthy._connection, "poll", interrupted)
    with pytest.raises(KeyboardInterrupt):
        healthy.measure(TASKS[0], 0, BUDGET_S)
    row = healthy.measure(TASKS[1], 0, BUDGET_S)
    assert row.task == TASKS[1]


def test_a_point_too_large_for_memory_fails_before_it_is_allocated(
    healthy: WorkerBackend,
) -> None:
    huge = Task(Product(1, 1 << 20, 1 << 20, 64), Dtype.FLOAT32, Timing.KERNEL)
    failure = healthy.measure(huge, 0, BUDGET_S)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.OUT_OF_MEMORY
    assert "GB" in failure.reason
    assert isinstance(healthy.measure(TASKS[0], 0, BUDGET_S), Measurement)


def test_the_environment_names_the_processor_and_its_threads(healthy: WorkerBackend) -> None:
    environment = healthy.environment
    assert isinstance(environment, Environment)
    assert environment.device_type == "cpu"
    assert environment.device
    assert environment.memory_bytes > 1 << 28
    assert environment.num_threads == 1
    assert type(environment.torch) is str


def test_a_dtype_without_units_is_a_failure_with_a_reason(healthy: WorkerBackend) -> None:
    failure = healthy.measure(Task(TASKS[0].product, Dtype.TF32, Timing.KERNEL), 0, BUDGET_S)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.ERROR
    assert "tf32" in failure.reason


@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.BFLOAT16, Dtype.FLOAT16])
@pytest.mark.parametrize("timing", Timing)
def test_half_precision_works_on_a_processor_too(
    healthy: WorkerBackend, dtype: Dtype, timing: Timing
) -> None:
    row = healthy.measure(Task(Product(3, 5, 40, 24), dtype, timing), 2, BUDGET_S)
    assert isinstance(row, Measurement), row
    assert row.round_index == 2
    assert 0 < row.min_s <= row.p25_s <= row.latency_s <= row.p75_s
    assert row.num_calls >= len(row.samples_s) >= 3


def test_an_unknown_device_is_an_error_with_a_hint() -> None:
    with pytest.raises(MedusaBenchError) as caught, WorkerBackend("cuda:7") as opened:
        _ = opened.environment
    assert caught.value.hint


def test_the_deadline_grows_with_the_budget_and_the_product() -> None:
    small, large = (
        Task(Product(1, m, 4096, 4096), Dtype.FLOAT32, Timing.KERNEL) for m in (1, 8192)
    )
    with backend({}, patience_s=30.0) as opened:
        assert opened.deadline_s(small, 0.0) >= 30.0
        assert opened.deadline_s(small, 1.0) == opened.deadline_s(small, 0.0) + 20.0
        assert opened.deadline_s(large, 0.0) > opened.deadline_s(small, 0.0) + 60.0
        endless = Task(Product(1, 1 << 24, 1 << 24, 1 << 24), Dtype.FLOAT32, Timing.KERNEL)
        assert opened.deadline_s(endless, 0.0) < 1e5
        opened._roofs = Roofs({Dtype.FLOAT32: 1e12}, 1e11)
        assert opened.deadline_s(large, 0.0) == 30.0 + 6 * large.product.flops / 1e10


@pytest.mark.parametrize(
    ("exit_code", "kind", "word"),
    [
        (-signal.SIGSEGV, FailureKind.CRASHED, "SIGSEGV"),
        (-signal.SIGABRT, FailureKind.CRASHED, "SIGABRT"),
        (-signal.SIGBUS, FailureKind.CRASHED, "SIGBUS"),
        (-signal.SIGKILL, FailureKind.KILLED, "SIGKILL"),
        (-signal.SIGTERM, FailureKind.KILLED, "SIGTERM"),
        (1, FailureKind.CRASHED, "status 1"),
        (None, FailureKind.HUNG, "did not end"),
    ],
)
def test_how_a_worker_ended_is_told_in_words(
    exit_code: int | None, kind: FailureKind, word: str
) -> None:
    told, reason = explain_exit(exit_code)
    assert told is kind
    assert word in reason


@pytest.mark.parametrize("at", ["start", "roofs"])
@pytest.mark.parametrize("fault", [Fault.KILL, Fault.ABORT])
def test_a_worker_that_dies_at_its_start_or_roofs_gets_a_successor(
    tmp_path: Path, at: str, fault: Fault
) -> None:
    backend = WorkerBackend(
        "cpu",
        num_threads=1,
        arena_bytes=1 << 20,
        make_measurer=DiesAtFirst(fault, at, 2, tmp_path / "deaths"),
    )
    with backend:
        roofs = backend.roofs((Dtype.FLOAT32,))
    assert roofs.memory_bandwidth_bytes_per_s > 0
    assert len(backend.deaths) == 2
    assert all({"start": "at its start", "roofs": "roofs"}[at] in words for words in backend.deaths)


def test_a_worker_that_dies_every_time_is_an_error_with_its_reason(tmp_path: Path) -> None:
    dies = DiesAtFirst(Fault.KILL, "start", 99, tmp_path / "deaths")
    backend = WorkerBackend("cpu", num_threads=1, arena_bytes=1 << 20, make_measurer=dies)
    with backend, pytest.raises(MedusaBenchError, match="SIGKILL"):
        _ = backend.environment
    assert (tmp_path / "deaths").stat().st_size == 3


PARENT = """
import sys
from medusa_bench.measure.client import WorkerBackend
from medusa_bench.results.rows import Task, Timing
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product
from tests.builders.faults import Fault, MakeFaulty

if __name__ == "__main__":
    task = Task(Product(1, 1, 16, 16), Dtype.FLOAT32, Timing.KERNEL)
    hung = Task(Product(1, 1, 16, 32), Dtype.FLOAT32, Timing.KERNEL)
    backend = WorkerBackend(
        "cpu", num_threads=1, arena_bytes=1 << 20, make_measurer=MakeFaulty({hung.key: Fault.HANG})
    )
    backend.measure(task, 0, 1e-3)
    loaded = sorted({"torch", "numpy", "pandas", "transformers"} & set(sys.modules))
    print(backend._process.pid, ",".join(loaded) or "none", flush=True)
    backend.measure(hung, 0, 1e-3)
"""


def test_a_killed_parent_leaves_no_worker_and_never_loads_torch(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid, loaded = parent.stdout.readline().split()
        assert loaded == "none"
        parent.kill()
        # The worker prints nothing on stdout, neither before nor after.
        assert parent.stdout.read() == ""
    wait_until_gone(int(pid))


def test_close_ends_the_worker_and_no_file_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened = backend({})
    opened.measure(TASKS[0], 0, BUDGET_S)
    assert not list(tmp_path.glob("*.log"))
    pid = worker_pid(opened)
    opened.close()
    wait_until_gone(pid)


def worker_pid(opened: WorkerBackend) -> int:
    assert opened._process is not None
    assert opened._process.pid is not None
    return opened._process.pid


def wait_until_gone(pid: int) -> None:
    """Until the process has ended; a zombie has."""
    for _ in range(1000):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} is still there")
