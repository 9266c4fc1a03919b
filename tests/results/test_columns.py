"""Rows in columns: nothing passes that a row's decoder refuses, and all numbers are the same."""

import hashlib
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medusa_bench.base.errors import InvalidFileError
from medusa_bench.results import decoding, folders
from medusa_bench.results.asked import asked, distinct
from medusa_bench.results.codec import Run, decode_row, encode_row
from medusa_bench.results.columns import Table, joined
from medusa_bench.results.points import EXPORT_COLUMNS
from medusa_bench.results.reading import Results
from medusa_bench.results.rows import Measurement, Provenance, QualityFlag, Row, Task
from medusa_bench.specs import models, operators
from medusa_bench.specs.columns import sizes
from medusa_bench.specs.settings import Phase
from tests.builders.samples import BLANK, ENVIRONMENT, GRID, ROOFS, failed, measured, tasks
from tests.builders.strategies import rows

TASKS = tasks()


def read(*lines: bytes) -> decoding.Read:
    return decoding.Reader().read(io.BytesIO(b"".join(lines)))


def signed(body: bytes) -> bytes:
    """A line with a good checksum, whatever it says."""
    return body + b',"check":"' + hashlib.sha256(body).hexdigest()[:16].encode() + b'"}\n'


def assert_as_decoded(table: Table, kept: list[Row]) -> None:
    """Every column against the row that the line decodes to."""
    expected = Table.of(kept)
    names = [table.tasks.tasks()[place] for place in table.task]
    assert names == [row.task for row in kept]
    for name in ("kind", "round_index", "latency_s", "min_s", "p25_s", "p75_s", "low_s", "high_s",
                 "num_calls", "flags", "started_at_s", "failure"):  # fmt: skip
        assert np.array_equal(
            getattr(table, name), getattr(expected, name), equal_nan=name.endswith("_s")
        ), name
    texts = [[t.texts[place] for place in t.text if place >= 0] for t in (table, expected)]
    assert texts[0] == texts[1]


@settings(max_examples=150, deadline=None)
@given(st.lists(rows, max_size=6))
def test_columns_say_what_the_rows_say(kept: list[Row]) -> None:
    found = read(*map(encode_row, kept))
    assert not found.damages
    assert_as_decoded(found.table, [decode_row(encode_row(row)[:-1]) for row in kept])


# A change of a sound line's text, and whether decode_row takes it; both readers must agree.
CHANGES = [
    (b'"latency_s":0.0001', b'"latency_s":0.0001,"latency_s":0.0001'),
    (b'"doubts":[]', b'"doubts":["unstable"],"doubts":[]'),
    (b'"doubts":[]', b'"doubts":["unstable"]'),
    (b'"doubts":[]', b'"doubts":["\\u0075nstable"]'),
    (b'"doubts":[]', b'"doubts":["sure"]'),
    (b'"latency_s"', b'"l\\u0061tency_s":0.0001,"latency_s"'),
    (b'"kind":"measurement"', b'"kind":"measurement","kind":"measurement"'),
    (b'"samples_s":[0.0001]', b'"samples_s":[1e-16]'),
    (b'"samples_s":[0.0001]', b'"samples_s":[0.0001,"0.0001"]'),
    (b'"samples_s":[0.0001]', b'"samples_s":[true]'),
    (b'"samples_s":[0.0001]', b'"samples_s":[' + b"1," * 64 + b"1]"),
    (b'"latency_s":0.0001', b'"latency_s":1'),
    (b'"latency_s":0.0001', b'"latency_s":1e999'),
    (b'"latency_s":0.0001', b'"latency_s":NaN'),
    (b'"latency_s":0.0001', b'"latency_s":0.00009'),
    (b'"p25_s":0.0001', b'"p25_s":0.0002'),
    (b'"num_calls":100', b'"num_calls":100.0'),
    (b'"num_calls":100', b'"num_calls":0'),
    (b'"telemetry":null', b'"telemetry":{"throttle_reasons":[]}'),
    (b'"telemetry":null', b'"telemetry":{"throttle_reasons":["a"],"power_w":1e300}'),
    (b'"telemetry":null', b'"telemetry":{"throttle_reasons":[],"throttle_reasons":[]}'),
    (b'"round_index":0', b' "round_index" : 0'),
    (b'"timing":"kernel"', b'"timing":"eager"'),
    (b'"product":[1,', b'"product":[2,'),
    (b'"key":"', b'"key":"\xff'),
    (b'"key":"', b'"extra":"","key":"'),
]


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_a_line_is_taken_or_refused_as_its_own_decoder_does(old: bytes, new: bytes) -> None:
    sound = encode_row(measured(TASKS[0]))
    body = sound.rsplit(b',"check"', 1)[0]
    assert old in body
    line = signed(body.replace(old, new, 1))
    found = read(sound, line, sound)
    try:
        row = decode_row(line[:-1])
    except InvalidFileError as error:
        assert found.damages == ((2, error.message),)
        assert len(found.table) == 2
    else:
        assert not found.damages
        assert_as_decoded(found.table, [measured(TASKS[0]), row, measured(TASKS[0])])


