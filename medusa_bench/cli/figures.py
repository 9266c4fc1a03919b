"""`medusa-bench figures`: the paper's figures, redrawn."""

from pathlib import Path

import click

from medusa_bench.base.errors import UnknownNameError
from medusa_bench.cli import console


@click.command(epilog="Example: medusa-bench figures 9 22 --format pdf --width one -o figures")
@click.argument("numbers", metavar="[NUMBER]...", nargs=-1)
@click.option(
    "--results",
    "folders",
    multiple=True,
    metavar="FOLDER",
    help="Measured results that take the place of predictions where they hold a figure's points.",
)
@click.option(
    "-o", "--output", default="figures", show_default=True, help="The folder to write to."
)
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["png", "svg", "pdf"]),
    default="pdf",
    show_default=True,
    help="In SVG and PDF text stays text.",
)
@click.option(
    "--width",
    type=click.Choice(["one", "two"]),
    help="Columns of a paper that a figure is wide.  [default: what suits it]",
)
def command(
    *,
    numbers: tuple[str, ...],
    folders: tuple[str, ...],
    output: str,
    suffix: str,
    width: str | None,
) -> None:
    """Redraw the paper's figures 6, 7 and 9 to 23; without a NUMBER all of them.

    Nothing is copied from the paper but the numbers it reports, which are drawn half-filled. The
    rest is measured (--results), predicted or simulated, as each figure says.
    """
    from medusa_bench.cli.progress import progress
    from medusa_bench.paper import figure_list
    from medusa_bench.paper import reproduction as paper
    from medusa_bench.report import style
    from medusa_bench.results import folders as result_folders

    try:
        names = figure_list.named(numbers)
    except KeyError as error:
        raise UnknownNameError("figure", str(error.args[0]), figure_list.NAMES) from None
    measured = [result_folders.load(folder) for folder in folders]
    reproduction = None
    with progress("Drawing", len(names)) as advance, style.applied():
        for name in names:
            if name in figure_list.REPRODUCED and reproduction is None:
                reproduction = paper.reproduce(measured, num_seeds=1)
            figure = figure_list.draw(name, measured, reproduction, width)
            style.save(figure, Path(output) / f"figure-{name}.{suffix}")
            advance(1)
    console.stderr().print(f"Wrote {len(names)} figures to {output}", markup=False)
