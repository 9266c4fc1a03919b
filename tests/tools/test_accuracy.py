"""The gate of accuracy: its rows are whole, and it fails where one is worse than its line."""

from dataclasses import replace
from pathlib import Path

import pytest

from medusa_bench.predict.scoring import Score
from medusa_bench.results import tables
from medusa_bench.specs.profiles import load
from tools import accuracy

PAPER = next(row for row in accuracy.rows() if row.table == "results/paper")


def score(error: float, inside: float) -> Score:
    return Score(10, error, error, error, error, inside, 40.0)


def test_rows_have_names_of_their_own_and_profiles_that_ship() -> None:
    rows = accuracy.rows()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.gpu is None or load(row.gpu).name == row.gpu


@pytest.mark.parametrize(
    ("error", "inside", "faults"),
    [
        (3.0, 90, []),
        (3.2, 90, ["error over 3"]),
        (3.0, 80, ["inside not 85 to 95"]),
        (9.0, 99, ["error over 3", "inside not 85 to 95"]),
    ],
)
def test_a_row_is_worse_by_its_error_or_its_interval(
    error: float, inside: float, faults: list[str]
) -> None:
    assert replace(PAPER, error=3.0, inside=(85, 95)).faults(score(error, inside)) == faults


def test_the_papers_cells_are_scored_without_any_other_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = replace(PAPER, name="elsewhere", table="elsewhere.parquet")
    monkeypatch.setattr(accuracy, "rows", lambda: [replace(PAPER, seeds=3), elsewhere])
    assert accuracy.main(["--reference", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "12 rows, the others scored, mean of 3 seeds" in printed
    assert "Left out" in printed
    monkeypatch.setattr(accuracy, "rows", lambda: [replace(PAPER, seeds=1, error=0.5)])
    assert accuracy.main([]) == 1
    assert "WORSE: error over 0.5" in capsys.readouterr().out


def test_a_weight_is_cold_where_its_copies_are_more_than_the_cache_holds() -> None:
    sizes = [512, 8192]
    rows = tables.from_columns(
        {"dtype": ["float16"] * 2, "m": [1, 1], "n": sizes, "k": sizes, "latency_us": [5, 50]},
        where="here",
    )
    assert accuracy.is_cold(rows, 50 * 2**20).tolist() == [False, True]
