"""Results of a device that does not exist, for what draws results."""

from pathlib import Path

from medusa_bench.results import folders
from medusa_bench.results.reading import Results
from medusa_bench.results.rows import Environment, Grid
from tests.builders import samples
from tests.builders.fakes import FakeBackend


def fake_results(
    path: Path, grid: Grid = samples.GRID, *, environment: Environment | None = None
) -> Results:
    """Results of the fake device: every task of the grid measured, at 1 TFLOP/s."""
    backend = FakeBackend()
    with folders.Writer(path, environment or backend.environment, grid, "fake sweep") as writer:
        writer.add_roofs(backend.roofs(grid.dtypes))
        writer.extend(backend.measure(task, 0, 0.05) for task in samples.tasks(grid))
    return folders.load(path)
