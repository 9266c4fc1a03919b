"""Which latency model is taken, and what each of them says."""

from pathlib import Path

import numpy as np
import pytest

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError, UnknownNameError
from medusa_bench.predict import calibration_files, choosing, latency
from medusa_bench.predict.calibration import DeviceCeilings, Parameters, Work
from medusa_bench.predict.choosing import Kind
from medusa_bench.predict.latency import Roofline
from medusa_bench.results import folders
from medusa_bench.results.rows import (
    Environment,
    Estimate,
    Measurement,
    Provenance,
    Roofs,
    Task,
    Timing,
)
from medusa_bench.specs import profiles
from medusa_bench.specs.columns import Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

A40 = profiles.load("a40")
SOME = Products.of(
    [Product(1, 1, 4096, 4096), Product(32, 64, 1024, 128), Product(1, 4096, 8192, 8192)]
)


def test_the_roofline_is_the_larger_of_memory_and_compute_time() -> None:
    model = Roofline("a40", DeviceCeilings.of(A40))
    predicted = model.predict(SOME, Dtype.FLOAT16)
    memory_s = 2 * SOME.num_elements / A40.memory_bandwidth_bytes_per_s
    compute_s = SOME.flops / A40.peak(Dtype.FLOAT16)
    assert predicted.latency_s == pytest.approx(np.maximum(memory_s, compute_s))
    assert predicted.bound.tolist() == ["memory", "memory", "compute"]
    assert (predicted.parts.explained_s == predicted.latency_s).all()


@pytest.mark.parametrize("name", profiles.names())
@pytest.mark.parametrize("timing", list(Timing))
def test_every_profile_has_a_model_above_its_roof_with_an_interval(
    name: str, timing: Timing
) -> None:
    profile = profiles.load(name)
    dtype = Dtype.FLOAT16
    predicted = choosing.model_for(name, timing).predict(SOME, dtype)
    roof = Roofline(name, DeviceCeilings.of(profile)).predict(SOME, dtype)
    assert (predicted.latency_s > roof.latency_s).all()
    assert (predicted.low_s < predicted.latency_s).all()
    assert (predicted.latency_s < predicted.high_s).all()
    total = predicted.parts.explained_s + predicted.parts.unexplained_s
    assert total == pytest.approx(predicted.latency_s)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a40", "calibrated: a40"),
        ("a6000", "family prior: ampere, the chip of a40"),
        ("h200-sxm", "family prior: hopper, the chip of h100-sxm"),
        ("h100-pcie", "family prior: hopper, mean of h100-sxm"),
        ("l40s", "family prior: no ada known"),
    ],
)
def test_the_source_says_whose_calibration_it_is(name: str, words: str) -> None:
    predicted = choosing.model_for(name).predict(SOME, Dtype.FLOAT16)
    assert all(source.startswith(words) for source in predicted.source.tolist())


def test_other_timing_exchanges_the_launch_time_only() -> None:
    kernel, eager = (choosing.model_for("a40", timing) for timing in Timing)
    assert isinstance(kernel, latency.Calibrated)
    assert isinstance(eager, latency.Calibrated)
    assert eager.calibration.parameters.launch_s == pytest.approx(33e-6, abs=3e-6)
    assert (
        eager.calibration.parameters.compute_efficiency
        == kernel.calibration.parameters.compute_efficiency
    )
    assert "launch as arXiv 2401.10774" in eager.name


def test_a_dtype_without_a_peak_is_an_error() -> None:
    with pytest.raises(MedusaBenchError, match="float8"):
        choosing.model_for("a40").predict(SOME, Dtype.FLOAT8)


def test_an_unknown_gpu_and_a_measured_gpu_are_errors() -> None:
    with pytest.raises(UnknownNameError):
        choosing.model_for("a4000")
    with pytest.raises(MedusaBenchError, match="not a folder"):
        choosing.model_for("a40", kind=Kind.MEASURED)


# -- a results folder ---------------------------------------------------------------------------

DEVICE = Environment("Unheard-of GPU", "cuda", 80 * 10**9, num_sms=64, l2_bytes=8 << 20)
ROOFS = Roofs({Dtype.FLOAT16: 1e14}, 1e12)


def folder(path: Path, rows: dict[int, float]) -> Path:
    """Latencies by m of (1, m, 4096) x 4096 products."""
    with folders.Writer(path, DEVICE) as writer:
        writer.add_roofs(ROOFS)
        for m, latency_s in rows.items():
            for index, factor in enumerate((0.98, 1.0, 1.02)):
                task = Task(Product(1, m, 4096, 4096), Dtype.FLOAT16, Timing.KERNEL)
                seconds = factor * latency_s
                writer.append(
                    Measurement(task, index, seconds, seconds, seconds, seconds, num_calls=3)
                )
    return path


