"""How far a long command is, on stderr: a bar with an ETA, or a line now and then in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from medusa_bench.cli import console

_LOG_INTERVAL_S = 15.0


class Advance:
    """Tells how much is done. `say` prints a line without breaking the bar."""

    def __init__(self, err: Console, advance: Callable[[float], None]) -> None:
        self._err = err
        self._advance = advance

    def __call__(self, amount: float) -> None:
        self._advance(amount)

    def say(self, line: str) -> None:
        self._err.print(line, markup=False)


@contextmanager
def progress(what: str, total: float) -> Iterator[Advance]:
    """A bar over `total` units of anything, for what may take over a second."""
    err = console.stderr()
    if not err.is_terminal:
        yield Advance(err, _Log(err, what, total).advance)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield Advance(err, lambda amount: bar.advance(task, amount))


@contextmanager
def busy(what: str) -> Iterator[None]:
    """A turning wheel with the seconds so far, for what may take over a second and tells no share;
    nothing where stderr is no terminal."""
    err = console.stderr()
    if not err.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as wheel:
        wheel.add_task(what, total=None)
        yield


class _Log:
    """Progress where no bar can be drawn: a line every 15 s."""

    def __init__(self, err: Console, what: str, total: float) -> None:
        self._err, self._what, self._total = err, what, total
        self._done = 0.0
        self._start_s = self._said_s = time.monotonic()

    def advance(self, amount: float) -> None:
        self._done += amount
        now_s = time.monotonic()
        if now_s - self._said_s < _LOG_INTERVAL_S or not 0 < self._done < self._total:
            return
        self._said_s = now_s
        left_s = (now_s - self._start_s) * (self._total / self._done - 1)
        share = f"{100 * self._done / self._total:.0f} %"
        self._err.print(f"{self._what}: {share}, about {console.duration(left_s)} left")
