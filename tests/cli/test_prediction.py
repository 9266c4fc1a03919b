"""`predict`, `explain`, `cliffs` and `calibrate` on the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medusa_bench.base.errors import ExitCode
from medusa_bench.cli import run
from medusa_bench.predict import scoring
from medusa_bench.results import folders
from medusa_bench.results.rows import Provenance

POINT = ["-m", "llama-7b", "--operator", "up", "--phase", "decode", "-b", "1", "-s", "1024"]
SCORE_KEYS = [
    "rows", "mape", "median_ape", "p95_ape", "max_ape", "coverage_90", "roofline_mape",
]  # fmt: skip


def document(capsys: pytest.CaptureFixture[str], *args: str) -> object:
    assert run([*args, "--json"]) == ExitCode.OK
    captured = capsys.readouterr()
    return json.loads(captured.out)


def error(capsys: pytest.CaptureFixture[str], *args: str, code: int = ExitCode.ERROR) -> str:
    assert run(list(args)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def test_a_point_is_predicted_with_parts_that_sum(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = document(capsys, "predict", *POINT, "--gpu", "h100-sxm", "--explain")
    assert row["source"] == "calibrated: h100-sxm (aiconfigurator)"
    assert row["low_s"] < row["latency_s"] < row["high_s"]
    assert sum(row["parts"].values()) == pytest.approx(row["latency_s"], rel=0.01)
    assert row["bound"] == "memory"
    assert row["provenance"] == "predicted"


def test_lists_make_a_grid(capsys: pytest.CaptureFixture[str]) -> None:
    args = [*POINT[:-3], "1,4", "-s", "128..512", "--gpu", "l4", "--dtype", "float16,bfloat16"]
    rows = document(capsys, "predict", *args)
    assert len(rows) == 2 * 3 * 2
    assert all("family prior" in row["source"] for row in rows)


def test_the_table_names_the_source_and_explain_gives_shares(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["predict", *POINT, "--gpu", "a6000", "--explain"]) == ExitCode.OK
    text = capsys.readouterr().out
    assert "family prior: ampere, the chip of a40" in text
    assert "tiles" in text and "unexplained" in text


def test_one_point_is_predicted_without_torch_or_pandas() -> None:
    code = (
        "import sys; from medusa_bench.cli import run; "
        f"assert run({['predict', *POINT, '--gpu', 'h100-sxm']!r}) == 0; "
        "bad = {'torch', 'pandas', 'matplotlib', 'transformers', 'scipy'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_grid_is_written_as_a_sweep_marked_as_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["predict", "-m", "llama-7b", "--gpu", "a40", "-o", str(tmp_path / "p")]
    summary = document(capsys, *args)
    results = folders.load(tmp_path / "p")
    assert results.provenance is Provenance.PREDICTED
    assert results.environment.device == "NVIDIA A40"
    points = results.points()
    assert len(points) == summary["num_points"] == 3920
    missing = [each for each in points if each.summary is None]
    assert all("needs" in each.reason for each in missing)
    for each in points[::100]:
        if each.summary:
            assert each.summary.low_s < each.summary.latency_s < each.summary.high_s
            assert each.summary.source == "calibrated: a40 (vidur)"
    assert document(capsys, *args)["num_distinct"] == summary["num_distinct"]  # once more
    other = [*args, "--by", "roofline"]
    assert "other predictions" in error(capsys, *other)


def test_a_score_has_exactly_the_documented_keys(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "predict", "--against", "results/paper", "--calibrate-on", "12")
    assert list(found) == [*SCORE_KEYS, "groups"]
    assert found["rows"] == 148
    for scores in found["groups"].values():
        for score in scores.values():
            assert list(score) == SCORE_KEYS


def test_seeds_make_runs_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["predict", "--against", "results/paper", "--calibrate-on", "12", "--seed"]
    first, again, other = (document(capsys, *args, seed) for seed in ("3", "3", "4"))
    assert first == again != other


def test_a_table_is_scored_by_the_calibration_of_its_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    header = "dtype,batch,m,n,k,latency_us,gpu,source"
    path.write_text(f"{header}\nfloat16,1,1,4096,4096,25,a100_sxm,vidur\n")
    found = document(capsys, "predict", "--against", str(path))
    assert list(found["groups"]["predictor"]) == ["calibrated: a100-80gb-sxm (vidur)"]
    other = document(capsys, "predict", "--against", str(path), "--gpu", "NVIDIA L4")
    assert "family prior" in next(iter(other["groups"]["predictor"]))


def test_a_table_is_scored_as_the_time_that_it_is_said_to_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = "--operator q --phase decode -b 1 -s 1024 --dtype float16".split()
    asked = ["predict", "--gpu", "a100-80gb-pcie", "-m", "llama-7b", *grid, "--timing", "eager"]
    (row,) = document(capsys, *asked)
    path = tmp_path / "t.csv"
    latency_us = row["latency_s"] * 1e6
    path.write_text(f"dtype,m,n,k,latency_us\nfloat16,1,4096,4096,{latency_us}\n")
    scored = ["predict", "--against", str(path), "--gpu", "a100-80gb-pcie", "--timing"]
    assert document(capsys, *scored, "eager")["mape"] < 0.1
    assert document(capsys, *scored, "kernel")["mape"] > 10
    error(capsys, *scored, "both", code=ExitCode.USAGE)
    assert "holds no kernel times" in error(
        capsys, "predict", "--against", "results/paper", "--timing", "kernel"
    )


def test_a_bad_table_is_refused_with_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("dtype,m,n,k,latency_us\nfloat16,1,64,64,5\nfloat16,1,64,64,nan\n")
    assert "row 2: latency_us is 'nan'" in error(capsys, "predict", "--against", str(path))
    path.write_text("dtype,m,n,latency_us\n")
    assert "lacks the column k" in error(capsys, "predict", "--against", str(path))
    assert "No row has" in error(
        capsys, "predict", "--against", "results/paper", "--where", "model=x"
    )


@pytest.mark.parametrize(
    "args",
    [
        ["--calibrate-on", "3"],
        ["--against", "results/paper", "--calibrate-on", "3", "--leave-out", "gpu"],
        ["--against", "results/paper", "-o", "x"],
        ["--against", "results/paper", "--where", "model"],
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(
    capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    error(capsys, "predict", *args, code=ExitCode.USAGE)


def test_unknown_names_have_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Hint:" in error(capsys, "predict", *POINT, "--gpu", "a4000")
    assert "Hint:" in error(capsys, "explain", "nowhere")


def test_explain_says_it_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "results/paper", "-n", "3"]) == ExitCode.OK
    text = capsys.readouterr().out
    assert "attention points (eager time) lose" in text
    assert "use CUDA graphs" in text
    found = document(capsys, "explain", "results/paper")
    assert found["provenance"] == "reported"
    for point in found["points"]:
        assert sum(point["parts"].values()) == pytest.approx(point["latency_s"], rel=0.01)


def test_cliffs_of_results_and_of_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "cliffs", "results/paper")
    assert [each["rows"] for each in found] == [128, 384, 512]
    args = ["cliffs", "-m", "llama-7b", "--operator", "up", "--gpu", "a100-80gb-sxm"]
    predicted = document(capsys, *args)
    assert {128, 256} <= {each["rows"] for each in predicted}
    error(capsys, "cliffs", code=ExitCode.USAGE)


def test_a_table_is_calibrated_and_the_file_read_by_predict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "paper.json"
    found = document(capsys, "calibrate", "--from", "results/paper", "-o", str(path))
    assert found["num_points"] == 160
    assert found["parameters"]["launch_s"] == pytest.approx(33e-6, abs=3e-6)
    assert path.exists()


def test_the_accuracy_table_of_the_help_names_every_way_to_leave_out() -> None:
    from medusa_bench.cli.predict import command

    assert command.epilog is not None
    for way in scoring.LeaveOut:
        assert f"--leave-out {way}" in command.epilog
