"""A method beside vanilla decoding in one setting: the record, its JSON, what rows say together.

A simulated row and a generated one are the same record.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from medusa_bench.base import limits, ranges
from medusa_bench.base.errors import InvalidFileError
from medusa_bench.compare.passes import Block
from medusa_bench.predict.cliffs import SMALLEST_STEP
from medusa_bench.results.rows import Provenance
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.latency import Latency


class Outcome(StrEnum):
    """Whether a method pays, given the interval of its speedup."""

    PAYS = "pays"
    UNCERTAIN = "uncertain"
    LOSES = "loses"
    EVEN = "even"  # it is vanilla decoding


def speedup_interval(
    step: Latency, vanilla: Latency, acceleration_rate: float
) -> tuple[float, float]:
    """acceleration_rate / (step / vanilla) at the ends of the latencies' intervals.

    Their errors are taken as independent of each other; products that share one model are not, so
    this is rather too wide than too narrow.
    """
    speedup = acceleration_rate / (step.latency_s / vanilla.latency_s)
    if step == vanilla:
        return speedup, speedup
    slower = math.hypot(
        math.log(step.high_s / step.latency_s), math.log(vanilla.latency_s / vanilla.low_s)
    )
    faster = math.hypot(
        math.log(step.latency_s / step.low_s), math.log(vanilla.high_s / vanilla.latency_s)
    )
    return speedup * math.exp(-slower), speedup * math.exp(faster)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One method in one setting beside vanilla decoding in the same setting.

    speedup = acceleration_rate / overhead, always. Its interval is that of the latencies, unless a
    half width of ln(speedup) covers more.
    """

    method: str
    model: str
    device: str
    dtype: Dtype
    batch_size: int
    seq_len: int
    num_candidates: int  # tokens each sequence verifies in a step, the root included
    step: Latency
    vanilla: Latency
    acceleration_rate: float  # tokens of one sequence per step
    latency_source: str
    acceptance_source: str
    source: Provenance
    draft: str = ""  # the drafting model
    draft_len: int | None = None
    block: Block | None = None  # what a simulated step counts
    bound: str = ""  # the largest part of the step: launch, memory or compute
    required_parameter_name: str = ""
    required_parameter: float | None = None  # of the acceptance model, to break even here
    lossless: bool = True
    engine: str = ""  # whose costs beside the products a simulated step counts
    half_width: float | None = None  # of the 90 % interval of ln(speedup), products included
    interval_covers: str = ""  # what is uncertain in that interval
    unfit: str = ""  # why it is no choice, however fast: the model or the engine cannot

    @property
    def overhead(self) -> float:
        """Step latency over vanilla step latency; the acceleration rate needed to break even."""
        return self.step.latency_s / self.vanilla.latency_s

    @property
    def speedup(self) -> float:
        return self.acceleration_rate / self.overhead

    @property
    def speedup_interval(self) -> tuple[float, float]:
        """90 % where the latencies' intervals are."""
        if self.half_width is not None and self.step != self.vanilla:
            width = math.exp(self.half_width)
            return self.speedup / width, self.speedup * width
        return speedup_interval(self.step, self.vanilla, self.acceleration_rate)

    @property
    def outcome(self) -> Outcome:
        if self.step == self.vanilla and self.acceleration_rate == 1:
            return Outcome.EVEN
        low, high = self.speedup_interval
        if low > 1:
            return Outcome.PAYS
        return Outcome.LOSES if high <= 1 else Outcome.UNCERTAIN

    @property
    def seconds_per_token(self) -> float | None:
        """Of one sequence; None where the step is not a whole model's."""
        if self.block is Block.PAPER:
            return None
        return self.step.latency_s / self.acceleration_rate

    @property
    def tokens_per_s(self) -> float | None:
        """Of the whole batch, sequences advancing each at its own pace (or as the acceleration
        rate says in lock-step). None where the step is not a whole model's."""
        if self.block is Block.PAPER:
            return None
        return self.batch_size * self.acceleration_rate / self.step.latency_s

    def as_dict(self) -> dict[str, Any]:
        """Every field and derived value, for JSON."""
        return {field.name: field.value(self) for field in _FIELDS}


