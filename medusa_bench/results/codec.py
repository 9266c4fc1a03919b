"""How rows and runs look as JSON. A row is one line; it and a run carry a checksum of their own.

Whatever is read is checked in full: exact keys, types, finite numbers, known words, a key that
matches the content. What does not hold raises InvalidFileError; nothing is mended on reading.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar, cast

from medusa_bench.base import ranges
from medusa_bench.base.documents import JsonObject, parse_object
from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.base.exits import printable
from medusa_bench.results.rows import (
    MAX_SAMPLES,
    MAX_SIZE,
    Environment,
    Estimate,
    Failure,
    FailureKind,
    Grid,
    Measurement,
    Provenance,
    QualityFlag,
    Roofs,
    Row,
    Skip,
    Task,
    Telemetry,
    Timing,
)
from medusa_bench.specs import operators
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product
from medusa_bench.specs.settings import Phase
from medusa_bench.specs.shapes import (
    Experts,
    Heads,
    LatentAttention,
    ModelShape,
    Recurrence,
    Window,
)

SCHEMA = 1
MAX_LINE_BYTES = 64_000
MAX_REASON_CHARACTERS = 2_000
CHECK = b',"check":"'
CHECK_BYTES = len(CHECK) + 16 + len(b'"}')

Word = TypeVar("Word", bound=StrEnum)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class PrintedTables:
    """A CSV of rates as a paper prints them, beside run.json, and how to read it.

    Columns table, batch_size, seq_len, num_candidates, tflop_per_s, operational_intensity. Model,
    phase, dtype and timing are the run's grid's, which has one of each.
    """

    file: str
    sha256: str
    source: str
    operators: dict[str, tuple[str, ...]]  # table -> the operators that each of its cells is for
    seq_len: int  # stands where seq_len is blank: the operator does not depend on it


@dataclass(frozen=True, slots=True)
class Run:
    """What run.json holds: all that the rows of a folder have in common."""

    provenance: Provenance
    environment: Environment
    roofs: tuple[Roofs, ...] = ()  # in order of time
    commands: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()
    skips: tuple[Skip, ...] = ()
    printed: PrintedTables | None = field(default=None)


# -- rows ---------------------------------------------------------------------------------------


def encode_row(row: Row) -> bytes:
    """The row as one line with its checksum and newline."""
    task, p = row.task, row.task.product
    record: JsonObject = {
        "kind": type(row).__name__.lower(),
        "key": task.key,
        "product": [p.batch, p.m, p.n, p.k],
        "dtype": task.dtype,
        "timing": task.timing,
    }
    match row:
        case Measurement():
            record |= {
                "round_index": row.round_index,
                "latency_s": row.latency_s,
                "min_s": row.min_s,
                "p25_s": row.p25_s,
                "p75_s": row.p75_s,
                "num_calls": row.num_calls,
                "samples_s": row.samples_s,
                "doubts": row.flags,
                "telemetry": asdict(row.telemetry) if row.telemetry else None,
                "started_at_s": row.started_at_s,
            }
        case Failure():
            record |= {
                "round_index": row.round_index,
                "failure": row.kind,
                "reason": storable(row.reason),
                "started_at_s": row.started_at_s,
            }
        case Estimate():
            record |= {
                "latency_s": row.latency_s,
                "low_s": row.low_s,
                "high_s": row.high_s,
                "source": storable(row.source),
            }
    return sealed(record)


def encode_roofs(roofs: Roofs) -> bytes:
    """A look at the roofs as one line with its checksum and newline."""
    return sealed(asdict(roofs))


def decode_roofs(line: bytes) -> Roofs:
    """The look that a line, given without its newline, holds. Raises InvalidFileError."""
    return _refusing(_roofs, unsealed(line), "the line")


def decode_row(line: bytes) -> Row:
    """The row that a line, given without its newline, holds. Raises InvalidFileError."""
    return _refusing(_row, unsealed(line), "the line")


def sealed(record: JsonObject) -> bytes:
    """A record as one line with its checksum and newline."""
    body = _dump(record)[:-1]
    return body + CHECK + _digest(body) + b'"}\n'


def is_intact(line: bytes) -> bool:
    """Whether a line, given without its newline, is as it was written."""
    return line[-CHECK_BYTES:] == CHECK + _digest(line[:-CHECK_BYTES]) + b'"}'


def unsealed(line: bytes) -> JsonObject:
    """The record of a line without its newline. Raises InvalidFileError where it was altered."""
    if len(line) > MAX_LINE_BYTES:
        raise InvalidFileError(f"the line is over {MAX_LINE_BYTES} bytes")
    if not is_intact(line):
        raise InvalidFileError("the checksum does not match the content")
    return parse_object(line[:-CHECK_BYTES] + b"}", where="the line")


def _row(record: JsonObject) -> Row:
    kind = record.pop("kind")
    task, key = _task(
        Product(*[_count(size, 1) for size in _list(record.pop("product"), 4, 4)]),
        _word(Dtype, record.pop("dtype")),
        _word(Timing, record.pop("timing")),
    )
    if record.pop("key") != key:
        raise ValueError("the key does not match the content")
    take = record.pop
    row: Row
    if kind == "measurement":
        samples_s = tuple(_list(take("samples_s"), 0, MAX_SAMPLES))
        for sample_s in samples_s:
            ranges.LATENCY_S.of(sample_s)
        telemetry = take("telemetry")
        row = Measurement(
            task,
            _count(take("round_index")),
            latency_s=ranges.LATENCY_S.of(take("latency_s")),
            min_s=ranges.LATENCY_S.of(take("min_s")),
            p25_s=ranges.LATENCY_S.of(take("p25_s")),
            p75_s=ranges.LATENCY_S.of(take("p75_s")),
            num_calls=_count(take("num_calls"), 1),
            samples_s=samples_s,
            flags=tuple(_word(QualityFlag, flag) for flag in _list(take("doubts"))),
            telemetry=None if telemetry is None else _telemetry(telemetry),
            started_at_s=ranges.TIME_S.of(take("started_at_s")),
        )
        ranges.ordered((row.min_s, row.latency_s), "minimum and median")
        ranges.ordered((row.min_s, row.p25_s, row.p75_s), "minimum and quartiles")
    elif kind == "failure":
        row = Failure(
            task,
            _count(take("round_index")),
            _word(FailureKind, take("failure")),
            _message(take("reason")),
            ranges.TIME_S.of(take("started_at_s")),
        )
    elif kind == "estimate":
        row = Estimate(
            task,
            ranges.LATENCY_S.of(take("latency_s")),
            ranges.LATENCY_S.of(take("low_s")),
            ranges.LATENCY_S.of(take("high_s")),
            _message(take("source")),
        )
        ranges.ordered((row.low_s, row.latency_s, row.high_s), "low, latency and high")
    else:
        raise ValueError(f"no kind of row is named {ranges.shortly(kind)}")
    _refuse_rest(record)
    return row


@lru_cache(maxsize=1 << 16)
def _task(product: Product, dtype: Dtype, timing: Timing) -> tuple[Task, str]:
    task = Task(product, dtype, timing)
    return task, task.key


def _telemetry(record: Any) -> Telemetry:
    record = dict(_object(record))
    reasons = tuple(_text(reason) for reason in _list(record.pop("throttle_reasons"), 0, 64))
    for value in record.values():
        _optional(ranges.COUNT.of, value)
    return Telemetry(**record, throttle_reasons=reasons)


# -- runs ---------------------------------------------------------------------------------------


def encode_run(run: Run) -> bytes:
    """run.json, with line breaks, for people too."""
    record: JsonObject = {
        "schema": SCHEMA,
        "provenance": run.provenance,
        "environment": {
            **asdict(run.environment),
            "details": {name: storable(value) for name, value in run.environment.details.items()},
        },
        "roofs": [asdict(roofs) for roofs in run.roofs],
        "commands": [storable(command) for command in run.commands],
        "grids": [_grid_record(grid) for grid in run.grids],
        "skips": [{**asdict(skip.task), "reason": storable(skip.reason)} for skip in run.skips],
        "printed": asdict(run.printed) if run.printed else None,
    }
    record["check"] = _digest(_canonical(record)).decode()
    return json.dumps(record, indent=1, allow_nan=False).encode() + b"\n"


def decode_run(raw: bytes, *, where: str) -> Run:
    """The run that run.json holds. Raises InvalidFileError, naming `where`."""
    record = parse_object(raw, where=where)
    schema = record.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        raise InvalidFileError(
            f"{where} has schema {ranges.shortly(schema)}; this version reads schema {SCHEMA}.",
            hint="a newer medusa-bench may have written it: upgrade.",
        )
    if record.pop("check", None) != _digest(_canonical(record)).decode():
        raise InvalidFileError(
            f"{where} is damaged: its checksum does not match its content.",
            hint="restore it from a copy; it is never edited by hand.",
        )
    return _refusing(_run, record, where)


def _run(record: JsonObject) -> Run:
    take = record.pop
    take("schema")
    run = Run(
        provenance=_word(Provenance, take("provenance")),
        environment=_environment(take("environment")),
        roofs=tuple(_roofs(each) for each in _list(take("roofs"))),
        commands=tuple(_message(each) for each in _list(take("commands"))),
        grids=tuple(_grid(each) for each in _list(take("grids"))),
        skips=tuple(_skip(each) for each in _list(take("skips"))),
        printed=_optional(_printed, take("printed")),
    )
    _refuse_rest(record)
    return run


def _environment(record: Any) -> Environment:
    record = dict(_object(record))
    details = _object(record.pop("details"))
    for name in ("device", "device_type", "driver", "torch", "cuda"):
        _text(record[name])
    for name in ("num_sms", "l2_bytes", "num_threads"):
        _optional(_count, record[name])
    _count(record["memory_bytes"])
    _optional(ranges.COUNT.of, record["power_limit_w"])
    return Environment(**record, details={name: _message(value) for name, value in details.items()})


def _roofs(record: Any) -> Roofs:
    record = dict(_object(record))
    roofs = Roofs(
        {
            _word(Dtype, dtype): ranges.FLOPS_PER_S.of(peak)
            for dtype, peak in _object(record.pop("peak_flops_per_s")).items()
        },
        memory_bandwidth_bytes_per_s=ranges.BYTES_PER_S.of(
            record.pop("memory_bandwidth_bytes_per_s")
        ),
        measured_at_s=ranges.TIME_S.of(record.pop("measured_at_s")),
    )
    _refuse_rest(record)
    return roofs


def _grid_record(grid: Grid) -> JsonObject:
    record = {name: getattr(grid, name) for name in Grid.__slots__}
    record["shapes"] = [_of_shape(shape) for shape in grid.shapes]
    record["operators"] = [operator.name for operator in grid.operators]
    return record


def _grid(record: Any) -> Grid:
    take = dict(_object(record)).pop
    return Grid(
        shapes=tuple(_shape(each) for each in _list(take("shapes"))),
        operators=tuple(operators.find(_text(each)) for each in _list(take("operators"))),
        phases=_words(Phase, take("phases")),
        batch_sizes=_counts(take("batch_sizes")),
        seq_lens=_counts(take("seq_lens")),
        num_candidates=_counts(take("num_candidates")),
        dtypes=_words(Dtype, take("dtypes")),
        timings=_words(Timing, take("timings")),
    )


_PARTS = {
    "experts": Experts,
    "latent": LatentAttention,
    "window": Window,
    "recurrence": Recurrence,
    "whole_heads": Heads,
    "near_heads": Heads,
}
_FLAGS = {"gated": True, "gated_output": False}
_LAYERS = ("attention_layers", "mlp_layers")


def _of_shape(shape: ModelShape) -> JsonObject:
    """What a shape has: parts that it lacks are left out, as they were before there were any."""
    record = {key: value for key, value in asdict(shape).items() if value is not None}
    for name, usual in _FLAGS.items():
        if record[name] is usual:
            del record[name]
    return record


def _shape(record: Any) -> ModelShape:
    record = dict(_object(record))
    name = _text(record.pop("name"))
    unmodelled = tuple(_text(note) for note in _list(record.pop("unmodelled")))
    parts: dict[str, Any] = {
        key: _part(part, record.pop(key)) for key, part in _PARTS.items() if key in record
    }
    parts |= {name: _flag(record.pop(name, usual)) for name, usual in _FLAGS.items()}
    parts |= {name: _count(record.pop(name)) for name in _LAYERS if name in record}
    counts: dict[str, Any] = {key: _count(value, 1) for key, value in record.items()}
    return ModelShape(name, **counts, unmodelled=unmodelled, **parts)


def _part(part: type[Item], record: Any) -> Item:
    """Counts, and what is true or false of it."""
    flags = {each.name for each in fields(cast(Any, part)) if each.type is bool}
    return part(
        **{
            name: _flag(value) if name in flags else _count(value)
            for name, value in _object(record).items()
        }
    )


def _skip(record: Any) -> Skip:
    take = dict(_object(record)).pop
    sizes = {name: _count(size, 1) for name, size in _object(take("product")).items()}
    task = Task(Product(**sizes), _word(Dtype, take("dtype")), _word(Timing, take("timing")))
    return Skip(task, _message(take("reason")))


def _printed(record: Any) -> PrintedTables:
    take = dict(_object(record)).pop
    return PrintedTables(
        file=_text(take("file")),
        sha256=_text(take("sha256")),
        source=_text(take("source")),
        operators={
            table: tuple(operators.find(_text(name)).name for name in _list(names))
            for table, names in _object(take("operators")).items()
        },
        seq_len=_count(take("seq_len"), 1),
    )


# -- values -------------------------------------------------------------------------------------


def _refusing(read: Callable[[JsonObject], Item], record: JsonObject, where: str) -> Item:
    """read(record), with what a wrong record makes it raise as an InvalidFileError."""
    try:
        return read(record)
    except KeyError as error:
        raise InvalidFileError(f"{where} has no {error}") from None
    except (TypeError, ValueError) as error:
        raise InvalidFileError(f"{where}: {str(error)[:200]}") from None
    except MedusaBenchError as error:
        raise InvalidFileError(f"{where}: {error.message}", hint=error.hint) from None


def _dump(record: JsonObject) -> bytes:
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode()


def _canonical(record: JsonObject) -> bytes:
    return json.dumps(record, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest()[:16].encode()


def storable(text: str) -> str:
    """Text that a line can hold and a terminal show: printable, whole characters, not too long."""
    return printable(text[:MAX_REASON_CHARACTERS]).encode("utf-8", "replace").decode()


def _refuse_rest(record: Iterable[str]) -> None:
    if rest := list(record):
        raise ValueError(f"unknown: {', '.join(rest)[:80]}")


def _object(value: Any) -> JsonObject:
    if not isinstance(value, dict):
        raise TypeError(f"{ranges.shortly(value)} is no object")
    return value


def _list(value: Any, least: int = 0, most: int = 1 << 20) -> list[Any]:
    if not isinstance(value, list) or not least <= len(value) <= most:
        raise TypeError(f"{ranges.shortly(value)} is no list of {least} to {most}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{ranges.shortly(value)} is no text")
    return value


def _message(value: Any) -> str:
    """Text as it would be written, so that a row of another writer's merges into itself."""
    return storable(_text(value))


def _word(words: type[Word], value: Any) -> Word:
    if not isinstance(value, str):
        raise TypeError(f"{ranges.shortly(value)} is no {words.__name__}")
    # The member by its value: a tenth of the time of words(value), twice in each of 10^6 rows.
    member = words._value2member_map_.get(value)
    return words(value) if member is None else cast(Word, member)


def _words(words: type[Word], value: Any) -> tuple[Word, ...]:
    return tuple(_word(words, each) for each in _list(value))


def _count(value: Any, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= MAX_SIZE:
        raise TypeError(f"{ranges.shortly(value)} is no whole number from {least}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{ranges.shortly(value)} is neither true nor false")
    return value


def _counts(value: Any) -> tuple[int, ...]:
    return tuple(_count(each, 1) for each in _list(value))


def _optional(read: Callable[[Any], Item], value: Any) -> Item | None:
    return None if value is None else read(value)
