"""`medusa-bench cliffs`: how many rows to choose, so that one more would cost a step."""

from pathlib import Path
from typing import Any

import click

from medusa_bench.cli import console
from medusa_bench.cli.grids import grid, grid_options
from medusa_bench.cli.options import COUNTS, JSON, Number


@click.command(
    epilog="""\b
Examples:
  medusa-bench cliffs results/paper
  medusa-bench cliffs -m llama-7b --gpu a100-80gb-sxm --rows 8..512:+8
"""
)
@click.argument("results", type=click.Path(path_type=Path), required=False)
@grid_options
@click.option("--gpu", help="Predict for this profile or results folder, instead of RESULTS.")
@click.option(
    "--rows", type=COUNTS, default="8..1024:+8", show_default=True, help="Rows to predict for."
)
@click.option(
    "--smallest", type=Number(1, 1000), default=12.0, show_default=True,
    help="Smallest step, percent.",
)  # fmt: skip
@JSON
def command(results: Path | None, gpu: str | None, smallest: float, **options: Any) -> None:
    """Find the steps of latency over rows: batch size x query tokens.

    In the measured curves of RESULTS, or in predicted ones (--gpu). Choose rows at the end of a
    step. A step is a jump that the slope on either side does not explain, to a level not reached
    before, and that the curve's noise does not make. Linear operators only: their rows are all
    that matters.
    """
    from medusa_bench.predict import cliffs, curves

    if (results is None) == (gpu is None):
        raise click.UsageError("give a results folder, or --gpu to predict for.")
    if results is not None:
        found = curves.measured(results)
    else:
        from medusa_bench.measure import sweep

        assert gpu is not None
        found = curves.predicted(gpu, grid(options, sweep.QUICK_ON_GPU), options["rows"])
    lines = [
        (curve, cliff)
        for curve in found
        for cliff in cliffs.find(curve.rows, curve.latency_s, smallest / 100)
    ]
    if options["as_json"]:
        console.print_json(
            [
                {
                    "model": curve.model,
                    "operators": list(curve.operators),
                    "dtype": curve.dtype,
                    "timing": curve.timing,
                    "source": curve.source,
                    "notes": curve.notes,
                    "rows": cliff.rows,
                    "next_rows": cliff.next_rows,
                    "size": cliff.size,
                    "latency_s": cliff.latency_s,
                    "next_latency_s": cliff.next_latency_s,
                }
                for curve, cliff in lines
            ]
        )
        return
    for note in dict.fromkeys(note for curve in found for note in curve.notes):
        console.warn(note)
    if not lines:
        console.say(f"No step of {smallest:g} % or more in {len(found)} curves.")
        return
    header = ("model", "operators", "dtype", "timing", "rows", "then", "step", "latency", "then")
    console.stdout().print(
        console.table(
            header,
            [
                (
                    curve.model,
                    ",".join(curve.operators),
                    str(curve.dtype),
                    str(curve.timing),
                    str(cliff.rows),
                    str(cliff.next_rows),
                    f"{100 * cliff.size:.0f} %",
                    console.duration(cliff.latency_s),
                    console.duration(cliff.next_latency_s),
                )
                for curve, cliff in lines
            ],
        )
    )
    for source in dict.fromkeys(curve.source for curve in found):
        console.stdout().print(source, markup=False)
