"""The paper beside ours: its printed cells, gains, tables and readings, and what we get for each.

arXiv 2401.10774 (Medusa): tables 1, 4 and 6 to 8, figures 4, 21 and 22; its sentences are
judged by claims/. Reads only what ships in results/paper, and results that a user measured.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import exp, log
from statistics import fmean

import numpy as np

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.base.files import shipped
from medusa_bench.compare import acceptance
from medusa_bench.compare.acceptance import AcceptanceModel
from medusa_bench.compare.comparisons import Comparison
from medusa_bench.compare.methods import medusa
from medusa_bench.compare.passes import Block
from medusa_bench.compare.simulation import Variant, simulate
from medusa_bench.predict import calibration_files, latency, priors, scoring
from medusa_bench.predict.calibration import Calibration
from medusa_bench.predict.latency import Calibrated
from medusa_bench.predict.scoring import Score, Scored
from medusa_bench.results import folders, tables
from medusa_bench.results.reading import PrintedCell, Results
from medusa_bench.results.rows import Provenance, Task, Timing
from medusa_bench.specs import models, paper_grid, profiles
from medusa_bench.specs.columns import Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import OPERATORS, Family, Operator
from medusa_bench.specs.paper_grid import (
    PAPER_BATCH_SIZES,
    PAPER_GPU,
    PAPER_NUM_CANDIDATES,
    PAPER_SEQ_LENS,
    SIMULATED_MODEL,
    SOURCE,
)
from medusa_bench.specs.products import Product
from medusa_bench.specs.settings import Phase, Setting
from medusa_bench.specs.shapes import ModelShape

NUM_FITTED = 12
NUM_SEEDS = 20


class Predictor(StrEnum):
    """What a prediction of the cells knows of them, from nothing to a few."""

    ROOFLINE = "bare roofline"
    UNFITTED = "nothing of the paper"
    LAUNCH = "its launch time alone"
    FITTED = "12 cells fitted"


@dataclass(frozen=True, slots=True)
class MeasuredRate:
    """What a user measured for a cell."""

    folder: str
    device: str
    timing: Timing
    flops_per_s: float


@dataclass(frozen=True, slots=True)
class Cell:
    """A printed cell beside what we compute, predict, and a user measured for it."""

    printed: PrintedCell
    is_repeated: bool  # another table prints the same setting, before it
    # FITTED: geometric mean over the seeds that leave out a cell of this product; absent if none
    # does. (Linear cells of equal batch_size x num_candidates are one product.)
    predicted_flops_per_s: Mapping[Predictor, float]
    measured: tuple[MeasuredRate, ...] = ()

    @property
    def setting(self) -> Setting:
        return self.printed.points[0].setting

    @property
    def operators(self) -> tuple[str, ...]:
        return tuple(point.operator.name for point in self.printed.points)

    @property
    def operational_intensity(self) -> float:
        """Of the operator table, in FLOPs per byte."""
        point = self.printed.points[0]
        return point.product.operational_intensity(point.dtype)

    @property
    def equals_print(self) -> bool:
        """Whether the computed intensity is the printed one, at its two decimals."""
        return abs(self.operational_intensity - self.printed.operational_intensity) <= 0.005 + 1e-9


@dataclass(frozen=True, slots=True)
class Gain:
    """How many times more a Medusa pass reaches than vanilla decoding: the 44x and the 41x."""

    quantity: str
    claimed: float
    vanilla: Cell
    medusa: Cell
    vanilla_printed: float
    medusa_printed: float
    ours: float
    ours_is: str
    num_cells_alike: int  # cells whose printed gain rounds to the claimed one
    measured: tuple[tuple[MeasuredRate, float], ...] = ()

    @property
    def printed(self) -> float:
        return self.medusa_printed / self.vanilla_printed


@dataclass(frozen=True, slots=True)
class Division:
    """A model's row of table 1 or 4, divided again.

    low and high: what the quotient can be, given that its parts are rounded in print.
    """

    table: int
    model: str
    acceleration_rate: float
    speedup_printed: float
    speedup: float | None  # from tokens per second; table 1 prints none
    overhead_printed: float | None  # table 4 prints none
    overhead: float  # acceleration rate / speedup
    low: float
    high: float
    overhead_simulated: float

    @property
    def difference(self) -> str:
        """Where print and quotient part by more than rounding explains; empty where not."""
        if self.overhead_printed is not None and not (
            self.low <= self.overhead_printed + 0.005 and self.overhead_printed - 0.005 <= self.high
        ):
            return (
                f"printed overhead {self.overhead_printed:.2f}, its own rates give "
                f"{self.overhead:.3f} ({self.low:.3f} to {self.high:.3f} with rounding)"
            )
        if self.speedup is not None and abs(self.speedup - self.speedup_printed) > 0.005 + 1e-9:
            return (
                f"printed speedup {self.speedup_printed:.2f}, its own tokens per second give "
                f"{self.speedup:.3f}"
            )
        return ""


@dataclass(frozen=True, slots=True)
class RateReading:
    """An acceleration rate read off figure 4a or 21, beside the forms of the law."""

    figure: str
    num_candidates: int
    read: float
    ours: float  # of the acceptance model in use
    as_printed: float  # 0.477 ln(n)


@dataclass(frozen=True, slots=True)
class SpeedupReading:
    """A simulated speedup read off figure 22, beside ours."""

    figure: str
    batch_size: int
    num_candidates: int
    read: float
    ours: float
    ours_as_printed: float  # with 0.477 ln(n) instead


@dataclass(frozen=True, slots=True)
class MeasuredSpeedup:
    """A point of figures 21 to 23 whose products a user has all measured."""

    folder: str
    device: str
    timing: Timing
    batch_size: int
    seq_len: int
    num_candidates: int
    overhead: float
    speedup: float


@dataclass(frozen=True, slots=True)
class StepParts:
    """What a step of figure 21 consists of, each over the latency of a whole vanilla step."""

    num_candidates: int
    qkv: float
    attention: float
    mlp: float


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The paper beside ours. `acceptance` is the form used wherever a speedup is simulated."""

    cells: tuple[Cell, ...]
    scores: Mapping[Predictor, Score]
    num_seeds: int
    gains: tuple[Gain, ...]
    divisions: tuple[Division, ...]
    acceptance: AcceptanceModel
    rate_readings: tuple[RateReading, ...]
    speedup_readings: tuple[SpeedupReading, ...]
    speedups: tuple[Comparison, ...]  # figures 21 to 23
    step_parts: tuple[StepParts, ...]  # figure 21
    latency_name: str  # what the speedups' latencies rest on
    unfitted_name: str  # what UNFITTED and LAUNCH rest on
    launch_s: float  # of the paper's harness
    measured_speedups: tuple[MeasuredSpeedup, ...]

    def cell(self, table: int, batch_size: int, seq_len: int, num_candidates: int) -> Cell:
        """A printed cell; a linear one has any seq_len. Raises KeyError."""
        for cell in self.table(table):
            setting = cell.setting
            if (setting.batch_size, setting.num_candidates) == (batch_size, num_candidates) and (
                table == 8 or setting.seq_len == seq_len
            ):
                return cell
        raise KeyError((table, batch_size, seq_len, num_candidates))

    def table(self, number: int) -> list[Cell]:
        """The cells of table 6, 7 or 8."""
        return [cell for cell in self.cells if cell.printed.table.startswith(f"table{number}_")]


