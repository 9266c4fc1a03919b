"""What a number of each kind may be. Beyond it is no quantity, but a slip or an attack.

Generous: nothing that a device, an engine or a paper gives comes near an end. Documents are checked
here, options of the command line by the types of cli/options, which know the same ends.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from low to high, both included, and what they are: "a latency in seconds"."""

    what: str
    low: float
    high: float

    def of(self, value: Any) -> float:
        """The value of a document as float. Raises ValueError for another type or one outside."""
        if type(value) not in (int, float) or not self.low <= value <= self.high:  # NaN fails both
            raise ValueError(f"{shortly(value)} is not {self}")
        return float(value)

    def of_text(self, text: Any) -> float:
        """The same for a number written as text, as in CSV."""
        try:
            return self.of(float(text))
        except (TypeError, ValueError):
            raise ValueError(f"{shortly(text)} is not {self}") from None

    def all_of(self, values: Any) -> "NDArray[np.float64]":
        """A list of numbers, or of lists as long as each other, as an array. Raises ValueError."""
        import numpy as np

        if not isinstance(values, list):
            raise ValueError(f"{shortly(values)} is no list")
        if values and isinstance(values[0], list):
            return np.stack([self.all_of(each) for each in values])
        return np.array([self.of(each) for each in values], dtype=float)

    def __str__(self) -> str:
        return f"{self.what} ({self.low:g} to {self.high:g})"


def shortly(value: Any) -> str:
    """A value of a document in a message."""
    try:
        return repr(value)[:40]
    except ValueError:  # an integer of more than 4300 digits has no decimal form
        return "a huge number"


def ordered(numbers: Iterable[float], what: str) -> None:
    """Raises ValueError, naming `what`, unless no number is below the one before it."""
    listed = list(numbers)
    if listed != sorted(listed):
        raise ValueError(f"{what} do not rise: {', '.join(f'{each:g}' for each in listed)}")


def whole(value: Any, low: int, high: int) -> int:
    """A whole number of a document. Raises ValueError for another type or one outside."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{shortly(value)} is no whole number of {low} to {high}")
    return value


NUMBER = Range("a number", -1e30, 1e30)
POSITIVE = Range("a number above 0", 1e-30, 1e30)
LATENCY_S = Range("a latency in seconds", 1e-15, 1e7)
TIME_S = Range("a Unix time in seconds", 0.0, 1e12)
FLOPS_PER_S = Range("a rate in FLOP/s", 1.0, 1e21)
BYTES_PER_S = Range("a bandwidth in bytes/s", 1.0, 1e18)
CLOCK_HZ = Range("a clock in Hz", 1.0, 1e12)
SHARE = Range("a share", 0.0, 1.0)
FACTOR = Range("a factor", 1e-6, 1e6)
LOG_FACTOR = Range("the logarithm of a factor", 0.0, 50.0)
COUNT = Range("a count", 0.0, 1e15)
