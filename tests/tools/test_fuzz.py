"""Damaged files end in a sentence: a sample of what `make fuzz` reads."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from medusa_bench.base.errors import ExitCode
from tools import fuzz

COUNT = 400
KINDS = tuple(fuzz.quick_kinds())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.replace(" ", "-"))
def test_damaged_files_end_in_a_sentence(kind: fuzz.Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "LIMIT_S", 60)  # time is judged by `make fuzz`, on a quiet machine
    assert not fuzz.read_mutants(kind, 0, range(COUNT))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.replace(" ", "-"))
def test_whole_files_are_read(kind: fuzz.Kind, tmp_path: Path) -> None:
    fuzz.lay(kind, tmp_path)
    for read in kind.readers:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = read(tmp_path)
        assert not isinstance(code, int) or code == ExitCode.OK


def test_a_mutant_is_made_again_by_its_name() -> None:
    kind = KINDS[0]
    once, again = ([fuzz.damaged(kind, 3, number) for number in range(50)] for _ in range(2))
    assert once == again
    assert len({content for content, _ in once}) > 40


def crash(_folder: Path) -> NoReturn:
    raise AttributeError("of a library")


def show_escape(_folder: Path) -> None:
    print("\x1b[2J")


def end_otherwise(_folder: Path) -> int:
    return 9


def loop(_folder: Path) -> NoReturn:
    while True:
        pass


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (crash, "AttributeError: of a library"),
        (show_escape, r"showed ['\x1b']"),
        (end_otherwise, "ended with 9"),
        (loop, "took over"),
    ],
)
def test_what_breaks_a_promise_is_found(
    read: Callable[[Path], object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "LIMIT_S", 1)
    assert said in fuzz.judged(read, tmp_path)