def reproduce(
    measured: Sequence[Results] = (),
    *,
    law: AcceptanceModel = acceptance.PAPER,
    num_seeds: int = NUM_SEEDS,
) -> Reproduction:
    """Everything but the findings. measured: results that a user measured, joined where they hold
    the same products. Raises MedusaBenchError for results that were not measured."""
    for results in measured:
        if results.provenance is not Provenance.MEASURED:
            raise MedusaBenchError(
                f"{results.path} holds {results.provenance} results, not measured ones.",
                hint="the paper's and the predicted ones are in the report as they are.",
            )
    known = calibration_files.shipped_calibrations()
    harness = _harness(known)
    scores, predicted = _predictions(known, harness, num_seeds)
    cells = _cells(predicted, measured)
    model = priors.calibrated(profiles.load(PAPER_GPU), Timing.EAGER)
    speedups = simulated_speedups(model, law)
    return Reproduction(
        cells=cells,
        scores=scores,
        num_seeds=num_seeds,
        gains=gains(cells),
        divisions=(*_table_1(), *_table_4()),
        acceptance=law,
        rate_readings=_rate_readings(law),
        speedup_readings=_speedup_readings(speedups, law),
        speedups=speedups,
        step_parts=_step_parts(model),
        latency_name=model.name,
        unfitted_name=_without_paper(known).name,
        launch_s=harness.parameters.launch_s,
        measured_speedups=tuple(
            found for results in measured for found in _measured_speedups(results, speedups)
        ),
    )


