"""Results folders on disk: run.json, replaced as a whole, and points.jsonl, only appended to.

A row is one line, one write, one fsync, under a kernel lock on points.jsonl itself, so a killed
writer leaves at most half a line, which reading leaves out and the next writer cuts off. Reading
takes no lock. Of several rows of one task and round a measurement stands before a failure, then
the earliest measurement, the latest failure: in that order no matter how folders are merged.
"""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from itertools import chain, count, islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from medusa_bench.base import limits
from medusa_bench.base.errors import (
    BusyError,
    EnvironmentMismatchError,
    InvalidFileError,
    StorageError,
)
from medusa_bench.base.files import opened, read_bytes, replace_file, shipped
from medusa_bench.results import published
from medusa_bench.results.codec import (
    MAX_LINE_BYTES,
    Run,
    decode_row,
    decode_run,
    encode_row,
    encode_run,
)
from medusa_bench.results.reading import Damage, Results
from medusa_bench.results.rows import (
    Environment,
    Estimate,
    Failure,
    Grid,
    Measurement,
    Provenance,
    Roofs,
    Row,
    Skip,
)
from medusa_bench.specs import paper_grid

try:
    import fcntl
except ImportError:  # Windows: results are read there, and not written
    fcntl = None  # type: ignore[assignment]

RUN_FILE = "run.json"
POINTS_FILE = "points.jsonl"

_LOCK_TRIES, _LOCK_PAUSE_S = 5, 0.1  # a writer killed just now may hold its lock a moment longer
_BATCH_ROWS = 1000

Item = TypeVar("Item")
RowKey = tuple[str, int]  # Task.key and round_index

_HELD_BACK = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def load(path: str | Path) -> Results:
    """What a results folder holds. `results/paper` is found in a wheel too.

    Damaged lines of points.jsonl are left out and listed in `damages`. Raises InvalidFileError
    where run.json is missing or damaged.
    """
    folder = Path(path)
    if not folder.exists() and folder.as_posix() == paper_grid.RESULTS:
        folder = shipped(paper_grid.RESULTS)
    run = _read_run(folder)
    if run is None:
        raise InvalidFileError(
            f"{folder} is no results folder: it holds no {RUN_FILE}.",
            hint="`medusa-bench sweep` makes one; results/paper is the paper's.",
        )
    cells = published.cells(folder, run)
    if cells:
        return Results(folder, run, [c.estimate(p) for c in cells for p in c.points], cells=cells)
    rows, damages, _, torn_bytes = _read_rows(folder)
    return Results(folder, run, list(rows.values()), damages, torn_bytes)


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
        self._rows: dict[RowKey, Row] = {}
        self._size = 0
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
    def done(self) -> Mapping[RowKey, Row]:
        """The rows that are there, by Task.key and round_index; failures are among them."""
        return self._rows

    def append(self, row: Row) -> None:
        """Keep one row: when this returns it is on the disk."""
        self.extend((row,))

    def extend(self, rows: Iterable[Row]) -> None:
        """Keep many rows with few writes and one fsync: all of them, or none if it raises."""
        kept: list[Row] = []
        with _uninterrupted():
            size = self._size
            self._rescue_if_displaced(rows := list(rows))
            try:
                with storing(self.path):
                    for batch in _batches(rows):
                        data = b"".join(encode_row(row) for row in batch)
                        if os.write(self._fd, data) != len(data):
                            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                        kept += batch
                        size += len(data)
                    os.fsync(self._fd)
            except BaseException:
                with suppress(OSError):
                    self._cut_back()
                raise
            self._size = size
            self._rescue_if_displaced(rows)
            for row in kept:
                _put(self._rows, row)

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

    def _rescue_if_displaced(self, rows: Sequence[Row]) -> None:
        """Write every row known, `rows` among them, to a new folder. Raises StorageError."""
        what = self._displaced()
        if what is None:
            return
        known = dict(self._rows)
        for row in rows:
            _put(known, row)
        rescue = _unused(self.path.with_name(f"{self.path.name}-rescued"))
        with storing(rescue):
            rescue.mkdir(parents=True)
            replace_file(rescue / RUN_FILE, encode_run(self._run))
            replace_file(rescue / POINTS_FILE, b"".join(map(encode_row, known.values())))
        raise StorageError(
            f"{self.path / POINTS_FILE} was {what} by another program while this one was writing "
            f"to it. All {len(known):,} rows known here are in {rescue}.",
            hint="keep sync clients and editors away from a folder that is written to; "
            "`medusa-bench results merge` joins folders.",
        )

    def add_roofs(self, roofs: Roofs) -> None:
        """Keep a measurement of the device's ceilings."""
        self.add_runs((replace(self._run, roofs=(roofs,)),))

    def add_runs(self, runs: Iterable[Run]) -> None:
        """Keep what other runs of this environment say: roofs, commands, grids, skips."""
        union = _union(self._run, *runs)
        if union != self._run:
            self._write_run(union)

    def _open(self) -> None:
        run = _read_run(self.path)
        rows, _, end, _ = _read_rows(self.path)
        if run is None and rows:
            raise InvalidFileError(
                f"{self.path} holds rows, but no {RUN_FILE} that says what they belong to.",
                hint="write to another folder (-o).",
            )
        if run is not None:
            _refuse_other_environment(self.path, run, self._asked)
        with storing(self.path):
            os.ftruncate(self._fd, end)
        self._size = end
        self._rows = rows
        if run is None:
            self._write_run(self._asked)
        else:
            self._run = run
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
    rows: dict[RowKey, Row] = {}
    for source in sources:
        for row in source.rows:
            _put(rows, row)
    with Writer(output, first.environment, provenance=first.provenance) as writer:
        writer.add_runs(source.run for source in sources)
        writer.extend(row for key, row in rows.items() if writer.done.get(key) != row)
    return load(output)


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


