"""What a results folder holds: one row a product, timing and round, and the run it belongs to.

Only identity, environment and latencies are stored. FLOPs, bytes, intensity and FLOP/s are
computed on reading, so a corrected formula repairs old results.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

from medusa_bench.base import limits
from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.specs.ceilings import Bound, Ceilings
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.latency import Latency
from medusa_bench.specs.operators import Operator, Point, points
from medusa_bench.specs.products import Product
from medusa_bench.specs.settings import Phase, settings
from medusa_bench.specs.shapes import ModelShape

MAX_SAMPLES = 64
MAX_SIZE = 1 << 48  # of each dimension of a product
ABOVE_ROOF = 1.05  # a share of the measured roof that no correct number exceeds


class Provenance(StrEnum):
    """Where a number comes from. Never mixed without a mark."""

    MEASURED = "measured"
    PREDICTED = "predicted"
    SIMULATED = "simulated"
    GENERATED = "generated"
    SERVED = "served"  # by a running server, seen from outside
    REPORTED = "reported"


class Timing(StrEnum):
    """`kernel`: what the chip does (CUDA graph, cold rotating operands). `eager`: one launched
    call, synchronised, as the paper's harness times it."""

    KERNEL = "kernel"
    EAGER = "eager"


class QualityFlag(StrEnum):
    """Why a number may be wrong. Recorded with it; the command line words it with a remedy."""

    UNSTABLE = "unstable"  # the point's budget ended before its interval closed
    FEW_CALLS = "few-calls"  # so long that only a few calls were made
    THROTTLED = "throttled"  # thermal slow-down or clock under 75 % in every try
    CONTENDED = "contended"  # others used the CPU meanwhile
    DRIFTED = "drifted"  # the roofs moved between the looks before and after: derived on reading
    INACCURATE = "inaccurate"  # the result missed its float64 check
    ABOVE_ROOF = "above-roof"  # faster than the measured roof allows: derived on reading


class FailureKind(StrEnum):
    """How a point failed."""

    OUT_OF_MEMORY = "out-of-memory"
    CRASHED = "crashed"  # abort, segmentation fault
    KILLED = "killed"
    HUNG = "hung"
    DEVICE_ERROR = "device-error"  # a CUDA error, after which the worker is replaced
    WRONG_RESULT = "wrong-result"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Task:
    """What is measured as one: a product in a dtype, by a timing. Many logical points share it."""

    product: Product
    dtype: Dtype
    timing: Timing

    def __post_init__(self) -> None:
        p = self.product
        if not all(1 <= size <= MAX_SIZE for size in (p.batch, p.m, p.n, p.k)):
            raise ValueError(f"{p} is no product that a results folder can hold.")

    @property
    def key(self) -> str:
        """Sixteen hex digits that name this task in every results folder."""
        p = self.product
        text = f"{p.batch},{p.m},{p.n},{p.k},{self.dtype},{self.timing}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Means over one block of calls; None where NVML does not tell."""

    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    energy_j: float | None = None
    throttle_reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """One round of one task. Latencies are per call, in seconds; samples in order of time."""

    task: Task
    round_index: int
    latency_s: float  # the median call
    min_s: float
    p25_s: float
    p75_s: float
    num_calls: int
    samples_s: tuple[float, ...] = ()  # at most MAX_SAMPLES; a sample may average several calls
    flags: tuple[QualityFlag, ...] = ()
    telemetry: Telemetry | None = None
    started_at_s: float = 0.0  # Unix time