# -- tables 6 to 8 ------------------------------------------------------------------------------


def _harness(known: Sequence[Calibration]) -> Calibration:
    return next(each for each in known if each.timing is Timing.EAGER and SOURCE in each.source)


def _others(known: Sequence[Calibration]) -> list[Calibration]:
    return [each for each in known if SOURCE not in each.source]


def _without_paper(known: Sequence[Calibration]) -> Calibrated:
    return priors.calibrated(profiles.load(PAPER_GPU), Timing.EAGER, calibrations=_others(known))


def _predictions(
    known: Sequence[Calibration], harness: Calibration, num_seeds: int
) -> tuple[dict[Predictor, Score], dict[Product, dict[Predictor, float]]]:
    """Scores over the 160 distinct cells, and each one's predicted latency in seconds."""
    observed = tables.read(shipped(paper_grid.RESULTS))
    others = _others(known)
    # Under no device's name its launch time is borrowed, and nothing else.
    launch_alone = replace(harness, device="", process=None)
    runs = {
        Predictor.UNFITTED: [scoring.as_shipped(observed, others)],
        Predictor.LAUNCH: [scoring.as_shipped(observed, [*others, launch_alone])],
        Predictor.FITTED: [
            scoring.calibrated_on(
                observed, known, NUM_FITTED, seed, np.zeros(len(observed), dtype=bool)
            )
            for seed in range(num_seeds)
        ],
    }
    bare = runs[Predictor.UNFITTED][0]
    bare = replace(bare, latency_s=bare.roofline_s, low_s=bare.roofline_s, high_s=bare.roofline_s)
    runs = {Predictor.ROOFLINE: [bare], **runs}
    scores = {
        name: scoring.mean_score([scoring.score(run) for run in each])
        for name, each in runs.items()
    }
    predicted: dict[Product, dict[Predictor, float]] = {}
    for name, each in runs.items():
        logs: dict[Product, list[float]] = {}
        for run in each:
            for product, latency_s in _latencies(run):
                logs.setdefault(product, []).append(log(latency_s))
        for product, found in logs.items():
            predicted.setdefault(product, {})[name] = exp(fmean(found))
    return scores, predicted


def _latencies(run: Scored) -> Iterable[tuple[Product, float]]:
    p = run.observations.products
    sizes = np.stack([p.batch, p.m, p.n, p.k], axis=1).astype(int).tolist()
    return ((Product(*size), value) for size, value in zip(sizes, run.latency_s, strict=True))


def _cells(
    predicted: Mapping[Product, Mapping[Predictor, float]], measured: Sequence[Results]
) -> tuple[Cell, ...]:
    cells: list[Cell] = []
    seen: set[tuple[Operator, Setting]] = set()
    for printed in folders.load(shipped(paper_grid.RESULTS)).cells:
        point = printed.points[0]
        product = point.product
        cells.append(
            Cell(
                printed,
                (point.operator, point.setting) in seen,
                {name: product.flops / time_s for name, time_s in predicted[product].items()},
                tuple(
                    MeasuredRate(
                        str(results.path),
                        results.environment.device,
                        timing,
                        product.flops / summary.latency_s,
                    )
                    for results in measured
                    for timing in Timing
                    if (summary := results.summaries.get(Task(product, point.dtype, timing)))
                ),
            )
        )
        seen.add((point.operator, point.setting))
    return tuple(cells)


