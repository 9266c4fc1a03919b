"""Options that several commands share, and how their values are written."""

import re
from typing import Any

import click

_MAX_VALUE = 1 << 24
_MAX_VALUES = 4096
_RANGE = re.compile(r"(\d+)\.\.(\d+)(?::\+(\d+))?")


def parse_counts(text: str) -> tuple[int, ...]:
    """Whole numbers, sorted and without repeats, from a list with ranges.

    "1,4,16" is a list, "128..8192" doubles from the first to at most the last, "1..64:+8" adds 8.
    Raises ValueError with a sentence.
    """
    values: set[int] = set()
    for part in map(str.strip, text.split(",")):
        if match := _RANGE.fullmatch(part):
            low, high, step = int(match[1]), int(match[2]), int(match[3] or 0)
            if not 1 <= low <= high <= _MAX_VALUE:
                raise ValueError(f"{part!r} runs from a larger number, or leaves 1 to {_MAX_VALUE}")
            if match[3] and step < 1:
                raise ValueError(f"{part!r} has a step of 0")
            if step and (high - low) // step > _MAX_VALUES:
                raise ValueError(f"{part!r} is more than {_MAX_VALUES} values")
            value = low
            while value <= high:
                values.add(value)
                value = value + step if step else 2 * value
        elif part.isascii() and part.isdigit() and len(part) < 10 and 1 <= int(part) <= _MAX_VALUE:
            values.add(int(part))
        else:
            raise ValueError(f"{part[:40]!r} is neither a whole number nor a range")
    return tuple(sorted(values))


class Counts(click.ParamType[tuple[int, ...]]):
    """`1,4,16`, `128..8192` (doubling), `1..64:+8` (adding)."""

    name = "counts"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return parse_counts(value)
        except ValueError as error:
            self.fail(f"{error}; write 1,4,16 or 128..8192 (doubling) or 8..64:+8 (adding).")


COUNTS = Counts()
