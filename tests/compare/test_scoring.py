"""Simulated speedups against published ones: the scores reached, and what is refused and why."""

import csv
import math
from pathlib import Path

import pytest

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.compare import scoring, serving, serving_fit
from medusa_bench.compare.scoring import LeaveOut, Scored, Table

COLUMNS = (
    "setting", "gpu", "num_gpus", "model", "dtype", "engine", "engine_version", "method", "shape",
    "draft", "draft_len", "num_candidates", "seq_len", "batch_size", "tokens_per_step", "speedup",
)  # fmt: skip
GOOD = {
    "setting": "ours", "gpu": "h100-sxm", "num_gpus": "1", "model": "llama-3-8b",
    "dtype": "bfloat16", "engine": "vllm", "engine_version": "0.10.1", "method": "eagle-3",
    "shape": "chain", "draft_len": "3", "num_candidates": "4", "seq_len": "512",
    "batch_size": "1", "tokens_per_step": "2.5", "speedup": "1.8",
}  # fmt: skip


def written(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def published(reference_dir: Path) -> Table:
    return scoring.read(reference_dir / "speculation" / "speedup_by_batch.csv")


@pytest.fixture(scope="module")
def given(published: Table) -> Table:
    """The rows that the target scores were stated for."""
    rows = [row for row in published.rows if row.text["expressible_at_3c5e715"] == "yes"]
    return Table(rows, {})


@pytest.fixture(scope="module")
def left_out(given: Table) -> Scored:
    return scoring.run(given, leave_out=LeaveOut.SETTING)


def test_every_published_row_is_scored_or_refused_with_a_reason(published: Table) -> None:
    assert len(published.rows) + sum(published.refused.values()) == 308
    assert {"model unknown", "acceptance not published"} <= set(published.refused)
    assert "several GPUs" not in published.refused


def test_settings_left_out_are_met_as_well_as_was_asked(left_out: Scored) -> None:
    score = scoring.score(left_out)
    assert score.rows == 163
    assert score.median_abs_log_error <= 0.10
    assert scoring.mean_over_settings(left_out) <= 0.105
    assert abs(score.mean_log_error) <= 0.05
    assert 0.85 <= score.coverage_90 <= 0.95
    assert score.sign_right * score.rows >= 150
    assert (score.losing, score.recognised >= 8) == (15, True)


def test_five_of_six_crossings_are_found_within_a_factor_of_two(left_out: Scored) -> None:
    crossings = scoring.crossings(left_out)
    assert len(crossings) == 6
    assert sum(crossing.within_2x for crossing in crossings) >= 5


def test_vanilla_steps_are_met_within_12_percent_on_average(left_out: Scored) -> None:
    errors = left_out.vanilla_log_error
    assert len(errors) > 50
    assert float(abs(errors).mean()) <= math.log(1.12)


def test_products_alone_are_far_too_fast(given: Table) -> None:
    evidence = scoring.evidence_of(given.rows)
    free = serving.Costs.of(serving.NO_ENGINE)
    overhead = free.step_latency_s(evidence.steps) / free.vanilla_s(evidence.steps)
    errors = [
        math.log(rate / over / row.speedup)
        for rate, over, row in zip(evidence.acceleration_rate, overhead, given.rows, strict=True)
    ]
    assert sum(errors) / len(errors) > 0.15


def test_shipped_costs_are_the_fit_to_these_rows(published: Table) -> None:
    fitted = serving_fit.fit(scoring.evidence_of(published.rows))
    assert set(fitted.rows) == set(serving.shipped().rows)
    for key, cost in fitted.rows.items():
        shipped = serving.shipped().rows[key]
        for name in ("layer_s", "step_s", "draft_pass_s"):
            value_s = getattr(cost, name).value_s
            assert getattr(shipped, name).value_s == pytest.approx(value_s, rel=0.02)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_gpus": "3"}, "a group of GPUs over which the model does not divide"),
        ({"num_gpus": "16"}, "a group of GPUs over which the model does not divide"),
        ({"gpu": "tpu-v5e"}, "GPU unknown"),
        ({"gpu": ""}, "GPU unknown"),
        ({"model": "kimi-k3"}, "model unknown"),
        ({"dtype": "nvfp4"}, "dtype unknown"),
        ({"method": "telepathy"}, "method unknown"),
        ({"tokens_per_step": ""}, "acceptance not published"),
        ({"speedup": "fast"}, "no speedup"),
        ({"batch_size": "0"}, "no batch_size"),
        ({"draft_len": "many"}, "no draft_len"),
        ({"method": "draft-model", "draft": "small Llama"}, "draft unknown"),
    ],
)
def test_row_that_cannot_be_expressed_is_counted_with_its_reason(
    tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    table = scoring.read(written(tmp_path / "t.csv", GOOD, GOOD | change))
    assert (len(table.rows), table.refused) == (1, {reason: 1})


def test_table_without_a_row_to_score_says_so(tmp_path: Path) -> None:
    table = scoring.read(written(tmp_path / "t.csv", GOOD | {"gpu": "tpu-v5e"}))
    with pytest.raises(MedusaBenchError, match="nothing to score"):
        scoring.run(table)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"gpu,model\n", b""])
def test_file_that_is_no_such_table_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidFileError):
        scoring.read(path)


def test_simulation_scored_on_itself_is_perfect(tmp_path: Path) -> None:
    sizes = [(batch, length) for batch in ("1", "8", "64", "256") for length in ("2", "5")]
    rows = [
        GOOD | {"batch_size": b, "draft_len": k, "num_candidates": str(int(k) + 1)}
        for b, k in sizes
    ]
    simulated = scoring.run(scoring.read(written(tmp_path / "t.csv", *rows))).speedup
    told = [row | {"speedup": str(speedup)} for row, speedup in zip(rows, simulated, strict=True)]
    scored = scoring.run(scoring.read(written(tmp_path / "t.csv", *told)))
    score = scoring.score(scored)
    assert score.median_abs_log_error == pytest.approx(0, abs=1e-12)
    assert (score.coverage_90, score.sign_right) == (1, 1)
    assert score.losing == score.recognised > 0
    assert all(crossing.within_2x for crossing in scoring.crossings(scored))
