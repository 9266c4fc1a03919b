"""Where to plug in: each thing is added in one place of a copy, and the commands show it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = "medusa_bench/specs/operators.py"
LAST_ROW = '"m b q h", "m h v", "m b q v"),\n'


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its data, to be changed."""
    for name in ("medusa_bench", "profiles", "results/paper"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def run(copy: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "medusa_bench", *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def out(copy: Path, *arguments: str) -> str:
    result = run(copy, arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_an_operator_is_one_row_and_shows_everywhere(copy: Path) -> None:
    row = '    Operator("router", Family.MLP, "XW_r", "router", "b q h", "h n", "b q n"),\n'
    edit(copy / OPERATORS, LAST_ROW, LAST_ROW + row)
    assert "XW_r" in out(copy, "operators")
    plan = out(copy, "sweep", "--dry-run", "--json", "--operator", "router", "-m", "llama-7b")
    assert json.loads(plan)["points"]
    grid = ["--operator", "router", "-m", "llama-7b", "-b", "1,4", "-s", "128"]
    out(copy, "predict", "--gpu", "a40", *grid, "-o", "predicted")
    assert "router" in out(copy, "results", "show", "predicted", "--json")
    lines = out(copy, "roofline", "predicted", "--json")
    names = {each["name"] for panel in json.loads(lines) for each in panel["series"]}
    assert names == {"router init", "router ar", "router Medusa"}
    assert "router" in out(copy, "roofline", "predicted")
    out(copy, "roofline", "predicted", "-o", "figure.png")
    out(copy, "results", "export", "predicted", "-o", "points.csv")
    assert ",router," in (copy / "points.csv").read_text()


@pytest.mark.parametrize(
    ("operands", "symbol", "words"),
    [
        ('"b q h", "h h", "b q h"', "h", "stands twice in rhs"),
        ('"b q h", "h x", "b q x"', "x", "is no symbol"),
        ('"b q h", "h i", "b q v"', "i", "is neither contracted, nor kept, nor batch"),
        ('"b q h", "i v", "b q v"', "h", "is neither"),
    ],
)
def test_a_row_that_is_no_product_is_refused_at_import(
    copy: Path, operands: str, symbol: str, words: str
) -> None:
    row = f'    Operator("odd", Family.MLP, "XW", "odd", {operands}),\n'
    edit(copy / OPERATORS, LAST_ROW, LAST_ROW + row)
    result = run(copy, ["operators"])
    assert result.returncode != 0
    assert f"operator odd: {symbol} {words}" in result.stderr
