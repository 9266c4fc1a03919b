"""The command line as a whole: what it loads, how it fails."""

import errno
import os
import subprocess
import sys

import pytest

from medusa_bench import cli
from medusa_bench.base.errors import ExitCode
from medusa_bench.cli import COMMANDS

HEAVY = {"torch", "transformers", "pandas", "numpy", "matplotlib", "pynvml", "rich"}


def modules_after(*arguments: str) -> set[str]:
    """The top-level modules that a command line has loaded when it ends."""
    script = (
        "import sys\n"
        "from medusa_bench import cli\n"
        f"cli.run({list(arguments)!r})\n"
        "sys.stderr.write(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(argument: str) -> None:
    assert modules_after(argument) & HEAVY == set()


@pytest.mark.parametrize("arguments", [("sweep", "--dry-run", "--device", "a40", "-b", "1")])
def test_planning_loads_no_torch(arguments: tuple[str, ...]) -> None:
    assert modules_after(*arguments) & {"torch", "transformers", "pandas", "matplotlib"} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([name, "--help"]) == ExitCode.OK
    text = capsys.readouterr().out
    assert COMMANDS[name]
    assert f"medusa-bench {name}" in text


def test_unknown_command_is_a_usage_error_with_a_near_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["sweeps"]) == ExitCode.USAGE
    assert "Did you mean sweep?" in capsys.readouterr().err


def test_wrong_name_is_an_error_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["profiles", "show", "a100"]) == ExitCode.ERROR
    said = capsys.readouterr().err
    assert "Error: No profile named 'a100'." in said
    assert "Hint: did you mean a100-40gb" in said


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, ExitCode.STORAGE),
        (errno.EROFS, ExitCode.STORAGE),
        (errno.EACCES, ExitCode.ERROR),
    ],
)
def test_what_cannot_be_written_is_a_sentence_whichever_command_tries(
    number: int,
    code: ExitCode,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr(cli.group, "invoke", refuse)
    assert cli.run(["doctor"]) == code
    said = capsys.readouterr().err
    assert f"Error: some/file: {os.strerror(number)}." in said
    assert ("Hint: make room, or" in said) is (code is ExitCode.STORAGE)


def test_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m medusa_bench operators --json | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], check=False, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
