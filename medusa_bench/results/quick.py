"""The quick way through a line of points.jsonl: decoded and checked in one go by msgspec.

msgspec checks types, names and ranges. It takes a key that stands twice, so the quotes of a line
are counted: with no backslash in it, they are two for each name and each text that was decoded, or
something stands twice. What is not of this form is not refused here, but given back undecided.
"""

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from medusa_bench.base import ranges
from medusa_bench.results.codec import CHECK, CHECK_BYTES, MAX_LINE_BYTES
from medusa_bench.results.columns import ESTIMATE, FAILURE, MEASUREMENT
from medusa_bench.results.rows import MAX_SAMPLES, MAX_SIZE, FailureKind, QualityFlag, Timing
from medusa_bench.specs.dtypes import Dtype

_Latency = Annotated[float, Meta(ge=ranges.LATENCY_S.low, le=ranges.LATENCY_S.high)]
_Time = Annotated[float, Meta(ge=ranges.TIME_S.low, le=ranges.TIME_S.high)]
_Count = Annotated[float, Meta(ge=ranges.COUNT.low, le=ranges.COUNT.high)]
_Size = Annotated[int, Meta(ge=1, le=MAX_SIZE)]
_Index = Annotated[int, Meta(ge=0, le=MAX_SIZE)]


class _Telemetry(Struct, forbid_unknown_fields=True, gc=False):
    sm_clock_hz: _Count | None
    memory_clock_hz: _Count | None
    power_w: _Count | None
    temperature_c: _Count | None
    energy_j: _Count | None
    throttle_reasons: Annotated[tuple[str, ...], Meta(max_length=64)]


class _Line(Struct, forbid_unknown_fields=True, gc=False, tag_field="kind"):
    key: str
    product: tuple[_Size, _Size, _Size, _Size]
    dtype: Dtype
    timing: Timing
    check: str


class _Measurement(_Line, tag="measurement"):
    code = MEASUREMENT
    round_index: _Index
    latency_s: _Latency
    min_s: _Latency
    p25_s: _Latency
    p75_s: _Latency
    num_calls: _Size
    samples_s: Annotated[list[_Latency], Meta(max_length=MAX_SAMPLES)]
    doubts: tuple[QualityFlag, ...]
    telemetry: _Telemetry | None
    started_at_s: _Time

    @property
    def num_texts(self) -> int:
        """Names and texts of the line: 16 names; kind, key, dtype, timing, check; 6 names."""
        told = self.telemetry
        return 21 + len(self.doubts) + (6 + len(told.throttle_reasons) if told else 0)


class _Failure(_Line, tag="failure"):
    code = FAILURE
    round_index: _Index
    failure: FailureKind
    reason: str
    started_at_s: _Time
    num_texts = 17  # 10 names; kind, key, dtype, timing, failure, reason, check


class _Estimate(_Line, tag="estimate"):
    code = ESTIMATE
    latency_s: _Latency
    low_s: _Latency
    high_s: _Latency
    source: str
    num_texts = 16  # 10 names; kind, key, dtype, timing, source, check


_decode = msgspec.json.Decoder(_Measurement | _Failure | _Estimate).decode
Record = _Measurement | _Failure | _Estimate
_CHECKED: list[float] = []
_AFTER_CHECK = CHECK_BYTES - len(CHECK)


def record(line: bytes) -> Record | None:
    """The line's content where it is of the usual form and all of it holds; else None."""
    if b"\\" in line or line[-CHECK_BYTES:-_AFTER_CHECK] != CHECK or len(line) > MAX_LINE_BYTES:
        return None
    try:
        found: Record = _decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if (
        found.check != hashlib.sha256(line[:-CHECK_BYTES]).hexdigest()[:16]
        or line.count(b'"') != 2 * found.num_texts
        or not _rises(found)
    ):
        return None
    return found


def _rises(record: Record) -> bool:
    if isinstance(record, _Measurement):
        record.samples_s = _CHECKED  # let go at once: lists that live slow the garbage collector
        least_s = record.min_s
        return least_s <= record.latency_s and least_s <= record.p25_s <= record.p75_s
    return not isinstance(record, _Estimate) or record.low_s <= record.latency_s <= record.high_s