@dataclass(frozen=True, slots=True)
class Generation:
    """What decoding text with one method gave, prefill left out of tokens, steps and time.

    num_sequence_steps: steps summed over the sequences that took part in each, so that tokens
    over it is the acceleration rate however unevenly a batch advances. num_tokens stops at each
    sequence's end token.
    """

    method: str
    model: str
    device: str
    dtype: Dtype
    batch_size: int
    seq_len: int  # cached tokens, on average over the steps
    num_candidates: int
    num_tokens: int
    num_steps: int
    num_sequence_steps: int
    decode_s: float
    latency_source: str  # how and on what it was timed
    acceptance_source: str  # which text
    draft: str = ""
    draft_len: int | None = None
    lossless: bool = True

    @property
    def step_latency_s(self) -> float:
        return self.decode_s / self.num_steps

    @property
    def acceleration_rate(self) -> float:
        return self.num_tokens / self.num_sequence_steps


def compare_generation(
    generation: Generation, baseline: Generation, *, step_spread_s: float = 0.0
) -> Comparison:
    """A generated row: the same record as a simulated one, beside vanilla decoding of the same
    prompts. step_spread_s: half the spread of the step latency between repetitions."""
    step_s, vanilla_s = generation.step_latency_s, baseline.step_latency_s
    return Comparison(
        method=generation.method,
        model=generation.model,
        device=generation.device,
        dtype=generation.dtype,
        batch_size=generation.batch_size,
        seq_len=generation.seq_len,
        num_candidates=generation.num_candidates,
        step=Latency(step_s, step_s - step_spread_s, step_s + step_spread_s),
        vanilla=Latency.exact(vanilla_s),
        acceleration_rate=generation.acceleration_rate,
        latency_source=generation.latency_source,
        acceptance_source=generation.acceptance_source,
        source=Provenance.GENERATED,
        draft=generation.draft,
        draft_len=generation.draft_len,
        lossless=generation.lossless,
    )


# --- as JSON, both ways ---------------------------------------------------------------------------

_Reader = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Field:
    """One key of a comparison in JSON. read: None where the value is derived, not read back."""

    name: str
    value: Callable[[Comparison], Any]
    read: _Reader | None = None
    on_page: bool = True  # whether a report's page holds it


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is no text")
    return value


_latency_s = ranges.LATENCY_S.of


def _count(value: Any) -> int:
    return ranges.whole(value, 1, limits.POINTS)


def _or(default: Any, read: _Reader) -> _Reader:
    return lambda value: read(value) if value else default


_FIELDS = (
    _Field("source", lambda row: row.source, lambda value: Provenance(_text(value))),
    _Field("method", lambda row: row.method, _text),
    _Field("model", lambda row: row.model, _text, on_page=False),
    _Field("draft", lambda row: row.draft or None, _or("", _text)),
    _Field("device", lambda row: row.device, _text, on_page=False),
    _Field("dtype", lambda row: row.dtype, lambda value: Dtype(_text(value)), on_page=False),
    _Field(
        "block", lambda row: row.block, _or(None, lambda value: Block(_text(value))), on_page=False
    ),
    _Field("batch_size", lambda row: row.batch_size, _count),
    _Field("seq_len", lambda row: row.seq_len, _count),
    _Field("num_candidates", lambda row: row.num_candidates, _count),
    _Field("draft_len", lambda row: row.draft_len, _or(None, _count)),
    _Field("step_latency_s", lambda row: row.step.latency_s, _latency_s),
    _Field("step_latency_low_s", lambda row: row.step.low_s, _latency_s, on_page=False),
    _Field("step_latency_high_s", lambda row: row.step.high_s, _latency_s, on_page=False),
    _Field("vanilla_latency_s", lambda row: row.vanilla.latency_s, _latency_s, on_page=False),
    _Field("vanilla_latency_low_s", lambda row: row.vanilla.low_s, _latency_s, on_page=False),
    _Field("vanilla_latency_high_s", lambda row: row.vanilla.high_s, _latency_s, on_page=False),
    _Field("overhead", lambda row: row.overhead),
    _Field("acceleration_rate", lambda row: row.acceleration_rate, ranges.FACTOR.of),
    _Field("speedup", lambda row: row.speedup),
    _Field("speedup_low", lambda row: row.speedup_interval[0]),
    _Field("speedup_high", lambda row: row.speedup_interval[1]),
    _Field("outcome", lambda row: row.outcome),
    _Field("tokens_per_s", lambda row: row.tokens_per_s, on_page=False),
    _Field("seconds_per_token", lambda row: row.seconds_per_token, on_page=False),
    _Field("required_acceleration_rate", lambda row: row.overhead, on_page=False),
    _Field(
        "required_parameter_name",
        lambda row: row.required_parameter_name or None,
        _or("", _text),
        on_page=False,
    ),
    _Field(
        "required_parameter",
        lambda row: row.required_parameter,
        _or(None, ranges.FACTOR.of),
        on_page=False,
    ),
    _Field("bound", lambda row: row.bound or None, _or("", _text)),
    _Field("lossless", lambda row: row.lossless, lambda value: value is not False),
    _Field("engine", lambda row: row.engine or None, _or("", _text)),
    _Field(
        "half_width", lambda row: row.half_width, _or(None, ranges.LOG_FACTOR.of), on_page=False
    ),
    _Field(
        "interval_covers", lambda row: row.interval_covers or None, _or("", _text), on_page=False
    ),
    _Field("unfit", lambda row: row.unfit or None, _or("", _text), on_page=False),
    _Field("latency_source", lambda row: row.latency_source, _text),
    _Field("acceptance_source", lambda row: row.acceptance_source, _text),
)

