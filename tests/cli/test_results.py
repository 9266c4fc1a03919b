"""`medusa-bench results`, as a user calls it."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from medusa_bench import cli
from medusa_bench.base.errors import ExitCode
from medusa_bench.base.files import shipped
from medusa_bench.results import folders
from medusa_bench.results.flags import WORDS
from medusa_bench.results.points import EXPORT_COLUMNS
from medusa_bench.results.rows import Environment, Measurement, QualityFlag, Skip
from medusa_bench.specs import models
from tests.builders.samples import ENVIRONMENT, GRID, ROOFS, failed, measured, tasks

TASKS = tasks()
PAPER = str(shipped("results/paper"))


def folder(
    path: Path, factor: float = 1.0, environment: Environment = ENVIRONMENT, rounds: int = 2
) -> str:
    """All of GRID at 0.1 ms x factor but one failed, one skipped, one doubtful."""
    with folders.Writer(
        path, environment, GRID, "medusa-bench sweep", skips=[Skip(TASKS[1], "needs 99 GB")]
    ) as writer:
        writer.add_roofs(ROOFS)
        writer.append(failed(TASKS[0], reason="[red]no memory[/red]"))
        for index in range(rounds):
            writer.extend(measured(task, index, 1e-4 * factor) for task in TASKS[3:])
            doubtful = measured(TASKS[2], index, 1e-4)
            writer.append(replace(doubtful, flags=(QualityFlag.UNSTABLE,)))
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = cli.run(["results", *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_show_says_what_is_there_what_is_not_and_what_is_doubtful(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "show", folder(tmp_path / "a"))
    assert (code, err) == (ExitCode.OK, "")
    assert "Test Device: measured results" in out
    assert "driver 580.1" in out and "300 TFLOP/s float16; 2.00 TB/s" in out
    assert "without a number: out-of-memory: [red]no memory[/red]" in out
    assert "without a number: needs 99 GB" in out
    assert "unstable: the point's time budget ended" in out and "--point-budget" in out


def test_show_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "show", folder(tmp_path / "a"), "--json")
    document = json.loads(out)
    assert document["num_points"] == 96
    assert document["skipped"] == {"needs 99 GB": 1}
    assert document["num_tasks_with_number"] == len(TASKS) - 2
    assert [each["flag"] for each in document["flags"]] == ["unstable"]


def test_the_papers_tables_are_shown_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "results/paper")
    assert code == ExitCode.OK
    assert "reported results" in out and "376 of 376 logical points" in out


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_an_export_has_one_row_a_point_and_the_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    output = tmp_path / f"out.{form}"
    assert run(capsys, "export", folder(tmp_path / "a"), "-o", str(output))[0] == ExitCode.OK
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(output.read_text())))
    elif form == "json":
        rows = json.loads(output.read_text())
    else:
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(output).to_pylist()
    assert len(rows) == 96
    assert tuple(rows[0]) == EXPORT_COLUMNS
    first = next(row for row in rows if row["operator"] == "up" and row["latency_s"])
    assert first["device"] == "Test Device" and float(first["latency_s"]) == 1e-4
    assert float(first["flops"]) / 1e-4 == pytest.approx(float(first["flops_per_s"]))


def test_a_markdown_export_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "export", folder(tmp_path / "a"), "-f", "markdown")
    lines = out.splitlines()
    assert len(lines) == 98
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(EXPORT_COLUMNS) + 1}


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x"])
def test_text_that_a_spreadsheet_would_run_is_neutralised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    grid = replace(GRID, shapes=(replace(models.PRESETS["llama-7b"], name=name),))
    with folders.Writer(tmp_path / "a", ENVIRONMENT, grid):
        pass
    _, out, _ = run(capsys, "export", str(tmp_path / "a"))
    assert {row["model"] for row in csv.DictReader(io.StringIO(out))} == {"'" + name}


def test_parquet_without_pyarrow_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run(capsys, "export", PAPER, "-o", str(tmp_path / "a.parquet"))
    assert code == ExitCode.ERROR
    assert "pip install 'medusa-bench[parquet]'" in err


def test_parquet_to_the_terminal_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "export", PAPER, "-f", "parquet")[0] == ExitCode.USAGE


def test_an_output_that_cannot_be_written_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "export", PAPER, "-o", "/dev/null/a.csv")
    assert code == ExitCode.STORAGE and "/dev/null/a.csv cannot be written" in err


def test_merge_gives_the_union(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, part in (("a", TASKS[:20]), ("b", TASKS[10:])):
        with folders.Writer(tmp_path / name, ENVIRONMENT, GRID) as writer:
            writer.extend(measured(task) for task in part)
    names = [str(tmp_path / name) for name in "ab"]
    code, out, err = run(capsys, "merge", *names, "-o", str(tmp_path / "c"))
    assert code == ExitCode.OK
    assert "10 rows are of a task and round that another folder has too" in err
    assert f"{len(TASKS)} rows, from {len(TASKS) + 10} in 2 folders" in out
    assert len(folders.load(tmp_path / "c").summaries) == len(TASKS)


def test_merge_of_two_environments_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(ENVIRONMENT, torch="2.14.0")
    names = [folder(tmp_path / "a"), folder(tmp_path / "b", environment=other)]
    code, _, err = run(capsys, "merge", *names, "-o", str(tmp_path / "c"))
    assert code == ExitCode.ERROR
    assert "torch 2.14.0 there, 2.13.0 here" in err


@pytest.mark.parametrize(
    ("factor", "exit_code", "verdict"),
    [
        (1.0, ExitCode.OK, "same"),
        (1.1, ExitCode.SLOWER, "slower"),
        (0.9, ExitCode.OK, "faster"),
    ],
)
def test_diff_exits_7_only_where_a_point_is_slower(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    factor: float,
    exit_code: ExitCode,
    verdict: str,
) -> None:
    names = [folder(tmp_path / "a"), folder(tmp_path / "b", factor)]
    code, out, err = run(capsys, "diff", *names)
    changed = len(TASKS) - 3
    assert (code, err) == (exit_code, "")
    assert f"{changed + (factor == 1.0)} {verdict}" in out
    code, out, _ = run(capsys, "diff", *names, "--json")
    document = json.loads(out)
    assert code == exit_code
    assert document["counts"][verdict] == changed + (factor == 1.0)
    assert len(document["points"]) == len(TASKS) - 2


def test_diff_of_single_rounds_is_ambiguous(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [folder(tmp_path / "a", rounds=1), folder(tmp_path / "b", 1.5, rounds=1)]
    code, out, _ = run(capsys, "diff", *names)
    assert code == ExitCode.OK and f"{len(TASKS) - 3} ambiguous" in out


def test_diff_of_two_drivers_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = replace(ENVIRONMENT, driver="590.2")
    names = [folder(tmp_path / "a"), folder(tmp_path / "b", environment=other)]
    code, _, err = run(capsys, "diff", *names)
    assert code == ExitCode.OK and "driver: 580.1 before, 590.2 after" in err


def test_diff_with_nothing_in_common_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "diff", folder(tmp_path / "a"), PAPER)
    assert code == ExitCode.ERROR and "no point in common" in err


def test_verify_lists_damaged_lines_and_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = folder(tmp_path / "a")
    assert run(capsys, "verify", name, PAPER)[0] == ExitCode.OK
    points = tmp_path / "a" / folders.POINTS_FILE
    lines = points.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b'"round_index":0', b'"round_index":9')
    points.write_bytes(b"".join(lines))
    code, out, _ = run(capsys, "verify", name)
    assert code == ExitCode.ERROR
    assert "points.jsonl, line 5: the checksum does not match" in out
    code, out, _ = run(capsys, "verify", name, "--json")
    assert code == ExitCode.ERROR
    assert [each["line_number"] for each in json.loads(out)[0]["damaged"]] == [5]
    assert "damaged lines, left out: 1" in run(capsys, "show", name)[2]


def test_a_folder_without_results_is_an_error_with_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in (["show"], ["export"], ["verify"], ["diff", PAPER]):
        code, out, err = run(capsys, *verb, str(tmp_path))
        assert (code, out) == (ExitCode.ERROR, "")
        assert "is no results folder" in err and "Hint:" in err


def test_every_doubt_has_words_and_a_remedy() -> None:
    assert set(WORDS) == set(QualityFlag)
    assert all(means and remedy for means, remedy in WORDS.values())


def test_results_load_no_heavy_library() -> None:
    code = (
        "import sys; from medusa_bench import cli; cli.run(['results', 'show', 'results/paper']);"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib', 'pyarrow'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True)


def test_a_row_of_many_doubts_is_written_in_words(tmp_path: Path) -> None:
    rows = [Measurement(TASKS[0], 0, 1e-9, 1e-9, 1e-9, 1e-9, 1, flags=(QualityFlag.THROTTLED,))]
    with folders.Writer(tmp_path, ENVIRONMENT, GRID) as writer:
        writer.add_roofs(ROOFS)
        writer.extend(rows)
    point = folders.load(tmp_path).points()[0]
    assert point.flags == (QualityFlag.THROTTLED, QualityFlag.ABOVE_ROOF)


@pytest.mark.parametrize("form", ["npz", "parquet"])
def test_compact_seals_a_folder_and_verify_reads_its_lines(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with folders.Writer(tmp_path, ENVIRONMENT, GRID) as writer:
        writer.extend([measured(task) for task in TASKS])
    assert cli.run(["results", "compact", str(tmp_path), "-f", form]) == ExitCode.OK
    points = tmp_path / folders.POINTS_FILE
    said = capsys.readouterr().out
    assert f"{len(TASKS)} rows sealed, of the first {points.stat().st_size:,} bytes" in said
    points.write_bytes(points.read_bytes().replace(b"0.0001", b"0.0002", 1))
    assert cli.run(["results", "verify", str(tmp_path)]) == ExitCode.ERROR
    assert "damaged lines: 1" in capsys.readouterr().out


def test_compacting_what_holds_no_lines_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["results", "compact", "results/paper"]) == ExitCode.ERROR
    assert "holds no points.jsonl to seal" in capsys.readouterr().err


def test_table_is_of_families_and_ends_with_one_line_of_summary(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from medusa_bench.results import folders
    from tests.builders.results import fake_results

    results = fake_results(tmp_path / "fake")
    cli.run(["results", "show", str(results.path)])
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("model"))
    points = folders.load(results.path).points()
    families = {(each.point.operator.family, each.point.setting.phase) for each in points}
    rows = [line.split()[1:3] for line in lines[start + 1 : start + 1 + len(families)]]
    assert {(family, phase) for family, phase in rows} == families
    doubted = sum(bool(each.flags) for each in points if each.summary)
    said = f"{doubted:,} of " if doubted else "None is in doubt."
    assert lines[start + 1 + len(families)].startswith("Of the measured roof ")
    assert said in lines[start + 1 + len(families)]
