"""`medusa-bench results`: show, export, merge, diff and verify results folders."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.base.errors import ExitCode, MedusaBenchError
from medusa_bench.base.files import write_whole
from medusa_bench.cli import console
from medusa_bench.cli.options import Number
from medusa_bench.cli.progress import busy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from medusa_bench.results.differences import Difference
    from medusa_bench.results.points import Points
    from medusa_bench.results.reading import Results

FORMATS = ("csv", "json", "jsonl", "markdown", "md", "parquet")
_SUFFIXES = {f".{form}": form for form in FORMATS}
_MAX_DIFF_ROWS = 40


@click.group()
def command() -> None:
    """Show, export, merge, compare and verify results folders.

    A results folder is what `sweep` writes; results/paper holds the paper's published tables and
    is read like any other.
    """


@command.command(epilog="Example: medusa-bench results show results/paper")
@click.argument("folder")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def show(folder: str, as_json: bool) -> None:
    """What was measured, failed and skipped, and what is doubtful, in words."""
    print_folder(folder, as_json=as_json)


def print_folder(folder: str, *, as_json: bool) -> None:
    """What `results show` says of a folder; a sweep ends with it too."""
    results = _load(folder)
    points = results.points()
    if as_json:
        console.print_json(_document(results, points))
    else:
        _show(results, points)


@command.command(epilog="Example: medusa-bench results export results/paper -o paper.csv")
@click.argument("folders", nargs=-1, required=True)
@click.option("-o", "--output", help="The file to write; its ending chooses the format.")
@click.option("-f", "--format", "form", type=click.Choice(FORMATS), help="csv if nothing says.")
def export(folders: tuple[str, ...], output: str | None, form: str | None) -> None:
    """One row a logical point, as CSV, JSON (Lines), Markdown or Parquet; folders are joined."""
    from pathlib import Path

    from medusa_bench.results import exports

    tables = [_load(folder).points() for folder in folders]
    form = form or _SUFFIXES.get(Path(output).suffix.lower() if output else "", "csv")
    if form == "parquet":
        if output is None:
            raise click.UsageError("Parquet is not for a terminal: name a file with -o.")
        _write(output, exports.parquet(tables))
    elif output:
        _write(output, (piece.encode() for piece in exports.TEXTS[form](tables)))
    else:
        try:
            for piece in exports.TEXTS[form](tables):
                click.echo(piece, nl=False)
        except BrokenPipeError:  # caught here, since click makes exit code 1 of it
            console.stop_writing()


@command.command(epilog="Example: medusa-bench results merge shard-1 shard-2 -o results/all")
@click.argument("folders", nargs=-1, required=True)
@click.option("-o", "--output", required=True, help="The folder to write.")
def merge(folders: tuple[str, ...], output: str) -> None:
    """The union of folders of one environment, such as the shards of `sweep --shard`."""
    from medusa_bench.results import folders as result_folders

    sources = [_load(folder) for folder in folders]
    num_rows = sum(len(source.rows) for source in sources)
    num_distinct = result_folders.num_distinct(sources)
    merged = result_folders.merge(sources, output)
    if num_distinct < num_rows:
        _note(
            f"{num_rows - num_distinct} rows are of a task and round that another folder has too: "
            "the earliest measurement stands."
        )
    console.say(f"{output}: {len(merged.rows)} rows, from {num_rows} in {len(sources)} folders.")


@command.command(epilog="Example: medusa-bench results diff results/before results/after")
@click.argument("before")
@click.argument("after")
@click.option(
    "--threshold",
    type=Number(0, 1),
    default=0.02,
    show_default=True,
    help="The share of latency up to which two medians count as the same.",
)
@click.option("--all", "show_all", is_flag=True, help="List every point, also the same ones.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def diff(before: str, after: str, threshold: float, show_all: bool, as_json: bool) -> ExitCode:
    """Same, faster, slower or ambiguous, for each point, by the spread between rounds.

    Slower or faster: the medians differ by more than the threshold, and the gap between the two
    sets of rounds is wider than either. Ambiguous: the rounds cannot tell, or the machine was
    disturbed; measure with more --rounds. Exit code 7 if any point is slower.
    """
    from medusa_bench.results.differences import Change, differences

    if threshold != threshold:  # noqa: PLR0124 -- nan is within every range
        raise click.UsageError("--threshold is no number.")
    old, new = _load(before), _load(after)
    found = differences(old, new, threshold)
    counts = Counter(each.change for each in found)
    compared = len(found) - counts[Change.ONLY_BEFORE] - counts[Change.ONLY_AFTER]
    if not compared:
        raise MedusaBenchError(
            f"{before} and {after} have no point in common.",
            hint="they need the same products, dtype and timing; see `medusa-bench results show`.",
        )
    for name, was, now in _environment_changes(old, new):
        _note(f"{name}: {was} before, {now} after.")
    if as_json:
        document = {
            "before": before,
            "after": after,
            "threshold": threshold,
            "counts": {change: counts[change] for change in Change},
            "points": [_difference_record(each) for each in found],
        }
        console.print_json(document)
    else:
        _show_differences(found, show_all)
        console.say(
            f"{compared} distinct points compared: "
            + ", ".join(f"{counts[change]} {change.replace('-', ' ')}" for change in Change)
            + "."
        )
    return ExitCode.SLOWER if counts[Change.SLOWER] else ExitCode.OK


@command.command(epilog="Example: medusa-bench results verify results/paper")
@click.argument("folders", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def verify(folders: tuple[str, ...], as_json: bool) -> ExitCode:
    """Check every line against its checksum and its key; exit code 1 if any is damaged."""
    from medusa_bench.results import folders as result_folders

    checked = [result_folders.load(folder, from_lines=True) for folder in folders]
    if as_json:
        document = [
            {
                "folder": folder,
                "num_rows": len(results.rows),
                "torn_bytes": results.torn_bytes,
                "damaged": [
                    {"line_number": damage.line_number, "reason": damage.reason}
                    for damage in results.damages
                ],
            }
            for folder, results in zip(folders, checked, strict=True)
        ]
        console.print_json(document)
    else:
        for folder, results in zip(folders, checked, strict=True):
            for damage in results.damages:
                console.say(
                    f"{folder}/{result_folders.POINTS_FILE}, line {damage.line_number}: "
                    f"{damage.reason}"
                )
            torn = " and half a last line" if results.torn_bytes else ""
            state = f"damaged lines: {len(results.damages)}" if results.damages else "intact"
            console.say(f"{folder}: {len(results.rows)} rows{torn}, {state}.")
    return ExitCode.ERROR if any(results.damages for results in checked) else ExitCode.OK


@command.command(epilog="Example: medusa-bench results compact results/all")
@click.argument("folders", nargs=-1, required=True)
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["npz", "parquet"]),
    default="npz",
    show_default=True,
    help="parquet needs pyarrow; other programs read it too.",
)
def compact(folders: tuple[str, ...], form: str) -> None:
    """Seal the rows of each folder as columns, so that it loads in a fraction of the time.

    points.npz or points.parquet is written beside points.jsonl, with the size and SHA-256 of the
    lines it stands for. Lines stay the truth: `verify` reads them, later ones are read behind the
    seal, and a seal that does not fit its lines is left aside. It may be deleted at any time.
    """
    from medusa_bench.results import folders as result_folders

    for folder in folders:
        sealed = result_folders.compact(folder, f"points.{form}")
        console.say(
            f"{folder}/points.{form}: {len(sealed.table):,} rows sealed, of the first "
            f"{sealed.num_bytes:,} bytes of {result_folders.POINTS_FILE}."
        )


def _load(folder: str) -> Results:
    """The folder's results, with a warning where lines are damaged."""
    from medusa_bench.results import folders as result_folders

    with busy(f"Reading {folder}"):
        results = result_folders.load(folder)
    if results.damages:
        console.warn(
            f"{folder}: damaged lines, left out: {len(results.damages)}; "
            f"`medusa-bench results verify {folder}` lists them."
        )
    return results


