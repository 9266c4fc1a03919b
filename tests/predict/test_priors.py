"""What is said of a GPU that has no calibration of its own."""

import pytest

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.predict import calibration_files, priors
from medusa_bench.predict.calibration import ANY_DEVICE
from medusa_bench.specs import profiles
from medusa_bench.specs.columns import Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product


@pytest.mark.parametrize(
    ("gpu", "limited"),
    [("l40s", True), ("rtx-6000-ada", True), ("l4", True), ("rtx-4090", False), ("a40", False)],
)
def test_power_limited_cards_are_told_by_watts_per_flop(gpu: str, limited: bool) -> None:
    profile = profiles.load(gpu)
    assert priors.is_power_limited(profile) is limited
    prior = priors.family_prior(profile, calibration_files.shipped_calibrations())
    efficiency = prior.calibration.parameters.compute_efficiency
    assert (efficiency == priors.POWER_LIMITED_COMPUTE_EFFICIENCY) is limited
    assert ("power-limited" in prior.name) is limited


def test_trees_are_taken_over_from_the_same_chip_and_source_only() -> None:
    h200, a40 = profiles.load("h200-sxm"), profiles.load("a40")
    alone = priors.calibrated(h200)
    same = priors.calibrated(h200, prefer_source="aiconfigurator")
    assert alone.calibration.forest is None
    assert same.calibration.forest is not None
    assert priors.calibrated(a40, prefer_source="other").calibration.forest is not None


def test_the_preferred_source_chooses_between_calibrations_of_a_device() -> None:
    h100 = profiles.load("h100-sxm")
    names = {priors.calibrated(h100, prefer_source=s).name for s in ("vidur", "aiconfigurator")}
    assert len(names) == 2


def test_a_mean_of_calibrations_counts_launch_in_clock_cycles() -> None:
    shipped = [
        each for each in calibration_files.shipped_calibrations() if each.device != ANY_DEVICE
    ]
    one = shipped[0]
    mean = priors.mean_parameters([one], 2 * one.ceilings.clock_hz)
    assert mean.launch_s == pytest.approx(one.parameters.launch_s / 2)
    assert mean.compute_efficiency == pytest.approx(one.parameters.compute_efficiency)


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("rtx-3090", ["half the chip's rate", "memory without ECC"]),
        ("rtx-4090", ["half the chip's rate", "memory without ECC"]),
        ("a6000", ["memory without ECC"]),
        ("l40s", ["compute as power-limited cards reach it"]),
        ("mi300x", ["which is not measured here"]),
        ("a10", []),
    ],
)
def test_a_card_is_predicted_by_what_it_is_and_says_so(name: str, reasons: list[str]) -> None:
    said = priors.calibrated(profiles.load(name)).name
    for reason in ("half the chip's rate", "without ECC", "power-limited", "not measured"):
        assert (reason in said) == any(reason in each for each in reasons)


def test_a_geforce_cards_halved_rate_is_read_off_its_figures() -> None:
    halved = {each.name for each in profiles.all_profiles() if each.has_halved_tensor_rate}
    geforce = {"rtx-3090", "rtx-3090-ti", "rtx-4080-super", "rtx-4090", "rtx-5080", "rtx-5090"}
    assert halved == geforce | {"a10g", "l20", "l40"}


def test_float8_has_parameters_of_its_own_where_a_card_has_float8() -> None:
    products = Products.of([Product(1, 16, 4096, 4096), Product(1, 4096, 4096, 4096)])
    h100, a100 = (priors.calibrated(profiles.load(name)) for name in ("h100-sxm", "a100-80gb-sxm"))
    quick, plain = (h100.predict(products, dtype) for dtype in (Dtype.FLOAT8, Dtype.BFLOAT16))
    assert set(quick.source) == {"float8: family prior: hopper, h100-sxm (aiconfigurator)"}
    assert quick.latency_s[1] < plain.latency_s[1]  # twice the peak, of which less is reached
    assert quick.latency_s[0] > 0.7 * plain.latency_s[0]  # its launch also quantises
    assert (quick.high_s / quick.latency_s > plain.high_s / plain.latency_s).all()
    with pytest.raises(MedusaBenchError):
        a100.predict(products, Dtype.FLOAT8)
