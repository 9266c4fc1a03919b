"""Which latency model to take for a GPU's name or a results folder: the best there is."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.predict import calibration_files, interpolation, priors
from medusa_bench.predict.calibration import Calibration, DeviceCeilings, Parameters
from medusa_bench.predict.fitting import Origin, Prior
from medusa_bench.predict.interpolation import Measured
from medusa_bench.predict.latency import Calibrated, LatencyModel, Roofline
from medusa_bench.results import folders
from medusa_bench.results.reading import Results
from medusa_bench.results.rows import Environment, Summary, Timing
from medusa_bench.specs import paper_grid, profiles
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product
from medusa_bench.specs.profiles import profile_of

# What is expected of any GPU before something is known of it: values that many share.
EXPECTED = Parameters(launch_s=5e-6, bandwidth_efficiency=0.80, compute_efficiency=0.77)
# Against roofs that were measured and not printed, the best products reach nearly all.
_EXPECTED_OF_MEASURED = Prior(Parameters(5e-6, 0.95, 0.95), (2.0, 0.2, 0.2))
_MIN_POINTS = 4


class Kind(StrEnum):
    """Which model: the bare roofline, a calibration, or measurements; or the best there is."""

    BEST = "best"
    ROOFLINE = "roofline"
    CALIBRATED = "calibrated"
    MEASURED = "measured"


def model_for(
    gpu: str | Path, timing: Timing = Timing.KERNEL, kind: Kind = Kind.BEST
) -> LatencyModel:
    """The latency model of a GPU or of a results folder.

    gpu: a profile's name or path, an exact device name, or a results folder; a folder's own
    calibration.json is taken where there is one. Best is measured for a folder with numbers, else
    calibrated: the GPU's own calibration, or the prior of its family, as the source says.

    Raises MedusaBenchError for an unknown name or a kind that there is no ground for.
    """
    path = Path(gpu)
    if path.is_dir() or path.as_posix() == paper_grid.RESULTS:
        return _of_folder(folders.load(path), timing, kind)
    profile = profile_of(str(gpu))
    match kind:
        case Kind.ROOFLINE:
            return Roofline(profile.name, DeviceCeilings.of(profile))
        case Kind.MEASURED:
            raise MedusaBenchError(
                f"{profile.name} is a GPU, not a folder with measurements.",
                hint="give the results folder as --gpu.",
            )
        case Kind.CALIBRATED | Kind.BEST:
            return priors.calibrated(profile, timing)


def _of_folder(results: Results, timing: Timing, kind: Kind) -> LatencyModel:
    environment = results.environment
    ceilings = interpolation.ceilings_of(environment, results.roof)
    if kind is Kind.ROOFLINE:
        return Roofline(environment.device, ceilings)
    numbers = interpolation.numbers_of(results, timing)
    calibration = folder_calibration(results, timing)
    if kind is Kind.CALIBRATED:
        name = f"calibrated: {results.path}"
        return Calibrated(name, environment.device, calibration)
    return Measured(str(results.path), environment.device, results.provenance, calibration, numbers)


def folder_calibration(results: Results, timing: Timing) -> Calibration:
    """The calibration beside a folder's results, or one made of its numbers.

    Raises InvalidFileError where it has neither, MedusaBenchError where nothing tells its ceilings.
    """
    file = results.path / calibration_files.FILE
    if file.exists():
        calibration = calibration_files.read(file)
        if calibration.timing is timing:
            return calibration
    return calibrate_numbers(
        interpolation.numbers_of(results, timing),
        results,
        Origin(results.environment.device, timing, str(results.path)),
    )


def calibrate_numbers(
    numbers: Mapping[tuple[Product, Dtype], Summary], results: Results, origin: Origin
) -> Calibration:
    """A calibration to some of a folder's numbers. Raises InvalidFileError for too few."""
    if len(numbers) < _MIN_POINTS:
        raise InvalidFileError(
            f"{results.path} has {len(numbers)} numbers of {origin.timing} time: too few to "
            "predict from.",
            hint=f"at least {_MIN_POINTS} are needed; `medusa-bench calibrate` takes a minute.",
        )
    environment = results.environment
    return interpolation.calibration_of(
        numbers,
        interpolation.ceilings_of(environment, results.roof),
        prior_of(environment),
        origin,
    )


def prior_of(environment: Environment) -> Prior:
    """What is expected of a device before its points: its calibration's or its relatives'."""
    profile = profiles.match(environment.device, environment.memory_bytes)
    if profile is None:
        return _EXPECTED_OF_MEASURED
    return Prior(priors.calibrated(profile).calibration.parameters)
