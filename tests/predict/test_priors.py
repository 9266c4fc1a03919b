"""What is said of a GPU that has no calibration of its own."""

import pytest

from medusa_bench.predict import calibration_files, priors
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
