"""A results folder: what is written is read back, whoever wrote it and however often."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medusa_bench.base.errors import (
    BusyError,
    EnvironmentMismatchError,
    ExitCode,
    InvalidFileError,
    StorageError,
)
from medusa_bench.results import folders, kept
from medusa_bench.results.codec import encode_row
from medusa_bench.results.rows import Grid, Provenance, Row, Skip
from tests.builders.samples import BLANK, ENVIRONMENT, GRID, ROOFS, failed, measured, tasks
from tests.builders.strategies import rows

TASKS = tasks()


def write(folder: Path, *kept: Row, environment: folders.Environment = ENVIRONMENT) -> Path:
    with folders.Writer(folder, environment, GRID, "medusa-bench sweep") as writer:
        writer.extend(kept)
    return folder


def points_file(folder: Path) -> Path:
    return folder / folders.POINTS_FILE


def distinct(kept: list[Row]) -> dict[folders.RowKey, Row]:
    """The first row of each task and round, so that none replaces another."""
    found: dict[folders.RowKey, Row] = {}
    for row in kept:
        found.setdefault((row.task.key, row.round_index), row)
    return found


@settings(max_examples=25, deadline=None)
@given(st.lists(rows, max_size=8))
def test_rows_read_back_equal_the_rows_written(kept: list[Row]) -> None:
    expected = distinct(kept)
    with TemporaryDirectory() as folder:
        with folders.Writer(folder, BLANK) as writer:
            for row in expected.values():
                writer.append(row)
            assert writer.done == expected
        assert folders.load(folder).rows == list(expected.values())
        with folders.Writer(folder, BLANK) as writer:
            assert writer.done == expected


@settings(max_examples=25, deadline=None)
@given(st.lists(rows, max_size=8), st.integers(0, 8))
def test_stopped_and_resumed_writing_equals_unbroken_writing(kept: list[Row], stop: int) -> None:
    unbroken = list(distinct(kept).values())
    with TemporaryDirectory() as folder:
        for part in (unbroken[:stop], unbroken[stop:]):
            with folders.Writer(folder, BLANK) as writer:
                writer.extend(part)
        assert folders.load(folder).rows == unbroken


def test_a_row_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    with folders.Writer(tmp_path, ENVIRONMENT, GRID) as writer:
        for count, task in enumerate(TASKS[:5], 1):
            writer.append(measured(task))
            assert len(folders.load(tmp_path).rows) == count


def test_a_row_is_on_the_disk_when_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    with folders.Writer(tmp_path, ENVIRONMENT, GRID) as writer:
        monkeypatch.setattr(
            folders.os, "fsync", lambda _: synced.append(points_file(tmp_path).stat().st_size)
        )
        for task in TASKS[:3]:
            writer.append(measured(task))
            assert synced[-1] == points_file(tmp_path).stat().st_size
    assert len(synced) == 3


def test_run_json_holds_what_was_asked_for_once(tmp_path: Path) -> None:
    skip = Skip(TASKS[0], "needs 99 GB")
    for _ in range(2):
        with folders.Writer(tmp_path, ENVIRONMENT, GRID, "sweep", skips=[skip]) as writer:
            writer.add_roofs(ROOFS)
    other_grid = replace(GRID, batch_sizes=(2,))
    with folders.Writer(tmp_path, ENVIRONMENT, other_grid, "sweep -b 2") as writer:
        writer.add_roofs(replace(ROOFS, measured_at_s=2.0))
    run = folders.load(tmp_path).run
    assert run.grids == (GRID, other_grid)
    assert run.commands == ("sweep", "sweep -b 2")
    assert run.skips == (skip,)
    assert [roofs.measured_at_s for roofs in run.roofs] == [1.0, 2.0]
    assert run.environment.details == ENVIRONMENT.details


@pytest.mark.parametrize("length", [1, 40, -1])
def test_half_a_last_line_is_left_out_and_cut_off_by_the_next_writer(
    tmp_path: Path, length: int
) -> None:
    first, second = measured(TASKS[0]), measured(TASKS[1])
    write(tmp_path, first)
    whole = points_file(tmp_path).read_bytes()
    write(tmp_path, second)
    torn = points_file(tmp_path).read_bytes()[len(whole) :][:length]
    points_file(tmp_path).write_bytes(whole + torn)
    results = folders.load(tmp_path)
    assert results.rows == [first]
    assert results.torn_bytes == len(torn) and not results.damages
    write(tmp_path, second)
    assert folders.load(tmp_path).rows == [first, second]
    assert folders.load(tmp_path).torn_bytes == 0


def test_a_damaged_line_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    kept = [measured(task) for task in TASKS[:3]]
    write(tmp_path, *kept)
    lines = points_file(tmp_path).read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"num_calls":100', b'"num_calls":101')
    points_file(tmp_path).write_bytes(b"".join(lines))
    results = folders.load(tmp_path)
    assert results.rows == [kept[0], kept[2]]
    assert [(damage.line_number, damage.reason) for damage in results.damages] == [
        (2, "the checksum does not match the content")
    ]


def test_the_next_writer_keeps_a_damaged_line_and_measures_its_task_again(tmp_path: Path) -> None:
    write(tmp_path, measured(TASKS[0]))
    damaged = points_file(tmp_path).read_bytes().replace(b"0.0001", b"0.0002")
    points_file(tmp_path).write_bytes(damaged)
    with folders.Writer(tmp_path, ENVIRONMENT) as writer:
        assert not writer.done
        writer.append(measured(TASKS[0]))
    assert points_file(tmp_path).read_bytes().startswith(damaged)
    assert folders.load(tmp_path).rows == [measured(TASKS[0])]


def test_of_rows_of_one_task_and_round_a_measurement_then_the_earliest_stands(
    tmp_path: Path,
) -> None:
    failure = replace(failed(TASKS[0]), started_at_s=1.0)
    early = measured(TASKS[0], latency_s=2e-4, started_at_s=2.0)
    late = measured(TASKS[0], latency_s=1e-4, started_at_s=3.0)
    for index, order in enumerate(permutations([failure, early, late])):
        assert folders.load(write(tmp_path / str(index), *order)).rows == [early]


def test_a_second_writer_is_refused_while_the_first_writes(tmp_path: Path) -> None:
    with folders.Writer(tmp_path, ENVIRONMENT):
        with pytest.raises(BusyError, match="Another process is writing") as caught:
            folders.Writer(tmp_path, ENVIRONMENT).__enter__()
        assert caught.value.exit_code == ExitCode.BUSY
    write(tmp_path, measured(TASKS[0]))


def test_results_are_read_where_files_cannot_be_locked_and_writing_says_so(tmp_path: Path) -> None:
    folder = write(tmp_path / "results", measured(TASKS[0]))
    program = f"""
