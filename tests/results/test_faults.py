"""What may happen to a results folder: kill -9, a full or read-only disk, damage, two writers.

The suite runs a few rounds of each; MEDUSA_BENCH_KILLS and MEDUSA_BENCH_MUTANTS ask for more
(200 and 20,000 are what a release is checked with).
"""

import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medusa_bench.base.errors import BusyError, InvalidFileError, StorageError
from medusa_bench.results import folders
from medusa_bench.results.reading import Results
from medusa_bench.results.rows import Row, Skip
from tests.builders.samples import ENVIRONMENT, GRID, ROOFS, failed, measured, tasks

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("MEDUSA_BENCH_KILLS", "20"))
MUTANTS = int(os.environ.get("MEDUSA_BENCH_MUTANTS", "400"))
TASKS = tasks()

# Appends rows until it is killed, and names each on stdout once it is acknowledged.
WRITER = """
import sys
from tests.builders.samples import ENVIRONMENT, GRID, ROOFS, measured, tasks
from medusa_bench.results import folders
with folders.Writer(sys.argv[1], ENVIRONMENT, GRID, "sweep") as writer:
    print("open", flush=True)
    for round_index in range(10**6):
        for task in tasks():
            if (task.key, round_index) not in writer.done:
                writer.append(measured(task, round_index, 1e-4 + 1e-9 * round_index))
                print(task.key, round_index, flush=True)
        writer.add_roofs(ROOFS)
"""


def start_writer(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_no_acknowledged_row_is_lost_or_doubled_by_kill_9(tmp_path: Path) -> None:
    chance = random.Random(0)
    acknowledged: set[tuple[str, int]] = set()
    for kill in range(KILLS):
        if kill % 20 == 0:  # a folder that is not yet there is part of it
            folder, acknowledged = tmp_path / str(kill), set()
        writer = start_writer(folder)
        assert writer.stdout is not None
        if chance.random() < 0.8:
            assert writer.stdout.readline() == "open\n"
            time.sleep(chance.random() * 0.02)
        else:
            time.sleep(chance.random() * 0.2)
        writer.kill()
        said = writer.communicate()[0].splitlines()
        for line in said:
            key, _, round_index = line.partition(" ")
            if round_index.isdigit():
                acknowledged.add((key, int(round_index)))
        if not (folder / folders.RUN_FILE).exists():
            assert not acknowledged
            continue
        results = folders.load(folder)
        found = [(row.task.key, row.round_index) for row in results.rows]
        assert not results.damages
        assert acknowledged <= set(found)
        assert len(found) == len(set(found)) <= len(acknowledged) + kill % 20 + 1
        lines = (folder / folders.POINTS_FILE).read_bytes().count(b"\n")
        assert lines == len(found), "a row was written twice"
    assert acknowledged


def test_the_next_writer_is_not_refused_after_a_kill(tmp_path: Path) -> None:
    writer = start_writer(tmp_path)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "open\n"
    with pytest.raises(BusyError):
        folders.Writer(tmp_path, ENVIRONMENT).__enter__()
    writer.kill()
    writer.communicate()
    with folders.Writer(tmp_path, ENVIRONMENT):
        pass


def test_reading_works_while_a_sweep_writes(tmp_path: Path) -> None:
    writer = start_writer(tmp_path)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "open\n"
    counts = []
    while len(counts) < 20 or counts[-1] == counts[0]:
        results = folders.load(tmp_path)
        assert not results.damages
        counts.append(len(results.rows))
    writer.kill()
    writer.communicate()
    assert counts == sorted(counts)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """As a full disk does, let no file grow beyond size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("spare", [0, 1, 100, 250])
def test_a_full_disk_keeps_earlier_rows_and_cuts_the_half_written_one(
    tmp_path: Path, spare: int
) -> None:
    points = tmp_path / folders.POINTS_FILE
    with folders.Writer(tmp_path, ENVIRONMENT, GRID) as writer:
        writer.extend(measured(task) for task in TASKS[:20])
        size = points.stat().st_size
        with file_size_limit(size + spare):
            with pytest.raises(StorageError, match="Earlier rows are intact"):
                writer.append(measured(TASKS[20]))
            with pytest.raises(StorageError):
                writer.extend(measured(task) for task in TASKS[20:])
        assert points.stat().st_size == size
        assert (TASKS[20].key, 0) not in writer.done
        writer.append(measured(TASKS[20]))
    results = folders.load(tmp_path)
    assert results.rows == [measured(task) for task in TASKS[:21]]
    assert not results.damages and not results.torn_bytes


def test_a_full_disk_leaves_run_json_as_it_was(tmp_path: Path) -> None:
    with folders.Writer(tmp_path, ENVIRONMENT, GRID) as writer:
        before = (tmp_path / folders.RUN_FILE).read_bytes()
        with file_size_limit(10), pytest.raises(StorageError):
            writer.add_roofs(ROOFS)
        assert (tmp_path / folders.RUN_FILE).read_bytes() == before
        writer.add_roofs(ROOFS)
    assert folders.load(tmp_path).roofs == (ROOFS,)


READ_ONLY = """
import sys
from tests.builders.samples import ENVIRONMENT, measured, tasks
from medusa_bench.base import errors
from medusa_bench.results import folders
try:
    with folders.Writer(sys.argv[1], ENVIRONMENT) as writer:
        writer.append(measured(tasks()[0]))
except errors.StorageError as error:
    print(error.exit_code, error.message)
"""


@pytest.mark.parametrize("there", [False, True])
def test_a_read_only_filesystem_is_one_sentence(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "results"
    if there:
        with folders.Writer(folder, ENVIRONMENT) as writer:
            writer.append(measured(TASKS[1]))
    mount = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,bind,ro {tmp_path}"
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if (
        not shutil.which("unshare")
        or subprocess.run(
            [*unshare, "sh", "-c", mount], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a read-only filesystem is not permitted here")
    command = [sys.executable, "-c", READ_ONLY, str(folder)]
    ran = subprocess.run(
        [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.stdout.startswith("6 ") and "Read-only file system" in ran.stdout
    if there:
        assert folders.load(folder).rows == [measured(TASKS[1])]


def mutate(content: bytes, chance: random.Random) -> bytes:
    """What bit rot, a bad editor or a bad copy makes of a file."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 1, 4, 40, 400)))
        match chance.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at:end] = b""
            case 2:
                data[at:at] = chance.randbytes(end - at)
            case 3:
                del data[at:]
            case 4:
                data[at:at] = data[at:end]
            case 5:
                tokens = (b"1e999", b"NaN", b"-", b"[" * 3000, b"\\ud800", b"\n", b"9" * 5000, b"}")
                data[at:end] = chance.choice(tokens)
            case 6:
                lines = data.splitlines(keepends=True)
                chance.shuffle(lines)
                data = bytearray(b"".join(lines))
            case _:
                digits = [i for i, byte in enumerate(data) if byte in b"0123456789"]
                if digits:
                    data[chance.choice(digits)] = ord(chance.choice("0123456789"))
    return bytes(data)


