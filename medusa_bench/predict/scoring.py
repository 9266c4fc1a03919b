"""How far predictions are from observations, on points that were fitted and on points left out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.predict import choosing, fitting, priors, quantised
from medusa_bench.predict.calibration import ANY_DEVICE, Calibration, DeviceCeilings, Interval, Work
from medusa_bench.predict.fitting import Origin, Prior, Samples
from medusa_bench.predict.latency import Calibrated
from medusa_bench.results import tables
from medusa_bench.results.rows import Timing
from medusa_bench.results.tables import Observations
from medusa_bench.specs.columns import FloatArray
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.profiles import DeviceProfile, profile_of
from medusa_bench.specs.schemes import SCHEMES, Scheme, integer

# How far two sources are apart on one GPU, or two GPUs of one family: launch, bandwidth, compute.
_SIGMAS_OF_RELATIVES = (1.2, 0.05, 0.05)
_PARAMETER_ROWS = 3000  # three parameters need no more


class LeaveOut(StrEnum):
    """What is held out together, so that the score is of things that were not fitted."""

    MODEL = "model"
    SHAPE = "shape"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class Scored:
    """Predictions beside what was observed, rows as columns, all of shape (rows,)."""

    observations: Observations
    latency_s: FloatArray
    low_s: FloatArray
    high_s: FloatArray
    roofline_s: FloatArray
    bound: NDArray[np.str_]
    predictor: NDArray[np.str_]

    def __getitem__(self, rows: NDArray[np.generic]) -> "Scored":
        return Scored(
            self.observations[rows],
            self.latency_s[rows],
            self.low_s[rows],
            self.high_s[rows],
            self.roofline_s[rows],
            self.bound[rows],
            self.predictor[rows],
        )


@dataclass(frozen=True, slots=True)
class Score:
    """Absolute errors of latency relative to the observed one, and the interval's coverage.

    All in percent; rows is a count.
    """

    rows: int
    mape: float
    median_ape: float
    p95_ape: float
    max_ape: float
    coverage_90: float
    roofline_mape: float


def score(scored: Scored) -> Score:
    """One score of all rows."""
    truth = scored.observations.latency_s
    errors = 100 * np.abs(scored.latency_s / truth - 1)
    covered = (scored.low_s <= truth) & (truth <= scored.high_s)
    return Score(
        rows=len(truth),
        mape=float(errors.mean()),
        median_ape=float(np.median(errors)),
        p95_ape=float(np.quantile(errors, 0.95)),
        max_ape=float(errors.max()),
        coverage_90=100 * float(covered.mean()),
        roofline_mape=100 * float(np.abs(scored.roofline_s / truth - 1).mean()),
    )


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean over repetitions with other seeds."""
    rows = np.array([[getattr(each, name) for name in Score.__slots__] for each in scores])
    first, *others = rows.mean(0).tolist()
    return Score(round(first), *others)


def joined(runs: Sequence[Scored]) -> Scored:
    """The rows of several runs as one."""
    if len(runs) == 1:
        return runs[0]
    columns = (
        np.concatenate([getattr(run, name) for run in runs])
        for name in ("latency_s", "low_s", "high_s", "roofline_s", "bound", "predictor")
    )
    return Scored(tables.joined([run.observations for run in runs]), *columns)


def grouped(scored: Scored) -> dict[str, dict[str, Score]]:
    """Scores by gpu, source, model, op and dtype, where those differ or are known, and by bound."""
    groups = {}
    for name in ("gpu", "source", "model", "op", "dtype"):
        values = scored.observations.label(name)
        if values.astype(bool).any():
            groups[name] = _by(scored, values)
    groups["bound"] = _by(scored, scored.bound)
    groups["predictor"] = _by(scored, scored.predictor)
    return groups


def _by(scored: Scored, values: NDArray[np.str_]) -> dict[str, Score]:
    return {str(value): score(scored[values == value]) for value in np.unique(values)}


# -- ways to predict ----------------------------------------------------------------------------


def as_shipped(observations: Observations, calibrations: Sequence[Calibration]) -> Scored:
    """By the best calibration there is for each row's GPU; nothing is fitted to the rows."""
    return _joined(
        observations,
        [
            (
                rows,
                priors.calibrated(
                    profile,
                    observations.timing,
                    calibrations=calibrations,
                    prefer_source=source,
                ),
            )
            for profile, source, rows in _devices(observations)
        ],
    )


