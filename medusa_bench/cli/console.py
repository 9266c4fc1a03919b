"""How numbers, tables, progress and warnings look. The only other place that prints is click."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def stdout() -> Console:
    """Results go here. Colour, NO_COLOR and a terminal's width are rich's; a pipe folds nothing."""
    piped = not sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=piped, width=1000 if piped else None)


def stderr() -> Console:
    """Progress, warnings and hints go here."""
    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def warn(message: str) -> None:
    stderr().print(f"Warning: {message}", markup=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    """Cells as given, numbers (columns whose cells start with a digit) to the right."""
    result = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows if row[index]]
        numeric = bool(cells) and all(cell[0].isdigit() or cell[0] in "-<>~" for cell in cells)
        result.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result


_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def si(value: float, unit: str, digits: int = 3) -> str:
    """A quantity with an SI prefix: si(3.12e14, "FLOP/s") is "312 TFLOP/s"."""
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor:
            return f"{_digits(value / factor, digits)} {prefix}{unit}"
    return f"{_digits(value, digits)} {unit}"


def duration(seconds: float) -> str:
    """A time for people: "412 ns", "33.1 us", "1.24 ms", "12.0 s", "4 min 05 s"."""
    if seconds >= 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= factor:
            return f"{_digits(seconds / factor, 3)} {unit}"
    return f"{_digits(seconds / 1e-9, 3)} ns"


def _digits(value: float, digits: int) -> str:
    whole = len(str(int(abs(value))))
    return f"{value:.{max(0, digits - whole)}f}"
