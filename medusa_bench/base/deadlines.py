"""A bound on the time of calls into libraries that have none of their own."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def within(seconds: float, error: BaseException) -> Iterator[None]:
    """Raise the error where the block takes longer.

    By the system's alarm, so it stops a loop of another's program too. Without a bound outside of
    the main thread and on systems that have no alarm.
    """
    if not hasattr(signal, "setitimer") or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def stop(_number: int, _frame: object) -> None:
        raise error

    handler = signal.signal(signal.SIGALRM, stop)
    running = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *running)
        signal.signal(signal.SIGALRM, handler)
