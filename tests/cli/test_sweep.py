"""`medusa-bench sweep` from option to exit code, on a fake device."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medusa_bench import cli
from medusa_bench.base.errors import ExitCode
from medusa_bench.base.files import shipped
from medusa_bench.results import folders
from medusa_bench.results.rows import Task, Timing
from tests.builders.fakes import FakeBackend

GRID = "-m llama-7b -b 1,2 -s 128 -q 1,16 --timing kernel".split()


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, FakeBackend], None]:
    """Make the machine one with that device."""

    def install(device: str, backend: FakeBackend | None = None) -> None:
        from medusa_bench.cli import sweep as command

        monkeypatch.setattr(command, "pick_device", lambda requested: requested or device)
        monkeypatch.setattr(command, "device_name", lambda _device: None)
        monkeypatch.setattr(command, "WorkerBackend", lambda *_args, **_options: backend)

    return install


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.run(["sweep", "--dry-run", "--json", *arguments]) == ExitCode.OK
    return json.loads(capsys.readouterr().out)


def test_the_papers_168_intensities_come_out_of_a_dry_run(
    on: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    on("cpu")
    plan = dry_run(
        capsys,
        *"-m llama-33b -b 1..64 -s 128..8192 -q 1,16..112:+16 --phase medusa".split(),
    )
    ours = {
        (row["operator"], row["batch_size"], row["seq_len"], row["num_candidates"]): row
        for row in plan["points"]
    }
    cells = 0
    path = shipped("results/paper") / "tables_6_7_8_llama33b_a100_80gb_pcie.csv"
    for cell in csv.DictReader(path.read_text().splitlines()):
        linear = cell["table"] == "table8_linear"
        for operator in ("up", "gate", "down") if linear else ("qk", "pv"):
            row = ours[
                operator,
                int(cell["batch_size"]),
                int(cell["seq_len"] or 128),
                int(cell["num_candidates"]),
            ]
            printed = float(cell["operational_intensity"])
            assert round(row["operational_intensity"], 2) == printed
            assert row["operational_intensity"] == row["flops"] / row["bytes_moved"]
        cells += 1
    assert cells == 168


def test_defaults_are_the_papers_grid_on_a_gpu(on: Any, capsys: pytest.CaptureFixture[str]) -> None:
    on("cuda")
    plan = dry_run(capsys)
    assert (plan["num_points"], plan["num_distinct"]) == (11_760, 2_835)
    assert len(plan["points"]) == 11_760
    models = Counter(row["model"] for row in plan["points"])
    assert models == {"llama-7b": 3920, "llama-13b": 3920, "llama-33b": 3920}
    assert plan["left_out"] == ""


def test_defaults_on_a_cpu_are_a_quick_grid_that_says_what_it_leaves_out(
    on: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    on("cpu")
    plan = dry_run(capsys)
    assert plan["num_distinct"] >= 150
    assert "llama-33b" in plan["left_out"]
    assert {row["dtype"] for row in plan["points"]} == {"float32"}


def test_dry_run_for_a_profile_says_what_does_not_fit_there(
    on: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    on("cpu")
    plan = dry_run(capsys, "--device", "a40", "--operator", "qk", "--phase", "prefill")
    skipped = [row for row in plan["points"] if row["skipped"]]
    assert skipped
    assert all(row["bytes_moved"] > 0.9 * 48 * 2**30 for row in skipped)
    assert all("GB for operands and result" in row["skipped"] for row in skipped)


def test_sweep_measures_reports_and_has_nothing_left_the_second_time(
    on: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = FakeBackend()
    on("cuda", backend)
    assert cli.run(["sweep", *GRID, "-o", "out"]) == ExitCode.OK
    first = capsys.readouterr()
    assert "Plan for Fake 1 TFLOP/s" in first.err
    assert "llama-7b" in first.out
    assert backend.closed
    num_calls = len(backend.calls)
    assert cli.run(["sweep", *GRID, "-o", "out"]) == ExitCode.OK
    assert len(backend.calls) == num_calls
    assert "Nothing is left to measure" in capsys.readouterr().err


def test_default_folder_is_named_for_device_and_date(on: Any) -> None:
    on("cuda", FakeBackend())
    assert cli.run(["sweep", *GRID]) == ExitCode.OK
    (folder,) = Path("results").iterdir()
    assert folder.name.startswith("fake-1-tflop-s-20")


def test_ctrl_c_keeps_what_was_measured_and_prints_the_command_that_goes_on(
    on: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    on("cuda", FakeBackend(interrupt_at=5))
    assert cli.run(["sweep", *GRID, "-o", "out"]) == ExitCode.INTERRUPTED
    said = capsys.readouterr().err
    assert f"Go on with: medusa-bench sweep {' '.join(GRID)} -o out" in said
    assert len(folders.load("out").rows) == 5


def test_command_to_go_on_names_the_folder_when_the_first_did_not(
    on: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    on("cuda", FakeBackend(interrupt_at=1))
    assert cli.run(["sweep", *GRID]) == ExitCode.INTERRUPTED
    (folder,) = Path("results").iterdir()
    assert f"-o {folder}" in capsys.readouterr().err


def test_failed_points_have_an_exit_code_and_are_tried_again_when_asked(
    on: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    on("cuda", FakeBackend())
    assert cli.run(["sweep", *GRID, "-o", "whole"]) == ExitCode.OK
    failing: set[Task] = {next(iter(folders.load("whole").summaries))}
    on("cuda", FakeBackend(failing=failing))
    assert cli.run(["sweep", *GRID, "-o", "out"]) == ExitCode.POINTS_FAILED
    assert "crashed" in capsys.readouterr().err
    healthy = FakeBackend()
    on("cuda", healthy)
    assert cli.run(["sweep", *GRID, "-o", "out"]) == ExitCode.POINTS_FAILED
    assert healthy.calls == []
    assert cli.run(["sweep", *GRID, "-o", "out", "--retry-failed"]) == ExitCode.OK
    assert {task for _, task in healthy.calls} == failing
    assert folders.load("out").failures == {}


def test_max_time_stops_with_its_own_exit_code(on: Any) -> None:
    on("cuda", FakeBackend())
    assert cli.run(["sweep", *GRID, "-o", "out", "--max-time", "0.000001ms"]) == ExitCode.UNFINISHED


def test_other_environment_is_refused_with_both_values(
    on: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    on("cuda", FakeBackend())
    cli.run(["sweep", *GRID, "-o", "out"])
    other = FakeBackend()
    other.environment = replace(other.environment, torch="9.9")
    on("cuda", other)
    assert cli.run(["sweep", *GRID, "-o", "out"]) == ExitCode.ERROR
    assert "torch 0.0 there, 9.9 here" in capsys.readouterr().err


def test_second_sweep_into_one_folder_is_refused_before_the_device_is_opened(
    on: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    on("cuda", FakeBackend())
    cli.run(["sweep", *GRID, "-o", "out"])
    on("cuda", None)
    with folders.Writer("out", FakeBackend.environment):
        assert cli.run(["sweep", *GRID, "-o", "out"]) == ExitCode.BUSY
    assert "Another process is writing to out" in capsys.readouterr().err


def test_shards_merge_into_the_whole(on: Any) -> None:
    on("cuda", FakeBackend())
    cli.run(["sweep", *GRID, "-o", "whole"])
    for index in (1, 2):
        cli.run(["sweep", *GRID, "-o", f"part{index}", "--shard", f"{index}/2"])
    assert cli.run(["results", "merge", "part1", "part2", "-o", "merged"]) == ExitCode.OK
    assert folders.load("merged").summaries == folders.load("whole").summaries


def test_both_timings_are_kept_apart(on: Any) -> None:
    on("cuda", FakeBackend())
    cli.run(["sweep", *GRID[:-2], "--timing", "both", "-o", "out"])
    timings = Counter(task.timing for task in folders.load("out").summaries)
    assert timings[Timing.KERNEL] == timings[Timing.EAGER] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("-m llama-8b", ExitCode.ERROR, "llama-3-8b"),
        ("--operator qq", ExitCode.ERROR, "did you mean"),
        ("-b 0", ExitCode.USAGE, "neither a whole number nor a range"),
        ("-s 8..1", ExitCode.USAGE, "runs from a larger number"),
        ("--shard 3/2", ExitCode.USAGE, "no part of a whole"),
        ("--max-time soon", ExitCode.USAGE, "no time with its unit"),
        ("--point-budget 50", ExitCode.USAGE, "no time with its unit"),
        ("--dry-run --device a100", ExitCode.ERROR, "a100-80gb-pcie"),
    ],
)
def test_wrong_options_get_one_sentence_and_the_right_exit_code(
    on: Any, capsys: pytest.CaptureFixture[str], arguments: str, code: int, message: str
) -> None:
    on("cpu", FakeBackend())
    assert cli.run(["sweep", *arguments.split()]) == code
    assert message in capsys.readouterr().err
