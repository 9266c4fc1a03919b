"""`medusa-bench results`: show, export, merge, diff and verify results folders."""

from __future__ import annotations

import json
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.base.errors import ExitCode, MedusaBenchError
from medusa_bench.base.exits import csv_cell, markdown_cell
from medusa_bench.base.files import write_whole
from medusa_bench.cli import console
from medusa_bench.cli.options import Number
from medusa_bench.cli.progress import busy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from medusa_bench.results.differences import Difference
    from medusa_bench.results.reading import Cell, Results
    from medusa_bench.results.rows import ResultPoint

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

    from medusa_bench.results.reading import export_rows

    rows = [row for folder in folders for row in export_rows(_load(folder))]
    form = form or _SUFFIXES.get(Path(output).suffix.lower() if output else "", "csv")
    if form == "parquet":
        if output is None:
            raise click.UsageError("Parquet is not for a terminal: name a file with -o.")
        _write(output, _parquet(rows))
    elif output:
        _write(output, _text(rows, form).encode())
    else:
        click.echo(_text(rows, form), nl=False)


@command.command(epilog="Example: medusa-bench results merge shard-1 shard-2 -o results/all")
@click.argument("folders", nargs=-1, required=True)
@click.option("-o", "--output", required=True, help="The folder to write.")
def merge(folders: tuple[str, ...], output: str) -> None:
    """The union of folders of one environment, such as the shards of `sweep --shard`."""
    from medusa_bench.results import folders as result_folders

    sources = [_load(folder) for folder in folders]
    num_rows = sum(len(source.rows) for source in sources)
    num_distinct = len({(r.task, r.round_index) for source in sources for r in source.rows})
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

    checked = [result_folders.load(folder) for folder in folders]
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


def _document(results: Results, points: Sequence[ResultPoint]) -> dict[str, Any]:
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
        "num_points_with_number": sum(each.summary is not None for each in points),
        "num_tasks_with_number": len(results.summaries),
        "num_rows": len(results.rows),
        "num_damaged_lines": len(results.damages),
        "failed": dict(Counter(f"{row.kind}: {row.reason}" for row in results.failures.values())),
        "skipped": dict(Counter(results.skips.values())),
        "missing": dict(Counter(each.reason for each in points if each.summary is None)),
        "flags": [
            {"flag": flag, "num_points": count, "means": means, "remedy": remedy}
            for flag, count in _flag_counts(points)
            for means, remedy in [WORDS[flag]]
        ],
    }


def _flag_counts(points: Iterable[ResultPoint]) -> list[tuple[Any, int]]:
    return Counter(flag for each in points for flag in each.flags).most_common()


def _show(results: Results, points: Sequence[ResultPoint]) -> None:
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
    have = [each for each in points if each.summary is not None]
    line("")
    line(
        f"{len(have):,} of {len(points):,} logical points have a number; "
        f"distinct products, dtypes and timings: {len(results.summaries):,}."
    )
    out.print(console.table(_OPERATOR_COLUMNS, [*_operator_rows(have)]))
    line(_summary(have))
    for reason, count in Counter(each.reason for each in points if not each.summary).most_common():
        line(f"{count:,} without a number: {reason}")
    for flag, count in _flag_counts(points):
        means, remedy = WORDS[flag]
        line(f"{count:,} {flag}: {means}; {remedy}.")


def _summary(have: Sequence[ResultPoint]) -> str:
    """How far under the roof the points are, and how many of them are in doubt, in one line."""
    shares = sorted(each.roof_fraction for each in have if each.roof_fraction is not None)
    doubted = sum(bool(each.flags) for each in have)
    doubts = (
        f"{doubted:,} of {len(have):,} points are in doubt." if doubted else "None is in doubt."
    )
    if not shares:
        return doubts
    return (
        f"Of the measured roof {median(shares):.0%} is reached in the median, {shares[0]:.0%} to "
        f"{shares[-1]:.0%}. {doubts}"
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


def _operator_rows(points: Iterable[ResultPoint]) -> Iterable[list[str]]:
    groups: dict[tuple[str, ...], list[ResultPoint]] = {}
    for each in points:
        point = each.point
        names = (point.shape.name, point.operator.family, point.setting.phase)
        groups.setdefault((*names, point.dtype, each.timing), []).append(each)
    for key, group in groups.items():
        latencies_s = [each.summary.latency_s for each in group if each.summary]
        fractions = [each.roof_fraction for each in group if each.roof_fraction is not None]
        yield [
            *key,
            f"{len(group):,}",
            console.duration(min(latencies_s)),
            console.duration(max(latencies_s)),
            console.si(max(each.flops_per_s or 0.0 for each in group), "FLOP/s"),
            f"{min(fractions):.0%} to {max(fractions):.0%}" if fractions else "",
        ]


# -- export -------------------------------------------------------------------------------------


def _text(rows: Sequence[dict[str, Cell]], form: str) -> str:
    from medusa_bench.results.reading import EXPORT_COLUMNS

    if form == "json":
        return json.dumps(rows, indent=1, allow_nan=False) + "\n"
    if form == "jsonl":
        return "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in rows)
    if form in {"markdown", "md"}:
        lines = [EXPORT_COLUMNS, ["---"] * len(EXPORT_COLUMNS)]
        lines += [[_markdown_cell(row[name]) for name in EXPORT_COLUMNS] for row in rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(EXPORT_COLUMNS)
    writer.writerows([csv_cell(row[name]) for name in EXPORT_COLUMNS] for row in rows)
    return text.getvalue()


def _markdown_cell(value: Cell) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return markdown_cell(text)


def _parquet(rows: Sequence[dict[str, Cell]]) -> bytes:
    import io

    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MedusaBenchError(
            "Parquet needs pyarrow, which is not installed.",
            hint="pip install 'medusa-bench[parquet]', or export CSV or JSON.",
        ) from None
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def _write(output: str, content: bytes) -> None:
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
