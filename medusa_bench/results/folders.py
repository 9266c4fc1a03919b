"""Results folders on disk: run.json, replaced as a whole, and lines that are only appended to.

points.jsonl holds the rows, roofs.jsonl the looks at the roofs during a sweep.

A row is one line, one write, one fsync, under a kernel lock on points.jsonl itself, so a killed
writer leaves at most half a line, which reading leaves out and the next writer cuts off. Reading
takes no lock. Of several rows of one task and round a measurement stands before a failure, then
the earliest measurement, the latest failure: in that order no matter how folders are merged.
"""

import errno
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from itertools import chain, count, islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

from medusa_bench.base import limits
from medusa_bench.base.errors import (
    BusyError,
    EnvironmentMismatchError,
    InvalidFileError,
    StorageError,
)
from medusa_bench.base.files import opened, read_bytes, replace_file, shipped
from medusa_bench.results import published, sealing
from medusa_bench.results.asked import distinct
from medusa_bench.results.codec import (
    Run,
    decode_roofs,
    decode_row,
    decode_run,
    encode_roofs,
    encode_row,
    encode_run,
)
from medusa_bench.results.columns import FAILURE, Array, joined
from medusa_bench.results.decoding import Read, Reader
from medusa_bench.results.kept import Kept, RowKey, keys_of
from medusa_bench.results.reading import Damage, Results
from medusa_bench.results.rows import (
    Environment,
    Grid,
    Provenance,
    Roofs,
    Row,
    Skip,
)
from medusa_bench.results.stored import StoredRows, first_standing, standing_places
from medusa_bench.specs import paper_grid

try:
    import fcntl
except ImportError:  # Windows: results are read there, and not written
    fcntl = None  # type: ignore[assignment]

RUN_FILE = "run.json"
POINTS_FILE = "points.jsonl"
ROOFS_FILE = "roofs.jsonl"

_LOCK_TRIES, _LOCK_PAUSE_S = 5, 0.1  # a writer killed just now may hold its lock a moment longer
_BATCH_ROWS = 1000

Item = TypeVar("Item")

_HELD_BACK = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def load(path: str | Path, *, from_lines: bool = False) -> Results:
    """What a results folder holds. `results/paper` is found in a wheel too.

    Damaged lines of points.jsonl are left out and listed in `damages`; what `compact` sealed is
    taken from there unless from_lines. Raises InvalidFileError where run.json is missing or
    damaged.
    """
    folder = Path(path)
    if not folder.exists() and folder.as_posix() == paper_grid.RESULTS:
        folder = shipped(paper_grid.RESULTS)
    run = read_run(folder)
    if run is None:
        raise InvalidFileError(
            f"{folder} is no results folder: it holds no {RUN_FILE}.",
            hint="`medusa-bench sweep` makes one; results/paper is the paper's.",
        )
    cells = published.cells(folder, run)
    if cells:
        return Results(folder, run, [c.estimate(p) for c in cells for p in c.points], cells=cells)
    rows, read = _read_rows(folder, from_lines=from_lines)
    damages = tuple(Damage(number, reason) for number, reason in read.damages)
    return Results(folder, run, rows, damages, read.torn_bytes)


def compact(path: str | Path, name: str = sealing.NPZ) -> sealing.Sealed:
    """Seal what points.jsonl holds now as columns in a file of that name beside it.

    Later lines stay as they are, and are decoded behind it. Raises InvalidFileError where there is
    no row, StorageError where the folder cannot be written.
    """
    folder = Path(path)
    if (run := read_run(folder)) is None or run.printed or not (folder / POINTS_FILE).exists():
        raise InvalidFileError(
            f"{folder} holds no {POINTS_FILE} to seal.", hint="`medusa-bench sweep` writes one."
        )
    with opened(folder / POINTS_FILE, limits.POINTS_BYTES) as file:
        read = Reader().read(file)
        sha256 = sealing.sha256_of(file, read.end)
    rows = first_standing(StoredRows(folder / POINTS_FILE, read.table))
    sealed = sealing.Sealed(rows.table, read.damages, read.end, read.num_lines, sha256)
    content = sealing.encode(sealed, name)
    with storing(folder):
        replace_file(folder / name, content)
        for other in {sealing.NPZ, sealing.PARQUET} - {name}:
            (folder / other).unlink(missing_ok=True)
    return sealed


