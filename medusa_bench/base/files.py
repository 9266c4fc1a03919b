"""Files: read within bounds, written whole or not at all, or a sentence why not."""

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from medusa_bench.base import limits
from medusa_bench.base.errors import InvalidFileError, StorageError

_PACKAGE = Path(__file__).resolve().parents[1]


@contextmanager
def opened(path: Path, max_bytes: int, *, hint: str = "") -> Iterator[BinaryIO]:
    """A regular file of at most max_bytes, open for reading bytes.

    Pipes, devices and folders are refused without waiting for them. Raises InvalidFileError, which
    names the path and has `hint`, also where reading fails later.
    """
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to waits for ever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
                raise InvalidFileError(f"{path} cannot be read: it is {what}.", hint=hint)
            if status.st_size > max_bytes:
                raise InvalidFileError(
                    f"{path} is over {limits.in_words(max_bytes)}, the most that is read of such "
                    "a file.",
                    hint=hint,
                )
            yield file
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidFileError(f"{path} cannot be read: {reason}.", hint=hint) from None


def read_bytes(path: Path, max_bytes: int, *, hint: str = "") -> bytes:
    """All of a regular file, at most max_bytes. Raises InvalidFileError as `opened` does."""
    with opened(path, max_bytes, hint=hint) as file:
        content = file.read(max_bytes + 1)
        if len(content) > max_bytes:  # it grew meanwhile, or lies about its size as in /proc
            raise InvalidFileError(f"{path} is over {limits.in_words(max_bytes)}.", hint=hint)
        return content


def read_text(path: Path, max_bytes: int, *, hint: str = "") -> str:
    """The same as UTF-8 text, without a byte order mark. Raises InvalidFileError."""
    try:
        return read_bytes(path, max_bytes, hint=hint).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidFileError(f"{path} is not valid UTF-8 text.", hint=hint) from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's refusal into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="make room, or choose another place (-o), and repeat the command.",
        ) from None


def write_whole(path: Path, content: bytes | Iterable[bytes]) -> None:
    """`replace_file` in a folder that is made where there is none. Raises StorageError."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)


def replace_file(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file so that a reader, and a crash, sees the old or the new one as a whole.

    By way of a file of another name beside it, so that two writers do not disturb each other. A
    link at `path` is replaced, not followed. Raises OSError.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines((content,) if isinstance(content, bytes) else content)
            file.flush()
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, 0o666 & ~_umask())
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
    _sync_folder(path.parent)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """So that the new name survives a power cut. Windows has no such call."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shipped(relative: str) -> Path:
    """The path of a shipped file or folder, given as in the repository ("profiles")."""
    in_wheel = _PACKAGE / "_data" / relative
    return in_wheel if in_wheel.exists() else _PACKAGE.parent / relative
