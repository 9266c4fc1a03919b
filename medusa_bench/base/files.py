"""Files: written whole or not at all, or a sentence why not; and those shipped."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medusa_bench.base.errors import StorageError

_PACKAGE = Path(__file__).resolve().parents[1]


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


def write_whole(path: Path, content: bytes) -> None:
    """`replace_file` in a folder that is made where there is none. Raises StorageError."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader, and a crash, sees the old or the new one as a whole.

    Raises OSError.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def shipped(relative: str) -> Path:
    """The path of a shipped file or folder, given as in the repository ("profiles")."""
    in_wheel = _PACKAGE / "_data" / relative
    return in_wheel if in_wheel.exists() else _PACKAGE.parent / relative
