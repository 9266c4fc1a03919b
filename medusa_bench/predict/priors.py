"""What to predict from where a device was not measured: its own calibration, or its relatives'."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from medusa_bench.predict import calibration_files
from medusa_bench.predict.calibration import (
    ANY_DEVICE,
    Calibration,
    DeviceCeilings,
    Parameters,
)
from medusa_bench.predict.latency import Calibrated
from medusa_bench.results.rows import Timing
from medusa_bench.specs import profiles
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.profiles import DeviceProfile

# The share of its datasheet's peak that an L40S reaches: 0.55 to 0.63 in published measurements.
POWER_LIMITED_COMPUTE_EFFICIENCY = 0.60


def calibrated(
    profile: DeviceProfile,
    timing: Timing = Timing.KERNEL,
    *,
    calibrations: Sequence[Calibration] | None = None,
    prefer_source: str = "",
) -> Calibrated:
    """The best calibration there is for a device's profile; the name says whose it is.

    Its own; else the family prior. Of the other timing only the launch time is exchanged.
    calibrations are those that ship; prefer_source, a text in their source, chooses between
    calibrations of one device.
    """
    known = calibration_files.shipped_calibrations() if calibrations is None else calibrations
    ranked = sorted(known, key=lambda each: prefer_source not in each.source)
    own = [each for each in ranked if each.device == profile.name]
    for each in own:
        if each.timing is timing:
            return Calibrated(f"calibrated: {each.device} ({each.source})", profile.name, each)
    if timing is Timing.EAGER:
        return _launched_eagerly(calibrated(profile, calibrations=known), known)
    return family_prior(profile, ranked, prefer_source)


def family_prior(
    profile: DeviceProfile, calibrations: Sequence[Calibration], prefer_source: str = ""
) -> Calibrated:
    """What kernel calibrations of other devices say about one that has none of its own.

    Parameters are its relatives'. What trees learned is taken over only from the same chip as the
    very source that is asked for sees it: it belongs to a library's version as much as to a chip
    (of two sources on one GPU, either's trees make the other's predictions worse). The interval is
    that of devices left out altogether.
    """
    anything = next(each for each in calibrations if each.device == ANY_DEVICE)
    lenders, words = relatives(profile, calibrations)
    ceilings = DeviceCeilings.of(profile)
    calibration = replace(
        anything,
        device=profile.name,
        ceilings=ceilings,
        parameters=mean_parameters(lenders, ceilings.clock_hz),
    )
    if is_power_limited(profile):
        parameters = replace(
            calibration.parameters, compute_efficiency=POWER_LIMITED_COMPUTE_EFFICIENCY
        )
        calibration = replace(calibration, parameters=parameters)
        words += ", compute as power-limited cards reach it"
    lender = lenders[0]
    if is_same_chip(lender, profile) and prefer_source and prefer_source in lender.source:
        calibration = replace(
            calibration,
            forest=lender.forest,
            process=lender.process,
            interval=lender.interval.halfway_to(anything.interval),
        )
        words += ", with its correction"
    return Calibrated(f"family prior: {words}", profile.name, calibration)


def is_power_limited(profile: DeviceProfile) -> bool:
    """Whether the card's power does not carry its datasheet's clock through a large product.

    Of Ada's cards those under 1.2 W for each dense float16 TFLOP/s: L40S 0.97, RTX 6000 Ada 0.82,
    L4 0.60; the RTX 4090 has 2.7.
    """
    watts_per_flop_per_s = profile.power_w / profile.peak(Dtype.FLOAT16)
    return profile.family == "ada" and watts_per_flop_per_s < 1.2e-12


def relatives(
    profile: DeviceProfile, calibrations: Sequence[Calibration]
) -> tuple[list[Calibration], str]:
    """The kernel calibrations of other devices that say most about this one, and which in words.

    The first of the same chip with other memory or power (same family and number of SMs); else
    those of its family; else all there are.
    """
    kernels = [
        each
        for each in calibrations
        if each.timing is Timing.KERNEL and each.device not in (ANY_DEVICE, profile.name)
    ]
    families = _families()
    family = [each for each in kernels if families.get(each.device) == profile.family]
    for each in family:
        if is_same_chip(each, profile):
            return [each], f"{profile.family}, the chip of {each.device} ({each.source})"
    chosen = family or kernels
    mean = f"mean of {', '.join(sorted({each.device for each in chosen}))}"
    return chosen, f"{profile.family}, {mean}" if family else f"no {profile.family} known, {mean}"


def is_same_chip(calibration: Calibration, profile: DeviceProfile) -> bool:
    """Same family and number of SMs: other memory, power or cooling."""
    return (
        calibration.ceilings.num_sms == profile.num_sms
        and _families().get(calibration.device) == profile.family
    )


@lru_cache
def _families() -> dict[str, str]:
    return {each.name: each.family for each in profiles.all_profiles()}


def mean_parameters(calibrations: Sequence[Calibration], clock_hz: float) -> Parameters:
    """The geometric mean of calibrations' parameters, launch times in cycles of their clocks."""
    logs = [
        each.parameters.logs + np.log([each.ceilings.clock_hz / clock_hz, 1, 1])
        for each in calibrations
    ]
    return Parameters.from_logs(np.mean(logs, axis=0))


def _launched_eagerly(model: Calibrated, known: Sequence[Calibration]) -> Calibrated:
    """A kernel calibration with the launch time of calls that are launched one by one."""
    eager = [each for each in known if each.timing is Timing.EAGER]
    if not eager:
        return model
    launch_s = eager[0].parameters.launch_s
    calibration = replace(
        model.calibration,
        timing=Timing.EAGER,
        parameters=replace(model.calibration.parameters, launch_s=launch_s),
    )
    name = f"{model.name}, launch as {eager[0].source}"
    return replace(model, name=name, calibration=calibration)
