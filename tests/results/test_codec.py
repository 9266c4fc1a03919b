"""Rows and runs as JSON: they come back as they went, or not at all."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medusa_bench.base.errors import InvalidFileError
from medusa_bench.results.codec import (
    MAX_LINE_BYTES,
    MAX_REASON_CHARACTERS,
    Run,
    decode_row,
    decode_run,
    encode_row,
    encode_run,
)
from medusa_bench.results.rows import Environment, Provenance, Row, Skip
from medusa_bench.specs.models import PRESETS
from medusa_bench.specs.operators import of_block
from medusa_bench.specs.shapes import ModelShape
from tests.builders.samples import BLANK, ENVIRONMENT, GRID, ROOFS, failed, measured, tasks
from tests.builders.strategies import rows

TASK = tasks()[0]
RUN = Run(
    Provenance.MEASURED,
    ENVIRONMENT,
    roofs=(ROOFS,),
    commands=("medusa-bench sweep",),
    grids=(GRID,),
    skips=(Skip(TASK, "needs 99 GB"),),
)


@pytest.mark.parametrize("shape", PRESETS.values(), ids=PRESETS)
def test_a_grid_of_every_kind_of_model_comes_back_as_it_went(shape: ModelShape) -> None:
    grid = replace(GRID, shapes=(shape,), operators=tuple(op for op, _ in of_block(shape)))
    kept = decode_run(encode_run(replace(RUN, grids=(grid,))), where="").grids[0]
    assert kept == grid
    assert kept.points() == grid.points()


def _signed(record: dict[str, object]) -> bytes:
    """A line with a good checksum, whatever it says."""
    body = json.dumps(record, separators=(",", ":")).encode()[:-1]
    return body + b',"check":"' + hashlib.sha256(body).hexdigest()[:16].encode() + b'"}'


def _record(row: Row) -> dict[str, object]:
    record: dict[str, object] = json.loads(encode_row(row))
    del record["check"]
    return record


@given(rows)
def test_a_row_read_back_equals_what_was_written(row: Row) -> None:
    line = encode_row(row)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert len(line) <= MAX_LINE_BYTES
    assert decode_row(line[:-1]) == row
    assert json.loads(line)["key"] == row.task.key


@settings(max_examples=200)
@given(rows, st.integers(0, 1 << 30), st.integers(1, 255))
def test_a_row_with_any_byte_changed_is_refused(row: Row, position: int, change: int) -> None:
    line = bytearray(encode_row(row)[:-1])
    line[position % len(line)] ^= change
    with pytest.raises(InvalidFileError):
        decode_row(bytes(line))


@given(rows, st.integers(0, 1 << 30))
def test_a_row_cut_short_is_refused(row: Row, length: int) -> None:
    line = encode_row(row)[:-1]
    with pytest.raises(InvalidFileError):
        decode_row(line[: length % len(line)])


@pytest.mark.parametrize(
    "change",
    [
        {"key": "0" * 16},
        {"product": [1, 1, 1]},
        {"product": [1, 1, 1, 0]},
        {"product": [1, 1, 1, True]},
        {"product": [1, 1, 1, 10**400]},
        {"dtype": "float7"},
        {"dtype": None},
        {"kind": "guess"},
        {"kind": ["measurement"]},
        {"round_index": -1},
        {"round_index": 0.5},
        {"latency_s": 0},
        {"latency_s": -1e-6},
        {"latency_s": "1e-6"},
        {"latency_s": 10**400},
        {"samples_s": [1e-6] * 65},
        {"samples_s": [[1e-6]]},
        {"doubts": ["sure"]},
        {"telemetry": {"throttle_reasons": [], "colour": 1.0}},
        {"extra": 1},
    ],
)
def test_a_row_that_says_nonsense_is_refused_though_its_checksum_is_good(
    change: dict[str, object],
) -> None:
    record = _record(measured(TASK))
    assert decode_row(_signed(record)) == measured(TASK)
    with pytest.raises(InvalidFileError):
        decode_row(_signed(record | change))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", '1,"latency_s":1'])
def test_a_number_that_is_not_finite_and_a_key_given_twice_are_refused(text: str) -> None:
    body = encode_row(measured(TASK)).rsplit(b',"check"', 1)[0]
    body = body.replace(b'"latency_s":0.0001', f'"latency_s":{text}'.encode())
    line = body + b',"check":"' + hashlib.sha256(body).hexdigest()[:16].encode() + b'"}'
    with pytest.raises(InvalidFileError, match=r"finite|twice"):
        decode_row(line)


def test_each_field_of_a_row_is_needed() -> None:
    for row in (measured(TASK), failed(TASK)):
        record = _record(row)
        for name in record:
            short = {key: value for key, value in record.items() if key != name}
            with pytest.raises(InvalidFileError):
                decode_row(_signed(short))


@example("\ud800\x1b[2J" + "x" * 100_000)
@given(st.text())
def test_any_reason_can_be_kept_and_shown(reason: str) -> None:
    row = decode_row(encode_row(failed(TASK, reason=reason))[:-1])
    text = row.reason  # type: ignore[union-attr]
    assert len(text) <= MAX_REASON_CHARACTERS
    assert text.replace("\n", "").isprintable()
    text.encode()


def test_a_run_read_back_equals_what_was_written() -> None:
    for run in (RUN, Run(Provenance.PREDICTED, BLANK)):
        read = decode_run(encode_run(run), where="run.json")
        assert read == run
        assert read.environment.details == run.environment.details


def test_a_grid_keeps_the_shapes_of_its_models_in_full() -> None:
    record = json.loads(encode_run(RUN))
    assert record["grids"][0]["shapes"][0]["intermediate_size"] == 11008
    assert decode_run(encode_run(RUN), where="").grids[0].points() == GRID.points()


def test_a_run_of_a_newer_schema_is_refused_with_a_hint() -> None:
    record = json.loads(encode_run(RUN)) | {"schema": 2}
    with pytest.raises(InvalidFileError, match="schema 2") as caught:
        decode_run(json.dumps(record).encode(), where="run.json")
    assert "upgrade" in (caught.value.hint or "")


def test_a_run_edited_by_hand_is_refused() -> None:
    record = json.loads(encode_run(RUN))
    record["environment"]["device"] = "Better Device"
    with pytest.raises(InvalidFileError, match="checksum"):
        decode_run(json.dumps(record).encode(), where="run.json")


def test_details_of_a_machine_take_no_part_in_comparing_environments() -> None:
    elsewhere = Environment("Test Device", "cpu", 0, details={"host": "b"})
    assert elsewhere == BLANK