def gains(cells: Sequence[Cell]) -> tuple[Gain, Gain]:
    """Appendix G.2: "44x FLOP/s and 41x Operational Intensity under the setting of batch size 16
    and sequence length 1024 with 64 candidate tokens"."""
    pairs = [
        (other, cell)
        for cell in cells
        for other in cells
        if not cell.is_repeated
        and other.printed.table == cell.printed.table
        and cell.setting.num_candidates > 1
        and other.setting == replace(cell.setting, num_candidates=1)
    ]
    vanilla, medusa_ = next(
        pair for pair in pairs if pair[1].setting == Setting(Phase.MEDUSA, 16, 1024, 64)
    )
    rate = Gain(
        "FLOP/s",
        44.0,
        vanilla,
        medusa_,
        vanilla.printed.flops_per_s,
        medusa_.printed.flops_per_s,
        medusa_.predicted_flops_per_s[Predictor.LAUNCH]
        / vanilla.predicted_flops_per_s[Predictor.LAUNCH],
        f"predicted, knowing {Predictor.LAUNCH}",
        sum(round(b.printed.flops_per_s / a.printed.flops_per_s) == 44 for a, b in pairs),
        tuple(
            (there, there.flops_per_s / here.flops_per_s)
            for there in medusa_.measured
            for here in vanilla.measured
            if (there.folder, there.timing) == (here.folder, here.timing)
        ),
    )
    intensity = Gain(
        "operational intensity",
        41.0,
        vanilla,
        medusa_,
        vanilla.printed.operational_intensity,
        medusa_.printed.operational_intensity,
        medusa_.operational_intensity / vanilla.operational_intensity,
        "computed from the operator table",
        sum(
            round(b.printed.operational_intensity / a.printed.operational_intensity) == 41
            for a, b in pairs
        ),
    )
    return rate, intensity


# -- tables 1 and 4 -----------------------------------------------------------------------------