def calibrated_on(
    observations: Observations,
    calibrations: Sequence[Calibration],
    num_points: int,
    seed: int,
    excluded: NDArray[np.bool_],
) -> Scored:
    """By a calibration of each GPU to num_points of its rows, drawn by chance; the rest is scored.

    The prior rests on calibrations of other GPUs and sources only. `excluded` rows are not drawn.
    Raises MedusaBenchError where a GPU has not that many rows and one to score.
    """
    models: list[tuple[NDArray[np.int64], Calibrated]] = []
    for profile, source, rows in _devices(observations):
        drawable = rows[~excluded[rows]]
        if len(drawable) < num_points or len(rows) <= num_points:
            raise MedusaBenchError(
                f"{profile.name} has {len(drawable)} rows to draw from, "
                f"so none is left beside {num_points}.",
                hint="lower --calibrate-on.",
            )
        drawn = np.random.default_rng(seed).choice(drawable, num_points, replace=False)
        prior = prior_for(profile, calibrations, source)
        model = _fitted(observations[drawn], profile, prior, seed)
        models.append((np.setdiff1d(rows, drawn), model))
    return _joined(observations, models)


def leaving_out(
    observations: Observations,
    what: LeaveOut,
    seed: int,
    excluded: NDArray[np.bool_],
    *,
    shape_folds: int = 5,
) -> Scored:
    """Every row by a calibration to rows of the same GPU and source, its own model or shape (one of
    shape_folds parts of them at once) left out; or, for gpu, by what all other GPUs' rows say.

    `excluded` rows are scored, but never fitted to. Raises MedusaBenchError where nothing is left
    to fit to.
    """
    models: list[tuple[NDArray[np.int64], Calibrated]] = []
    match what:
        case LeaveOut.MODEL | LeaveOut.SHAPE:
            for profile, _, rows in _devices(observations):
                mine = observations[rows]
                fitted = ~excluded[rows]
                if what is LeaveOut.MODEL:
                    part = np.unique(mine.model, return_inverse=True)[1]
                else:
                    part = fitting.folds(mine.shape_ids, shape_folds, seed)
                if len(np.unique(part[fitted])) < 2:
                    raise MedusaBenchError(
                        f"{profile.name}: there is only one {what} in the rows, so nothing is "
                        "left to fit to.",
                        hint="choose another --leave-out.",
                    )
                for held in np.unique(part):
                    model = _fitted(mine[(part != held) & fitted], profile, default_prior(), seed)
                    models.append((rows[part == held], model))
        case LeaveOut.GPU:
            models = _without_each_gpu(observations, seed, excluded)
    return _joined(observations, models)


def default_prior() -> Prior:
    return Prior(choosing.EXPECTED)


def prior_for(
    profile: DeviceProfile, calibrations: Sequence[Calibration], without_source: str
) -> Prior:
    """What calibrations from other sources than this one say about a device's parameters."""
    others = [each for each in calibrations if without_source not in each.source]
    if not any(each.timing is Timing.KERNEL and each.device != ANY_DEVICE for each in others):
        return default_prior()
    clock_hz = profile.clock_hz
    own = [each for each in others if each.device == profile.name]
    lenders = own or priors.relatives(profile, others)[0]
    return Prior(priors.mean_parameters(lenders, clock_hz), _SIGMAS_OF_RELATIVES)


def leave_each_device_out(fits: Sequence["Fit"]) -> tuple[FloatArray, NDArray[np.str_]]:
    """log(observed / predicted) of each device's rows by the others' parameters, and the bounds."""
    errors, bounds = [], []
    for fit in fits:
        others = [each.calibration for each in fits if each.device != fit.device]
        parameters = priors.mean_parameters(others, fit.calibration.ceilings.clock_hz)
        errors.append(np.log(fit.observations.latency_s / fit.work.latency_s(parameters)))
        bounds.append(fit.work.parts(parameters).bound)
    return np.concatenate(errors), np.concatenate(bounds)


@dataclass(frozen=True, slots=True)
class Fit:
    """The three parameters of one device as one source sees it, and the rows they come from."""

    observations: Observations
    work: Work
    calibration: Calibration

    @property
    def device(self) -> str:
        return self.calibration.device


def parameter_fits(observations: Observations, seed: int) -> list[Fit]:
    """The parameters of each GPU and source, from a sample of its rows."""
    fits = []
    for profile, source, rows in _devices(observations):
        chosen = rows
        if len(rows) > _PARAMETER_ROWS:
            chosen = np.random.default_rng(seed).choice(rows, _PARAMETER_ROWS, replace=False)
        mine, ceilings = observations[chosen], DeviceCeilings.of(profile)
        work = Work.of(mine.products, mine.dtypes, ceilings)
        calibration = Calibration(
            profile.name,
            observations.timing,
            ceilings,
            fitting.fit_parameters(work, mine.latency_s, default_prior()),
            Interval(),
            source,
            command="",
            num_points=len(chosen),
            error=0.0,
            evidence="",
        )
        fits.append(Fit(mine, work, calibration))
    return fits