PAGE_FIELDS = tuple(field.name for field in _FIELDS if field.on_page)


def from_dict(document: Any, *, where: str) -> Comparison:
    """A comparison as Comparison.as_dict wrote it. Raises InvalidFileError, naming the field."""
    if not isinstance(document, dict):
        raise InvalidFileError(f"{where} is no object.")
    values = {}
    for field in _FIELDS:
        if field.read is None:
            continue
        try:
            values[field.name] = field.read(document.get(field.name))
        except ValueError as error:
            reason = f"{field.name} {error}" if field.name in document else f"no {field.name!r}"
            raise InvalidFileError(f"{where}: {reason}.") from None
    step, vanilla = (
        Latency(*(values.pop(f"{name}_latency{end}_s") for end in ("", "_low", "_high")))
        for name in ("step", "vanilla")
    )
    for latency in (step, vanilla):
        if not latency.low_s <= latency.latency_s <= latency.high_s:
            raise InvalidFileError(f"{where}: a latency is outside of its interval.")
    return Comparison(step=step, vanilla=vanilla, **values)


# --- what rows say together -----------------------------------------------------------------------


def best(rows: Iterable[Comparison]) -> Comparison:
    """The fastest row that is a choice at all; among equals, the one with the fewest candidates."""
    return max(rows, key=lambda row: (not row.unfit, row.speedup, -row.num_candidates))


def by_setting(rows: Iterable[Comparison]) -> dict[tuple[int, int], list[Comparison]]:
    """Rows by (batch_size, seq_len)."""
    groups: dict[tuple[int, int], list[Comparison]] = {}
    for row in rows:
        groups.setdefault((row.batch_size, row.seq_len), []).append(row)
    return groups


def shown_seq_len(rows: Iterable[Comparison]) -> int:
    """The length that words, tables and curves speak of where rows have several.

    1024, the paper's, where it is there; else the middle one, of two the shorter.
    """
    seq_lens = sorted({row.seq_len for row in rows})
    return 1024 if 1024 in seq_lens else seq_lens[(len(seq_lens) - 1) // 2]


def cliffs(latency_by_candidates: Mapping[int, float]) -> list[int]:
    """Candidate counts after which the next costs a leap: 12 % or more, at twice the slope of the
    steps before and after it (so that growth in proportion is none). The count to use is at or
    below one of these.

    For a model's curve, on any grid of counts; cliffs.find tells steps from a measurement's noise.
    """
    curve = sorted(latency_by_candidates.items())
    slopes = [
        (there_s - here_s) / (following - count)
        for (count, here_s), (following, there_s) in pairwise(curve)
    ]
    return [
        curve[i][0]
        for i, slope in enumerate(slopes)
        if curve[i + 1][1] >= (1 + SMALLEST_STEP) * curve[i][1]
        and all(slope >= 2 * beside for beside in slopes[max(0, i - 1) : i] + slopes[i + 1 : i + 2])
        and len(slopes) > 1
    ]


def cliffs_by_batch(rows: Iterable[Comparison]) -> dict[tuple[str, int, int], list[int]]:
    """The cliffs of every method's curve, by (method, batch_size, seq_len), where there are any."""
    curves: dict[tuple[str, str, int, int], dict[int, float]] = {}
    for row in rows:
        if row.num_candidates > 1:  # the step from vanilla decoding is no step of the GPU's
            key = (row.method, row.draft, row.batch_size, row.seq_len)
            curves.setdefault(key, {})[row.num_candidates] = row.step.latency_s
    found: dict[tuple[str, int, int], list[int]] = {}
    for (method, _, batch_size, seq_len), curve in curves.items():
        if counts := cliffs(curve):
            found[method, batch_size, seq_len] = counts
    return found
