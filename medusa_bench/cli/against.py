"""`compare --against`: simulated speedups beside published ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medusa_bench.cli import console
from medusa_bench.cli.simulation import stack

if TYPE_CHECKING:
    from medusa_bench.compare.scoring import Crossing, Score, Scored, Table

_FILE = click.Path(dir_okay=False, path_type=Path)
OPTIONS = stack(
    click.option(
        "--against", type=_FILE, help="Score the simulation against published speedups (CSV)."
    ),
    click.option(
        "--fit-on", type=_FILE, help="With --against: fit the engines' costs to this file first."
    ),
    click.option(
        "--leave-out",
        type=click.Choice(["setting", "engine"]),
        help="With --against: fit the engines' costs with each of these held out.",
    ),
)


def run(file: Path | None, *, fit_on: Path | None, leave_out: str | None, as_json: bool) -> None:
    """Print the scores. Raises MedusaBenchError for a file that cannot be read."""
    from medusa_bench.compare import scoring

    if file is None:
        raise click.UsageError("--fit-on and --leave-out go with --against.")
    if fit_on and leave_out:
        raise click.UsageError("--fit-on and --leave-out exclude each other.")
    table = scoring.read(file)
    scored = None
    if table.rows:
        scored = scoring.run(
            table,
            leave_out=scoring.LeaveOut(leave_out) if leave_out else None,
            fit_on=scoring.read(fit_on) if fit_on else None,
        )
    if as_json:
        console.print_json(scoring.as_dict(table, scored))
        return
    _print_rows(table)
    if scored is None:
        return
    costs = f"fitted with each {leave_out} left out" if leave_out else "as shipped"
    _print_scores(scored, f"fitted to {fit_on.name}" if fit_on else costs)
    _print_crossings(scoring.crossings(scored))


def _print_rows(table: "Table") -> None:
    total = len(table.rows) + sum(table.refused.values())
    out = console.stdout()
    out.print(f"{len(table.rows)} of {total} published speedups can be simulated", markup=False)
    refused = sorted(table.refused.items(), key=lambda each: -each[1])
    for reason, count in refused:
        out.print(f"{count:>5} not: {reason}", markup=False)


def _print_scores(scored: "Scored", costs: str) -> None:
    from medusa_bench.compare import scoring

    groups = scoring.groups(scored)
    columns = ["", "rows", "median |ln|", "mean ln", "inside 90 %", "side of 1"]
    lines = [_line("all", scoring.score(scored)), *_lines(groups["setting"])]
    title = f"ln(simulated / reported); engines' costs: {costs}"
    out = console.stdout()
    out.print(console.table(columns, lines, title))
    vanilla = abs(scored.vanilla_log_error)
    if len(vanilla):
        out.print(
            f"mean over settings {scoring.mean_over_settings(scored):.2f}; {len(vanilla)} vanilla "
            f"steps off by {vanilla.mean():.0%} on average, {vanilla.max():.0%} at most",
            markup=False,
        )


def _lines(scores: "Mapping[str, Score]") -> list[list[str]]:
    return [_line(label[:24], score) for label, score in scores.items()]


def _line(label: str, score: "Score") -> list[str]:
    return [
        label,
        str(score.rows),
        f"{score.median_abs_log_error:.2f}",
        f"{score.mean_log_error:+.2f}",
        f"{score.coverage_90:.0%}",
        f"{score.sign_right:.0%}",
    ]


def _print_crossings(crossings: "list[Crossing]") -> None:
    if not crossings:
        return
    cells = [
        [
            each.setting[:24],
            f"{each.method}, {each.num_candidates}",
            f"{each.reported[0]} to {each.reported[1]}",
            str(each.predicted or "none"),
            "yes" if each.within_2x else "no",
        ]
        for each in crossings
    ]
    columns = ["last batch that pays", "candidates", "reported", "simulated", "within 2x"]
    console.stdout().print(console.table(columns, cells))
