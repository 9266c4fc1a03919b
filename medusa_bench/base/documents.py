"""JSON as we accept it from files: one object, finite numbers, no key twice, printable text."""

import json
import math
from typing import Any, NoReturn

from medusa_bench.base.errors import InvalidFileError

JsonObject = dict[str, Any]


def parse_object(raw: bytes, *, where: str) -> JsonObject:
    """The one JSON object that raw holds.

    Raises InvalidFileError, naming `where`, for anything else: damaged text, another type at the
    top, a key given twice, a number that is not finite, half a surrogate pair.
    """
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
        if b"\\ud" in raw.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise InvalidFileError(f"{where} is not valid UTF-8 text.") from None
    except RecursionError:
        raise InvalidFileError(f"{where} is nested too deeply.") from None
    except ValueError as error:
        raise InvalidFileError(f"{where} is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidFileError(f"{where} holds no JSON object.")
    return value


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> JsonObject:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object_without_duplicates,
    parse_constant=_refuse_constant,
    parse_float=_finite_float,
)
