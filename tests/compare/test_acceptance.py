"""Acceptance models: their formulas, their inverses, their files."""

import json
import math
from pathlib import Path

import pytest

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError, UnknownNameError
from medusa_bench.compare import acceptance, acceptance_files
from medusa_bench.compare.acceptance import AcceptanceModel, Chain, LogLaw, Survival

ALL = ["paper", "printed", "log:0.3:2", "chain:0.8", "survival:0.8,0.5,0.2", "tokens:2.5"]
ALL += ["tree:vicuna-7b-v1.3"]


def test_default_law_gives_the_papers_figure_21() -> None:
    plotted = {1: 1.0, 16: 2.4, 32: 2.7, 48: 2.9, 64: 3.0, 112: 3.3}
    for count, rate in plotted.items():
        assert acceptance.PAPER.acceleration_rate(count) == pytest.approx(rate, abs=0.08)


def test_default_law_meets_the_readings_of_figure_21(reference_dir: Path) -> None:
    lines = (reference_dir / "paper" / "figure_readings.csv").read_text().splitlines()
    readings = [line.split(",") for line in lines if line.startswith("21,")]
    assert len(readings) == 6
    for _, _, count, rate, _ in readings:
        law = acceptance.PAPER.acceleration_rate(int(count))
        assert law == pytest.approx(float(rate), abs=0.08)


def test_printed_form_is_the_default_less_one_and_falls_below_one_token() -> None:
    assert acceptance.PAPER_PRINTED.acceleration_rate(64) == pytest.approx(0.477 * math.log(64))
    assert acceptance.caveats(acceptance.PAPER, range(1, 129)) == []
    (caveat,) = acceptance.caveats(acceptance.PAPER_PRINTED, range(1, 129))
    assert "below 1 up to 8 candidates" in caveat


def test_other_bases_are_other_coefficients() -> None:
    assert LogLaw(0.3, base=2).acceleration_rate(16) == pytest.approx(1 + 0.3 * 4)


@pytest.mark.parametrize("a", [0.0, 0.1, 0.5, 0.8, 0.999])
@pytest.mark.parametrize("draft_len", [1, 5, 15])
def test_chain_equals_the_closed_formula_to_1e_9(a: float, draft_len: int) -> None:
    closed = (1 - a ** (draft_len + 1)) / (1 - a)
    assert Chain(a).acceleration_rate(draft_len + 1) == pytest.approx(closed, abs=1e-9)


def test_accepted_over_drafted_is_not_the_chains_probability() -> None:
    accepted = Chain(0.8).acceleration_rate(6) - 1
    assert accepted / 5 == pytest.approx(0.538, abs=5e-4)


@pytest.mark.parametrize("spec", ALL)
@pytest.mark.parametrize("num_candidates", [2, 6, 64])
def test_model_with_the_required_parameter_gives_the_required_rate(
    spec: str, num_candidates: int
) -> None:
    model = acceptance.parse(spec)
    for wanted in (1.0, 1.2, 3.0, 70.0):
        parameter = model.required_parameter(num_candidates, wanted)
        assert parameter is not None
        found = model.with_parameter(parameter).acceleration_rate(num_candidates)
        assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("spec", ["chain:0.8", "survival:0.8,0.5,0.2", "tree:vicuna-7b-v1.3"])
def test_survival_adds_up_to_the_rate_and_lock_step_yields_less(spec: str) -> None:
    model = acceptance.parse(spec)
    survives = model.survival(32)
    assert survives is not None
    assert 1 + sum(survives) == pytest.approx(model.acceleration_rate(32))
    assert acceptance.lock_step_rate(model, 32, 1) == pytest.approx(model.acceleration_rate(32))
    assert acceptance.lock_step_rate(model, 32, 8) < acceptance.lock_step_rate(model, 32, 2)


def test_lock_step_rate_is_the_mean_of_the_minimum() -> None:
    # Two sequences that accept 1 drafted token with probability 1/2: both do in 1 of 4 steps.
    assert acceptance.lock_step_rate(Survival((0.5,)), 2, 2) == pytest.approx(1.25)


def test_lock_step_needs_more_than_a_mean() -> None:
    with pytest.raises(MedusaBenchError, match="only its mean"):
        acceptance.lock_step_rate(acceptance.PAPER, 64, 4)


def test_histogram_becomes_survival(tmp_path: Path) -> None:
    file = tmp_path / "h.json"
    file.write_text(json.dumps({"histogram": {"0": 10, "1": 20, "3": 10}}))
    model = acceptance_files.load(file)
    assert model.survival(4) == pytest.approx((0.75, 0.25, 0.25))


def test_table_holds_the_smaller_rows_rate_between_rows(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps({"acceleration_rate": {"64": 3.0, "16": 2.4}}))
    model = acceptance_files.load(file)
    rates = [model.acceleration_rate(n) for n in (1, 16, 63, 64, 999)]
    assert rates == pytest.approx([1.0, 2.4, 2.4, 3.0, 3.0])
    csv = tmp_path / "t.csv"
    csv.write_text("num_candidates,acceleration_rate\n16,2.4\n64,3.0\n")
    assert acceptance_files.load(csv).acceleration_rate(64) == 3.0


METRICS = """
# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 600.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="m"} 400.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 1800.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 1300.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 500.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="m",position="0"} 300.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 500.0
"""


def test_vllms_prometheus_counters_are_read_and_engines_added_up(tmp_path: Path) -> None:
    file = tmp_path / "metrics.txt"
    file.write_text(METRICS)
    model = acceptance_files.load(file)
    assert model.survival(3) == pytest.approx((0.8, 0.5))
    assert "1000 drafts" in model.name


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", '{"histogram": {}}', "empty|needs steps"),
        ("a.json", '{"histogram": {"1": -1, "2": 3}}', "is not a count"),
        ("a.json", '{"survival": [0.5, 0.8]}', "fall"),
        ("a.json", '{"acceleration_rate": {"x": 1}}', "invalid literal"),
        ("a.json", '{"acceleration_rate": [1]}', "no attribute"),
        ("a.json", "{}", "no head accuracies"),
        ("a.csv", "a,b\n1,2\n", "no column"),
        ("a.log", "nothing here", "no acceptance counters"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: str, says: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(InvalidFileError, match=says):
        acceptance_files.load(file)


@pytest.mark.parametrize(
    "text",
    [
        "chain:1.5",
        "chain",
        "chain:x",
        "log:-1",
        "log:1:1",
        "log:inf",
        "log:nan",
        "tokens:0.5",
        "paper:3",
    ],
)
def test_wrong_values_are_errors_with_the_right_form(text: str) -> None:
    with pytest.raises(MedusaBenchError) as caught:
        acceptance.parse(text)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("write ")


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        acceptance.parse("chane:0.8")
    assert caught.value.hint is not None
    assert "chain:P" in caught.value.hint


@pytest.mark.parametrize("spec", ALL)
def test_one_candidate_is_vanilla_and_more_candidates_never_yield_less(spec: str) -> None:
    model: AcceptanceModel = acceptance.parse(spec)
    rates = [model.acceleration_rate(n) for n in range(1, 129)]
    assert rates[0] == (0.0 if spec == "printed" else 1.0)
    assert rates == sorted(rates)
