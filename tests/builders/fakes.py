"""Stand-ins for a device: time that only moves when told, and a backend of known speed."""

from collections.abc import Collection, Sequence

from medusa_bench.results.rows import Environment, Failure, FailureKind, Measurement, Roofs, Task
from medusa_bench.specs.dtypes import Dtype

FAKE_DEVICE = Environment(
    device="Fake 1 TFLOP/s", device_type="cuda", memory_bytes=80 * 10**9, torch="0.0"
)


class FakeClock:
    """Seconds that pass only when something takes them."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class FakeBackend:
    """A device that computes at exactly 1 TFLOP/s and moves memory at no cost.

    `failing` tasks fail; `interrupt_at` raises KeyboardInterrupt at that call (from 0);
    `peaks` are what each look at the roofs finds, the last one for ever.
    """

    environment = FAKE_DEVICE
    deaths: Sequence[str] = ()

    def __init__(
        self,
        clock: FakeClock | None = None,
        *,
        failing: Collection[Task] = (),
        interrupt_at: int | None = None,
        peaks: Sequence[float] = (1e12,),
    ) -> None:
        self.clock = clock or FakeClock()
        self.calls: list[tuple[int, Task]] = []
        self.closed = False
        self._failing = failing
        self._interrupt_at = interrupt_at
        self._peaks = list(peaks)

    def roofs(self, dtypes: Sequence[Dtype], *, quick: bool = False) -> Roofs:
        peak = self._peaks.pop(0) if len(self._peaks) > 1 else self._peaks[0]
        return Roofs(dict.fromkeys(dtypes, peak), 1e15, measured_at_s=self.clock.now_s)

    def measure(self, task: Task, round_index: int, budget_s: float) -> Measurement | Failure:
        if self._interrupt_at == len(self.calls):
            raise KeyboardInterrupt
        self.calls.append((round_index, task))
        started_at_s = self.clock.now_s
        if task in self._failing:
            return Failure(task, round_index, FailureKind.CRASHED, "it fell over", started_at_s)
        latency_s = task.product.flops / 1e12
        self.clock.now_s += budget_s
        return Measurement(
            task,
            round_index,
            latency_s=latency_s,
            min_s=latency_s,
            p25_s=latency_s,
            p75_s=latency_s,
            num_calls=max(1, int(budget_s / latency_s)),
            samples_s=(latency_s,),
            started_at_s=started_at_s,
        )

    def close(self) -> None:
        self.closed = True
