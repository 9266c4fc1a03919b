"""Where to plug in: each thing is added in one place of a copy, and the commands show it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from medusa_bench.compare.acceptance import Chain
from medusa_bench.compare.methods import medusa
from medusa_bench.compare.simulation import Variant, simulate
from medusa_bench.predict.calibration import Parts
from medusa_bench.predict.latency import Predictions
from medusa_bench.results.rows import Provenance
from medusa_bench.specs.columns import Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = "medusa_bench/specs/operators.py"
LAST_ROW = '"m b q h", "m h v", "m b q v", ""),\n'


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
    row = '    Operator("adapter", Family.MLP, "XW_z", "adapter", "b q h", "h n", "b q n"),\n'
    edit(copy / OPERATORS, LAST_ROW, LAST_ROW + row)
    assert "XW_z" in out(copy, "operators")
    plan = out(copy, "sweep", "--dry-run", "--json", "--operator", "adapter", "-m", "llama-7b")
    assert json.loads(plan)["points"]
    grid = ["--operator", "adapter", "-m", "llama-7b", "-b", "1,4", "-s", "128"]
    out(copy, "predict", "--gpu", "a40", *grid, "-o", "predicted")
    assert "adapter" in out(copy, "results", "show", "predicted", "--json")
    lines = out(copy, "roofline", "predicted", "--json")
    names = {each["name"] for panel in json.loads(lines) for each in panel["series"]}
    assert names == {"adapter init", "adapter ar", "adapter Medusa"}
    assert "adapter" in out(copy, "roofline", "predicted")
    out(copy, "roofline", "predicted", "-o", "figure.png")
    out(copy, "report", "predicted", "-o", "report.html")
    assert "adapter" in (copy / "report.html").read_text()
    out(copy, "results", "export", "predicted", "-o", "points.csv")
    assert ",adapter," in (copy / "points.csv").read_text()


@pytest.mark.parametrize(
    ("operands", "symbol", "words"),
    [
        ('"b q h", "h h", "b q h"', "h", "stands twice in rhs"),
        ('"b q h", "h y", "b q y"', "y", "is no symbol"),
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


def test_a_gpu_is_one_file(copy: Path) -> None:
    profile = (copy / "profiles" / "a40.toml").read_text()
    ours = profile.replace('"NVIDIA A40"', '"NVIDIA A41"')
    assert ours != profile
    (copy / "profiles" / "a41.toml").write_text(ours)
    out(copy, "profiles", "check", "a41")
    assert "a41" in out(copy, "profiles")
    out(copy, "compare", "--gpu", "a41", "-m", "llama-7b", "--json")
    out(copy, "predict", "--gpu", "a41", "-m", "llama-7b", "-b", "1", "-s", "128")


def test_a_decoding_method_is_one_row_and_shows_in_help_compare_and_schedule(copy: Path) -> None:
    methods = "medusa_bench/compare/methods.py"
    row = (
        'METHODS: Mapping[str, Row] = {\n    "twin": Row(\n        "a twin drafts",\n'
        "        _chains(1, 3),\n        acceptance.Chain(0.7),\n"
        "        _draft_model,\n        uses_draft_model=True,\n    ),\n"
    )
    edit(copy / methods, "METHODS: Mapping[str, Row] = {\n", row)
    assert "twin" in out(copy, "compare", "--help")
    found = out(copy, "compare", "--method", "twin", "--gpu", "a40", "--json")
    rows = json.loads(found)["devices"][0]["comparisons"]
    assert {each["method"] for each in rows} >= {"twin"}
    out(copy, "schedule", "--method", "twin", "--engine", "json", "--gpu", "a40")


def test_an_acceptance_law_is_one_class(copy: Path) -> None:
    """One that meets the protocol by standing on another, and one row that names it."""
    laws = "medusa_bench/compare/acceptance.py"
    edit(
        copy / laws,
        '    "tokens": (',
        '    "half": ("half: every second drafted token", lambda: Chain(0.5)),\n    "tokens": (',
    )
    assert "half" in out(copy, "compare", "--help")
    found = json.loads(out(copy, "acceptance", "half", "-q", "3", "--json"))
    assert "1.75" in json.dumps(found)


def test_a_serving_engine_is_one_row_until_its_costs_are_fitted(copy: Path) -> None:
    row = "ENGINES: Mapping[str, _Engine] = {\n"
    edit(
        copy / "medusa_bench/compare/serving.py",
        row,
        row + '    "ours": _Engine(Launches.GRAPHS),\n',
    )
    found = json.loads(out(copy, "compare", "--engine", "ours", "--gpu", "a40", "--json"))
    assert "a serving engine of unknown name" in json.dumps(found)
    engines = copy / "medusa_bench/compare/engines.toml"
    table = engines.read_text().split("[[engine]]")[2]
    ours = table.replace('engine = "sglang"', 'engine = "ours"').replace("sglang 0.4", "ours 1")
    ours = ours.replace('generation = "0.4"', 'generation = ""')
    engines.write_text(engines.read_text() + "\n[[engine]]" + ours)
    found = json.loads(out(copy, "compare", "--engine", "ours", "--gpu", "a40", "--json"))
    assert "ours 1" in json.dumps(found)


def test_a_phase_is_a_member_and_its_query_len(copy: Path) -> None:
    settings = copy / "medusa_bench/specs/settings.py"
    edit(settings, '    MEDUSA = "medusa"\n', '    MEDUSA = "medusa"\n    CHUNK = "chunk"\n')
    edit(
        settings,
        "                return self.num_candidates\n",
        "                return self.num_candidates\n            case Phase.CHUNK:\n"
        "                return min(512, self.seq_len)\n",
    )
    grid = ["--phase", "chunk", "-m", "llama-7b", "-b", "2", "-s", "128,1024"]
    plan = json.loads(out(copy, "sweep", "--dry-run", "--json", *grid))
    assert plan["points"]
    out(copy, "predict", "--gpu", "a40", *grid, "-o", "predicted")
    shown = json.loads(out(copy, "results", "show", "predicted", "--json"))
    assert "chunk" in json.dumps(shown)
    lines = out(copy, "roofline", "predicted", "--json")
    names = {each["name"] for panel in json.loads(lines) for each in panel["series"]}
    assert any(name.endswith("chunk") for name in names)
    out(copy, "roofline", "predicted", "-o", "roofline.png")
    out(copy, "report", "predicted", "-o", "report.html")


def test_a_latency_model_is_one_class() -> None:
    """Nothing but a name, a device, a provenance and `predict`: a comparison takes it as it is."""

    @dataclass(frozen=True)
    class Fixed:
        name: str = "a second a product"
        device: str = "ours"
        provenance: Provenance = Provenance.PREDICTED

        def predict(self, products: Products, dtype: Dtype) -> Predictions:
            one, none = np.ones(len(products)), np.zeros(len(products))
            parts = Parts(one, none, none, none, none)
            source = np.full(len(products), self.name)
            return Predictions(one, one / 2, 2 * one, parts.bound, source, parts)

    variants = [Variant(medusa(4), Chain(0.5))]
    (row,) = simulate(variants, PRESETS["llama-7b"], Fixed(), Dtype.FLOAT16, [(1, 128)])
    assert row.device == "ours"
    assert row.latency_source == "a second a product"
    assert row.bound == "launch"
    assert row.step.low_s == row.step.latency_s / 2
    assert row.vanilla.latency_s == 8  # the products of the paper's block