def _shipped_rows(name: str) -> list[dict[str, str]]:
    with (shipped(paper_grid.RESULTS) / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _table_1() -> Iterable[Division]:
    for row in _shipped_rows("table1_mtbench.csv"):
        rate, speedup = float(row["acceleration_rate"]), float(row["medusa2_speedup"])
        printed = float(row["overhead"])
        yield _division(1, row["model"], rate, speedup, overhead_printed=printed)


def _table_4() -> Iterable[Division]:
    for row in _shipped_rows("table4_alpacaeval.csv"):
        rate, speedup = float(row["acceleration_rate"]), float(row["speedup"])
        ratio = float(row["medusa_tokens_per_s"]) / float(row["base_tokens_per_s"])
        yield _division(4, row["model"], rate, speedup, speedup=ratio)


_HALF = 0.005  # all are printed to two decimals


def _division(
    table: int,
    model: str,
    rate: float,
    speedup_printed: float,
    *,
    speedup: float | None = None,
    overhead_printed: float | None = None,
) -> Division:
    half = _HALF if speedup is None else 0.0  # tokens per second have four digits
    divisor = speedup or speedup_printed
    return Division(
        table,
        model,
        rate,
        speedup_printed,
        speedup,
        overhead_printed,
        overhead=rate / divisor,
        low=(rate - _HALF) / (divisor + half),
        high=(rate + _HALF) / (divisor - half),
        overhead_simulated=whole_model_overhead(models.load(model)),
    )


def whole_model_overhead(shape: ModelShape, num_candidates: int = 64, seq_len: int = 1024) -> float:
    """Step latency over vanilla's at batch 1 on the paper's GPU: all layers, LM head, Medusa's
    heads; kernel time, without what runs between the products."""
    (row,) = simulate(
        [Variant(medusa(num_candidates, heads=True), acceptance.PAPER)],
        shape,
        priors.calibrated(profiles.load(PAPER_GPU)),
        Dtype.FLOAT16,
        [(1, seq_len)],
        block=Block.FULL,
    )
    return row.overhead


# -- figures 4a and 21 to 23 --------------------------------------------------------------------


def simulated_speedups(model: latency.LatencyModel, law: AcceptanceModel) -> tuple[Comparison, ...]:
    """The points of figures 21 to 23: Llama-7B, seq_len 1024 at all batch sizes, and batch size 4
    at all seq_lens."""
    settings = [(batch, 1024) for batch in PAPER_BATCH_SIZES]
    settings += [(4, seq_len) for seq_len in PAPER_SEQ_LENS if seq_len != 1024]
    variants = [Variant(medusa(count), law) for count in PAPER_NUM_CANDIDATES]
    target = models.load(SIMULATED_MODEL)
    return tuple(simulate(variants, target, model, Dtype.FLOAT16, settings))


def _step_parts(model: latency.LatencyModel) -> tuple[StepParts, ...]:
    shape = models.load(SIMULATED_MODEL)

    def parts_s(count: int) -> dict[Family, float]:
        setting = Setting(Phase.MEDUSA, 1, 1024, count)
        products = Products.of([operator.product(shape, setting) for operator in OPERATORS])
        latency_s = model.predict(products, Dtype.FLOAT16).latency_s.tolist()
        found: dict[Family, float] = {}
        for operator, each_s in zip(OPERATORS, latency_s, strict=True):
            found[operator.family] = found.get(operator.family, 0.0) + each_s
        return found

    vanilla_s = sum(parts_s(1).values())
    return tuple(
        StepParts(
            count,
            parts[Family.QKV] / vanilla_s,
            parts[Family.ATTENTION] / vanilla_s,
            parts[Family.MLP] / vanilla_s,
        )
        for count in PAPER_NUM_CANDIDATES
        for parts in (parts_s(count),)
    )


def _rate_readings(law: AcceptanceModel) -> tuple[RateReading, ...]:
    found = []
    for row in _shipped_rows("figure_readings.csv"):
        if row["figure"] in ("4a", "21"):
            count = int(row["x"])
            found.append(
                RateReading(
                    row["figure"],
                    count,
                    float(row["y"]),
                    law.acceleration_rate(count),
                    acceptance.PAPER_PRINTED.acceleration_rate(count),
                )
            )
    return tuple(found)


def _speedup_readings(
    speedups: Sequence[Comparison], law: AcceptanceModel
) -> tuple[SpeedupReading, ...]:
    ours = {(row.batch_size, row.num_candidates): row for row in speedups if row.seq_len == 1024}
    found = []
    for reading in _shipped_rows("figure_readings.csv"):
        match = re.fullmatch(r"simulated_speedup_batch(\d+)", reading["series"])
        if match:
            row = ours[int(match[1]), int(reading["x"])]
            printed = acceptance.PAPER_PRINTED.acceleration_rate(row.num_candidates)
            found.append(
                SpeedupReading(
                    reading["figure"],
                    row.batch_size,
                    row.num_candidates,
                    float(reading["y"]),
                    row.speedup,
                    printed / row.overhead,
                )
            )
    return tuple(found)


def _measured_speedups(
    results: Results, speedups: Sequence[Comparison]
) -> Iterable[MeasuredSpeedup]:
    """The points whose eight products, and vanilla's, have all been measured."""
    shape = models.load(SIMULATED_MODEL)

    def step_s(row: Comparison, num_candidates: int, timing: Timing) -> float | None:
        setting = Setting(Phase.MEDUSA, row.batch_size, row.seq_len, num_candidates)
        found = [
            results.summaries.get(Task(operator.product(shape, setting), row.dtype, timing))
            for operator in OPERATORS
        ]
        return sum(each.latency_s for each in found if each) if all(found) else None

    for timing in Timing:
        for row in speedups:
            step, vanilla = (step_s(row, n, timing) for n in (row.num_candidates, 1))
            if step and vanilla:
                overhead = step / vanilla
                yield MeasuredSpeedup(
                    str(results.path),
                    results.environment.device,
                    timing,
                    row.batch_size,
                    row.seq_len,
                    row.num_candidates,
                    overhead,
                    row.acceleration_rate / overhead,
                )


def mean_error(pairs: Iterable[tuple[float, float]]) -> float:
    """Mean absolute error of (ours, theirs), as a share of theirs."""
    return fmean(abs(ours / theirs - 1) for ours, theirs in pairs)
