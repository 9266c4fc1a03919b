"""The command line as a whole: what it loads, how it fails."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from medusa_bench import cli
from medusa_bench.base.errors import ExitCode
from medusa_bench.cli import COMMANDS
from medusa_bench.specs import models
from tests.builders import samples
from tests.builders.results import fake_results

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


NOTE = "the vision model is left out"
NOTED = str(Path(__file__).parents[1] / "fixtures/sees-images")
GRID = ("-m", NOTED, "--operator", "up", "--phase", "decode", "-b", "1", "-s", "128")
OF_A_MODEL = [
    ("operators", "-m", NOTED, "-b", "1", "-s", "128"),
    ("sweep", *GRID, "--dry-run", "--device", "a40"),
    ("predict", *GRID, "--gpu", "a40"),
    ("compare", "-m", NOTED, "--gpu", "a40", "-b", "1"),
    ("schedule", "-m", NOTED, "--draft", "tinyllama-1b", "--max-batch-size", "1"),
    ("tree", "-m", NOTED, "--gpu", "a40", "-q", "8"),
    ("cliffs", "-m", NOTED, "--operator", "up", "--gpu", "a40"),
]


@pytest.mark.parametrize("arguments", OF_A_MODEL, ids=lambda arguments: arguments[0])
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "JSON"])
def test_every_command_says_what_is_left_out_of_a_model(
    arguments: tuple[str, ...], form: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*arguments, *form]) == ExitCode.OK
    said = capsys.readouterr()
    assert NOTE in " ".join((said.out if form else said.out + said.err).split())


@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "mistral-7b", "deepseek-v3", "gemma-3-4b"])
def test_results_of_todays_models_are_kept_and_shown(model: str, tmp_path: Path) -> None:
    """Predicted without naming an operator, then read by what reads results; no draft is known."""
    kept, page = str(tmp_path / "kept"), tmp_path / "page.html"
    grid = ("-m", model, "--phase", "decode", "-b", "1,8", "-s", "128")
    assert cli.run(["predict", "--gpu", "h100-sxm", *grid, "-o", kept]) == ExitCode.OK
    for command in ("results show", "roofline --text", "cliffs", "results export"):
        assert cli.run([*command.split(), kept]) == ExitCode.OK
    assert cli.run(["report", kept, "-o", str(page)]) == ExitCode.OK
    assert model in page.read_text()


@pytest.mark.parametrize(
    "arguments",
    [("results", "show", "{}"), ("roofline", "{}"), ("cliffs", "{}"), ("explain", "{}")],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "JSON"])
def test_what_is_left_out_of_a_model_stays_with_its_results(
    arguments: tuple[str, ...],
    form: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    grid = replace(samples.GRID, shapes=(models.load(NOTED),), batch_sizes=(1, 64))
    fake_results(tmp_path, grid)
    assert cli.run([each.replace("{}", str(tmp_path)) for each in (*arguments, *form)]) == 0
    said = capsys.readouterr()
    if arguments[0] == "cliffs" and form:
        return  # one row a step, and this device has none
    assert NOTE in " ".join((said.out if form else said.out + said.err).split())
