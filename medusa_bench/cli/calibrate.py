"""`medusa-bench calibrate`: a few points, and this device can be predicted."""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.cli import console
from medusa_bench.cli.options import DTYPE, JSON, Whole
from medusa_bench.results.rows import Failure, Timing

if TYPE_CHECKING:
    from medusa_bench.predict.calibration import Calibration


@click.command(
    epilog="""\b
Examples:
  medusa-bench calibrate
  medusa-bench calibrate --from measured.csv --gpu a40 -o calibration.json

\b
The calibrations that ship were fitted so (FILE: the published measurements):
  medusa-bench calibrate --from FILE --gpu a100-80gb-sxm --source vidur -o OUT
  medusa-bench calibrate --from FILE --any-device -o OUT
  medusa-bench calibrate --from results/paper -o OUT
"""
)
@click.option("--device", help="cuda, cuda:1 or cpu; default: the first GPU, else the CPU.")
@click.option("--dtype", type=DTYPE, help="Default: float16 on a GPU, float32 on a CPU.")
@click.option("--timing", type=click.Choice(list(Timing)), default=Timing.KERNEL)
@click.option("--from", "table", type=click.Path(path_type=Path), help="Fit this, measure nothing.")
@click.option("--gpu", help="With --from: whose rows, by profile or exact device name.")
@click.option("--source", default="", help="With --from: only rows of this source.")
@click.option("--any-device", is_flag=True, help="With --from: the prior for all other GPUs.")
@click.option("--seed", type=Whole(0), default=0, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder; with --from, file.")
@JSON
def command(**options: Any) -> None:
    """Fit launch time, bandwidth and compute efficiency, and say how well they predict.

    Measures at most 24 products, for at most a minute, and writes calibration.json beside the
    results: with each point's residual, the error on held-out points and the command. `predict`,
    `explain` and `compare` take the folder as --gpu.
    """
    if options["table"] is None:
        path, calibration = _measured(options)
    else:
        path, calibration = options["output"], _from_table(options)
    if options["as_json"]:
        from medusa_bench.predict.calibration_files import encode

        document = encode(calibration)
        for large in ("forest", "process"):
            document[large] = document[large] is not None
        console.print_json({**document, "path": path and str(path)})
        return
    parameters = calibration.parameters
    console.say(f"{calibration.device}, {calibration.timing} times, from {calibration.source}")
    console.say(f"  launch                {console.duration(parameters.launch_s)}")
    console.say(f"  bandwidth efficiency  {parameters.bandwidth_efficiency:.3f}")
    console.say(f"  compute efficiency    {parameters.compute_efficiency:.3f}")
    console.say(f"  points                {calibration.num_points:,}")
    console.say(f"  error                 {100 * calibration.error:.1f} % ({calibration.evidence})")
    if path is not None:
        console.say(f"Written to {path}", err=True)


def _command_line() -> str:
    return shlex.join(["medusa-bench", *(click.get_current_context().obj or ["calibrate"])])


def _measured(options: dict[str, Any]) -> "tuple[Path, Calibration]":
    for name in ("gpu", "source", "any_device"):
        if options[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --from.")
    return measured(
        options["device"], options["dtype"], Timing(options["timing"]), options["output"]
    )


def measured(
    requested: str | None,
    asked_dtype: str | None,
    timing: Timing,
    output: Path | None,
    max_time_s: float | None = None,
) -> "tuple[Path, Calibration]":
    """Measure, write the rows and the calibration into one folder, and give both."""
    import time
    from contextlib import closing
    from datetime import date

    from medusa_bench.measure import calibration_run
    from medusa_bench.measure.client import WorkerBackend, pick_device
    from medusa_bench.predict import calibration_files, choosing
    from medusa_bench.predict.fitting import Origin
    from medusa_bench.results import folders
    from medusa_bench.specs.dtypes import Dtype

    started_s = time.monotonic()
    device = pick_device(requested)
    dtype = Dtype(asked_dtype or (Dtype.FLOAT32 if device == "cpu" else Dtype.FLOAT16))
    limit_s = max_time_s or calibration_run.MAX_TIME_S
    with closing(WorkerBackend(device)) as backend:
        environment = backend.environment
        slug = re.sub(r"[^a-z0-9]+", "-", environment.device.lower()).strip("-") or "device"
        path = output or Path("results") / f"{slug}-{date.today().isoformat()}"
        with folders.Writer(path, environment, command=_command_line()) as writer:
            roofs = backend.roofs([dtype], quick=True)
            writer.add_roofs(roofs)
            chosen = calibration_run.tasks(dtype, timing, roofs, environment.memory_bytes)
            for row in calibration_run.run(
                backend, writer, chosen, started_s=started_s, max_time_s=limit_s
            ):
                if isinstance(row, Failure):
                    console.warn(f"{row.task.product}: {row.kind}: {row.reason}")
    results = folders.load(path)
    fitted = {
        (task.product, task.dtype): summary
        for task, summary in results.summaries.items()
        if task in chosen
    }
    calibration = choosing.calibrate_numbers(
        fitted, results, Origin(environment.device, timing, str(path), _command_line())
    )
    calibration_files.write(calibration, path / calibration_files.FILE)
    return path, calibration


def _from_table(options: dict[str, Any]) -> "Calibration":
    import numpy as np

    from medusa_bench.predict import calibration_files, scoring
    from medusa_bench.results import tables

    rows = tables.read(options["table"])
    if options["source"]:
        rows = rows[np.flatnonzero(rows.source == options["source"])]
    if len(rows) == 0:
        raise MedusaBenchError(f"{options['table']} has no rows of that source.")
    rows = tables.with_gpu(rows, options["gpu"])
    if options["any_device"]:
        fits = scoring.parameter_fits(rows, options["seed"])
        source = ", ".join(f"{fit.device} ({fit.calibration.source})" for fit in fits)
        calibration = scoring.any_device(fits, source, _command_line())
    else:
        calibration = scoring.calibrate_rows(rows, _command_line(), seed=options["seed"])
    if options["output"] is not None:
        calibration_files.write(calibration, options["output"])
    return calibration
