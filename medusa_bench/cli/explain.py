"""`medusa-bench explain`: why measured points are below their roof."""

from pathlib import Path
from typing import Any

import click

from medusa_bench.base.errors import InvalidFileError
from medusa_bench.cli import console
from medusa_bench.cli.options import JSON, Whole
from medusa_bench.cli.progress import busy
from medusa_bench.results.rows import Timing


@click.command(epilog="Example: medusa-bench explain results/paper")
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "-n", "--points", "num_points", type=Whole(0), default=10, show_default=True,
    help="How many points to list.",
)  # fmt: skip
@JSON
def command(results: Path, num_points: int, as_json: bool) -> None:
    """Split every point of RESULTS into launch, bandwidth, compute, tile loss and the rest.

    Ranked by lost time: what a point takes beyond what its roof asks for. First in words, for
    points of one phase and family; then the points that lose most. The parts of a point sum to its
    latency. The calibration is the folder's own (calibration.json), or one made of its numbers.
    """
    from medusa_bench.predict import attribution, choosing
    from medusa_bench.results import folders

    with busy(f"Reading {results}"):
        folder = folders.load(results)
        timings = {each.timing for each in folder.points() if each.summary is not None}
    if not timings:
        raise InvalidFileError(f"{results} holds no number to explain.")
    calibrations = {
        timing: choosing.folder_calibration(folder, timing)
        for timing in Timing
        if timing in timings
    }
    with busy("Explaining"):
        explained = attribution.explain(folder, calibrations)
        found = attribution.findings(explained)
    if not as_json:
        for note in folder.notes:
            console.warn(note)
    if as_json:
        console.print_json(
            {
                "results": str(results),
                "device": folder.environment.device,
                "provenance": folder.provenance,
                "notes": folder.notes,
                "calibrations": {
                    timing: {
                        "source": each.source,
                        "error": each.error,
                        "num_points": each.num_points,
                    }
                    for timing, each in calibrations.items()
                },
                "findings": [
                    {
                        "phase": each.phase,
                        "family": each.family,
                        "timing": each.timing,
                        "cause": each.cause,
                        "num_points": each.num_points,
                        "num_all": each.num_all,
                        "share": each.share,
                        "lost_s": each.lost_s,
                        "words": each.words,
                    }
                    for each in found
                ],
                "points": [_as_json(each) for each in explained],
            }
        )
        return
    out = console.stdout()
    for finding in found:
        out.print(finding.words, markup=False)
    if num_points:
        out.print()
        out.print(_table(explained[:num_points]))
    for timing, each in calibrations.items():
        out.print(
            f"{timing} time: launch {console.duration(each.parameters.launch_s)}, bandwidth "
            f"efficiency {each.parameters.bandwidth_efficiency:.2f}, compute efficiency "
            f"{each.parameters.compute_efficiency:.2f}, from {each.source}",
            markup=False,
        )


def _as_json(explained: Any) -> dict[str, Any]:
    point = explained.point.point
    return {
        **point.as_dict(),
        "timing": explained.point.timing,
        "latency_s": explained.latency_s,
        "roof_s": explained.roof_s,
        "lost_s": explained.lost_s,
        "cause": explained.main_cause,
        "parts": {
            "launch_s": explained.launch_s,
            "bandwidth_s": explained.bandwidth_s,
            "compute_s": explained.compute_s,
            "tile_s": explained.tile_s,
            "unexplained_s": explained.unexplained_s,
        },
    }


def _table(explained: Any) -> Any:
    header = ("model", "operator", "phase", "b", "s", "q", "latency", "roof", "launch", "bandwidth",
              "compute", "tiles", "unexplained")  # fmt: skip
    rows = []
    for each in explained:
        point = each.point.point
        setting = point.setting
        parts = (each.launch_s, each.bandwidth_s, each.compute_s, each.tile_s, each.unexplained_s)
        rows.append(
            (
                point.shape.name,
                point.operator.name,
                str(setting.phase),
                str(setting.batch_size),
                str(setting.seq_len),
                str(setting.num_candidates),
                console.duration(each.latency_s),
                f"{100 * each.roof_s / each.latency_s:.0f} %",
                *(f"{100 * part / each.latency_s:.1f} %" for part in parts),
            )
        )
    return console.table(header, rows)