def test_no_damaged_file_raises_hangs_or_passes_an_altered_row(tmp_path: Path) -> None:
    chance = random.Random(1)
    kept: list[Row] = [measured(task, i, 1e-4 + 1e-6 * i) for i in (0, 1) for task in TASKS[:6]]
    kept.append(failed(TASKS[6], reason="it's \u2014 \U0001f600"))
    skips = [Skip(TASKS[7], "needs 99 GB")]
    with folders.Writer(tmp_path, ENVIRONMENT, GRID, "sweep", skips=skips) as writer:
        writer.add_roofs(ROOFS)
        writer.extend(kept)
    files = [tmp_path / folders.POINTS_FILE, tmp_path / folders.RUN_FILE]
    sound = {file: file.read_bytes() for file in files}
    run = folders.load(tmp_path).run
    slowest_s = 0.0
    refused = 0
    for _ in range(MUTANTS):
        file = chance.choice(files)
        file.write_bytes(mutate(sound[file], chance))
        start_s = time.process_time()
        results = _load_or_refuse(tmp_path)
        slowest_s = max(slowest_s, time.process_time() - start_s)
        if results is None:
            refused += 1
        else:
            assert set(results.rows) <= set(kept), "an altered row was accepted"
            assert len(results.rows) == len({(r.task, r.round_index) for r in results.rows})
            assert results.run == run, "an altered run was accepted"
        file.write_bytes(sound[file])
    assert refused
    print(f"{MUTANTS} mutants, {refused} refused as a whole, the slowest took {slowest_s:.3f} s")


def _load_or_refuse(folder: Path) -> Results | None:
    try:
        return folders.load(folder)
    except InvalidFileError:
        return None


def test_a_line_far_too_long_is_damaged_and_the_next_is_read(tmp_path: Path) -> None:
    with folders.Writer(tmp_path, ENVIRONMENT) as writer:
        writer.append(measured(TASKS[0]))
    with (tmp_path / folders.POINTS_FILE).open("ab") as file:
        file.write(b"[" * 10_000_000 + b"\n")
    with folders.Writer(tmp_path, ENVIRONMENT) as writer:
        writer.append(measured(TASKS[1]))
    results = folders.load(tmp_path)
    assert len(results.rows) == 2
    assert [damage.line_number for damage in results.damages] == [2]
