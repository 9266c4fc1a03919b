"""The sweep: a plan of distinct tasks, and the loop that takes them through a backend.

Knows no GPU: a Backend measures, a store keeps. Tests give it one that runs at exactly 1 TFLOP/s.
"""

from collections.abc import Sequence
from typing import Protocol

from medusa_bench.dtypes import Dtype
from medusa_bench.measurements import Environment, Failure, Measurement, Roofs, Task


class Backend(Protocol):
    """What measures. The real one is a worker process for each device."""

    @property
    def environment(self) -> Environment: ...

    def roofs(self, dtypes: Sequence[Dtype], quick: bool = False) -> Roofs:
        """Measure this device's ceilings: the best product per dtype, the best memory traffic.

        quick: again those that were best, in about 0.2 s: the sentinel that shows drift.
        """
        ...

    def measure(self, task: Task, round_index: int, budget_s: float) -> Measurement | Failure:
        """One round of one task. What happens to the device becomes a Failure, never a raise."""
        ...

    def close(self) -> None: ...
