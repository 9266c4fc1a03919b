"""`medusa-bench reproduce`: the paper beside ours, as a table, Markdown, JSON and figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medusa_bench.base.files import write_whole
from medusa_bench.cli import console
from medusa_bench.cli.options import JSON, Whole
from medusa_bench.cli.progress import busy

if TYPE_CHECKING:
    from medusa_bench.paper.claims.evidence import ClaimResult
    from medusa_bench.paper.reproduction import Reproduction
    from medusa_bench.results.reading import Results


@click.command(epilog="Example: medusa-bench reproduce -o reproduction")
@click.argument("folders", metavar="[RESULTS]...", nargs=-1)
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write reproduction.md, reproduction.json and figures 18 to 23 there.",
)
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["png", "svg", "pdf"]),
    default="png",
    show_default=True,
    help="Of the figures.",
)
@click.option(
    "--acceptance",
    "law",
    default="paper",
    show_default=True,
    help="Acceleration rate behind simulated speedups: paper (1 + 0.477 ln(candidates), our "
    "reading), printed (0.477 ln(candidates)), or another as in `compare`.",
)
@click.option(
    "--seeds",
    type=Whole(1, 1000),
    default=20,
    show_default=True,
    help="Draws of the 12 fitted cells that the error is the mean of.",
)
@click.option("--all", "every_cell", is_flag=True, help="Print each of the 168 cells.")
@JSON
def command(
    *,
    folders: tuple[str, ...],
    output: Path | None,
    suffix: str,
    law: str,
    seeds: int,
    every_cell: bool,
    as_json: bool,
) -> None:
    """Set the Medusa paper beside ours: its tables, figures and the sentences of its appendix.

    168 operational intensities, 160 distinct FLOP/s cells predicted, the 44x and 41x, tables 1
    and 4 divided again, figures 18 to 23, and each finding: reproduced, differs, or not. RESULTS
    are folders that `sweep` measured; their numbers join where they hold the paper's points.
    """
    from medusa_bench.compare import acceptance
    from medusa_bench.paper import claims, document
    from medusa_bench.paper import reproduction as paper
    from medusa_bench.results import folders as result_folders

    chosen = acceptance.parse(law)
    with busy("Reproducing the paper"):
        measured = [result_folders.load(folder) for folder in folders]
        reproduction = paper.reproduce(measured, law=chosen, num_seeds=seeds)
        found = claims.judge(reproduction)
    for caveat in acceptance.caveats(
        chosen, sorted({r.num_candidates for r in reproduction.speedups})
    ):
        console.warn(f"{caveat}.")
    for results in measured:
        if not _joins(results, reproduction):
            console.warn(f"{results.path} holds none of the paper's points; nothing joins.")
    if output:
        _write(output, suffix, reproduction, found, measured)
    if as_json:
        console.print_json(document.as_dict(reproduction, found))
        return
    out = console.stdout()
    for section in document.sections(reproduction, found, every_cell=every_cell):
        out.print(f"\n{section.title}", markup=False, style="bold")
        for line in section.lines:
            out.print(line, markup=False)
        if section.is_prose:
            for head, sentence, verdict, evidence in section.rows:
                out.print(f'{head} {verdict.upper()}: "{sentence}"', markup=False)
                out.print(f"    {evidence}", markup=False)
        elif section.rows:
            out.print(console.table(section.columns, section.rows))


def _joins(results: "Results", reproduction: "Reproduction") -> bool:
    folders = {rate.folder for cell in reproduction.cells for rate in cell.measured}
    folders |= {each.folder for each in reproduction.measured_speedups}
    return str(results.path) in folders


def _write(
    output: Path,
    suffix: str,
    reproduction: "Reproduction",
    found: "Sequence[ClaimResult]",
    measured: "Sequence[Results]",
) -> None:
    import json

    from medusa_bench.paper import document, figures
    from medusa_bench.report import style

    names = {}
    with style.applied():
        for number, draw in figures.figures(reproduction, measured).items():
            names[number] = f"figure-{number}.{suffix}"
            style.save(draw(), output / names[number])
    text = json.dumps(document.as_dict(reproduction, found), indent=1, allow_nan=False)
    write_whole(output / "reproduction.json", f"{text}\n".encode())
    write_whole(output / "reproduction.md", document.markdown(reproduction, found, names).encode())
    console.stderr().print(
        f"Wrote reproduction.md, reproduction.json and {len(names)} figures to {output}",
        markup=False,
    )