def _note(message: str) -> None:
    console.stderr().print(f"Note: {message}", markup=False)


# -- show ---------------------------------------------------------------------------------------


def _document(results: Results, points: Points) -> dict[str, Any]:
    from dataclasses import asdict

    from medusa_bench.results.flags import WORDS

    return {
        "folder": str(results.path),
        "provenance": results.provenance,
        "environment": asdict(results.environment),
        "roofs": [asdict(roofs) for roofs in results.roofs],
        "commands": results.run.commands,
        "notes": results.notes,
        "num_points": len(points),
        "num_points_with_number": int(points.has_number.sum()),
        "num_tasks_with_number": results.num_tasks_with_number,
        "num_rows": len(results.rows),
        "num_damaged_lines": len(results.damages),
        "failed": dict(Counter(f"{row.kind}: {row.reason}" for row in results.failures.values())),
        "skipped": dict(Counter(results.skips.values())),
        "missing": dict(points.count_reasons()),
        "flags": [
            {"flag": flag, "num_points": count, "means": means, "remedy": remedy}
            for flag, count in points.count_flags().most_common()
            for means, remedy in [WORDS[flag]]
        ],
    }


def _show(results: Results, points: Points) -> None:
    from medusa_bench.results.flags import WORDS

    out = console.stdout()

    def line(text: str) -> None:
        out.print(text, markup=False)

    line(f"{results.environment.device}: {results.provenance} results in {results.path}")
    line(", ".join(f"{name} {value}" for name, value in _environment(results)))
    for roofs in results.roofs[-1:]:
        peaks = ", ".join(
            f"{console.si(peak, 'FLOP/s')} {dtype}"
            for dtype, peak in roofs.peak_flops_per_s.items()
        )
        bandwidth = console.si(roofs.memory_bandwidth_bytes_per_s, "B/s")
        line(f"Measured roofs ({len(results.roofs)} times, the last): {peaks}; {bandwidth}")
    for note in results.notes:
        line(f"Not counted: {note}")
    line("")
    line(
        f"{int(points.has_number.sum()):,} of {len(points):,} logical points have a number; "
        f"distinct products, dtypes and timings: {results.num_tasks_with_number:,}."
    )
    out.print(console.table(_OPERATOR_COLUMNS, [*_operator_rows(points)]))
    line(_summary(points))
    for reason, count in points.count_reasons().most_common():
        line(f"{count:,} without a number: {reason}")
    for flag, count in points.count_flags().most_common():
        means, remedy = WORDS[flag]
        line(f"{count:,} {flag}: {means}; {remedy}.")


