"""A roofline in characters, for a terminal over ssh: log-log, with or without colour and Unicode.

Series are letters, so that nothing hangs on colour. Libraries for terminal plots have no ASCII
fallback for their frames and mark log axes by exponents; what is needed here is this page.
"""

import itertools
import math
from dataclasses import dataclass
from itertools import cycle
from string import ascii_letters

from rich.text import Text

from medusa_bench.report.series import Panel, Series
from medusa_bench.specs.operators import SERIES

_LABEL_COLUMNS = 6
_STYLES = ("blue", "yellow", "red", "cyan", "magenta", "green", "white")
_SERIES_STYLES = dict(zip(SERIES, itertools.cycle(_STYLES), strict=False))


@dataclass(frozen=True, slots=True)
class Characters:
    """What lines are drawn with."""

    measured: str
    datasheet: str  # one character for each further roof
    vertical: str
    horizontal: str
    corner: str
    tick: str


UNICODE = Characters("━", "┄·╌", "│", "─", "└", "┴")
ASCII = Characters("=", ".:'", "|", "-", "+", "+")


Cells = list[list[tuple[str, str]]]  # rows of (character, rich style)


def draw(panel: Panel, *, columns: int = 80, rows: int = 22, characters: Characters) -> Text:
    """One panel and its roofs in numbers, at most `columns` wide."""
    width = columns - _LABEL_COLUMNS - 1
    axes = _Axes(panel, width, rows)
    cells: Cells = [[(" ", "")] * width for _ in range(rows)]
    lines = _line_characters(panel, characters)
    _draw_ceilings(cells, axes, panel, lines)
    _draw_dots(cells, axes, panel)
    text = Text()
    labels = axes.row_labels()
    for index, line in enumerate(cells):
        text.append(f"{labels.get(index, ''):>{_LABEL_COLUMNS}}{characters.vertical}")
        for character, style in line:
            text.append(character, style)
        text.append("\n")
    bottom, below = axes.bottom(characters)
    text.append(" " * _LABEL_COLUMNS + characters.corner + bottom + "\n")
    text.append(" " * (_LABEL_COLUMNS + 1) + below + "\n")
    caption = "FLOP/s over FLOP/byte"
    if panel.dots:
        caption += "; * several series"
    if any(dot.cause for dot in panel.dots):
        caption += "; ! above a roof"
    text.append(caption.rjust(columns) + "\n")
    for ceiling, character in zip(panel.ceilings, lines, strict=True):
        text.append(
            f"{character * 3} {ceiling.kind} roof of {ceiling.name}: "
            f"{_engineering(ceiling.peak_flops_per_s, 4)}FLOP/s, "
            f"{_engineering(ceiling.memory_bandwidth_bytes_per_s, 4)}B/s\n"
        )
    return text


def _line_characters(panel: Panel, characters: Characters) -> list[str]:
    further = cycle(characters.datasheet)
    return [
        characters.measured if ceiling.kind == "measured" else next(further)
        for ceiling in panel.ceilings
    ]


def _draw_ceilings(cells: Cells, axes: "_Axes", panel: Panel, lines: list[str]) -> None:
    # The measured one stands first in the panel, and on top in the picture.
    for ceiling, character in reversed(list(zip(panel.ceilings, lines, strict=True))):
        style = "bold" if ceiling.kind == "measured" else "dim"
        for column in range(len(cells[0])):
            row = axes.row(ceiling.attainable_flops_per_s(axes.intensity(column)))
            if row is not None:
                cells[row][column] = (character, style)


def _draw_dots(cells: Cells, axes: "_Axes", panel: Panel) -> None:
    seen: dict[tuple[int, int], str] = {}
    for letter, series in zip(ascii_letters, panel.series, strict=False):
        for dot in series.dots:
            row, column = axes.row(dot.flops_per_s), axes.column(dot.operational_intensity)
            if row is None or column is None:
                continue
            if dot.cause or seen.get((row, column)) == "!":
                mark, style = "!", "bold red"
            elif seen.get((row, column), letter) != letter:
                mark, style = "*", "bold"
            else:
                mark, style = letter, _style(series)
            seen[row, column] = mark
            cells[row][column] = (mark, style)


def letters(panel: Panel) -> dict[str, str]:
    """The letter of each series, by name."""
    return {
        series.name: letter for letter, series in zip(ascii_letters, panel.series, strict=False)
    }


def _style(series: Series) -> str:
    return "white" if series.num_candidates and series.is_vanilla else _SERIES_STYLES[series.group]


class _Axes:
    """Where a value stands on the grid of characters."""

    def __init__(self, panel: Panel, width: int, height: int) -> None:
        xs = [dot.operational_intensity for dot in panel.dots]
        xs += [ceiling.ridge_point * factor for ceiling in panel.ceilings for factor in (0.1, 4)]
        self._left, self._right = math.log10(min(xs) / 1.5), math.log10(max(xs) * 1.5)
        ys = [dot.flops_per_s for dot in panel.dots]
        ys += [ceiling.peak_flops_per_s * 1.5 for ceiling in panel.ceilings]
        if not panel.dots:
            ys += [ceiling.attainable_flops_per_s(10**self._left) for ceiling in panel.ceilings]
        self._bottom, self._top = math.log10(min(ys) / 1.5), math.log10(max(ys) * 1.2)
        self._width, self._height = width, height

    def column(self, intensity: float) -> int | None:
        share = (math.log10(intensity) - self._left) / (self._right - self._left)
        return _index(share, self._width)

    def row(self, flops_per_s: float) -> int | None:
        share = (self._top - math.log10(flops_per_s)) / (self._top - self._bottom)
        return _index(share, self._height)

    def intensity(self, column: int) -> float:
        share = (column + 0.5) / self._width
        return float(10 ** (self._left + share * (self._right - self._left)))

    def row_labels(self) -> dict[int, str]:
        labels = {}
        for exponent in range(math.ceil(self._bottom), math.floor(self._top) + 1):
            row = self.row(10.0**exponent)
            if row is not None:
                labels[row] = _engineering(10.0**exponent)
        return labels

    def bottom(self, characters: Characters) -> tuple[str, str]:
        line, below = [characters.horizontal] * self._width, [" "] * (self._width + 4)
        for exponent in range(math.ceil(self._left), math.floor(self._right) + 1):
            column = self.column(10.0**exponent)
            if column is None:
                continue
            line[column] = characters.tick
            label = _engineering(10.0**exponent)
            if column + len(label) <= self._width:
                below[column : column + len(label)] = label
        return "".join(line), "".join(below).rstrip()


def _index(share: float, count: int) -> int | None:
    return min(int(share * count), count - 1) if 0 <= share <= 1 else None


def _engineering(value: float, digits: int = 3) -> str:
    exponent = min(15, max(0, 3 * (math.floor(math.log10(value) + 1e-9) // 3)))
    prefix = {0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P"}[exponent]
    separator = " " if digits > 3 else ""
    return f"{value / 10**exponent:.{digits}g}{separator}{prefix}"
