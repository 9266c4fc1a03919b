"""Sealed columns: they say what the lines say, or nothing. Nothing altered is accepted."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medusa_bench.base.errors import InvalidFileError
from medusa_bench.results import exports, folders, quick, sealing
from medusa_bench.results.rows import Row
from tests.builders.samples import ENVIRONMENT, GRID, ROOFS, failed, measured, tasks

TASKS = tasks()
FORMS = [sealing.NPZ, sealing.PARQUET]


@pytest.fixture
def lines_read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every line that is decoded."""
    read: list[bytes] = []
    decode = quick.record

    def counted(line: bytes) -> Any:
        read.append(line)
        return decode(line)

    monkeypatch.setattr(quick, "record", counted)
    return read


def write(folder: Path, rows: Sequence[Row]) -> Path:
    with folders.Writer(folder, ENVIRONMENT, GRID) as writer:
        writer.extend(rows)
    return folder


def kept_rows() -> list[Row]:
    rows: list[Row] = [measured(task, i, 1e-4 * (i + 1)) for i in (0, 1) for task in TASKS[:9]]
    return [*rows, failed(TASKS[9], reason="it's \u2014 too much")]


def sealed_folder(folder: Path, form: str) -> Path:
    with folders.Writer(folder, ENVIRONMENT, GRID) as writer:
        writer.add_roofs(ROOFS)
        writer.extend(kept_rows())
    folders.compact(folder, form)
    return folder


def assert_as_lines_say(folder: Path) -> None:
    found, truth = folders.load(folder), folders.load(folder, from_lines=True)
    assert found.rows == list(truth.rows)
    assert found.damages == truth.damages and found.torn_bytes == truth.torn_bytes
    assert found.summaries == truth.summaries
    assert list(exports.rows([found.points()])) == list(exports.rows([truth.points()]))


@pytest.mark.parametrize("form", FORMS)
def test_a_sealed_folder_says_the_same_and_decodes_no_line(
    tmp_path: Path, form: str, lines_read: list[bytes]
) -> None:
    folder = sealed_folder(tmp_path, form)
    lines_read.clear()
    results = folders.load(folder)
    assert len(results.summaries) == 9 and not lines_read
    assert_as_lines_say(folder)


@pytest.mark.parametrize("form", FORMS)
def test_only_lines_after_a_seal_are_decoded_and_stand_as_ever(
    tmp_path: Path, form: str, lines_read: list[bytes]
) -> None:
    folder = sealed_folder(tmp_path, form)
    later = [measured(TASKS[9]), failed(TASKS[0], 5), measured(TASKS[20])]
    later.append(replace(measured(TASKS[0]), started_at_s=0.0, latency_s=9e-5, min_s=9e-5))
    write(folder, later)
    lines_read.clear()
    folders.load(folder)
    assert len(lines_read) == len(later)
    assert_as_lines_say(folder)


def test_the_seal_of_a_file_with_damaged_and_doubled_lines_says_so_too(tmp_path: Path) -> None:
    folder = write(tmp_path, kept_rows())
    points = folder / folders.POINTS_FILE
    lines = points.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"0.0001", b"0.0002", 1)
    points.write_bytes(b"".join([*lines, lines[0], lines[5]]))
    folders.compact(folder)
    assert [damage.line_number for damage in folders.load(folder).damages] == [3]
    assert_as_lines_say(folder)
    with points.open("ab") as file:
        file.write(b"nonsense\n")
    assert [damage.line_number for damage in folders.load(folder).damages] == [3, len(lines) + 3]


@pytest.mark.parametrize("form", FORMS)
def test_no_altered_seal_is_accepted(
    tmp_path: Path, form: str, lines_read: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sealed_folder(tmp_path, form)
    truth = list(folders.load(folder, from_lines=True).rows)
    seal = folder / form
    sound = seal.read_bytes()
    chance = random.Random(2)
    ignored = 0
    for _ in range(120):
        data = bytearray(sound)
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at : at + 8] = chance.randbytes(8)
            case _:
                data[at:at] = data[:40]
        seal.write_bytes(data)
        lines_read.clear()
        results = folders.load(folder)
        assert results.rows == truth
        assert results.summaries == folders.load(folder, from_lines=True).summaries
        ignored += bool(lines_read)
    assert ignored > 60  # an odd byte between the parts of a file may mean nothing


@pytest.mark.parametrize("form", FORMS)
def test_columns_of_other_numbers_under_a_sound_sum_are_left_aside(
    tmp_path: Path, form: str, lines_read: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sealed_folder(tmp_path, form)
    with (folder / folders.POINTS_FILE).open("rb") as file:
        sealed = sealing.read(folder, file, file.seek(0, 2))
    assert sealed is not None
    honest = sealing._about(sealed)
    other = replace(sealed, table=replace(sealed.table, latency_s=2 * sealed.table.latency_s))
    with monkeypatch.context() as patch:
        patch.setattr(sealing, "_about", lambda _: honest)
        (folder / form).write_bytes(sealing.encode(other, form))
    lines_read.clear()
    assert folders.load(folder).rows == kept_rows()
    assert folders.load(folder).summaries == folders.load(folder, from_lines=True).summaries
    assert lines_read


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("edit", ["byte", "cut", "reversed", "emptied"])
def test_lines_edited_under_a_seal_are_read_as_they_are(
    tmp_path: Path, form: str, edit: str, lines_read: list[bytes]
) -> None:
    folder = sealed_folder(tmp_path, form)
    points = folder / folders.POINTS_FILE
    lines = points.read_bytes().splitlines(keepends=True)
    edited = {
        "byte": [lines[0].replace(b"0.0001", b"0.0003", 1), *lines[1:]],
        "cut": lines[:4],
        "reversed": lines[::-1],
        "emptied": [],
    }[edit]
    points.write_bytes(b"".join(edited))
    lines_read.clear()
    results = folders.load(folder)
    assert len(lines_read) == len(edited)
    assert len(results.damages) == (edit == "byte")
    assert_as_lines_say(folder)


@pytest.mark.parametrize("form", FORMS)
def test_a_torn_tail_after_a_seal_is_left_out_and_cut_off_by_the_next_writer(
    tmp_path: Path, form: str
) -> None:
    folder = sealed_folder(tmp_path, form)
    points = folder / folders.POINTS_FILE
    whole = points.read_bytes()
    points.write_bytes(whole + whole[:77])
    assert folders.load(folder).torn_bytes == 77
    assert_as_lines_say(folder)
    write(folder, [measured(TASKS[12])])
    assert points.read_bytes().startswith(whole)
    assert folders.load(folder).rows == [*kept_rows(), measured(TASKS[12])]
    assert_as_lines_say(folder)


def test_a_torn_tail_is_not_sealed(tmp_path: Path) -> None:
    folder = write(tmp_path, kept_rows())
    points = folder / folders.POINTS_FILE
    whole = points.read_bytes()
    points.write_bytes(whole + whole[:50])
    assert folders.compact(folder).num_bytes == len(whole)
    assert folders.load(folder).torn_bytes == 50


def test_sealing_in_one_form_takes_the_place_of_the_other(tmp_path: Path) -> None:
    folder = sealed_folder(tmp_path, sealing.NPZ)
    folders.compact(folder, sealing.PARQUET)
    assert [name for name in FORMS if (folder / name).exists()] == [sealing.PARQUET]


def test_a_folder_without_lines_is_not_sealed() -> None:
    with pytest.raises(InvalidFileError, match="to seal"):
        folders.compact(Path(__file__).resolve().parents[2] / "results" / "paper")
