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
    Interval,
    Parameters,
)
from medusa_bench.predict.latency import Calibrated
from medusa_bench.results.rows import Timing
from medusa_bench.specs import profiles
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.profiles import DeviceProfile

# What cards of a kind reach of their datasheets, whatever their generation. Each with its source.
# L40S: 0.55 to 0.63 in one set of published measurements, 0.67 in another.
POWER_LIMITED_COMPUTE_EFFICIENCY = 0.65
# Half of the chip's tensor rate is a peak that is reached: RTX 3090 0.97 to 1.0, published.
HALVED_RATE_COMPUTE_EFFICIENCY = 1.0
# RTX A6000 0.90 to 0.97, RTX PRO 6000 0.84, RTX 3090 0.80 to 0.95, published.
WITHOUT_ECC_BANDWIDTH_EFFICIENCY = 0.90
# MI300X, others' GEMM tables: no measurement of this project or of its reference data.
CDNA3_COMPUTE_EFFICIENCY = 0.51


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
            name = f"calibrated: {each.device} ({each.source})"
            return Calibrated(name, profile.name, _of_any_harness(each, known), _float8(each))
    if timing is Timing.EAGER:
        return _launched_eagerly(calibrated(profile, calibrations=known), known)
    return family_prior(profile, ranked, prefer_source)


def _of_any_harness(own: Calibration, known: Sequence[Calibration]) -> Calibration:
    """With the interval that another harness than the fitted one asks for."""
    anything = next((each for each in known if each.device == ANY_DEVICE), own)
    return replace(own, interval=own.interval.halfway_to(anything.interval))


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
    changes, reasons = _of_its_kind(profile)
    if changes:
        parameters = replace(calibration.parameters, **changes)
        calibration = replace(calibration, parameters=parameters)
        words += f", {', '.join(reasons)}"
    lender = lenders[0]
    if is_same_chip(lender, profile) and prefer_source and prefer_source in lender.source:
        calibration = replace(
            calibration,
            forest=lender.forest,
            process=lender.process,
            interval=lender.interval.halfway_to(anything.interval),
        )
        words += ", with its correction"
    return Calibrated(f"family prior: {words}", profile.name, calibration, _float8(calibration))


# Float8 products quantise their activations and reach less of a peak twice as high. Fitted to
# aiconfigurator's rows of an H100 (W8A8, quantisation included).
_FLOAT8 = Parameters(launch_s=6.7e-6, bandwidth_efficiency=0.745, compute_efficiency=0.501)
_FLOAT8_CLOCK_HZ = 1830e6
_FLOAT8_INTERVAL = Interval((-0.25, -0.12, -0.27), (0.44, 0.50, 0.52))  # of those rows


def _float8(of: Calibration) -> Calibration | None:
    """What is known of float8 products of a device; None where it has none."""
    if Dtype.FLOAT8 not in of.ceilings.peak_flops_per_s:
        return None
    launch_s = _FLOAT8.launch_s * _FLOAT8_CLOCK_HZ / of.ceilings.clock_hz
    return replace(
        of,
        parameters=replace(_FLOAT8, launch_s=launch_s),
        forest=None,
        process=None,
        interval=_FLOAT8_INTERVAL,
        source="family prior: hopper, h100-sxm (aiconfigurator)",
    )


def _of_its_kind(profile: DeviceProfile) -> tuple[dict[str, float], list[str]]:
    """What is known of a card by what it is, and that in words."""
    changes: dict[str, float] = {}
    reasons = []
    if profile.has_halved_tensor_rate:
        changes["compute_efficiency"] = HALVED_RATE_COMPUTE_EFFICIENCY
        reasons.append("compute as cards of half the chip's rate reach it")
    elif is_power_limited(profile):
        changes["compute_efficiency"] = POWER_LIMITED_COMPUTE_EFFICIENCY
        reasons.append("compute as power-limited cards reach it")
    elif profile.family == "cdna3":
        changes["compute_efficiency"] = CDNA3_COMPUTE_EFFICIENCY
        reasons.append("compute as others report of CDNA3, which is not measured here")
    if not profile.has_ecc:
        changes["bandwidth_efficiency"] = WITHOUT_ECC_BANDWIDTH_EFFICIENCY
        reasons.append("memory without ECC")
    return changes, reasons


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
