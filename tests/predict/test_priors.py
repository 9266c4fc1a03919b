"""What is said of a GPU that has no calibration of its own."""

import pytest

from medusa_bench.predict import calibration_files, priors
from medusa_bench.predict.calibration import ANY_DEVICE
from medusa_bench.specs import profiles


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