import sys
for posix in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[posix] = None
from medusa_bench import cli
try:
    cli.main(["results", "show", {str(folder)!r}, "--json"])
except SystemExit as stop:
    assert not stop.code, stop.code
cli.main(["results", "merge", {str(folder)!r}, "-o", {str(tmp_path / "merged")!r}])
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert '"not measured": 90' in ended.stdout
    assert ended.returncode == ExitCode.STORAGE, ended.stderr
    assert "cannot be locked on this system" in ended.stderr


def test_merging_writes_run_json_a_fixed_number_of_times_and_compares_no_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 40
    sources = [write(tmp_path / str(index)) for index in range(count)]
    for index, source in enumerate(sources):
        with folders.Writer(source, ENVIRONMENT, replace(GRID, seq_lens=(index + 1,))) as writer:
            writer.add_roofs(replace(ROOFS, measured_at_s=float(index)))
    loaded = [folders.load(source) for source in sources]
    writes: list[Path] = []
    replace_file = folders.replace_file
    monkeypatch.setattr(
        folders,
        "replace_file",
        lambda path, content: (writes.append(path), replace_file(path, content)),
    )
    compared: list[Grid] = []
    equal = Grid.__eq__
    monkeypatch.setattr(
        Grid, "__eq__", lambda one, other: compared.append(one) or equal(one, other)
    )
    run = folders.merge(loaded, tmp_path / "merged").run
    assert len(run.grids) == count + 1
    assert len(run.roofs) == count
    assert len(writes) == 2
    assert len(compared) < 4 * count


