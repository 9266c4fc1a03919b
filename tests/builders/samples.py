"""A small grid, environments and rows that several test modules build results from."""

from medusa_bench.results.rows import (
    Environment,
    Failure,
    FailureKind,
    Grid,
    Measurement,
    Roofs,
    Task,
    Timing,
)
from medusa_bench.specs import models, operators
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.settings import Phase

BLANK = Environment("Test Device", "cpu", 0)
ENVIRONMENT = Environment(
    "Test Device", "cuda", 80 << 30, 108, 40 << 20, 300.0, "580.1", "2.13.0", "13.0",
    details={"host": "a", "uuid": "GPU-1"},
)  # fmt: skip
ROOFS = Roofs({Dtype.FLOAT16: 300e12}, 2e12, measured_at_s=1.0)
GRID = Grid(
    shapes=(models.PRESETS["llama-7b"],),
    operators=operators.OPERATORS,
    phases=(Phase.DECODE, Phase.MEDUSA),
    batch_sizes=(1, 4),
    seq_lens=(256, 1024),
    num_candidates=(16, 64),
    dtypes=(Dtype.FLOAT16,),
    timings=(Timing.KERNEL,),
)


def tasks(grid: Grid = GRID) -> list[Task]:
    """The distinct tasks of a grid, in its order."""
    return list(
        dict.fromkeys(
            Task(point.product, point.dtype, timing)
            for point in grid.points()
            for timing in grid.timings
        )
    )


def measured(
    task: Task, round_index: int = 0, latency_s: float = 1e-4, started_at_s: float = 0.0
) -> Measurement:
    """A round in which every call took latency_s."""
    times = (latency_s, latency_s, latency_s, latency_s)
    return Measurement(task, round_index, *times, 100, (latency_s,), started_at_s=started_at_s)


def failed(task: Task, round_index: int = 0, reason: str = "out of memory") -> Failure:
    return Failure(task, round_index, FailureKind.OUT_OF_MEMORY, reason)
