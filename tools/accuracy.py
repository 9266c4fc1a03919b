"""`make accuracy`: how far predictions are from published measurements, against a line for each.

    python -m tools.accuracy --reference ../shared/reference/measured

accuracy.toml says which rows of which table are scored, what was fitted before, and how far off
they may be. A table that does not lie here is left out and named. Exit code 1 where a row is worse.
"""

import argparse
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medusa_bench.predict import calibration_files, operator_tables, scoring
from medusa_bench.predict.scoring import LeaveOut, Score, Scored
from medusa_bench.results import tables
from medusa_bench.results.rows import Timing
from medusa_bench.results.tables import Observations
from medusa_bench.specs import paper_grid
from medusa_bench.specs.profiles import load

LINES = Path(__file__).with_suffix(".toml")
REFERENCE = Path("../shared/reference/measured")
_ROUNDING = 0.05  # percent: a line is written with one digit
_HALVES = 2
# A published table rotates six copies of each weight; what fits in the L2 stays there.
_ROTATING_COPIES = 6
_COLD_SHARE_OF_L2 = 1.5


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table that is printed: what is scored, after which fit, and its line."""

    name: str
    table: str
    split: str
    error: float
    inside: tuple[float, float]
    goal: float
    gpu: str | None = None
    where: Mapping[str, str | list[str]] | None = None
    timing: Timing | None = None
    temperature: str = "any"
    seeds: int = 1
    operators: str = ""  # which published table of operators it is, where it is no products
    fitted: str = ""  # what of the table stands behind what ships, where something does

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Row":
        low, high = values["inside"]
        timing = Timing(values["timing"]) if "timing" in values else None
        return cls(**{**values, "inside": (low, high), "timing": timing})

    def path(self, reference: Path) -> Path:
        return Path(self.table) if self.table == paper_grid.RESULTS else reference / self.table

    def faults(self, score: Score) -> list[str]:
        """In what a score is worse than the line."""
        low, high = self.inside
        faults = []
        if score.mape > self.error + _ROUNDING:
            faults.append(f"error over {self.error:g}")
        if not low - _ROUNDING <= score.coverage_90 <= high + _ROUNDING:
            faults.append(f"inside not {low:g} to {high:g}")
        return faults


def rows() -> list[Row]:
    return [Row.of(values) for values in tomllib.loads(LINES.read_text())["row"]]


def score(row: Row, reference: Path) -> Score:
    """The mean over the row's seeds."""
    if row.operators:
        table = operator_tables.Table(row.operators)
        found = operator_tables.scored(row.path(reference), table, row.gpu)
        return scoring.score(found[_named(row, found.observations)])
    observations = chosen(row, tables.with_gpu(tables.read(row.path(reference)), row.gpu))
    runs = [_scored(row, observations, seed) for seed in range(row.seeds)]
    return scoring.mean_score([scoring.score(run) for run in runs])


def chosen(row: Row, observations: Observations) -> Observations:
    """The rows of a table that are scored, and fitted where the split says so."""
    here = _named(row, observations)
    if row.temperature == "cold":
        here &= is_cold(observations, load(row.gpu or "").l2_bytes)
    timing = row.timing or observations.timing
    return replace(observations[np.flatnonzero(here)], timing=timing)


def _named(row: Row, observations: Observations) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The rows that a line's labels name."""
    here = np.full(len(observations), True)
    for name, values in (row.where or {}).items():
        here &= np.isin(observations.label(name), values)
    return here


def is_cold(observations: Observations, l2_bytes: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether the copies of a weight that a benchmark rotates are more than the L2 holds."""
    products = observations.products
    element = np.array([dtype.bytes_per_element for dtype in observations.dtypes])
    copies = _ROTATING_COPIES * products.batch * products.n * products.k * element
    cold: np.ndarray[Any, np.dtype[np.bool_]] = copies > _COLD_SHARE_OF_L2 * l2_bytes
    return cold


def _scored(row: Row, observations: Observations, seed: int) -> Scored:
    calibrations = calibration_files.shipped_calibrations()
    nothing = np.full(len(observations), False)
    match row.split.split():
        case ["as", "shipped"]:
            return scoring.as_shipped(observations, calibrations)
        case ["calibrate", "on", count]:
            return scoring.calibrated_on(observations, calibrations, int(count), seed, nothing)
        case ["leave", "out", "half", "of", "the", "shapes"]:
            return scoring.leaving_out(
                observations, LeaveOut.SHAPE, seed, nothing, shape_folds=_HALVES
            )
        case ["leave", "out", what]:
            return scoring.leaving_out(observations, LeaveOut(what), seed, nothing)
        case _:
            raise ValueError(f"{row.name}: {row.split!r} is no split")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference", type=Path, default=REFERENCE, help="the tables' folder")
    parser.add_argument("--only", default="", help="rows with this text in their name")
    options = parser.parse_args(arguments)
    worse, missing = 0, set()
    _say("row", "rows", "error", "inside", "bare", "goal", "fitted before scoring")
    for row in rows():
        if options.only not in row.name:
            continue
        if not row.path(options.reference).exists():
            missing.add(row.table)
            continue
        result = score(row, options.reference)
        faults = row.faults(result)
        worse += bool(faults)
        _say(
            row.name,
            f"{result.rows:,}",
            f"{result.mape:.1f}",
            f"{result.coverage_90:.0f}",
            f"{result.roofline_mape:.0f}",
            f"{row.goal:g}",
            ", ".join([_split(row), *(f"WORSE: {fault}" for fault in faults)]),
        )
    if missing:
        sys.stdout.write(f"Left out, not in {options.reference}: {', '.join(sorted(missing))}\n")
    sys.stdout.write("Mean absolute error of latency, rows inside of the 90 % interval, and the ")
    sys.stdout.write("bare roofline's error; percent.\n")
    return int(worse > 0)


def _split(row: Row) -> str:
    match row.split.split():
        case ["as", "shipped"]:
            return row.fitted or "nothing of this table"
        case ["calibrate", "on", count]:
            return f"{count} rows, the others scored, mean of {row.seeds} seeds"
        case ["leave", "out", *what]:
            return f"all but each {' '.join(what)}"
    return row.split


def _say(name: str, count: str, *cells: str) -> None:
    *figures, words = cells
    line = f"{name:<41} {count:>7}" + "".join(f"{figure:>7}" for figure in figures)
    sys.stdout.write(f"{line}  {words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
