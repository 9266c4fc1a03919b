"""How numbers, tables, progress and warnings look. The only other place that prints is click."""

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medusa_bench.base.exits import printable
from medusa_bench.base.quantities import duration, si, significant

__all__ = [
    "duration",
    "print_json",
    "say",
    "si",
    "significant",
    "stderr",
    "stdout",
    "stop_writing",
    "table",
    "warn",
]


def stop_writing() -> None:
    """The reader (head, less) has gone; keep the interpreter from flushing into the void."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Console(Console):
    """rich's, but for control characters in names: they are shown, and do nothing."""

    def print(self, *objects: Any, **options: Any) -> None:
        shown = (printable(each) if isinstance(each, str) else each for each in objects)
        super().print(*shown, **options)


def stdout() -> Console:
    """Results go here. Colour, NO_COLOR and a terminal's width are rich's; a pipe folds nothing."""
    piped = not sys.stdout.isatty()
    return _Console(highlight=False, soft_wrap=piped, width=1000 if piped else None)


def stderr() -> Console:
    """Progress, warnings and hints go here."""
    return _Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def say(text: str, *, err: bool = False) -> None:
    """A line as it is, however long; err: progress and hints."""
    click.echo(printable(text), err=err)


def print_json(value: Any) -> None:
    """The whole result as one document, in ASCII, so that any locale can print it.

    Without indents, which would have Python's encoder go ten times slower; `jq .` adds them.
    """
    click.echo(json.dumps(value, allow_nan=False))


def warn(message: str) -> None:
    stderr().print(f"Warning: {message}", markup=False)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str | None = None,
    *,
    header: bool = True,
    gap: int = 2,
) -> Table:
    """Cells as given; columns of numbers, with or without units, to the right; gap spaces apart.

    Cells are text, never markup; what cannot be printed shows as "?".
    """
    result = Table(
        title=title,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
        show_header=header,
        padding=(0, 1, 0, gap - 1),
    )
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows if row[index]]
        numeric = bool(cells) and all(map(_NUMBER.fullmatch, cells))
        result.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        result.add_row(*(Text(printable(cell).replace("\n", "?")) for cell in row))
    return result


_NUMBER = re.compile(r"-|[<>~+-]?\d[\d.,]*([x%]|%? .*)?")