def _summary(points: Points) -> str:
    """How far under the roof the points are, and how many of them are in doubt, in one line."""
    places = points.place[points.has_number]
    known = points.known
    doubted = int(((known.flags != 0) | known.is_above_roof)[places].sum())
    doubts = (
        f"{doubted:,} of {len(places):,} points are in doubt." if doubted else "None is in doubt."
    )
    shares = known.roof_fraction[places][known.bound[places] > 0]
    if not len(shares):
        return doubts
    return (
        f"Of the measured roof {median(shares):.0%} is reached in the median, {shares.min():.0%} "
        f"to {shares.max():.0%}. {doubts}"
    )


def _environment(results: Results) -> list[tuple[str, str]]:
    environment = results.environment
    known = {
        "memory": console.si(environment.memory_bytes, "B") if environment.memory_bytes else "",
        "driver": environment.driver,
        "torch": environment.torch,
        "CUDA": environment.cuda,
        "power limit": f"{environment.power_limit_w:.0f} W" if environment.power_limit_w else "",
        "threads": str(environment.num_threads or ""),
        **environment.details,
    }
    return [(name, value) for name, value in known.items() if value]


_OPERATOR_COLUMNS = (
    "model", "operators", "phase", "dtype", "timing", "points", "fastest", "slowest",
    "best FLOP/s", "of roof",
)  # fmt: skip


def _operator_rows(points: Points) -> Iterable[list[str]]:
    by = ("model", "family", "phase", "dtype", "timing")
    for names, group in points.grouped(by):
        fractions = group["roof_fraction"]
        yield [
            *names,
            f"{len(fractions):,}",
            console.duration(group["latency_s"].min()),
            console.duration(group["latency_s"].max()),
            console.si(group["flops_per_s"].max(), "FLOP/s"),
            f"{fractions.min():.0%} to {fractions.max():.0%}" if group["bound"].any() else "",
        ]


def _write(output: str, content: bytes | Iterable[bytes]) -> None:
    from pathlib import Path

    write_whole(Path(output), content)


# -- diff ---------------------------------------------------------------------------------------


def _environment_changes(old: Results, new: Results) -> Iterable[tuple[str, Any, Any]]:
    from medusa_bench.results.folders import environment_changes

    return environment_changes(old.run, new.run)


def _difference_record(each: Difference) -> dict[str, Any]:
    from dataclasses import asdict

    setting = each.point.setting
    return {
        "model": each.point.shape.name,
        "operator": each.point.operator.name,
        "phase": setting.phase,
        "batch_size": setting.batch_size,
        "seq_len": setting.seq_len,
        "num_candidates": setting.num_candidates,
        "dtype": each.point.dtype,
        "timing": each.timing,
        "num_points": each.num_points,
        "change": each.change,
        "ratio": each.ratio,
        "before": asdict(each.before) if each.before else None,
        "after": asdict(each.after) if each.after else None,
    }


_DIFF_COLUMNS = (
    "model", "operator", "phase", "batch", "seq", "candidates", "dtype", "timing", "before",
    "after", "ratio", "change",
)  # fmt: skip


def _show_differences(found: Sequence[Difference], show_all: bool) -> None:
    from medusa_bench.results.differences import Change

    dull = (Change.SAME, Change.ONLY_BEFORE, Change.ONLY_AFTER)
    told = [each for each in found if show_all or each.change not in dull]
    told.sort(key=lambda each: -(each.ratio or 0.0))
    if told:
        shown = told if show_all else told[:_MAX_DIFF_ROWS]
        out = console.stdout()
        out.print(console.table(_DIFF_COLUMNS, [_difference_cells(each) for each in shown]))
        if len(shown) < len(told):
            console.say(f"... and {len(told) - len(shown)} more (--all).")


def _difference_cells(each: Difference) -> list[str]:
    setting = each.point.setting
    return [
        each.point.shape.name,
        each.point.operator.name,
        setting.phase,
        str(setting.batch_size),
        str(setting.seq_len),
        str(setting.num_candidates),
        each.point.dtype,
        each.timing,
        console.duration(each.before.latency_s) if each.before else "",
        console.duration(each.after.latency_s) if each.after else "",
        f"{each.ratio - 1:+.1%}" if each.ratio is not None else "",
        each.change.replace("-", " "),
    ]