def test_without_msgspec_the_same_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Row] = [*(measured(task) for task in TASKS), failed(TASKS[0], 1)]
    content = [*map(encode_row, kept), b"nonsense\n"]
    quickly = read(*content)
    monkeypatch.setattr(decoding, "quick", None)
    slowly = read(*content)
    assert slowly.damages == quickly.damages
    assert_as_decoded(slowly.table, kept)


def test_what_spans_batches_is_read_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Row] = [measured(task) for task in TASKS]
    lines = [encode_row(row) for row in kept]
    content = [*lines[:5], b"[" * 200_000 + b"\n", *lines[5:], lines[0][:-9]]
    whole = read(*content)
    monkeypatch.setattr(decoding, "_BATCH_BYTES", 777)
    pieces = read(*content)
    for found in (whole, pieces):
        assert_as_decoded(found.table, kept)
        assert [number for number, _ in found.damages] == [6]
        assert (found.torn_bytes, found.num_lines) == (len(lines[0]) - 9, len(kept) + 1)
        assert found.end == sum(map(len, content[:-1]))
    assert whole.table.offset.tolist() == pieces.table.offset.tolist()


@pytest.mark.parametrize("shape", models.PRESETS.values(), ids=models.PRESETS)
def test_products_in_columns_are_those_one_by_one(shape: models.ModelShape) -> None:
    grid = replace(
        GRID,
        shapes=(shape,),
        operators=tuple(operators.BY_NAME.values()),
        phases=tuple(Phase),
        batch_sizes=(1, 3, 64),
        seq_lens=(1, 777, 8192),
        num_candidates=(1, 2, 48),
    )
    points = grid.points()
    found = asked([grid])
    assert found.points(np.arange(len(found))) == points
    products = [point.product for point in points]
    for name in ("batch", "m", "n", "k"):
        assert found.columns[name].tolist() == [getattr(each, name) for each in products]


def test_an_operand_of_more_elements_than_a_column_counts_is_refused_there() -> None:
    settings_of = np.array([1 << 32])
    with pytest.raises(OverflowError):
        sizes(operators.find("qk"), GRID.shapes[0], settings_of, settings_of, settings_of)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1 << 48)), max_size=30))
def test_distinct_rows_are_told_apart(table: list[tuple[int, int]]) -> None:
    columns = [np.array([row[i] for row in table], dtype=np.int64) for i in range(2)]
    first, which = distinct(columns)
    assert sorted(first.tolist()) == sorted({row: table.index(row) for row in table}.values())
    assert [table[first[place]] for place in which] == table


