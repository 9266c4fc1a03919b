"""`medusa-bench roofline`: results under their roofs, as a figure, in the terminal, as JSON."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.cli import console, here
from medusa_bench.cli.options import COUNTS, DTYPE, JSON, MODELS, OPERATORS, PHASES, Whole
from medusa_bench.cli.progress import busy

if TYPE_CHECKING:
    from medusa_bench.report.series import By, Dot, Panel, Selection, Source
    from medusa_bench.specs.profiles import DeviceProfile


@click.command(
    epilog="Example: medusa-bench roofline results/paper --figure 18 -o figure-18.png",
)
@click.argument("folders", metavar="[RESULTS]...", nargs=-1)
@click.option(
    "--figure",
    type=Whole(9, 20),
    help="As the paper's figure 9 to 17 (a model's operators on a GPU) or 18 to 20 (candidates).",
)
@click.option(
    "--by",
    type=click.Choice(["operator", "candidates"]),
    help="What colours tell apart.  [default: operator]",
)
@click.option("-m", "--model", "models", type=MODELS, help="Show these models.")
@click.option("--operator", "operators", type=OPERATORS, help="Show these operators or families.")
@click.option("--phase", "phases", type=PHASES, help="Show these of prefill, decode, medusa.")
@click.option("-b", "--batch-size", type=COUNTS, help="Show these batch sizes.")
@click.option("-s", "--seq-len", type=COUNTS, help="Show these sequence lengths.")
@click.option("-q", "--num-candidates", type=COUNTS, help="Show these candidate counts.")
@click.option("--dtype", type=DTYPE, help="Show this dtype.  [default: that of most points]")
@click.option(
    "--timing",
    type=click.Choice(["kernel", "eager"]),
    help="Show these times.  [default: kernel where there are any]",
)
@click.option("--gpu", "gpus", type=MODELS, help="Profiles whose datasheet roofs to draw as well.")
@click.option("-o", "--output", help="Write a figure; .png, .svg or .pdf chooses the format.")
@click.option(
    "--width",
    type=click.Choice(["one", "two"]),
    help="Columns of a paper that the figure is wide.  [default: one for one panel]",
)
@click.option("--text", "as_text", is_flag=True, help="Draw in the terminal, also with -o.")
@JSON
def command(folders: tuple[str, ...], **options: Any) -> None:
    """Set results under the roofline, each point at its operational intensity.

    RESULTS are folders of `sweep` or `predict`, or results/paper; by default the newest in
    ./results. Measured points are filled, predicted ones hollow, reported ones half-filled.
    Datasheet roofs are dashed, measured ones solid; a point above a roof is ringed, with the likely
    cause. Without -o the figure is drawn in the terminal.
    """
    from medusa_bench.report import series

    profiles = _profiles(options["gpus"] or ())
    by, selection = _selection(options)
    sources = _sources(folders, profiles)
    if sources:
        if options["figure"]:
            sources = _on_the_papers_gpu(sources, options["figure"])
        panels = series.panels(sources, by, selection)
    else:
        from medusa_bench.specs.dtypes import Dtype

        panels = series.roofs_alone(profiles, selection.dtype or Dtype.FLOAT16)
    if options["output"]:
        _write(panels, options["output"], options["width"])
    if options["as_json"]:
        console.print_json([_document(panel) for panel in panels])
        return
    for panel in panels:
        _print(panel, draw=options["as_text"] or not options["output"])


def _profiles(names: Sequence[str]) -> "list[DeviceProfile]":
    from medusa_bench.specs import profiles as gpu_profiles

    return [gpu_profiles.load(name) for name in names]


def _selection(options: dict[str, Any]) -> "tuple[By, Selection]":
    from medusa_bench.report.series import By, Selection, of_paper_figure
    from medusa_bench.results.rows import Timing
    from medusa_bench.specs.dtypes import Dtype
    from medusa_bench.specs.operators import select
    from medusa_bench.specs.settings import Phase

    selection = Selection(
        models=options["models"] or (),
        operators=tuple(operator.name for operator in select(options["operators"] or ())),
        phases=tuple(Phase(word) for word in options["phases"] or ()),
        batch_sizes=options["batch_size"] or (),
        seq_lens=options["seq_len"] or (),
        num_candidates=options["num_candidates"] or (),
        dtype=Dtype(options["dtype"]) if options["dtype"] else None,
        timing=Timing(options["timing"]) if options["timing"] else None,
    )
    by = By(options["by"]) if options["by"] else None
    if options["figure"]:
        papers_by, selection = of_paper_figure(options["figure"], selection)
        if by not in (None, papers_by):
            raise click.UsageError(f"figure {options['figure']} is by {papers_by}.")
        return papers_by, selection
    return by or By.OPERATOR, selection


def _sources(folders: Sequence[str], profiles: "Sequence[DeviceProfile]") -> "list[Source]":
    from medusa_bench.report.series import Source
    from medusa_bench.results import folders as result_folders
    from medusa_bench.specs import profiles as gpu_profiles

    if not folders:
        folders = [here.newest()] if not profiles or here.newest_results() else []
    sources = []
    for folder in folders:
        with busy(f"Reading {folder}"):
            results = result_folders.load(folder)
        environment = results.environment
        sources.append(
            Source(
                device=environment.device,
                points=results.points(),
                roofs=results.roof,
                profile=gpu_profiles.match(environment.device, environment.memory_bytes),
                l2_bytes=environment.l2_bytes,
                extra_profiles=tuple(profiles),
            )
        )
    return sources


def _on_the_papers_gpu(sources: "list[Source]", figure: int) -> "list[Source]":
    from medusa_bench.report.series import PAPER_FIGURES

    wanted = PAPER_FIGURES[figure].profile
    there = [source for source in sources if source.profile and source.profile.name == wanted]
    if not there:
        devices_there = ", ".join(dict.fromkeys(source.device for source in sources))
        console.warn(f"the paper's figure {figure} is of {wanted}; this is of {devices_there}.")
    return there or sources


def _write(panels: "Sequence[Panel]", output: str, width: str | None) -> None:
    from medusa_bench.report import roofline, style

    with style.applied():
        figure = roofline.draw(panels, width or ("two" if len(panels) > 1 else "one"))
        path = style.save(figure, output)
    console.stderr().print(f"Wrote {path}", markup=False)


def _print(panel: "Panel", *, draw: bool) -> None:
    from rich.text import Text

    from medusa_bench.report import terminal

    out = console.stdout()
    out.print(Text(", ".join(panel.title), style="bold"))
    for note in panel.notes:
        console.warn(note)
    if draw:
        characters = terminal.UNICODE if _writes(terminal.UNICODE.measured) else terminal.ASCII
        columns = min(out.width, 100) if out.is_terminal else 80
        out.print(terminal.draw(panel, columns=max(columns, 50), characters=characters), end="")
    if panel.series:
        letters = terminal.letters(panel)
        out.print(
            console.table(
                ("", "series", "points", "FLOP/byte", "FLOP/s", "of roof"),
                [
                    (
                        letters.get(each.name, "") if draw else "",
                        each.short_name,
                        str(len(each.dots)),
                        _range([dot.operational_intensity for dot in each.dots]),
                        _range([dot.flops_per_s for dot in each.dots], si=True),
                        _share(each.dots),
                    )
                    for each in panel.series
                ],
            )
        )
    flagged = [dot for dot in panel.dots if dot.cause]
    for cause, count in Counter(dot.cause for dot in flagged).items():
        worst = max((dot for dot in flagged if dot.cause is cause), key=lambda dot: dot.flops_per_s)
        out.print(
            f"! {count} above a roof, likely because {cause}; such as {'/'.join(worst.operators)} "
            f"at batch_size {worst.batch_size}, seq_len {worst.seq_len}"
            + (f", {worst.num_candidates} candidates" if worst.num_candidates > 1 else "")
            + f": {console.si(worst.flops_per_s, 'FLOP/s')}.",
            markup=False,
        )
    if not panel.ceilings:
        out.print("No roof: none was measured, and no profile is this device's.", markup=False)
    out.print()


def _writes(character: str) -> bool:
    import sys

    try:
        character.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _range(values: Sequence[float], *, si: bool = False) -> str:
    def shown(value: float) -> str:
        return console.si(value, "") if si else console.significant(value)

    low, high = shown(min(values)).strip(), shown(max(values)).strip()
    return low if low == high else f"{low}..{high}"


def _share(dots: "Sequence[Dot]") -> str:
    """Median and extremes of what the dots reach of the roof at their intensity."""
    shares = [dot.roof_fraction for dot in dots if dot.roof_fraction is not None]
    if not shares:
        return "-"
    return f"{median(shares):.0%} ({100 * min(shares):.0f}..{max(shares):.0%})"


def _document(panel: "Panel") -> dict[str, Any]:
    return {
        "device": panel.device,
        "model": panel.model,
        "dtype": panel.dtype,
        "timing": panel.timing,
        "provenance": panel.provenance,
        "source": panel.source,
        "notes": panel.notes,
        "by": panel.by,
        "ceilings": [
            {**dataclasses.asdict(ceiling), "ridge_point": ceiling.ridge_point}
            for ceiling in panel.ceilings
        ],
        "series": [
            {
                "name": each.name,
                "phase": each.phase,
                "num_candidates": each.num_candidates,
                "provenance": each.provenance,
                "points": [dataclasses.asdict(dot) for dot in each.dots],
            }
            for each in panel.series
        ],
    }
