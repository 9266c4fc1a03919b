"""Options that several commands share, and how their values are written."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import click

from medusa_bench.base.errors import UnknownNameError

# ParamType can be subscripted only since click 8.4, and GPU machines without a network have older.
from medusa_bench.specs.dtypes import ALIASES, Dtype
from medusa_bench.specs.operators import BY_NAME, FAMILIES
from medusa_bench.specs.schemes import AS_NAMED, SCHEMES
from medusa_bench.specs.settings import Phase

_MAX_VALUE = 1 << 24
_MAX_VALUES = 4096
_COUNT = r"[0-9]{1,9}k?"
_RANGE = re.compile(rf"({_COUNT})(?:\.\.|-)({_COUNT})(?::\+({_COUNT}))?")


def parse_counts(text: str) -> tuple[int, ...]:
    """Whole numbers, sorted and without repeats, from a list with ranges.

    "1,4,16" is a list, "128..8192" or "128-8192" doubles, "1..64:+8" adds 8; a range holds its
    last number. 8k is 8192.
    Raises ValueError with a sentence.
    """
    values: set[int] = set()
    for part in map(str.strip, text.split(",")):
        if match := _RANGE.fullmatch(part):
            low, high, step = (_count(each or "0") for each in match.groups())
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
            values.add(high)
        elif re.fullmatch(_COUNT, part) and 1 <= _count(part) <= _MAX_VALUE:
            values.add(_count(part))
        else:
            raise ValueError(f"{part[:40]!r} is neither a whole number nor a range")
    return tuple(sorted(values))


def _count(text: str) -> int:
    return int(text[:-1]) * 1024 if text.endswith("k") else int(text)


class Counts(click.ParamType):  # type: ignore[type-arg]
    """`1,4,16`, `128..8k` or `128-8k` (doubling), `1..64:+8` (adding)."""

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


class Words(click.ParamType):  # type: ignore[type-arg]
    """Known words, as a list with commas; in the order given, without repeats.

    An unknown one is an UnknownNameError with the near ones, not a usage error.
    """

    def __init__(
        self, kind: str, known: Iterable[str], *, aliases: Mapping[str, str] | None = None
    ) -> None:
        self.name = f"{kind}s"
        self._aliases = aliases or {}
        self._kind = kind
        self._known = tuple(map(str, known))

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        asked = (word.strip().lower() for word in value.split(",") if word.strip())
        words = dict.fromkeys(self._aliases.get(word, word) for word in asked)
        if not words:
            self.fail(f"names no {self._kind}; known: {', '.join(self._known)}.")
        for word in words:
            if word not in self._known:
                raise UnknownNameError(self._kind, word, self._known)
        return tuple(words)


class Models(click.ParamType):  # type: ignore[type-arg]
    """Names of presets and paths of configs, as a list with commas."""

    name = "models"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        models = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        if not models:
            self.fail("names no model.")
        return models


MODELS = Models()
ASSUME_BLOCK = click.option(
    "--assume-block",
    type=click.Choice(["llama"]),
    help="Take a config.json of a type that is not known for this block.",
)
WEIGHTS = click.option(
    "--weights",
    metavar="SCHEME",
    help=f"How the model's weights are stored: {', '.join(SCHEMES)}, or {AS_NAMED} (in the dtype). "
    " [default: what its config.json says]",
)
CACHE = click.option(
    "--kv-dtype",
    type=click.Choice(["fp8", "as-dtype"]),
    help="Of cached keys and values.  [default: what its config.json says]",
)
OPERATORS = Words("operator", [*BY_NAME, *FAMILIES])
PHASES = Words("phase", Phase)


class Whole(click.IntRange):
    """A whole number from least to most: no size, count or seed of ours goes beyond 2^31 - 1."""

    def __init__(self, least: int = 1, most: int = (1 << 31) - 1) -> None:
        super().__init__(least, most)
        self._described = most < (1 << 31) - 1

    def _describe_range(self) -> str:
        return super()._describe_range() if self._described else f"x>={self.min}"


class Number(click.FloatRange):
    """A number from least to most, never NaN or infinite; `above` leaves out the least itself."""

    def __init__(self, least: float, most: float, *, above: bool = False) -> None:
        super().__init__(least, most, min_open=above)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):  # it is neither below nor above a limit
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class DtypeName(click.Choice):  # type: ignore[type-arg]
    """One dtype, also by the names that people and libraries use (fp16, bf16, fp8)."""

    def __init__(self) -> None:
        super().__init__([str(dtype) for dtype in Dtype])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        known = ALIASES.get(str(value).lower(), value)
        return str(super().convert(known, param, ctx))


DTYPES = Words("dtype", Dtype, aliases=ALIASES)
DTYPE = DtypeName()
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A number with us, ms, s, min or h: 50ms, 90s, 10min. A bare number is refused: of what?"""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?(us|ms|s|min|h)", value)
        if not match or not float(match[1]):
            self.fail(f"{value!r} is no time with its unit; write 50ms, 90s, 10min or 2h.")
        return float(match[1]) * _UNITS_S[match[2]]


class Mapped(click.ParamType):  # type: ignore[type-arg]
    """`m=rows,k=depth`: names of ours and what they are called elsewhere."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, str]:
        if isinstance(value, dict):
            return value
        pairs = [part.partition("=") for part in value.split(",")]
        if not all(ours.strip() and theirs.strip() for ours, _, theirs in pairs):
            self.fail(f"{value!r} is no list of names; write m=rows,latency_us=time.")
        return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


class Shard(click.ParamType):  # type: ignore[type-arg]
    """i/N, counted from 1."""

    name = "i/N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", value)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"{value!r} is no part of a whole; write 1/4 to 4/4.")
        return int(match[1]), int(match[2])


COUNTS = Counts()
DURATION = Duration()
SHARD = Shard()
OFFLINE = click.option(
    "--offline", is_flag=True, help="Look for models on disk and in the cache, never on the hub."
)