def _read_run(folder: Path) -> Run | None:
    path = folder / RUN_FILE
    if not path.exists():
        return None
    return decode_run(read_bytes(path, limits.RUN_BYTES), where=str(path))


def _read_rows(folder: Path) -> tuple[dict[RowKey, Row], tuple[Damage, ...], int, int]:
    """One row for each task and round, damaged lines, where whole lines end, bytes after that."""
    path = folder / POINTS_FILE
    rows: dict[RowKey, Row] = {}
    damages: list[Damage] = []
    end = torn_bytes = 0
    if not path.exists():
        return rows, (), 0, 0
    with opened(path, limits.POINTS_BYTES) as file:
        for number, (line, num_bytes) in enumerate(_lines(file), 1):
            if not line.endswith(b"\n"):
                torn_bytes = num_bytes
                break
            end += num_bytes
            try:
                _put(rows, decode_row(line[:-1]))
            except InvalidFileError as error:
                damages.append(Damage(number, error.message))
    return rows, tuple(damages), end, torn_bytes


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Lines with their newlines, and their length; of one longer than any row only the beginning.

    So the memory is bounded where a file is no text: all zeros, say.
    """
    while line := file.readline(MAX_LINE_BYTES + 2):
        num_bytes, piece = len(line), line
        while len(piece) == MAX_LINE_BYTES + 2 and not piece.endswith(b"\n"):
            piece = file.readline(MAX_LINE_BYTES + 2)
            num_bytes += len(piece)
        is_whole = piece.endswith(b"\n") and piece is not line
        yield (line + b"\n" if is_whole else line), num_bytes


def _put(rows: dict[RowKey, Row], row: Row) -> None:
    """Take a row in, unless the one of its task and round that is there stands before it."""
    key = (row.task.key, row.round_index)
    there = rows.get(key)
    if there is None or _standing(row) < _standing(there):
        rows[key] = row


def _standing(row: Row) -> tuple[int, float, str]:
    match row:
        case Measurement() | Estimate():
            started_at_s = row.started_at_s if isinstance(row, Measurement) else 0.0
            return 0, started_at_s, repr(row)
        case Failure():
            return 1, -row.started_at_s, repr(row)


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, _BATCH_ROWS)):
        yield batch


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