def any_device(fits: Sequence[Fit], source: str, command: str) -> Calibration:
    """What the fits say about a device that is in none of them.

    The interval and the error are those of each device by the others' parameters.
    """
    errors, bounds = leave_each_device_out(fits)
    first = fits[0].calibration
    clock_hz = first.ceilings.clock_hz
    return replace(
        first,
        device=ANY_DEVICE,
        parameters=priors.mean_parameters([fit.calibration for fit in fits], clock_hz),
        interval=fitting.interval(errors, bounds),
        source=source,
        command=command,
        num_points=len(errors),
        error=float(np.abs(np.expm1(-errors)).mean()),
        evidence="each device left out altogether",
    )


def samples_of(observations: Observations) -> Samples:
    """Rows of one device as samples, grouped by model where there are three, else by weights."""
    models = np.unique(observations.model, return_inverse=True)[1].astype(np.int64)
    by_model = models.max() >= 2
    return Samples(
        observations.products,
        observations.dtypes,
        observations.latency_s,
        models if by_model else observations.shape_ids,
        "model" if by_model else "shape",
    )


def calibrate_rows(observations: Observations, command: str, *, seed: int) -> Calibration:
    """The calibration of one GPU's rows. Raises MedusaBenchError where they are of several."""
    names, sources = np.unique(observations.gpu), np.unique(observations.source)
    if len(names) > 1 or len(sources) > 1:
        raise MedusaBenchError(
            f"The rows are of {', '.join(map(str, names))} from {', '.join(map(str, sources))}.",
            hint="a calibration is of one GPU and one source: choose with --gpu and --source.",
        )
    profile = profile_of(str(names[0]))
    return fitting.calibrate(
        samples_of(observations),
        DeviceCeilings.of(profile),
        default_prior(),
        Origin(profile.name, observations.timing, str(sources[0]) or "unnamed rows", command),
        seed=seed,
    )


def _without_each_gpu(
    observations: Observations, seed: int, excluded: NDArray[np.bool_]
) -> list[tuple[NDArray[np.int64], Calibrated]]:
    fits = parameter_fits(observations[np.flatnonzero(~excluded)], seed)
    models = []
    for profile, _, rows in _devices(observations):
        others = [fit for fit in fits if fit.device != profile.name]
        if len({fit.device for fit in others}) < 2:
            raise MedusaBenchError(
                f"Without {profile.name} there are rows of fewer than two GPUs.",
                hint="--leave-out gpu needs a file of three GPUs or more.",
            )
        known = [*(fit.calibration for fit in others), any_device(others, "other GPUs", "")]
        models.append((rows, priors.family_prior(profile, known)))
    return models


def _fitted(
    observations: Observations, profile: DeviceProfile, prior: Prior, seed: int
) -> Calibrated:
    calibration = fitting.calibrate(
        samples_of(observations),
        DeviceCeilings.of(profile),
        prior,
        Origin(profile.name, observations.timing, "rows of the same file"),
        seed=seed,
    )
    return Calibrated(f"fitted: {profile.name}", profile.name, calibration)


def _devices(
    observations: Observations,
) -> Iterator[tuple[DeviceProfile, str, NDArray[np.int64]]]:
    """Each GPU and source with the numbers of its rows."""
    for gpu in np.unique(observations.gpu):
        profile = profile_of(str(gpu))
        here = observations.gpu == gpu
        for source in np.unique(observations.source[here]):
            yield profile, str(source), np.flatnonzero(here & (observations.source == source))


def stored(label: str) -> tuple[Dtype, Scheme | None]:
    """A row's dtype, or bfloat16 with weights in a scheme; integers of tables are of columns."""
    if label not in SCHEMES:
        return Dtype(label), None
    return Dtype.BFLOAT16, integer(4, 0, zero_point=False) if label == "int4" else SCHEMES[label]


def _joined(
    observations: Observations, models: Sequence[tuple[NDArray[np.int64], Calibrated]]
) -> Scored:
    by_dtype = [
        (rows[observations.dtype[rows] == dtype], model, *stored(str(dtype)))
        for rows, model in models
        for dtype in np.unique(observations.dtype[rows])
    ]
    parts = []
    for rows, model, dtype, scheme in by_dtype:
        products, ceilings = (
            observations[rows].products,
            DeviceCeilings.of(profile_of(model.device)),
        )
        if scheme is None:
            roof = Work.of(products, dtype, ceilings)
        else:
            roof = quantised.work_of(products, scheme, dtype, ceilings)
        predicted = quantised.predict(model, products, dtype, scheme)
        parts.append((predicted, np.maximum(roof.memory_s, roof.compute_s)))
    return Scored(
        observations[np.concatenate([rows for rows, *_ in by_dtype])],
        np.concatenate([predicted.latency_s for predicted, _ in parts]),
        np.concatenate([predicted.low_s for predicted, _ in parts]),
        np.concatenate([predicted.high_s for predicted, _ in parts]),
        np.concatenate([roofline_s for _, roofline_s in parts]),
        np.concatenate([predicted.bound for predicted, _ in parts]),
        np.concatenate([predicted.source for predicted, _ in parts]),
    )