@dataclass(frozen=True, slots=True)
class Failure:
    """One round of one task that gave no number, and why."""

    task: Task
    round_index: int
    kind: FailureKind
    reason: str
    started_at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A latency that was not measured here: predicted with its 90 % interval, or reported."""

    task: Task
    latency_s: float
    low_s: float
    high_s: float
    source: str  # which model, paper or table says so

    @property
    def round_index(self) -> int:
        """An estimate has no rounds: it stands where the first would."""
        return 0


Row = Measurement | Failure | Estimate


@dataclass(frozen=True, slots=True)
class Skip:
    """A task that was left out on purpose before anything was allocated, and why."""

    task: Task
    reason: str


@dataclass(frozen=True, slots=True)
class Grid:
    """What one command asked for. Shapes stand in full, so results outlive a preset or a config."""

    shapes: tuple[ModelShape, ...]
    operators: tuple[Operator, ...]
    phases: tuple[Phase, ...]
    batch_sizes: tuple[int, ...]
    seq_lens: tuple[int, ...]
    num_candidates: tuple[int, ...]
    dtypes: tuple[Dtype, ...]
    timings: tuple[Timing, ...]

    def __post_init__(self) -> None:
        if self.num_points > limits.POINTS:
            raise MedusaBenchError(
                f"The grid comes to {self.num_points:,} points; {limits.POINTS:,} are the most.",
                hint="name fewer models, batch sizes, sequence lengths or candidates.",
            )

    @property
    def num_points(self) -> int:
        """How many logical points `points` gives, without making them."""
        settings_of_phases = sum(
            len(self.num_candidates) if phase is Phase.MEDUSA else 1 for phase in self.phases
        )
        return (
            settings_of_phases
            * len(self.batch_sizes)
            * len(self.seq_lens)
            * len(self.shapes)
            * len(self.operators)
            * len(self.dtypes)
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out of its models, in words."""
        return tuple(dict.fromkeys(note for shape in self.shapes for note in shape.notes))

    def points(self) -> list[Point]:
        """The logical points, each to be timed by every one of `timings`."""
        grid = settings(self.phases, self.batch_sizes, self.seq_lens, self.num_candidates)
        return points(self.shapes, self.operators, grid, self.dtypes)


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and libraries that a folder's numbers belong to; another is refused.

    `details` (host, UUID, kernel) is recorded and not compared.
    """

    device: str  # exact name as the driver gives it, or the CPU's model name
    device_type: str  # "cuda" or "cpu"
    memory_bytes: int
    num_sms: int | None = None
    l2_bytes: int | None = None
    power_limit_w: float | None = None
    driver: str = ""
    torch: str = ""
    cuda: str = ""
    num_threads: int | None = None
    details: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)


@dataclass(frozen=True, slots=True)
class Roofs(Ceilings):
    """Ceilings measured in a run: the best product per dtype and the best copy, read or triad."""

    peak_flops_per_s: Mapping[Dtype, float]
    memory_bandwidth_bytes_per_s: float
    measured_at_s: float = 0.0


# How far the roofs may move between two looks. A CPU shares its memory with whatever else runs.
BANDWIDTH_DRIFT_TOLERANCE = {"cuda": 0.03, "cpu": 0.25}
# A GPU at its power limit trades clock for heat: its compute roof moves while nothing is wrong.
COMPUTE_DRIFT_TOLERANCE = {"cuda": 0.10, "cpu": 0.25}


def drifted(before: Roofs, after: Roofs, device_type: str) -> bool:
    """Whether any roof moved, relatively, by more than its tolerance on this kind of device."""

    def moved(earlier: float, later: float, tolerances: Mapping[str, float]) -> bool:
        return abs(later / earlier - 1) > tolerances.get(device_type, tolerances["cuda"])

    return moved(
        before.memory_bandwidth_bytes_per_s,
        after.memory_bandwidth_bytes_per_s,
        BANDWIDTH_DRIFT_TOLERANCE,
    ) or any(
        moved(peak, after.peak_flops_per_s[dtype], COMPUTE_DRIFT_TOLERANCE)
        for dtype, peak in before.peak_flops_per_s.items()
        if dtype in after.peak_flops_per_s
    )


@dataclass(frozen=True, slots=True)
class Summary(Latency):
    """What the rounds of one task say together.

    latency_s is the median of the rounds; low_s and high_s are the fastest and slowest round
    where measured, the 90 % interval where predicted, both latency_s where reported.
    """

    num_rounds: int
    flags: tuple[QualityFlag, ...] = ()
    source: str = ""


def summarise(rounds: list[Measurement]) -> Summary:
    """The rounds of one task as one number with its between-round spread."""
    latencies_s = [measurement.latency_s for measurement in rounds]
    flags = {flag for measurement in rounds for flag in measurement.flags}
    return Summary(
        latency_s=median(latencies_s),
        low_s=min(latencies_s),
        high_s=max(latencies_s),
        num_rounds=len(rounds),
        flags=tuple(sorted(flags)),
    )


@dataclass(frozen=True, slots=True)
class ResultPoint:
    """A logical point with what is known of it: what every table, figure and comparison reads."""

    point: Point
    timing: Timing
    provenance: Provenance
    device: str
    summary: Summary | None  # None where failed or skipped
    reason: str = ""  # why there is no number
    roof_fraction: float | None = None  # FLOP/s over the roof at this intensity
    bound: Bound | None = None  # the side of the measured roof's ridge; None without one
    flags: tuple[QualityFlag, ...] = ()

    @property
    def flops_per_s(self) -> float | None:
        return self.point.product.flops / self.summary.latency_s if self.summary else None