STAIRS = {m: 50e-6 + 20e-6 * np.ceil(m / 64) for m in (1, 16, 32, 64, 128, 192, 256, 512)}


def predict_rows(path: Path, *rows: int) -> latency.Predictions:
    products = Products.of([Product(1, m, 4096, 4096) for m in rows])
    return choosing.model_for(path).predict(products, Dtype.FLOAT16)


def test_a_folder_is_exact_where_it_was_measured(tmp_path: Path) -> None:
    predicted = predict_rows(folder(tmp_path / "r", STAIRS), 1, 64, 512)
    assert predicted.latency_s == pytest.approx([STAIRS[m] for m in (1, 64, 512)])
    assert predicted.source.tolist() == ["measured"] * 3
    assert predicted.low_s == pytest.approx(0.98 * predicted.latency_s)
    assert predicted.high_s == pytest.approx(1.02 * predicted.latency_s)


def test_between_measured_rows_it_interpolates_and_elsewhere_it_calibrates(tmp_path: Path) -> None:
    path = folder(tmp_path / "r", STAIRS)
    predicted = predict_rows(path, 48, 4096)
    assert predicted.source.tolist() == ["interpolated", f"calibrated: {path}"]
    assert predicted.latency_s[0] == pytest.approx(STAIRS[32], rel=0.1)


def test_interpolation_keeps_the_steps_of_tiles(tmp_path: Path) -> None:
    """Measured at 64, 128, 256 and so on, 136 lies beyond a step and not on a line between."""
    ceilings = DeviceCeilings(ROOFS.peak_flops_per_s, 1e12, 64, 8 << 20, 1e9)

    def true_s(*rows: int) -> np.ndarray:
        products = Products.of([Product(1, m, 4096, 4096) for m in rows])
        work = Work.of(products, Dtype.FLOAT16, ceilings)
        return 1.1 * work.latency_s(Parameters(5e-6, 0.8, 0.8))

    rows = (1, 64, 128, 256, 512, 1024, 2048)
    path = folder(tmp_path / "r", dict(zip(rows, true_s(*rows).tolist(), strict=True)))
    before, at, after = true_s(128, 136, 256)
    line = before + (after - before) * 8 / 128
    predicted = predict_rows(path, 136)
    assert predicted.source.tolist() == ["interpolated"]
    assert line < 0.95 * at
    assert predicted.latency_s[0] == pytest.approx(at, rel=0.02)


def test_printed_numbers_are_called_reported(tmp_path: Path) -> None:
    model = choosing.model_for("results/paper", Timing.EAGER)
    product = Product(1, 64, 17920, 6656)
    predicted = model.predict(Products.of([product]), Dtype.FLOAT16)
    assert predicted.source.tolist() == ["reported"]
    assert product.flops / predicted.latency_s[0] == pytest.approx(76.57e12, rel=0.01)


def test_the_launch_part_of_the_papers_attention_tables_is_33_microseconds() -> None:
    model = choosing.model_for("results/paper", Timing.EAGER)
    products = Products.of([Product(832, q, 1024, 128) for q in (1, 16, 64, 112)])
    predicted = model.predict(products, Dtype.FLOAT16)
    assert predicted.parts.launch_s == pytest.approx(33e-6, abs=3e-6)


def test_a_folders_own_calibration_is_taken(tmp_path: Path) -> None:
    path = folder(tmp_path / "r", STAIRS)
    made = choosing.folder_calibration(folders.load(path), Timing.KERNEL)
    calibration_files.write(made, path / calibration_files.FILE)
    calibration_files.read.cache_clear()
    model = choosing.model_for(path, kind=Kind.CALIBRATED)
    assert isinstance(model, latency.Calibrated)
    assert model.calibration.command == made.command
    assert model.calibration.num_points == len(STAIRS)


def test_too_few_numbers_are_an_error(tmp_path: Path) -> None:
    path = folder(tmp_path / "r", {1: 1e-5, 2: 1e-5})
    with pytest.raises(InvalidFileError, match="2 numbers of kernel time"):
        choosing.model_for(path)


def test_predictions_are_no_ground_to_predict_from(tmp_path: Path) -> None:
    task = Task(Product(1, 1, 64, 64), Dtype.FLOAT16, Timing.KERNEL)
    device = Environment("NVIDIA A40", "cuda", 48 << 30)
    with folders.Writer(tmp_path / "p", device, provenance=Provenance.PREDICTED) as writer:
        writer.append(Estimate(task, 1e-6, 1e-6, 1e-6, "me"))
    with pytest.raises(InvalidFileError, match="predictions, not measurements"):
        choosing.model_for(tmp_path / "p")
