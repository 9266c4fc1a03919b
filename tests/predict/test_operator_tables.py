"""Published tables of operators: what is read, which half is scored, and how far off it is."""

from pathlib import Path

import numpy as np
import pytest

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.predict import operator_laws, operator_tables, scoring
from medusa_bench.predict.operator_laws import Kind
from medusa_bench.predict.operator_tables import Table, read, scored
from tests.conftest import REFERENCE
from tools import fit_operators, fit_sums

MODERN = REFERENCE / "modern"
needs_tables = pytest.mark.skipif(
    not MODERN.exists(), reason="the reference data is not beside this checkout"
)
DELTA = "gpu,framework,kernel,batch_size,num_k_heads,head_k_dim,num_v_heads,head_v_dim,latency_us\n"


def delta_rows(*rows: tuple[str, int, float]) -> str:
    """A GPU, a batch size and a latency each."""
    lines = [f"{gpu},here,delta_rule,{batch},16,128,32,128,{us}" for gpu, batch, us in rows]
    return DELTA + "\n".join(lines) + "\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


@needs_tables
@pytest.mark.parametrize(
    ("file", "table", "gpu", "where", "most"),
    [
        ("attention_decode", "attention", "a100-80gb-sxm", {"op": "vllm_flash_attn"}, 8),
        ("attention_decode", "attention", "h100-sxm",
         {"op": "vllm_flash_attn_fa3", "dtype": "bfloat16"}, 6),
        ("moe", "moe", "h100-sxm", {"dtype": "bfloat16"}, 6),
        ("mla_decode", "mla", "h100-sxm", {"op": "flash_attention"}, 5),
        ("gated_delta_net_decode", "delta", "h100-sxm", {}, 5),
        ("allreduce", "allreduce", "h100-sxm", {"op": "vLLM_custom_graph"}, 6),
        ("allreduce", "allreduce", "a100-80gb-sxm", {"op": "nccl-tests"}, 13),
    ],
)  # fmt: skip
def test_settings_that_were_not_fitted_are_met(
    file: str, table: str, gpu: str, where: dict[str, str], most: float
) -> None:
    found = scored(MODERN / f"{file}.parquet", Table(table), gpu)
    here = np.full(len(found.latency_s), True)
    for name, value in where.items():
        here &= found.observations.label(name) == value
    score = scoring.score(found[here])
    assert score.rows >= 20
    assert score.mape < most
    assert 80 <= score.coverage_90 <= 100
    assert score.mape < score.roofline_mape


@needs_tables
def test_half_of_the_settings_is_held_out_whatever_stands_beside() -> None:
    rows = read(MODERN / "gated_delta_net_decode.parquet", Table.DELTA)
    assert 0.35 < rows.held_out.mean() < 0.65


def test_the_same_setting_falls_into_the_same_half(tmp_path: Path) -> None:
    rows = [("h100_sxm", batch, 100.0) for batch in range(32, 96)]
    whole = read(write(tmp_path, delta_rows(*rows)), Table.DELTA)
    part = read(write(tmp_path, delta_rows(*rows[10:20])), Table.DELTA)
    assert part.held_out.tolist() == whole.held_out.tolist()[10:20]
    assert 16 < whole.held_out.sum() < 48


def test_every_cold_row_of_a_card_without_a_fit_is_scored(tmp_path: Path) -> None:
    h100 = [("h100_sxm", batch, 100.0) for batch in range(64, 96)]
    h200 = [("h200_sxm", batch, 100.0) for batch in range(64, 96)]
    cold = scored(write(tmp_path, delta_rows(*h200, ("h200_sxm", 1, 5.0))), Table.DELTA)
    assert len(cold.latency_s) == len(h200)
    assert "prior" in cold.predictor[0]
    half = scored(write(tmp_path, delta_rows(*h100)), Table.DELTA)
    assert 0 < len(half.latency_s) < len(h100)
    both = write(tmp_path, delta_rows(*h100, *h200))
    assert len(scored(both, Table.DELTA, "h200-sxm").latency_s) == len(h200)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("gpu,latency_us\nh100_sxm,1\n", "has no column 'batch_size'"),
        (DELTA, "has no rows"),
        (delta_rows(("h100_sxm", 64, -1.0)), "row 1: latency_us is -1"),
        (delta_rows(("h100_sxm", 64, 0.0)), "row 1: latency_us is 0"),
        (delta_rows(("h100_sxm", 64, float("nan"))), "latency_us is nan"),
        (delta_rows(("h100_sxm", 64, float("inf"))), "latency_us is inf"),
        (delta_rows(("h100_sxm", 0, 4.0)), "batch_size is 0"),
        (delta_rows(("h100_sxm", 1, 4.0)), "no cold row"),
        (delta_rows(("h100_sxm", 64, 4.0)).replace("delta_rule", "conv"), "no row that"),
        (delta_rows(("h100_sxm", 64, 4.0)).replace(",16,", ",x,"), "not a column of numbers"),
    ],
)
def test_what_is_no_such_table_is_refused_in_words(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(InvalidFileError, match=what):
        scored(write(tmp_path, text), Table.DELTA)


def test_a_gpu_that_no_row_is_of_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, delta_rows(("h100_sxm", 64, 100.0)))
    with pytest.raises(MedusaBenchError, match="None of the rows is of l40s"):
        scored(path, Table.DELTA, "l40s")


@needs_tables
def test_ratios_over_one_token_are_met() -> None:
    observations, errors = operator_tables.ratio_errors(MODERN / "moe.parquet", "h100-sxm")
    dense = observations.dtype == "bfloat16"
    assert dense.sum() > 300
    assert errors[dense].mean() < 0.08


@needs_tables
def test_what_ships_is_what_the_fit_finds() -> None:
    rows = read(MODERN / "gated_delta_net_decode.parquet", Table.DELTA)
    (again,) = [kernel for group in rows.groups() if (kernel := fit_operators.fit(rows[group]))]
    (there,) = [each for each in operator_laws.shipped() if each.kind is Kind.DELTA]
    assert there.shares.launch_s == pytest.approx(again.shares.launch_s, rel=1e-3)
    assert there.shares.bandwidth_share == pytest.approx(again.shares.bandwidth_share, rel=1e-3)
    assert there.num_rows == again.num_rows


@needs_tables
def test_sums_that_ship_are_what_the_fit_finds() -> None:
    rows = read(MODERN / "allreduce.parquet", Table.ALLREDUCE)
    chosen = (rows.words["gpu"] == "h100_sxm") & (rows.words["framework"] == "vllm 0.24.0")
    mine = rows[np.flatnonzero(chosen)]
    parameters, error = fit_sums.nvlink(mine)
    assert parameters[:3] == pytest.approx([4.25e-6, 0.069e-6, 0.509], rel=0.01)
    assert error < 0.06
