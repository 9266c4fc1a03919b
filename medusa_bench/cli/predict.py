"""`medusa-bench predict`: latencies of operators on a GPU that need not be here."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.base.errors import ExitCode, MedusaBenchError
from medusa_bench.cli import completion, console, here
from medusa_bench.cli.grids import grid, grid_options
from medusa_bench.cli.options import CACHE, JSON, WEIGHTS, Mapped, Whole
from medusa_bench.results.rows import Estimate, Grid, Provenance, Task, Timing
from medusa_bench.specs.operators import Point

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medusa_bench.predict.latency import LatencyModel
    from medusa_bench.predict.scoring import Score, Scored
    from medusa_bench.results.tables import Observations
    from medusa_bench.specs.schemes import Scheme

_MAX_ROWS = 40


@click.command(
    epilog="""\b
Examples:
  medusa-bench predict -m llama-7b --operator up --phase decode -b 1 -s 1024 --gpu h100-sxm
  medusa-bench predict --gpu a6000 -o results/a6000-predicted
  medusa-bench predict --against measured.csv --calibrate-on 24

\b
How accurate predictions are (FILE: the published measurements), one command a row:
  the paper's cells    predict --against results/paper --calibrate-on 12 --seeds 20
  a model left out     predict --against FILE --where source=vidur --leave-out model
  shapes left out      predict --against FILE --where source=aiconfigurator --leave-out shape
  a GPU left out       predict --against FILE --leave-out gpu
  experts, attention   predict --against moe.parquet --table moe
