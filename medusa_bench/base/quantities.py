"""Quantities as people read them: scaled and rounded at the edge, never stored so."""

import math

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def si(value: float, unit: str, digits: int = 3) -> str:
    """A quantity with an SI prefix: si(3.12e14, "FLOP/s") is "312 TFLOP/s"."""
    rounded = _rounded(value, digits)
    for factor, prefix in _PREFIXES:
        if abs(rounded) >= factor:
            return f"{significant(value / factor, digits)} {prefix}{unit}"
    return f"{significant(value, digits)} {unit}"


def duration(seconds: float) -> str:
    """A time for people: "412 ns", "33.1 us", "1.24 ms", "12.0 s", "4 min 05 s", "2 h 05 min"."""
    rounded = _rounded(seconds, 3)
    if rounded >= 60:
        minutes, rest = divmod(round(seconds), 60)
        if minutes < 60:
            return f"{minutes} min {rest:02d} s"
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes:02d} min"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if rounded >= factor:
            return f"{significant(seconds / factor, 3)} {unit}"
    return f"{significant(seconds / 1e-9, 3)} ns" if seconds else "0 s"


def significant(value: float, digits: int = 3) -> str:
    """The value to so many digits, never fewer than its whole part: 1935, 312, 0.0331, 9.80."""
    rounded = _rounded(value, digits)
    if not rounded or not math.isfinite(rounded):
        return f"{rounded:.0f}"
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:.{decimals}f}" if decimals > 0 else f"{value:.0f}"


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits - 1}e}")