def test_run_json_never_grows_past_what_is_read_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, measured(TASKS[0]))
    size = (tmp_path / folders.RUN_FILE).stat().st_size
    monkeypatch.setattr(folders.limits, "RUN_BYTES", size)
    with pytest.raises(StorageError, match=r"run\.json would come to over"):
        folders.Writer(tmp_path, ENVIRONMENT, replace(GRID, seq_lens=(7,))).__enter__()
    assert (tmp_path / folders.RUN_FILE).stat().st_size == size
    assert len(folders.load(tmp_path).rows) == 1


@pytest.mark.parametrize("reason", ["\x1b[31mout of\x07 memory\r", "x" * 9000])
def test_a_row_whose_text_cannot_be_shown_is_merged_once(tmp_path: Path, reason: str) -> None:
    row = failed(TASKS[0], reason=reason)
    line = replace_text(encode_row(failed(TASKS[0], reason="REASON")), reason)
    for name, content in (("written", encode_row(row)), ("foreign", line)):
        source = write(tmp_path / name)
        points_file(source).write_bytes(content)
        for _ in range(3):
            merged = folders.merge([folders.load(source)], tmp_path / f"{name}-merged")
        assert len(merged.rows) == 1
        assert points_file(merged.path).read_bytes().count(b"\n") == 1


def replace_text(line: bytes, text: str) -> bytes:
    """A row of another writer, who stores text as it is."""
    record = json.loads(line)
    del record["check"]
    record["reason"] = text
    body = json.dumps(record, separators=(",", ":")).encode()[:-1]
    digest = hashlib.sha256(body).hexdigest()[:16].encode()
    return body + b',"check":"' + digest + b'"}\n'


def test_waiting_for_a_lock_takes_under_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(folders.time, "sleep", waits.append)
    with folders.Writer(tmp_path, ENVIRONMENT), pytest.raises(BusyError):
        folders.Writer(tmp_path, ENVIRONMENT).__enter__()
    assert 0 < sum(waits) < 1


def test_a_filesystem_without_locks_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(fd: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StorageError, match="No locks available"):
        folders.Writer(tmp_path, ENVIRONMENT).__enter__()


def test_another_environment_is_refused_with_both_values(tmp_path: Path) -> None:
    write(tmp_path, measured(TASKS[0]))
    before = points_file(tmp_path).read_bytes()
    other = replace(ENVIRONMENT, driver="590.2", torch="2.14.0")
    with pytest.raises(EnvironmentMismatchError) as caught:
        write(tmp_path, environment=other)
    for value in ("driver 580.1 there, 590.2 here", "torch 2.13.0 there, 2.14.0 here"):
        assert value in caught.value.message
    assert "-o" in (caught.value.hint or "")
    assert points_file(tmp_path).read_bytes() == before


def test_another_provenance_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(EnvironmentMismatchError, match="provenance measured there, predicted"):
        folders.Writer(tmp_path, ENVIRONMENT, provenance=Provenance.PREDICTED).__enter__()


def test_another_host_with_the_same_card_goes_on(tmp_path: Path) -> None:
    write(tmp_path, measured(TASKS[0]))
    elsewhere = replace(ENVIRONMENT, details={"host": "b", "uuid": "GPU-2"})
    write(tmp_path, measured(TASKS[1]), environment=elsewhere)
    assert len(folders.load(tmp_path).rows) == 2


