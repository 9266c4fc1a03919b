"""`make bench`: how fast the harness itself is. Durations live here, never in a test."""

import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from medusa_bench import cli
from medusa_bench.base.errors import ExitCode
from medusa_bench.measure import sweep
from medusa_bench.measure.client import WorkerBackend, pick_device
from medusa_bench.results import folders
from medusa_bench.results.rows import Environment, Grid, Measurement, Roofs, Task, Timing
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import load
from medusa_bench.specs.operators import OPERATORS
from medusa_bench.specs.products import Product
from medusa_bench.specs.settings import Phase
from tests.builders.fakes import FAKE_DEVICE, FakeBackend
from tools import rivals


def line(what: str, value: str) -> None:
    sys.stdout.write(f"{what:<58} {value}\n")
    sys.stdout.flush()


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    start_s = time.perf_counter()
    yield lambda: time.perf_counter() - start_s


def paper_grid() -> Grid:
    default = sweep.PAPER_ON_GPU
    return Grid(
        tuple(load(name) for name in default.models),
        OPERATORS,
        tuple(Phase),
        default.batch_sizes,
        default.seq_lens,
        default.num_candidates,
        (Dtype.FLOAT16,),
        (Timing.KERNEL,),
    )


def start_up() -> None:
    for arguments in (["--help"], ["--version"]):
        times_s = []
        for _ in range(7):
            with stopwatch() as elapsed_s:
                subprocess.run(
                    [sys.executable, "-m", "medusa_bench", *arguments],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
                times_s.append(elapsed_s())
        line(f"medusa-bench {arguments[0]}, best of 7", f"{1e3 * min(times_s):.0f} ms")


def plan_time() -> None:
    with stopwatch() as elapsed_s:
        plan = sweep.plan(paper_grid(), 80 * 2**30)
        line(
            f"plan of {plan.num_points:,} points, {plan.num_distinct:,} distinct",
            f"{elapsed_s():.2f} s",
        )


def harness_overhead(folder: Path) -> None:
    """What a sweep costs a point beyond measuring it: loop, row, checksum, fsync."""
    grid = paper_grid()
    tasks = sweep.plan(grid, None).tasks[:1000]
    backend = FakeBackend()
    roofs = backend.roofs(grid.dtypes)
    with folders.Writer(folder, FAKE_DEVICE, grid) as writer, stopwatch() as elapsed_s:
        rows = sweep.run(
            sweep.work(tasks, 1), backend, writer, budget_s=0.0, roofs=roofs, next_round=1
        )
        num_rows = sum(1 for _ in rows)
        line("loop and store, a point", f"{1e6 * elapsed_s() / num_rows:.0f} us")


def store_rates(folder: Path) -> None:
    def row(index: int) -> Measurement:
        task = Task(Product(1, 1 + index, 4096, 4096), Dtype.FLOAT16, Timing.KERNEL)
        return Measurement(task, 0, 1e-3, 1e-3, 1e-3, 1e-3, 50, tuple([1e-3] * 16))

    environment = Environment("bench", "cpu", 1)
    for exponent in (3, 4, 5, 6):
        count = 10**exponent
        path = folder / str(count)
        with folders.Writer(path, environment) as writer:
            if count <= 10**3:
                with stopwatch() as elapsed_s:
                    for index in range(count):
                        writer.append(row(index))
                    line(f"append {count:,} rows one by one", f"{count / elapsed_s():,.0f} rows/s")
            else:
                with stopwatch() as elapsed_s:
                    writer.extend(row(index) for index in range(count))
                    line(f"append {count:,} rows together", f"{count / elapsed_s():,.0f} rows/s")
        with stopwatch() as elapsed_s:
            assert len(folders.load(path).rows) == count
            line(f"load {count:,} rows", f"{count / elapsed_s():,.0f} rows/s")


def roofline_figure(folder: Path) -> None:
    """The figure of a whole grid, from the folder to the PNG."""
    grid = paper_grid()
    with folders.Writer(folder, FAKE_DEVICE, grid) as writer:
        writer.add_roofs(Roofs({Dtype.FLOAT16: 1.2e12}, 1e15))
        backend = FakeBackend()
        writer.extend(
            row
            for task in sweep.plan(grid, None).tasks
            if isinstance(row := backend.measure(task, 0, 0.05), Measurement)
        )
    with stopwatch() as elapsed_s:
        points = folders.load(folder).points()
        line(f"load and expand {len(points):,} points", f"{elapsed_s():.2f} s")
    with stopwatch() as elapsed_s:
        with redirect_stdout(io.StringIO()):
            code = cli.run(["roofline", str(folder), "-o", str(folder / "roofline.png")])
        assert code == ExitCode.OK
        line(f"roofline figure of {len(points):,} points", f"{elapsed_s():.2f} s")


def measuring() -> None:
    """Points a second beside plain loops over the same points, in the same run."""
    device = pick_device(None)
    default = sweep.defaults(on_cpu=device == "cpu", quick=True)
    grid = Grid(
        tuple(load(name) for name in default.models),
        OPERATORS,
        (Phase.DECODE, Phase.MEDUSA),
        default.batch_sizes[:2],
        default.seq_lens[:2],
        default.num_candidates,
        (default.dtype,),
        default.timings,
    )
    tasks = sweep.plan(grid, None).tasks
    with WorkerBackend(device) as backend:
        line(f"device, and {len(tasks)} points on it", backend.environment.device)
        rate = rivals.ours(tasks, backend)
        line("  this harness", f"{rate.points_per_s:.1f} points/s")
        overhead_s, pipe_s = rivals.overhead_s_per_point(tasks[-1], backend)
        line("  its own cost a point", f"{1e6 * overhead_s:.0f} us")
        line("  of which the pipe to the worker", f"{1e6 * pipe_s:.0f} us")
    rate = rivals.torch_benchmark(tasks, device)
    line("  torch.utils.benchmark, a plain loop", f"{rate.points_per_s:.1f} points/s")
    if device != "cpu":
        rate = rivals.triton_do_bench(tasks, device)
        line("  triton.testing.do_bench, a plain loop", f"{rate.points_per_s:.1f} points/s")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        start_up()
        plan_time()
        harness_overhead(folder / "harness")
        store_rates(folder / "store")
        roofline_figure(folder / "roofline")
        measuring()


if __name__ == "__main__":
    main()