def test_rows_that_two_tables_share_tasks_of_are_joined() -> None:
    parts: list[list[Row]] = [
        [measured(TASKS[3]), failed(TASKS[0], reason="one")],
        [],
        [failed(TASKS[1], reason="two"), failed(TASKS[0], 1, "one"), measured(TASKS[3], 1)],
    ]
    found = joined([Table.of(part) for part in parts])
    assert_as_decoded(found, [row for part in parts for row in part])
    assert len(found.tasks) == 3


medians = st.lists(
    st.tuples(st.integers(0, 3), st.floats(1e-9, 1e3), st.sets(st.sampled_from(QualityFlag))),
    max_size=30,
)


@given(medians)
def test_a_summary_is_median_and_extremes_of_the_rounds(
    rounds: list[tuple[int, float, set[QualityFlag]]],
) -> None:
    kept: list[Row] = [
        replace(measured(TASKS[task], index, latency_s), flags=tuple(flags))
        for index, (task, latency_s, flags) in enumerate(rounds)
    ]
    summaries = Results(Path(), Run(Provenance.MEASURED, BLANK), kept).summaries
    of_task: dict[Task, list[Measurement]] = {}
    for row in kept:
        assert isinstance(row, Measurement)
        of_task.setdefault(row.task, []).append(row)
    assert list(summaries) == list(of_task)
    for task, found in summaries.items():
        latencies_s = [row.latency_s for row in of_task[task]]
        assert found.latency_s == median(latencies_s)
        assert (found.low_s, found.high_s) == (min(latencies_s), max(latencies_s))
        assert found.num_rounds == len(latencies_s)
        assert found.flags == tuple(sorted({f for row in of_task[task] for f in row.flags}))


def test_the_frame_is_what_is_exported(tmp_path: Path) -> None:
    with folders.Writer(tmp_path, ENVIRONMENT, GRID) as writer:
        writer.add_roofs(ROOFS)
        writer.extend([measured(task) for task in TASKS[:-2]])
        writer.append(failed(TASKS[-2]))
    results = folders.load(tmp_path)
    frame = results.to_frame()
    points = results.points()
    assert tuple(frame.columns) == EXPORT_COLUMNS
    assert frame["flops"].tolist() == [each.point.product.flops for each in points]
    assert frame["latency_s"].notna().tolist() == [each.summary is not None for each in points]
    assert frame["reason"].tolist() == [each.reason for each in points]
    by_model = frame.groupby("operator", observed=True)["latency_s"].count()
    numbers = Counter(each.point.operator.name for each in points if each.summary)
    assert by_model.to_dict() == {name: numbers[name] for name in by_model.index}


def test_a_row_is_decoded_when_asked_for_and_refused_where_the_file_is_another(
    tmp_path: Path,
) -> None:
    with folders.Writer(tmp_path, ENVIRONMENT) as writer:
        writer.extend([measured(task) for task in TASKS[:3]])
    kept = folders.load(tmp_path).rows
    assert kept[1] == measured(TASKS[1]) and kept[-1].samples_s == (1e-4,)  # type: ignore[union-attr]
    assert kept[:2] == [measured(TASKS[0]), measured(TASKS[1])]
    points = tmp_path / folders.POINTS_FILE
    lines = points.read_bytes().splitlines(keepends=True)
    points.write_bytes(b"".join(lines[::-1]))
    with pytest.raises(InvalidFileError, match="no more what it was"):
        list(kept)


def test_a_number_too_large_for_a_column_is_exact(tmp_path: Path) -> None:
    huge = replace(GRID, batch_sizes=(1 << 20,), seq_lens=((1 << 22) + 1,), phases=(Phase.PREFILL,))
    points = Results(tmp_path, Run(Provenance.PREDICTED, BLANK, grids=(huge,)), ()).points()
    expected = [each.point.product.flops for each in points]
    assert max(expected) > 1 << 63
    assert points.columns["flops"].tolist() == expected
    assert json.dumps(expected)