class Writer:
    """The one writer of a results folder, as a context manager: makes the folder or goes on in it.

    Raises BusyError within a second while another process writes there,
    EnvironmentMismatchError where its rows belong to another environment or provenance, and
    StorageError where it cannot be written; earlier rows are intact then. Where another program
    replaced, cut or deleted the file meanwhile, every row goes to a folder beside it first.
    """

    def __init__(
        self,
        path: str | Path,
        environment: Environment,
        grid: Grid | None = None,
        command: str = "",
        *,
        provenance: Provenance = Provenance.MEASURED,
        skips: Sequence[Skip] = (),
    ) -> None:
        self.path = Path(path)
        self._rows = Kept()
        self._size = 0
        self._looks: dict[Hashable, Roofs] = {}
        self._asked = Run(
            provenance,
            environment,
            commands=(command,) if command else (),
            grids=(grid,) if grid else (),
            skips=tuple(skips),
        )

    def __enter__(self) -> Self:
        with storing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(
                self.path / POINTS_FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, mode=0o644
            )
        try:
            with storing(self.path):
                lock(self._fd, self.path)
            if self._displaced() is not None:  # between opening and locking
                raise BusyError(
                    f"Another process is writing to {self.path}.", hint="repeat the command."
                )
            self._open()
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    @property
    def done(self) -> Kept:
        """The rows that are there, by Task.key and round_index; failures are among them."""
        return self._rows

    def append(self, row: Row) -> None:
        """Keep one row: when this returns it is on the disk."""
        self.extend((row,))

    def extend(self, rows: Iterable[Row]) -> None:
        """Keep many rows with few writes and one fsync: all of them, or none if it raises."""
        with _uninterrupted():
            kept = list(rows)

            def put(known: Kept) -> None:
                for row in kept:
                    known.put(row)

            self._keep((encode_row(row) for row in kept), put)

    def extend_lines(self, lines: Iterable[tuple[RowKey, bytes, bool]]) -> None:
        """The same for rows by their key and sound line, and whether each is a failure."""
        with _uninterrupted():
            kept = list(lines)

            def put(known: Kept) -> None:
                for key, line, is_failure in kept:
                    known.put_line(key, line, is_failure=is_failure)

            self._keep((line + b"\n" for _, line, _ in kept), put)

    def _keep(self, lines: Iterator[bytes], put: Callable[[Kept], None]) -> None:
        """Write lines, and put what they say among the rows known once they are on the disk."""
        size = self._size
        self._rescue_if_displaced(put)
        try:
            with storing(self.path):
                while batch := b"".join(islice(lines, _BATCH_ROWS)):
                    if os.write(self._fd, batch) != len(batch):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    size += len(batch)
                os.fsync(self._fd)
        except BaseException:
            with suppress(OSError):
                self._cut_back()
            raise
        self._size = size
        self._rescue_if_displaced(put)
        put(self._rows)

    def _cut_back(self) -> None:
        """Drop what is half written. A file that another program cut is never made longer."""
        if os.fstat(self._fd).st_size > self._size:
            os.ftruncate(self._fd, self._size)

    def _displaced(self) -> str | None:
        """In words, what another program did to the file; None where it is as we left it."""
        try:
            there = (self.path / POINTS_FILE).stat()
        except OSError:
            return "deleted"
        ours = os.fstat(self._fd)
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            return "replaced"
        return "cut" if ours.st_size < self._size else None

    def _rescue_if_displaced(self, put: Callable[[Kept], None]) -> None:
        """Write every row known, with those to `put`, to a new folder. Raises StorageError."""
        what = self._displaced()
        if what is None:
            return
        known = self._rows.copy()
        put(known)
        rescue = _unused(self.path.with_name(f"{self.path.name}-rescued"))
        with storing(rescue):
            rescue.mkdir(parents=True)
            replace_file(rescue / RUN_FILE, encode_run(self._known_run))
            replace_file(rescue / POINTS_FILE, known.content)
        raise StorageError(
            f"{self.path / POINTS_FILE} was {what} by another program while this one was writing "
            f"to it. All {len(known):,} rows known here are in {rescue}.",
            hint="keep sync clients and editors away from a folder that is written to; "
            "`medusa-bench results merge` joins folders.",
        )

    def add_roofs(self, roofs: Roofs) -> None:
        """Keep a measurement of the device's ceilings: a line of its own, however many there are.

        When this returns it is on the disk; earlier ones are intact if it raises.
        """
        if _roofs_key(roofs) in self._looks:
            return
        with _uninterrupted(), storing(self.path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            descriptor = os.open(self.path / ROOFS_FILE, flags, mode=0o644)
            try:
                _append_whole(descriptor, encode_roofs(roofs))
            finally:
                os.close(descriptor)
        self._looks[_roofs_key(roofs)] = roofs

    def add_runs(self, runs: Iterable[Run]) -> None:
        """Keep what other runs of this environment say: roofs, commands, grids, skips."""
        union = _union(self._known_run, *runs)
        if union != self._known_run:
            self._write_run(union)

    @property
    def _known_run(self) -> Run:
        """The run with all roofs looked at."""
        return replace(self._run, roofs=tuple(self._looks.values()))

    def _open(self) -> None:
        run = read_run(self.path)
        rows, read = _read_rows(self.path)
        if run is None and rows:
            raise InvalidFileError(
                f"{self.path} holds rows, but no {RUN_FILE} that says what they belong to.",
                hint="write to another folder (-o).",
            )
        if run is not None:
            _refuse_other_environment(self.path, run, self._asked)
        with storing(self.path):
            os.ftruncate(self._fd, read.end)
            _cut_torn(self.path / ROOFS_FILE)
        self._size = read.end
        self._rows = Kept.of(rows)
        if run is None:
            self._write_run(self._asked)
        else:
            self._run = run
            self._looks = {_roofs_key(roofs): roofs for roofs in run.roofs}
            self.add_runs((self._asked,))

    def _write_run(self, run: Run) -> None:
        content = encode_run(run)
        if len(content) > limits.RUN_BYTES:
            raise StorageError(
                f"{self.path / RUN_FILE} would come to over {limits.in_words(limits.RUN_BYTES)}, "
                "the most that is read of it. Earlier rows are intact.",
                hint="measure the rest into another folder (-o), or a smaller grid.",
            )
        with storing(self.path):
            replace_file(self.path / RUN_FILE, content)
        self._run = run
        self._looks = {_roofs_key(roofs): roofs for roofs in run.roofs}


def _unused(path: Path) -> Path:
    """The path, with a number behind it where it is taken."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(each for each in (path, *islice(numbered, 1000)) if not each.exists())


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C, and what else has a handler, until what is written is whole and counted.

    By handlers of its own: a blocked signal goes to another thread, and from there to this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs handlers in the main thread alone
        return
    arrived: list[int] = []
    handlers = {
        number: handler for number in _HELD_BACK if callable(handler := signal.getsignal(number))
    }
    for number in handlers:
        signal.signal(number, lambda number, _frame: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in arrived:
            handlers[signal.Signals(number)](number, None)


def refuse_if_busy(path: str | Path) -> None:
    """Raise BusyError if another process writes to a folder, before costly preparations."""
    with storing(Path(path)):
        try:
            fd = os.open(Path(path) / POINTS_FILE, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            lock(fd, Path(path))
        finally:
            os.close(fd)


def refuse_if_unwritable(path: str | Path) -> None:
    """Raise StorageError where a folder cannot be made or written, before costly preparations."""
    folder = Path(path)
    with storing(folder):
        if not folder.is_dir():
            folder.mkdir(parents=True)
            folder.rmdir()
        elif not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def merge(sources: Sequence[Results], output: str | Path) -> Results:
    """The union of folders of one environment, by task and round, written to `output`.

    Raises EnvironmentMismatchError, with both values, where they differ.
    """
    first, *others = sources
    for source in sources:
        if source.cells:
            raise InvalidFileError(
                f"{source.path} holds printed tables, which are not merged.",
                hint="every command takes several folders, or `results export` them all.",
            )
    for other in others:
        _refuse_other_environment(other.path, other.run, first.run)
    stored = [source.stored for source in sources]
    table = joined([rows.table for rows in stored])
    starts = np.cumsum([0, *(len(rows) for rows in stored)])

    def at(places: list[int]) -> Iterator[Row]:
        for place in places:
            source = int(np.searchsorted(starts, place, side="right")) - 1
            yield stored[source][place - int(starts[source])]

    chosen = standing_places(table, at)
    if chosen is None:
        chosen = np.arange(len(table))
    with Writer(output, first.environment, provenance=first.provenance) as writer:
        writer.add_runs(source.run for source in sources)
        for rows, start, end in zip(stored, starts[:-1], starts[1:], strict=True):
            mine = chosen[(chosen >= start) & (chosen < end)] - start
            writer.extend_lines(_unknown(writer.done, rows, mine))
    return load(output)


def num_distinct(sources: Sequence[Results]) -> int:
    """How many tasks and rounds there are in all of them."""
    table = joined([source.table for source in sources])
    return len(distinct([table.task, table.round_index])[0])


def _unknown(done: Kept, rows: StoredRows, places: Array) -> Iterator[tuple[RowKey, bytes, bool]]:
    """The rows that are not among those done, each with its key and whether it is a failure."""
    some = StoredRows(rows.path, rows.table[places])
    is_failure = (some.table.kind == FAILURE).tolist()
    lines = some.lines(np.arange(len(some)))
    for key, line, failed in zip(keys_of(some), lines, is_failure, strict=True):
        if key not in done or done[key] != decode_row(line):
            yield key, line, failed


def environment_changes(old: Run, new: Run) -> list[tuple[str, object, object]]:
    """What makes two runs' numbers incomparable in one folder: the name and both values."""
    pairs: list[tuple[str, object, object]] = [("provenance", old.provenance, new.provenance)]
    pairs += [
        (each.name, getattr(old.environment, each.name), getattr(new.environment, each.name))
        for each in fields(Environment)
        if each.compare
    ]
    return [(name, was, now) for name, was, now in pairs if was != now]


def _refuse_other_environment(path: Path, there: Run, asked: Run) -> None:
    if differing := environment_changes(there, asked):
        raise EnvironmentMismatchError(
            f"{path} belongs to another environment: "
            + "; ".join(f"{name} {old!s} there, {new!s} here" for name, old, new in differing)
            + ".",
            hint="results of one folder are comparable: write to another folder (-o), and "
            "compare the two with `medusa-bench results diff`.",
        )


def _union(*runs: Run) -> Run:
    """One run of all, nothing twice, what was there first (each device's roofs stay together)."""
    return replace(
        runs[0],
        roofs=_distinct(_roofs_key, (run.roofs for run in runs)),
        commands=_distinct(str, (run.commands for run in runs)),
        grids=_distinct(lambda grid: grid, (run.grids for run in runs)),
        skips=tuple({skip.task: skip for run in runs for skip in run.skips}.values()),
    )


def _distinct(
    key: Callable[[Item], Hashable], parts: Iterable[tuple[Item, ...]]
) -> tuple[Item, ...]:
    """The first item of each key, in order: time grows with their number alone."""
    first: dict[Hashable, Item] = {}
    for item in chain.from_iterable(parts):
        first.setdefault(key(item), item)
    return tuple(first.values())


def _roofs_key(roofs: Roofs) -> Hashable:
    peaks = frozenset(roofs.peak_flops_per_s.items())
    return peaks, roofs.memory_bandwidth_bytes_per_s, roofs.measured_at_s


# -- files --------------------------------------------------------------------------------------


def read_run(folder: Path) -> Run | None:
    """What run.json says, with the roofs looked at since, without the rows; None without it.

    Raises InvalidFileError where one of the two is damaged.
    """
    path = folder / RUN_FILE
    if not path.exists():
        return None
    run = decode_run(read_bytes(path, limits.RUN_BYTES), where=str(path))
    return replace(run, roofs=_distinct(_roofs_key, (run.roofs, _read_looks(folder))))


def _read_looks(folder: Path) -> tuple[Roofs, ...]:
    """The whole lines of roofs.jsonl; half a last one was never acknowledged."""
    path = folder / ROOFS_FILE
    if not path.exists():
        return ()
    found = []
    for number, line in enumerate(read_bytes(path, limits.POINTS_BYTES).split(b"\n")[:-1], 1):
        try:
            found.append(decode_roofs(line))
        except InvalidFileError as error:
            raise InvalidFileError(
                f"{path}, line {number}: {error.message}.",
                hint="restore it from a copy; it is never edited by hand.",
            ) from None
    return tuple(found)


def _cut_torn(path: Path) -> None:
    """Drop half a last line that a killed writer left."""
    if path.exists():
        content = read_bytes(path, limits.POINTS_BYTES)
        os.truncate(path, content.rfind(b"\n") + 1)


def _append_whole(descriptor: int, line: bytes) -> None:
    """A line at a file's end and on the disk, or the file as it was. Raises OSError."""
    size = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except BaseException:
        os.ftruncate(descriptor, size)
        raise


def _read_rows(folder: Path, *, from_lines: bool = False) -> tuple[StoredRows, Read]:
    """One row for each task and round, and what else the file holds; of a sealed part, the seal."""
    path = folder / POINTS_FILE
    if not path.exists():
        read = Reader().read(io.BytesIO())
        return StoredRows(path, read.table), read
    with opened(path, limits.POINTS_BYTES) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        sealed = None if from_lines else sealing.read(folder, file, num_bytes)
        if sealed is None:
            read = Reader().read(file)
            return first_standing(StoredRows(path, read.table)), read
        read = Reader().read(file, sealed.num_bytes, sealed.num_lines)
    read = replace(read, damages=(*sealed.damages, *read.damages))
    if not len(read.table):
        return StoredRows(path, sealed.table), read
    return first_standing(StoredRows(path, joined([sealed.table, read.table]))), read


def lock(fd: int, path: Path) -> None:
    """The kernel's lock on an open file of a folder. Raises BusyError, or StorageError."""
    if fcntl is None:
        raise StorageError(
            f"{path} cannot be locked on this system, so two writers could lose each other's rows.",
            hint="measure on Linux or macOS, or in WSL; reading works everywhere.",
        )
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
        else:
            return
    raise BusyError(
        f"Another process is writing to {path}.",
        hint="wait for it, or write to another folder (-o).",
    )


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns the system's refusal to write into a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}. Earlier rows are intact.",
            hint="make room or choose another folder (-o); the same command goes on.",
        ) from None
