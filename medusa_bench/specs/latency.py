"""A latency with its interval."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds, with their interval; equal ends where none is known.

    90 % where it is predicted; the fastest and slowest repetition where it was timed.
    """

    latency_s: float
    low_s: float
    high_s: float

    @classmethod
    def exact(cls, latency_s: float) -> "Latency":
        """A latency of which no interval is known."""
        return cls(latency_s, latency_s, latency_s)

    @property
    def spread(self) -> float:
        """(high - low) / latency: the error bar, as a share."""
        return (self.high_s - self.low_s) / self.latency_s
