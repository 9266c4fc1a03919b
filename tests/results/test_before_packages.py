"""What the version before the packages wrote (commit 3c5e715) loads and gives the same numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medusa_bench.decode.heads import files
from medusa_bench.predict import calibration_files
from medusa_bench.results import exports, folders
from medusa_bench.specs.columns import Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "before-packages"


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "numbers.json").read_text())
    return found


@pytest.mark.parametrize("name", ["swept", "predicted"])
def test_results_folders(numbers: dict[str, Any], name: str) -> None:
    columns = (
        "operator", "phase", "batch_size", "num_candidates", "dtype", "latency_s",
        "roof_fraction", "bound", "flags", "provenance",
    )  # fmt: skip
    exported = exports.rows([folders.load(FOLDER / name).points()])
    rows = [[row[name] for name in columns] for row in exported]
    assert rows == numbers[name]


def test_calibration(numbers: dict[str, Any]) -> None:
    calibration = calibration_files.read(FOLDER / "calibration.json")
    products = Products.of(
        [Product(1, m, n, k) for m in (1, 64, 1024) for n, k in ((4096, 4096), (11008, 4096))]
    )
    found = calibration.predict(calibration.work(products, Dtype.FLOAT16))
    for name, values in numbers["calibration"].items():
        assert getattr(found, name) == pytest.approx(values, rel=1e-12)


class Backbone:
    def __init__(self) -> None:
        torch.manual_seed(3)
        self.weight = torch.randn(29, 32)

    def get_output_embeddings(self) -> "Backbone":
        return self


def test_heads(numbers: dict[str, Any]) -> None:
    heads = files.load(FOLDER / "heads", Backbone())
    torch.manual_seed(4)
    token_ids, log_probs = heads.top(torch.randn(3, 32), 2)
    assert token_ids.tolist() == numbers["heads"]["token_ids"]
    assert torch.allclose(log_probs, torch.tensor(numbers["heads"]["log_probs"]), atol=1e-5)
