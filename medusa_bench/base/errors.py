"""What can go wrong in a way that the user can mend, and the exit code a script sees for it."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every command. docs/commands.md documents them from these lines."""

    OK = 0, "all that was asked for was done (points that do not fit in memory are listed)"
    ERROR = 1, "an error with a hint: a wrong name, a damaged file, another environment"
    USAGE = 2, "the command line is wrong"
    POINTS_FAILED = (
        3,
        "the sweep finished, but some points failed; each is recorded with its reason",
    )
    UNFINISHED = 4, "stopped at --max-time; the same command goes on"
    BUSY = 5, "another process is writing to this results folder"
    STORAGE = 6, "the results cannot be written: disk full or read-only; earlier rows are intact"
    SLOWER = 7, "`results diff`: at least one point is slower"
    INTERRUPTED = 130, "stopped by Ctrl-C; the same command goes on"

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class MedusaBenchError(Exception):
    """Something the user can mend: one sentence on what happened, and a hint on what to do."""

    exit_code = ExitCode.ERROR

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


_FEW = 25  # names that a hint lists whole beside the near ones


class UnknownNameError(MedusaBenchError):
    """A name that is in no list we have; the hint names the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, see: str = "") -> None:
        known = list(known)
        within = [each for each in known if name and name.lower() in each]
        alike = [each for each in known if len(name) > 3 and each.startswith(name[:4].lower())]
        close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
        near = list(dict.fromkeys(within + close[:1] * (not within) + alike + close))[:3]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        if see or not near or len(known) <= _FEW:
            hint += see or f"known: {', '.join(known)}."
        super().__init__(f"No {kind} named {name[:80]!r}.", hint=hint)


class InvalidFileError(MedusaBenchError):
    """A file whose content we refuse, with the place in it."""


class UnsupportedModelError(MedusaBenchError):
    """A model whose block is not the one in the operator table; the message names what is not."""


class EnvironmentMismatchError(MedusaBenchError):
    """Results of another device, driver or library version; both values are in the message."""


class BusyError(MedusaBenchError):
    """Another process holds the lock on this results folder."""

    exit_code = ExitCode.BUSY


class StorageError(MedusaBenchError):
    """The disk is full, read-only or gone."""

    exit_code = ExitCode.STORAGE


@contextmanager
def told_as(what: str, *, hint: str | None = None) -> Iterator[None]:
    """Turn whatever a library raises on a file of others into one sentence: `what`: reason.

    For calls into libraries that name no set of errors: a damaged model or tokenizer ends in any.
    Raises InvalidFileError; our own errors and Ctrl-C pass.
    """
    try:
        yield
    except MedusaBenchError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        reason = lines[0][:200].rstrip(".") or type(error).__name__
        raise InvalidFileError(f"{what}: {reason}.", hint=hint) from None
