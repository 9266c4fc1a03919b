"""Reading within bounds, and writing whole or not at all."""

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from medusa_bench.base import files, limits
from medusa_bench.base.errors import InvalidFileError, StorageError


def test_a_regular_file_within_its_bound_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfabc")
    assert files.read_bytes(tmp_path / "a", 6) == b"\xef\xbb\xbfabc"
    assert files.read_text(tmp_path / "a", 6) == "abc"
    with pytest.raises(InvalidFileError, match="over 5 bytes"):
        files.read_bytes(tmp_path / "a", 5)


def test_a_sparse_file_is_refused_by_its_size_unread(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InvalidFileError, match="over 64 MiB"):
        files.read_bytes(tmp_path / "a", limits.RUN_BYTES)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "pipe", "no regular file"),
        (Path("/dev/zero"), "no regular file"),
        (tmp_path, "folder"),
        (tmp_path / "none", "No such file"),
        (Path("a\0b"), "null"),
    ):
        with pytest.raises(InvalidFileError, match=words):
            files.read_bytes(path, 100)


def test_a_file_that_says_it_is_empty_is_bounded_all_the_same() -> None:
    path = Path("/proc/self/mountinfo")
    if not path.exists() or path.stat().st_size:
        pytest.skip("only /proc on Linux has files whose size reads 0 and that are not empty")
    with pytest.raises(InvalidFileError, match="over 10 bytes"):
        files.read_bytes(path, 10)


def test_text_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(InvalidFileError, match="not valid UTF-8"):
        files.read_text(tmp_path / "a", 10)


def test_writing_leaves_nothing_else_beside_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"untouched")
    (tmp_path / "link").symlink_to("target")
    files.write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "target").read_bytes() == b"untouched"
    assert not (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]
    mask = os.umask(0o022)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "link").stat().st_mode) == 0o666 & ~mask


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_whole(tmp_path / "a", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        files.write_whole(tmp_path / "a", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_two_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([letter]) * 100_000 for letter in b"ab"]

    def write(content: bytes) -> None:
        for _ in range(20):
            files.write_whole(tmp_path / "a", content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("count", "words"), [(16 << 10, "16 KiB"), (8 << 30, "8 GiB"), (5, "5 bytes")]
)
def test_limits_are_said_as_people_write_them(count: int, words: str) -> None:
    assert limits.in_words(count) == words
