"""The experiment of `make evidence` fits its budget, whatever a step does, on a GPU too."""

import ast
import json
import shlex
import sys
import tarfile
from pathlib import Path

import click
import pytest

from medusa_bench import cli
from tests.builders.fakes import FakeClock
from tools import evidence
from tools.evidence import Ended, Step


def all_steps(folder: Path, *, on_cpu: bool) -> list[Step]:
    return [
        *evidence.smoke(folder, on_cpu=on_cpu),
        *evidence.main_part(folder, on_cpu=on_cpu),
        *evidence.afterwards(folder),
    ]


def measured(folder: Path) -> list[Step]:
    return [*evidence.smoke(folder, on_cpu=False), *evidence.main_part(folder, on_cpu=False)]


@pytest.mark.parametrize("on_cpu", [True, False])
def test_every_command_is_one_that_is_understood(on_cpu: bool, tmp_path: Path) -> None:
    steps = all_steps(tmp_path / "a folder", on_cpu=on_cpu)
    assert len({step.name for step in steps}) == len(steps) > 7
    for folder in ("grid", "grid-again"):
        (tmp_path / "a folder" / folder).mkdir(parents=True)
    for step in steps:
        program, *arguments = step.arguments(60.0)
        assert program == evidence.MEDUSA_BENCH  # nothing that a plain torch machine lacks
        group: click.Command | None = cli.group
        while isinstance(group, click.Group):
            name, *arguments = arguments
            group = group.get_command(click.Context(group), name)
        assert group is not None, step.command
        group.make_context(group.name, arguments)  # a usage error where it is not


def test_no_step_on_the_machine_needs_what_a_plain_torch_machine_lacks() -> None:
    # Its packages, and what comes with transformers; the standard library beside them.
    known = {*sys.stdlib_module_names, "medusa_bench", "tools", "torch", "transformers", "numpy"}
    known |= {"click", "rich", "pandas", "pynvml", "safetensors", "huggingface_hub", "pyarrow"}
    known |= {"msgspec"}  # where it is not, lines are read without it: tests/results/test_columns
    package = evidence.ROOT / "medusa_bench"
    files = [evidence.ROOT / "tools" / "evidence.py", evidence.ROOT / "tools" / "readme.py"]
    for floor in (
        "base",
        "specs",
        "results",
        "measure",
        "predict",
        "decode/engine",
        "decode/study",
    ):
        files += (package / floor).glob("*.py")
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Import(names=names):
                    imported = {name.name.partition(".")[0] for name in names}
                case ast.ImportFrom(module=str(module), level=0):
                    imported = {module.partition(".")[0]}
                case _:
                    continue
            assert imported <= known, file


class Machine:
    """Runs no command: each takes its whole limit, or what it is said to take."""

    def __init__(self, clock: FakeClock, takes_s: float | None = None, exit_code: int = 0) -> None:
        self.clock, self.takes_s, self.exit_code = clock, takes_s, exit_code
        self.commands: list[str] = []

    def __call__(self, arguments: list[str], limit_s: float) -> Ended:
        self.commands.append(shlex.join(arguments))
        takes_s = limit_s + 3 if self.takes_s is None else self.takes_s
        self.clock.now_s += takes_s
        return Ended(self.exit_code, "{}", "it fell over", cut=takes_s > limit_s)


@pytest.mark.parametrize("takes_s", [None, 20.0])
@pytest.mark.parametrize("budget_s", [200.0, 900.0])
def test_the_whole_experiment_fits_its_budget(
    budget_s: float, takes_s: float | None, tmp_path: Path
) -> None:
    clock = FakeClock()
    machine = Machine(clock, takes_s)
    good = evidence.run_all(measured(tmp_path), tmp_path, budget_s, clock=clock, execute=machine)
    assert clock.now_s <= budget_s
    assert good is (takes_s is not None and budget_s == 900.0)
    if budget_s == 900.0:
        assert len(machine.commands) == len(measured(tmp_path))  # each gets its turn


def test_every_step_that_fails_leaves_the_others_running_and_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "card"
    folder.mkdir()
    clock = FakeClock()
    machine = Machine(clock, 1.0, exit_code=1)
    steps = measured(folder)
    assert not evidence.run_all(steps, folder, 900.0, clock=clock, execute=machine)
    assert len(machine.commands) == len(steps)
    for step in steps:
        text = step.file(folder).with_suffix(".failed").read_text()
        assert "exit code 1\nit fell over" in text
    rows = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    assert [(row["step"], row["done"]) for row in rows] == [(step.name, False) for step in steps]
    with tarfile.open(tmp_path / "card.tar.gz") as archive:
        assert f"card/{steps[-1].name}.failed" in archive.getnames()
    # The same command does what is missing, and only that.
    evidence.run_all(steps, folder, 900.0, clock=clock, execute=Machine(clock, 1.0))
    idle = Machine(clock, 1.0)
    assert evidence.run_all(steps, folder, 900.0, clock=clock, execute=idle)
    assert idle.commands == []


@pytest.mark.parametrize(
    ("command", "exit_code", "good"),
    [
        ("sweep", 3, True),
        ("sweep", 4, True),
        ("sweep", 1, False),
        ("results diff a b", 7, True),
        ("predict", 3, False),
    ],
)
def test_points_that_failed_and_a_sweep_stopped_in_time_are_results(
    command: str, exit_code: int, good: bool
) -> None:
    assert Step("a", f"medusa-bench {command}", 60).is_good(exit_code) is good


def test_a_sweep_stops_by_itself_before_its_limit(tmp_path: Path) -> None:
    step = next(evidence.main_part(tmp_path, on_cpu=False))
    assert "190s" in step.arguments(step.limit_s)


def test_a_command_is_run_and_one_beyond_its_limit_is_cut(tmp_path: Path) -> None:
    good = Step("good", f"{evidence.MEDUSA_BENCH} profiles check", 60)
    assert evidence.run(good, tmp_path, 60)
    assert (tmp_path / "good.txt").read_text().startswith("$ medusa-bench profiles check\n")
    endless = Step("endless", "python -c 'import time; time.sleep(600)'", 0.2)
    assert not evidence.run(endless, tmp_path, 0.2)
    assert "cut after 0 s" in (tmp_path / "endless.failed").read_text()


@pytest.mark.parametrize(("text", "expected"), [("15min", 900.0), ("90s", 90.0)])
def test_a_budget_is_a_time(text: str, expected: float) -> None:
    assert evidence.seconds(text) == expected


@pytest.mark.parametrize("options", [(), ("--figures",), ("--part", "smoke")])
def test_a_dry_run_prints_every_step_with_its_limit_and_makes_nothing(
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "cpu"
    monkeypatch.setattr(sys, "argv", ["evidence", str(folder), "--dry-run", *options])
    assert evidence.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(" s  medusa-bench " in line and "{" not in line for line in lines)
    assert ("explain" in lines[-1]) is ("--figures" in options)
    assert not folder.exists()


def test_a_folder_must_be_named_and_a_budget_be_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([], ["folder", "--budget", "soon"]):
        monkeypatch.setattr(sys, "argv", ["evidence", *arguments])
        with pytest.raises(SystemExit, match="2"):
            evidence.main()
    assert "'soon' is no time" in capsys.readouterr().err