"""
)
@grid_options
@WEIGHTS
@CACHE
@click.option(
    "--gpu",
    shell_complete=completion.GPUS,
    help="Profile, exact device name or results folder.  [default: $MEDUSA_BENCH_GPU, the GPU "
    "here, or the newest results in ./results]",
)
@click.option(
    "--by",
    type=click.Choice(["best", "roofline", "calibrated", "measured"]),
    default="best",
    help="Which latency model.",
)
@click.option("--explain", is_flag=True, help="Split each latency into its parts.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder to write as a sweep does."
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Score predictions: CSV, Parquet or results folder.",
)
@click.option(
    "--columns",
    type=Mapped(),
    metavar="OURS=THEIRS,...",
    help="With --against: what the table calls m, n, k, dtype, latency_us (or latency_ms), batch.",
)
@click.option(
    "--table",
    type=click.Choice(["attention", "moe", "allreduce", "gemm", "mla", "delta"]),
    help="With --against: a published table of these operators, scored as shipped.",
)
@click.option("--where", "wheres", multiple=True, help="With --against: only rows, COLUMN=VALUE.")
@click.option("--calibrate-on", type=Whole(1), help="Fit on N of a GPU's rows, score the others.")
@click.option(
    "--leave-out",
    type=click.Choice(["model", "shape", "gpu"]),
    help="Fit on the other rows, for every model, fifth of the shapes, or GPU in turn.",
)
@click.option("--exclude-models", help="Never fit on rows of these models (list with commas).")
@click.option("--seed", type=Whole(0), default=0, show_default=True)
@click.option("--seeds", type=Whole(1, 1000), default=1, help="Mean over that many seeds.")
@JSON
def command(**options: Any) -> int:
    """Predict latencies with their 90 % interval, their source and what binds them.

    A GPU that has no calibration takes the prior of its family, and the source says so. With
    --against, predictions are scored on measured rows with the columns dtype, m, n, k, latency_us
    and optionally batch, gpu, source, model, op: the mean, median, 95th percentile and largest
    absolute error of latency, the share of rows inside of the interval, and the bare roofline's
    error beside them, all in percent. With --table the rows are of decode attention, experts, sums
    over GPUs, latent attention, delta nets or quantised products, under aiconfigurator's column
    names: cold ones are scored, of GPUs whose kernels were fitted to such rows the half of the
    settings that was left out.
    """
    return _against(options) if options["against"] else _predict(options)


# -- points -------------------------------------------------------------------------------------


def _predict(options: dict[str, Any]) -> int:
    from medusa_bench.measure import sweep
    from medusa_bench.predict import choosing
    from medusa_bench.predict.choosing import Kind
    from medusa_bench.specs import paper_grid

    for name in ("wheres", "calibrate_on", "leave_out", "exclude_models", "table"):
        if options[name]:
            raise click.UsageError(f"--{name.rstrip('s').replace('_', '-')} goes with --against.")
    writes = options["output"] is not None
    if writes and (options["weights"] or options["kv_dtype"]):
        raise click.UsageError("-o writes products of a dtype: leave --weights and --kv-dtype out.")
    gpu = here.gpu(options["gpu"])
    gpu = paper_grid.PAPER_GPU if gpu == "paper" else gpu
    options["dtypes"] = options["dtypes"] or (here.dtype(None, gpu),)
    asked = grid(options, sweep.PAPER_ON_GPU, stored=not writes)
    if options["timing"] is None:
        asked = _only_kernel(asked)
    kind = Kind(options["by"])
    models = {timing: choosing.model_for(gpu, timing, kind) for timing in asked.timings}
    if not options["as_json"]:
        for note in asked.notes:
            console.warn(note)
    if writes:
        return _write(options, asked, gpu, models)
    rows = _rows(asked, models)
    if options["as_json"]:
        console.print_json(rows)
    else:
        _print(rows, explain=options["explain"])
    return ExitCode.OK


def _only_kernel(asked: Grid) -> Grid:
    from dataclasses import replace

    return replace(asked, timings=(Timing.KERNEL,))


def _estimates(
    tasks: Sequence[Task],
    models: "Mapping[Timing, LatencyModel]",
    scheme: "Scheme | None" = None,
) -> dict[Task, tuple[Estimate, dict[str, float], str]]:
    """Each task's prediction with its parts and bound; distinct tasks are predicted once.

    scheme: how their right operands are stored.
    """
    from medusa_bench.predict import quantised
    from medusa_bench.specs.columns import Products

    found = {}
    for timing, model in models.items():
        for dtype in dict.fromkeys(task.dtype for task in tasks):
            mine = [task for task in tasks if task.timing is timing and task.dtype is dtype]
            if not mine:
                continue
            products = Products.of([task.product for task in mine])
            predicted = quantised.predict(model, products, dtype, scheme)
            parts = predicted.parts
            columns = zip(
                mine,
                predicted.latency_s.tolist(),
                predicted.low_s.tolist(),
                predicted.high_s.tolist(),
                predicted.source.tolist(),
                predicted.bound.tolist(),
                parts.launch_s.tolist(),
                parts.bandwidth_s.tolist(),
                parts.compute_s.tolist(),
                parts.tile_s.tolist(),
                parts.unexplained_s.tolist(),
                strict=True,
            )
            for task, latency_s, low_s, high_s, source, bound, *split in columns:
                estimate = Estimate(task, latency_s, low_s, high_s, source)
                found[task] = (estimate, dict(zip(_PARTS, split, strict=True)), bound)
    return found


_PARTS = ("launch_s", "bandwidth_s", "compute_s", "tile_s", "unexplained_s")


def _rows(asked: Grid, models: "Mapping[Timing, LatencyModel]") -> list[dict[str, Any]]:
    stored = [
        (point, point.product, *each)
        for point in asked.points()
        for each in point.operator.formats(point.shape)
    ]
    estimates = {}
    for scheme in dict.fromkeys(each for _, _, each, _ in stored):
        tasks = dict.fromkeys(
            Task(product, point.dtype, timing)
            for point, product, each, _ in stored
            if each == scheme
            for timing in asked.timings
        )
        estimates[scheme] = _estimates(list(tasks), models, scheme)
    return [
        _row(point, timing, scheme, share, estimates[scheme][Task(product, point.dtype, timing)])
        for point, product, scheme, share in stored
        for timing in asked.timings
    ]


def _row(
    point: Point,
    timing: Timing,
    scheme: "Scheme | None",
    share: float,
    found: tuple[Estimate, dict[str, float], str],
) -> dict[str, Any]:
    estimate, parts, bound = found
    return {
        **point.as_dict(),
        "timing": timing,
        "weights": None if scheme is None else str(scheme),
        "share_of_layers": share,
        "latency_s": estimate.latency_s,
        "low_s": estimate.low_s,
        "high_s": estimate.high_s,
        "bound": bound,
        "source": estimate.source,
        "provenance": Provenance.PREDICTED,
        "notes": point.shape.unmodelled,
        "parts": parts,
    }


def _print(rows: Sequence[dict[str, Any]], *, explain: bool) -> None:
    shown = rows[:_MAX_ROWS]
    columns = ["model", "operator", "phase", "batch", "seq", "q", "dtype", "latency", "90 %"]
    columns += ["launch", "bandwidth", "compute", "tiles", "unexplained"] if explain else ["bound"]
    cells = []
    for row in shown:
        latency_s = row["latency_s"]
        line = [
            row["model"],
            row["operator"],
            str(row["phase"]),
            str(row["batch_size"]),
            str(row["seq_len"]),
            str(row["num_candidates"]),
            str(row["dtype"]),
            console.duration(latency_s),
            f"{console.duration(row['low_s'])} to {console.duration(row['high_s'])}",
        ]
        if explain:
            line += [f"{100 * row['parts'][part] / latency_s:.1f} %" for part in _PARTS]
        else:
            line.append(row["bound"])
        cells.append(line)
    out = console.stdout()
    out.print(console.table(columns, cells))
    if len(rows) > len(shown):
        out.print(f"... and {len(rows) - len(shown):,} more: --json, or -o to write them all.")
    for (timing, source), count in _count((str(r["timing"]), r["source"]) for r in rows).items():
        out.print(f"{count:,} predicted, {timing} time, {source}", markup=False)


def _count(values: Any) -> dict[Any, int]:
    from collections import Counter

    return dict(Counter(values))


def _write(
    options: dict[str, Any], asked: Grid, gpu: str, models: "Mapping[Timing, LatencyModel]"
) -> int:
    """Write the distinct tasks that fit into memory, as a sweep would, marked as predicted."""
    from medusa_bench.measure import sweep
    from medusa_bench.results import folders

    environment = _environment(gpu, models)
    plan = sweep.plan(asked, environment.memory_bytes)
    estimates = _estimates(plan.tasks, models)
    command = shlex.join(["medusa-bench", *(click.get_current_context().obj or ["predict"])])
    path = options["output"]
    with folders.Writer(
        path, environment, asked, command, provenance=Provenance.PREDICTED, skips=plan.skips
    ) as writer:
        there = {task_key: row for (task_key, _), row in writer.done.items()}
        new = [each for each, _, _ in estimates.values() if each.task.key not in there]
        old = [each for each, _, _ in estimates.values() if each.task.key in there]
        if any(not _same(there[each.task.key], each) for each in old):
            raise MedusaBenchError(
                f"{path} holds other predictions of the same points.",
                hint="write to another folder (-o).",
            )
        writer.extend(new)
    summary = {
        "path": str(path),
        "provenance": Provenance.PREDICTED,
        "device": environment.device,
        "num_points": plan.num_points,
        "num_distinct": len(estimates),
        "num_skipped": len(plan.skips),
        "notes": asked.notes,
        "sources": _count(each.source for each, _, _ in estimates.values()),
    }
    if options["as_json"]:
        console.print_json(summary)
        return ExitCode.OK
    console.say(
        f"{plan.num_points:,} points ({len(estimates):,} distinct) predicted for "
        f"{environment.device}, {len(plan.skips):,} do not fit in memory: {path}"
    )
    for source, count in summary["sources"].items():
        console.say(f"  {count:,} from {source}")
    return ExitCode.OK


def _same(there: Any, estimate: Estimate) -> bool:
    return isinstance(there, Estimate) and abs(there.latency_s / estimate.latency_s - 1) < 1e-9


def _environment(gpu: str, models: "Mapping[Timing, LatencyModel]") -> Any:
    """The device that the numbers are for; no driver and no library, for nothing ran."""
    from medusa_bench.results import folders
    from medusa_bench.results.rows import Environment
    from medusa_bench.specs import paper_grid
    from medusa_bench.specs.profiles import profile_of

    if Path(gpu).is_dir() or gpu == paper_grid.RESULTS:
        there = folders.load(gpu).environment
        device, kind, memory_bytes = there.device, there.device_type, there.memory_bytes
    else:
        profile = profile_of(gpu)
        device, kind, memory_bytes = profile.device_names[0], "cuda", profile.memory_bytes
    names = ", ".join(model.name for model in models.values())
    return Environment(device, kind, memory_bytes, details={"latency model": names})


# -- accuracy -----------------------------------------------------------------------------------


def _against(options: dict[str, Any]) -> int:
    from medusa_bench.predict import calibration_files, scoring
    from medusa_bench.results import tables

    if options["calibrate_on"] and options["leave_out"]:
        raise click.UsageError("--calibrate-on and --leave-out exclude each other.")
    if options["output"] or options["explain"]:
        raise click.UsageError("--against prints a score: it takes neither -o nor --explain.")
    if options["table"]:
        return _table(options)
    if options["timing"] == "both":
        raise click.UsageError("--against scores one kind of time: --timing kernel or eager.")
    timing = Timing(options["timing"]) if options["timing"] else None
    rows = _chosen(tables.read(options["against"], options["columns"], timing), options)
    calibrations = calibration_files.shipped_calibrations()
    seeds = range(options["seed"], options["seed"] + options["seeds"])
    runs = [_scored(rows, calibrations, options, seed) for seed in seeds]
    total = scoring.mean_score([scoring.score(run) for run in runs])
    groups = scoring.grouped(scoring.joined(runs))
    _show(total, groups, options, {})
    return ExitCode.OK


def _show(
    total: "Score",
    groups: "Mapping[str, Mapping[str, Score]]",
    options: dict[str, Any],
    beside: Mapping[str, float],
) -> None:
    from dataclasses import asdict

    if options["as_json"]:
        document: dict[str, Any] = {**asdict(total), **beside}
        document["groups"] = {
            name: {value: asdict(score) for value, score in scores.items()}
            for name, scores in groups.items()
        }
        console.print_json(document)
    else:
        _print_scores(total, groups, options)


def _table(options: dict[str, Any]) -> int:
    """Score a table of operators that are no plain product, by what ships."""
    from medusa_bench.predict import operator_tables, scoring
    from medusa_bench.predict.operator_tables import Table

    for name in ("columns", "calibrate_on", "leave_out", "exclude_models", "seed"):
        if options[name]:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"--table scores what ships: it takes no {option}.")
    if options["seeds"] > 1:
        raise click.UsageError("--table scores what ships: it takes no --seeds.")
    path, table = options["against"], Table(options["table"])
    found = operator_tables.scored(path, table, options["gpu"])
    found = found[_where(found.observations, options)]
    beside = {}
    if table is Table.MOE:
        observations, errors = operator_tables.ratio_errors(path, options["gpu"])
        if len(errors) and len(chosen := errors[_where(observations, options)]):
            beside["ratio_mape"] = 100 * float(chosen.mean())
    _show(scoring.score(found), scoring.grouped(found), options, beside)
    if beside and not options["as_json"]:
        console.say(f"Latency over that of one token: {beside['ratio_mape']:.1f} % mean error.")
    return ExitCode.OK


def _chosen(rows: "Observations", options: dict[str, Any]) -> "Observations":
    """The rows that --where names, of the GPU that --gpu names."""
    from medusa_bench.results.tables import with_gpu

    return with_gpu(rows[_where(rows, options)], options["gpu"])


def _where(rows: "Observations", options: dict[str, Any]) -> "NDArray[np.bool_]":
    """Which rows --where names."""
    import numpy as np

    here = np.full(len(rows), True)
    for where in options["wheres"]:
        column, equals, value = where.partition("=")
        if not equals:
            raise click.UsageError(f"--where {where!r} is not COLUMN=VALUE.")
        labels = rows.label(column.strip())
        if not (here & (labels == value.strip())).any():
            known = ", ".join(map(str, np.unique(labels[here])))
            raise MedusaBenchError(f"No row has {where}.", hint=f"{column} is one of {known}.")
        here &= labels == value.strip()
    return here


def _scored(
    rows: "Observations", calibrations: Any, options: dict[str, Any], seed: int
) -> "Scored":
    import numpy as np

    from medusa_bench.predict import scoring
    from medusa_bench.predict.scoring import LeaveOut

    excluded = np.isin(rows.model, _names(options["exclude_models"]))
    if options["leave_out"]:
        return scoring.leaving_out(rows, LeaveOut(options["leave_out"]), seed, excluded)
    if options["calibrate_on"]:
        count = options["calibrate_on"]
        return scoring.calibrated_on(rows, calibrations, count, seed, excluded)
    if excluded.any():
        rows = rows[np.flatnonzero(~excluded)]
    return scoring.as_shipped(rows, calibrations)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _print_scores(
    total: "Score", groups: "Mapping[str, Mapping[str, Score]]", options: dict[str, Any]
) -> None:
    header = ("", "", "rows", "mean", "median", "P95", "max", "in 90 %", "roofline")
    lines = [_score_cells("all", "", total)]
    for name, scores in groups.items():
        lines += [
            _score_cells(name if index == 0 else "", value or "-", score)
            for index, (value, score) in enumerate(scores.items())
        ]
    out = console.stdout()
    out.print(console.table(header, lines))
    out.print(
        "Absolute error of latency, percent; in 90 %: rows inside of the interval; roofline: the "
        "bare roofline's mean error.",
        markup=False,
    )
    if options["seeds"] > 1:
        first = options["seed"]
        out.print(f"Mean over seeds {first} to {first + options['seeds'] - 1}.", markup=False)


def _score_cells(group: str, value: str, score: "Score") -> tuple[str, ...]:
    figures = (score.mape, score.median_ape, score.p95_ape, score.max_ape)
    more = (score.coverage_90, score.roofline_mape)
    return (
        group,
        value,
        f"{score.rows:,}",
        *(f"{figure:.2f}" for figure in figures),
        *(f"{figure:.1f}" for figure in more),
    )
