"""`medusa-bench profiles`: what it prints, and how it refuses."""

import json
from pathlib import Path

import pytest

from medusa_bench.base.files import shipped
from medusa_bench.cli import run
from medusa_bench.specs import profiles as gpu_profiles


def test_bare_profiles_lists_every_profile_within_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["profiles"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()[1:-1]]
    assert [row[0] for row in rows] == gpu_profiles.names()
    assert "a40 149.7 74.8 - 37.4 696 48 6 84 300".split() in rows
    assert max(map(len, out.splitlines())) <= 80
    assert run(["profiles", "list"]) == 0
    assert capsys.readouterr().out == out


def test_list_as_json_holds_the_figures_in_si_units(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profiles", "--json"]) == 0
    profiles = {profile["name"]: profile for profile in json.loads(capsys.readouterr().out)}
    assert profiles["a6000"]["peak_flops_per_s"]["float16"] == pytest.approx(154.8e12)
    assert profiles["a6000"]["density"] == "dense"


def test_show_prints_source_names_and_ridge_points(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profiles", "show", "a100-80gb-pcie"]) == 0
    out = capsys.readouterr().out
    for word in ("NVIDIA A100 80GB PCIe", "108, tensor peaks at 1410 MHz", "datasheet", "40 MiB"):
        assert word in out
    assert "161.2 FLOP/byte" in out


def test_json_may_stand_before_or_after_the_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profiles", "--json", "show", "l4"]) == 0
    before = capsys.readouterr().out
    assert run(["profiles", "show", "l4", "--json"]) == 0
    assert json.loads(before) == json.loads(capsys.readouterr().out)


def test_check_of_all_shipped_profiles_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profiles", "check"]) == 0
    assert capsys.readouterr().out.count(": holds") == len(gpu_profiles.names())


def test_check_refuses_a_sparse_figure_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (shipped("profiles") / "a6000.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("\nfloat16 = 154.8", "\nfloat16 = 309.7"))
    assert run(["profiles", "check", str(path)]) == 1
    captured = capsys.readouterr()
    assert "309.7 is stated, but 84 SMs x 1800 MHz x 1024 FLOPs make 154.8" in captured.out
    assert "structured sparsity" in captured.out
    assert run(["profiles", "check", str(path), "--json"]) == 1
    ((finding,),) = [entry["findings"] for entry in json.loads(capsys.readouterr().out)]
    assert finding["field"] == "peak_tflop_per_s.float16"
    assert run(["profiles", "show", str(path)]) == 1
    assert "sparsity" in capsys.readouterr().err


def test_an_unknown_profile_is_an_error_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("show", "check"):
        assert run(["profiles", verb, "h100"]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "No profile named 'h100'" in captured.err
        assert "h100-sxm" in captured.err