def test_rows_without_run_json_are_not_written_to(tmp_path: Path) -> None:
    write(tmp_path, measured(TASKS[0]))
    (tmp_path / folders.RUN_FILE).unlink()
    with pytest.raises(InvalidFileError, match=r"no run\.json"):
        write(tmp_path)


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"schema": 1}', "\x00"])
def test_a_folder_without_a_sound_run_json_is_an_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / folders.RUN_FILE).write_text(content)
    with pytest.raises(InvalidFileError, match=r"run\.json"):
        folders.load(tmp_path)


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidFileError):
        folders.load(tmp_path / "file")
    with pytest.raises(StorageError):
        folders.Writer(tmp_path / "file", ENVIRONMENT).__enter__()


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sets(st.integers(0, 30)), min_size=2, max_size=4))
def test_merging_shards_gives_every_row_once_in_any_order(shards: list[set[int]]) -> None:
    kept = [measured(TASKS[i % 20], i // 20, 1e-4 * (i + 1)) for i in range(31)]
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sources = [
            folders.load(write(folder / str(i), *(kept[j] for j in shard)))
            for i, shard in enumerate(shards)
        ]
        merged = folders.merge(sources, folder / "merged")
        backwards = folders.merge(sources[::-1], folder / "backwards")
        again = folders.merge([merged, *sources], folder / "merged")
        assert set(merged.rows) == {kept[j] for shard in shards for j in shard}
        assert set(backwards.rows) == set(again.rows) == set(merged.rows)
        assert len(merged.rows) == len(again.rows) == len(backwards.rows)
        assert again.grids == (GRID,)


def test_merging_two_environments_is_refused_with_both_values(tmp_path: Path) -> None:
    here = folders.load(write(tmp_path / "a"))
    there = folders.load(write(tmp_path / "b", environment=replace(ENVIRONMENT, driver="590.2")))
    with pytest.raises(EnvironmentMismatchError, match=r"driver 590\.2 there, 580\.1 here"):
        folders.merge([here, there], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def replaced(folder: Path) -> None:
    points = folder / folders.POINTS_FILE
    points.with_name("copy").write_bytes(points.read_bytes())
    points.with_name("copy").replace(points)


def deleted(folder: Path) -> None:
    shutil.rmtree(folder)


def cut(folder: Path) -> None:
    points = folder / folders.POINTS_FILE
    with points.open("r+b") as file:
        file.truncate(len(points.read_bytes()) // 2)


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


@pytest.mark.parametrize("harm", [replaced, deleted, cut, moved])
def test_a_file_that_another_program_takes_away_loses_no_row(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    folder = tmp_path / "results"
    with (
        folders.Writer(folder, ENVIRONMENT, GRID) as writer,
        pytest.raises(StorageError, match=r"by another program.*All 4 rows.*results-rescued"),
    ):
        for index, task in enumerate(TASKS[:6]):
            if index == 3:
                harm(folder)
            writer.append(measured(task))
    rescued = folders.load(tmp_path / "results-rescued")
    assert {row.task for row in rescued.rows} == set(TASKS[:4])
    assert not rescued.damages


def test_a_second_rescue_does_not_overwrite_the_first(tmp_path: Path) -> None:
    for name in ("results-rescued", "results-rescued-2"):
        with (
            folders.Writer(tmp_path / "results", ENVIRONMENT, GRID) as writer,
            pytest.raises(StorageError, match=name),
        ):
            deleted(tmp_path / "results")
            writer.append(measured(TASKS[0]))
        assert len(folders.load(tmp_path / name).rows) == 1


def test_a_file_that_was_cut_is_never_made_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with folders.Writer(tmp_path, ENVIRONMENT, GRID) as writer:
        writer.append(measured(TASKS[0]))

        def fail(_fd: int) -> None:
            os.truncate(tmp_path / folders.POINTS_FILE, 10)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError):
            writer.append(measured(TASKS[1]))
    assert (tmp_path / folders.POINTS_FILE).stat().st_size == 10


def test_an_interrupt_waits_until_the_row_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return write(descriptor, data)

    # In the background, where a shell has it ignored, Python hears no SIGINT unless told to.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with folders.Writer(tmp_path, ENVIRONMENT, GRID) as writer:
            monkeypatch.setattr(os, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                writer.append(measured(TASKS[0]))
            monkeypatch.undo()
            writer.append(measured(TASKS[1]))
    finally:
        signal.signal(signal.SIGINT, before)
    assert [row.task for row in folders.load(tmp_path).rows] == TASKS[:2]


def test_a_look_at_the_roofs_is_a_line_and_leaves_run_json_alone(tmp_path: Path) -> None:
    looks = [replace(ROOFS, measured_at_s=float(at_s)) for at_s in range(10, 60)]
    with folders.Writer(tmp_path, ENVIRONMENT, GRID) as writer:
        writer.add_runs((replace(folders.load(tmp_path).run, roofs=(ROOFS,)),))  # as of old
        run = (tmp_path / folders.RUN_FILE).read_bytes()
        for look in (ROOFS, *looks, looks[-1]):
            writer.add_roofs(look)
    assert (tmp_path / folders.RUN_FILE).read_bytes() == run
    assert (tmp_path / folders.ROOFS_FILE).read_bytes().count(b"\n") == len(looks)
    assert folders.load(tmp_path).roofs == (ROOFS, *looks)
    write(tmp_path, environment=ENVIRONMENT)
    assert folders.load(tmp_path).roofs == (ROOFS, *looks)
    merged = folders.merge([folders.load(tmp_path)], tmp_path / "merged")
    assert merged.roofs == (ROOFS, *looks)


def test_half_a_look_is_left_out_and_cut_off_and_a_damaged_one_refused(tmp_path: Path) -> None:
    looks = [replace(ROOFS, measured_at_s=float(at_s)) for at_s in range(3)]
    with folders.Writer(tmp_path, ENVIRONMENT, GRID) as writer:
        for look in looks:
            writer.add_roofs(look)
    path = tmp_path / folders.ROOFS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert folders.load(tmp_path).roofs == tuple(looks[:2])
    with folders.Writer(tmp_path, ENVIRONMENT) as writer:
        writer.add_roofs(looks[2])
    assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b"300000000000000.0", b"400000000000000.0", 1))
    with pytest.raises(InvalidFileError, match=r"roofs\.jsonl, line 1: the checksum"):
        folders.load(tmp_path)


def test_shards_are_merged_line_by_line_and_no_row_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [
        write(tmp_path / str(index), *(measured(task) for task in TASKS[index::3]))
        for index in range(3)
    ]
    sources = [folders.load(shard) for shard in shards]
    for module in (folders, kept):
        monkeypatch.setattr(module, "decode_row", None)
    merged = folders.merge(sources, tmp_path / "merged")
    lines = [points_file(shard).read_bytes() for shard in shards]
    assert points_file(merged.path).read_bytes() == b"".join(lines)


def test_rows_of_an_earlier_session_are_rescued_from_a_file_that_was_cut(tmp_path: Path) -> None:
    folder = write(tmp_path / "results", *(measured(task) for task in TASKS[:4]))
    with (
        folders.Writer(folder, ENVIRONMENT) as writer,
        pytest.raises(StorageError, match="All 5 rows"),
    ):
        cut(folder)
        writer.append(failed(TASKS[4]))
    rescued = folders.load(tmp_path / "results-rescued")
    assert rescued.rows == [*(measured(task) for task in TASKS[:4]), failed(TASKS[4])]


def test_going_on_reads_run_json_without_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, measured(TASKS[0]))
    monkeypatch.setattr(folders, "Reader", None)
    run = folders.read_run(tmp_path)
    assert run is not None and run.environment == ENVIRONMENT
    assert folders.read_run(tmp_path / "none") is None
