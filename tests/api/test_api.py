"""`import medusa_bench as mb`: frames say what the commands say, and nothing heavy is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

import medusa_bench as mb
from medusa_bench.cli import run
from medusa_bench.specs import paper_grid

ROOT = Path(__file__).resolve().parents[2]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_folder_is_a_frame_of_one_row_a_logical_point() -> None:
    results = mb.load(paper_grid.RESULTS)
    frame = results.to_frame()
    assert len(frame) == len(results.points())
    rates = frame["flops"] / frame["latency_s"]
    assert (rates / frame["flops_per_s"] - 1).abs().max() < 1e-9
    assert set(frame["provenance"]) == {"reported"}
    assert frame["operational_intensity"].equals(frame["flops"] / frame["bytes_moved"])


def test_predictions_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    frame = mb.predict("llama-7b", gpu="h100-sxm", phases=["medusa"], operators=["up", "qk"])
    asked = ["-m", "llama-7b", "--phase", "medusa", "--operator", "up,qk", "-b", "1", "-s", "1024"]
    rows = printed(capsys, "predict", "--gpu", "h100-sxm", *asked, "-q", "64")
    assert frame["operator"].tolist() == [row["operator"] for row in rows]
    for name in ("latency_s", "low_s", "high_s"):
        assert frame[name].tolist() == pytest.approx([row[name] for row in rows])
    parts = frame[["launch_s", "bandwidth_s", "compute_s", "tile_s", "unexplained_s"]].sum(axis=1)
    assert parts.tolist() == pytest.approx(frame["latency_s"].tolist())
    assert set(frame["provenance"]) == {"predicted"}


def test_comparisons_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    frame = mb.compare("llama-3-8b", gpu="h100-sxm", batch_sizes=[1, 8])
    asked = ["--gpu", "h100-sxm", "-m", "llama-3-8b", "-b", "1,8"]
    (device,) = printed(capsys, "compare", *asked)["devices"]
    assert frame["speedup"].tolist() == [row["speedup"] for row in device["comparisons"]]
    assert (frame["acceleration_rate"] / frame["overhead"] - frame["speedup"]).abs().max() < 1e-9
    assert set(frame["source"]) == {"simulated"}


def test_a_roofline_is_a_figure_with_every_point() -> None:
    figure = mb.roofline(mb.load(paper_grid.RESULTS), by="candidates")
    assert isinstance(figure, Figure)
    assert "llama-33b" in str(figure.axes[0].get_legend().get_title().get_text())  # type: ignore[union-attr]


def test_what_the_user_can_mend_is_an_error_with_a_hint() -> None:
    with pytest.raises(mb.MedusaBenchError, match="No profile named") as raised:
        mb.compare("llama-7b", gpu="h100")
    assert "h100-sxm" in str(raised.value.hint)
    with pytest.raises(mb.MedusaBenchError, match="No dtype named"):
        mb.predict("llama-7b", gpu="a40", dtype="float61")
    with pytest.raises(mb.MedusaBenchError, match="no results folder"):
        mb.load("results")


@pytest.mark.parametrize(
    "first", ["", "import medusa_bench.compare.named, medusa_bench.predict.choosing"]
)
def test_importing_is_light_and_functions_stay_functions(first: str) -> None:
    code = (
        "import sys\nimport medusa_bench as mb\n"
        "assert not {'numpy', 'pandas', 'torch', 'matplotlib', 'click'} & set(sys.modules)\n"
        f"{first}\nassert callable(mb.compare) and callable(mb.predict) and callable(mb.load)\n"
        "assert 'pandas' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=str)
def test_every_notebook_runs_from_its_first_cell_to_its_last(
    notebook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    cells = json.loads(notebook.read_text())["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []  # outputs would age unseen
            exec(compile("".join(cell["source"]), f"{notebook.name}:{cell['id']}", "exec"), names)
    assert isinstance(names["best"], pd.DataFrame)
    assert names["best"]["batch_size"].is_unique
