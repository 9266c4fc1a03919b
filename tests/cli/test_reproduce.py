"""`medusa-bench reproduce`: what it prints and writes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medusa_bench import cli
from medusa_bench.base.errors import ExitCode
from medusa_bench.paper import reproduction
from medusa_bench.paper.figures import figures
from medusa_bench.report import style
from medusa_bench.results import folders
from medusa_bench.specs.settings import Phase
from tests.builders.samples import ENVIRONMENT, GRID, measured, tasks
from tests.cli.test_cli import modules_after

QUICK = ("--seeds", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reproduction")
    assert cli.run(["reproduce", *QUICK, "-o", str(path), "--format", "svg"]) == ExitCode.OK
    return path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(["reproduce", *QUICK, *arguments]) == ExitCode.OK
    return capsys.readouterr().out


def test_one_command_prints_the_paper_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    for words in (
        "168 of 168 equal ours",
        "160 distinct",
        "44.2x FLOP/s and 41.4x intensity as printed",
        "printed overhead 1.23, its own rates give 1.240",
        "1 + 0.477 ln(candidates), our reading of the paper",
        'G.3 REPRODUCED: "However, beyond 64, the speedup starts to decline"',
        'G.3 DIFFERS: "when the batch size exceeds 32',
    ):
        assert words in text


def test_the_form_of_acceptance_is_printed_wherever_it_matters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert printed(capsys).count("1 + 0.477 ln(candidates), our reading of the paper") >= 4
    assert cli.run(["reproduce", *QUICK, "--acceptance", "printed"]) == ExitCode.OK
    captured = capsys.readouterr()
    assert captured.out.count("0.477 ln(candidates), as the paper prints it") >= 4
    assert "our reading of the paper" not in captured.out
    assert "every step yields at least 1" in captured.err


def test_json_is_one_document_with_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    document: dict[str, Any] = json.loads(printed(capsys, "--json"))
    assert document["intensities"] == {"rows": 168, "equal": 168}
    assert document["distinct_cells"] == 160
    assert [gain["claimed"] for gain in document["gains"]] == [44, 41]
    assert len(document["cells"]) == 168
    assert {finding["verdict"] for finding in document["findings"]} <= {
        "reproduced", "differs", "not reproduced", "not tested"
    }  # fmt: skip


def test_markdown_holds_every_cell_and_shows_every_figure(folder: Path) -> None:
    text = (folder / "reproduction.md").read_text()
    _, cells = text.split("## Tables 6 to 8, cell by cell")
    starts = ("| 6 |", "| 7 |", "| 8 |")
    assert sum(line.startswith(starts) for line in cells.splitlines()) == 168
    for number in range(18, 24):
        assert f"![Figure {number}](figure-{number}.svg)" in text
        assert (folder / f"figure-{number}.svg").stat().st_size > 10_000
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_figures_say_which_form_and_mark_what_was_read_off(folder: Path) -> None:
    for number in (21, 22, 23):
        text = (folder / f"figure-{number}.svg").read_text()
        assert "0.477 ln(candidates)" in text
        assert "read off" in text
    text = (folder / "figure-18.svg").read_text()
    assert "half: reported" in text
    assert "hollow: predicted" in text


def test_measured_latencies_join_the_figures_of_every_batch_size(tmp_path: Path) -> None:
    asked = replace(
        GRID, phases=(Phase.DECODE, Phase.MEDUSA), batch_sizes=(1, 64), seq_lens=(1024,)
    )
    with folders.Writer(tmp_path / "user", ENVIRONMENT, asked) as writer:
        writer.extend(measured(task) for task in tasks(asked))
    results = folders.load(tmp_path / "user")
    ours = reproduction.reproduce([results], num_seeds=1)
    assert {row.batch_size for row in ours.measured_speedups} == {1, 64}
    with style.applied():
        drawn = figures(ours, [results])[22]()
    (axes,) = drawn.axes
    full = [
        line
        for line in axes.lines
        if line.get_fillstyle() == "full" and line.get_marker() != "None"
    ]
    at_16 = float(ours.measured_speedups[1].speedup)
    heights = [height for line in full for height in line.get_ydata()]
    assert heights.count(at_16) == 2  # every call takes the same time: batch sizes 1 and 64 alike


def test_written_json_is_the_printed_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = json.loads((folder / "reproduction.json").read_text())
    assert written == json.loads(printed(capsys, "--json"))


def test_files_are_the_same_twice(folder: Path, tmp_path: Path) -> None:
    assert cli.run(["reproduce", *QUICK, "-o", str(tmp_path), "--format", "svg"]) == ExitCode.OK
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_reported_results_in_place_of_measured_ones_are_an_error_with_a_hint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["reproduce", *QUICK, "results/paper"]) == ExitCode.ERROR
    said = capsys.readouterr().err
    assert "Error: " in said
    assert "Hint: " in said


def test_folder_that_cannot_be_written_is_a_storage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "below"
    assert cli.run(["reproduce", *QUICK, "-o", str(output)]) == ExitCode.STORAGE
    assert "cannot be written" in capsys.readouterr().err


def test_printing_loads_neither_torch_nor_matplotlib() -> None:
    loaded = modules_after("reproduce", *QUICK, "--json")
    assert loaded & {"torch", "transformers", "pandas", "matplotlib"} == set()
