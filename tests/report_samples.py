"""Results of a device that does not exist, for what draws results."""

from pathlib import Path

from medusa_bench import store
from medusa_bench.measurements import Environment, Grid
from medusa_bench.results import Results
from tests import store_samples
from tests.fakes import FakeBackend


def fake_results(
    path: Path, grid: Grid = store_samples.GRID, *, environment: Environment | None = None
) -> Results:
    """Results of the fake device: every task of the grid measured, at 1 TFLOP/s."""
    backend = FakeBackend()
    with store.Writer(path, environment or backend.environment, grid, "fake sweep") as writer:
        writer.add_roofs(backend.roofs(grid.dtypes))
        writer.extend(backend.measure(task, 0, 0.05) for task in store_samples.tasks(grid))
    return store.load(path)
