"""Calibrations as JSON."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medusa_bench.base.errors import InvalidFileError, StorageError
from medusa_bench.predict import calibration_files, fitting
from medusa_bench.predict.calibration import ANY_DEVICE, Calibration, Work
from medusa_bench.results.rows import Timing
from medusa_bench.specs import profiles
from medusa_bench.specs.columns import Products
from medusa_bench.specs.dtypes import Dtype
from tests.predict.test_fitting import A100, ORIGIN, PRIOR, SPREAD, many, samples, synthetic


def calibration(count: int) -> Calibration:
    products = [*SPREAD, *many(count)]
    _, latency_s = synthetic(PRIOR.parameters, products)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.05, len(products)))
    return fitting.calibrate(samples(products, latency_s * noise), A100, PRIOR, ORIGIN)


@pytest.mark.parametrize("count", [0, 500])
def test_read_back_a_calibration_predicts_the_same(tmp_path: Path, count: int) -> None:
    there = calibration(count)
    calibration_files.write(there, tmp_path / "calibration.json")
    back = calibration_files.read(tmp_path / "calibration.json")
    work = Work.of(Products.of(SPREAD), Dtype.FLOAT16, A100)
    for name in ("latency_s", "low_s", "high_s"):
        expected = getattr(there.predict(work), name)
        assert getattr(back.predict(work), name) == pytest.approx(expected, rel=2e-3)
    assert replace(back, parameters=there.parameters).source == there.source
    assert [each.product for each in back.residuals] == [e.product for e in there.residuals]


def broken(**changes: Any) -> bytes:
    document = json.loads(json.dumps(calibration_files.encode(calibration(0))))
    for path, value in changes.items():
        inner = document
        *outer, last = path.split("__")
        for key in outer:
            inner = inner[key]
        if value is None and last not in ("forest", "process"):
            del inner[last]
        else:
            inner[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 99},
        {"parameters": None},
        {"parameters__launch_s": -1},
        {"parameters__launch_s": "fast"},
        {"ceilings__num_sms": 1.5},
        {"ceilings__peak_flops_per_s": {"float12": 1e12}},
        {"interval__low": [1, 2]},
        {"timing": "sometime"},
        {"device": 7},
        {"process__points": [[1, 2]] * len(SPREAD)},
        {"forest": {"columns": [[99]], "thresholds": [[0]], "leaves": [[0, 0]]}},
        {"residuals": [{"batch": 0}]},
    ],
)
def test_what_is_no_calibration_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(broken(**changes))
    with pytest.raises(InvalidFileError, match="calibration"):
        calibration_files.read(path)


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        calibration_files.write(calibration(0), tmp_path / "file" / "calibration.json")


def test_every_shipped_calibration_says_where_it_comes_from_and_how_good_it_is() -> None:
    shipped = calibration_files.shipped_calibrations()
    assert {each.device for each in shipped} == {
        "a100-80gb-sxm", "a100-80gb-pcie", "a40", "h100-sxm", ANY_DEVICE,
    }  # fmt: skip
    for each in shipped:
        assert each.source and each.command.startswith("medusa-bench calibrate --from ")
        assert 0.005 < each.error < 0.10
        assert each.num_points >= 160 and each.evidence
        if each.device != ANY_DEVICE:
            profile = profiles.load(each.device)
            assert each.ceilings.peak_flops_per_s == pytest.approx(profile.peak_flops_per_s)


def test_the_papers_harness_launches_in_33_microseconds() -> None:
    (paper,) = (
        each for each in calibration_files.shipped_calibrations() if each.timing is Timing.EAGER
    )
    assert paper.parameters.launch_s == pytest.approx(33e-6, abs=3e-6)
