"""What a roofline figure shows, before it is drawn: panels of series under their ceilings.

Knows neither matplotlib nor the terminal; the figure, the text and the JSON all start here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.results.asked import NAMES, PHASES, distinct
from medusa_bench.results.columns import DTYPES, TIMINGS
from medusa_bench.results.points import Known, Points, Words
from medusa_bench.results.rows import (
    ABOVE_ROOF,
    Provenance,
    QualityFlag,
    ResultPoint,
    Roofs,
    Timing,
)
from medusa_bench.specs.ceilings import Ceiling, Ceilings
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import FIGURE_SERIES
from medusa_bench.specs.paper_grid import PAPER_GPU, PAPER_GPUS, PAPER_MODELS
from medusa_bench.specs.profiles import DeviceProfile
from medusa_bench.specs.settings import Phase

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class By(StrEnum):
    """What colours tell apart: the operators (figures 9 to 17) or the candidates (18 to 20)."""

    OPERATOR = "operator"
    CANDIDATES = "candidates"


# As the paper's legends print them.
PHASE_NAMES = {phase: phase.value for phase in Phase} | {
    Phase.PREFILL: "init",
    Phase.DECODE: "ar",
    Phase.MEDUSA: "Medusa",
}


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """One of the paper's roofline figures: which points it shows, and how."""

    model: str
    profile: str
    by: By
    operators: tuple[str, ...]
    batch_size: int | None = None
    seq_len: int | None = None

    @property
    def phases(self) -> tuple[Phase, ...]:
        if self.by is By.OPERATOR:
            return (Phase.PREFILL, Phase.DECODE)
        return (Phase.DECODE, Phase.MEDUSA)


_BLOCK = ("q", "k", "v", "qk", "pv", "up", "gate", "down")
PAPER_FIGURES: Mapping[int, PaperFigure] = {
    9 + 3 * gpu_index + model_index: PaperFigure(model, gpu, By.OPERATOR, _BLOCK)
    for gpu_index, gpu in enumerate(PAPER_GPUS)
    for model_index, model in enumerate(PAPER_MODELS)
} | {
    18: PaperFigure(PAPER_MODELS[2], PAPER_GPU, By.CANDIDATES, ("qk", "pv"), batch_size=16),
    19: PaperFigure(PAPER_MODELS[2], PAPER_GPU, By.CANDIDATES, ("qk", "pv"), seq_len=1024),
    20: PaperFigure(PAPER_MODELS[2], PAPER_GPU, By.CANDIDATES, ("up", "gate", "down")),
}


class Cause(StrEnum):
    """Why a point may lie above a roof: the likely one of these."""

    CACHED = "the operands fit in the L2 cache"
    OTHER_DEVICE = "the profile is another device's"
    CLOCK = "the clock was higher, or the load lower, than where the roof was measured or stated"
    FORMULA = "less work was done than the formula counts, or the time is wrong"


@dataclass(frozen=True, slots=True)
class NamedCeiling(Ceiling):
    """One roof: of a datasheet (drawn dashed) or measured (drawn solid), in one dtype."""

    kind: str  # "datasheet" or "measured"
    name: str

    @classmethod
    def of(cls, kind: str, name: str, device: Ceilings, dtype: Dtype) -> "NamedCeiling":
        """A device's roof in a dtype."""
        ceiling = device.ceiling(dtype)
        return cls(ceiling.peak_flops_per_s, ceiling.memory_bandwidth_bytes_per_s, kind, name)


@dataclass(frozen=True, slots=True)
class Dot:
    """One distinct product of a series, in the first setting that has it."""

    operators: tuple[str, ...]
    batch_size: int
    seq_len: int
    num_candidates: int
    operational_intensity: float
    flops_per_s: float
    latency_s: float
    roof_fraction: float | None  # of the panel's first ceiling: measured, else datasheet
    cause: Cause | None = None  # set where above a roof


@dataclass(frozen=True, slots=True)
class Series:
    """Dots that look alike. `num_candidates` is None where candidates are not told apart."""

    name: str
    group: str
    phase: Phase
    num_candidates: int | None
    provenance: Provenance
    dots: tuple[Dot, ...]

    @property
    def short_name(self) -> str:
        """The name where the group stands in the panel's title: in figures by candidates."""
        return self.name if self.num_candidates is None else self.name[len(self.group) + 1 :]

    @property
    def is_vanilla(self) -> bool:
        """Whether it is the grey one of a figure by candidates."""
        return self.phase is Phase.DECODE


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes: one model on one device by one timing."""

    device: str
    model: str
    dtype: Dtype
    timing: Timing | None
    provenance: Provenance | None  # None where only roofs are shown
    by: By
    ceilings: tuple[NamedCeiling, ...]
    series: tuple[Series, ...]
    source: str = ""  # of reported and predicted numbers
    group: str = ""  # by candidates, each group of operators has its own panel
    notes: tuple[str, ...] = ()  # what is left out of the model, in words

    @property
    def dots(self) -> list[Dot]:
        return [dot for series in self.series for dot in series.dots]

    @property
    def title(self) -> tuple[str, ...]:
        """Two lines: what is shown, and where the numbers come from."""
        if self.provenance is None:
            return (self.device, self.dtype)
        shown = (self.model, *([self.group] if self.group else []), f"on {self.device}")
        origin = f"{self.provenance}, {self.timing} times, {self.dtype}"
        return (" ".join(shown), f"{origin}; {self.source}" if self.source else origin)


@dataclass(frozen=True, slots=True)
class Source:
    """What a results folder gives to a figure."""

    device: str
    points: Sequence[ResultPoint]
    roofs: Roofs | None = None
    profile: DeviceProfile | None = None  # the device's own, by exact name and memory
    l2_bytes: int | None = None
    extra_profiles: tuple[DeviceProfile, ...] = ()  # named by the user, drawn as well

    @property
    def columns(self) -> Points | None:
        """The points as columns; None where there are none."""
        if isinstance(self.points, Points):
            return self.points
        return Points.of(self.points) if self.points else None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which points to show; an empty tuple means all."""

    models: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    phases: tuple[Phase, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    seq_lens: tuple[int, ...] = ()
    num_candidates: tuple[int, ...] = ()
    dtype: Dtype | None = None
    timing: Timing | None = None

    def takes(self, points: Points) -> BoolArray:
        """Which of the points it takes."""
        asked = points.asked.columns
        taken = _among(points.column("model"), self.models)
        taken &= _among(points.column("operator"), self.operators)
        taken &= _among(points.column("phase"), self.phases)
        for name in ("batch_size", "seq_len"):
            if wanted := getattr(self, f"{name}s"):
                taken &= np.isin(asked[name], wanted)
        if self.num_candidates:
            is_medusa = _among(points.column("phase"), (Phase.MEDUSA,))
            taken &= ~is_medusa | np.isin(asked["num_candidates"], self.num_candidates)
        taken &= _among(points.column("dtype"), (self.dtype,) if self.dtype else ())
        return taken & _among(points.column("timing"), (self.timing,) if self.timing else ())


def of_paper_figure(number: int, selection: Selection) -> tuple[By, Selection]:
    """How the paper's figure of that number selects, with what the user selects besides."""
    figure = PAPER_FIGURES[number]
    return figure.by, replace(
        selection,
        models=selection.models or (figure.model,),
        operators=selection.operators or figure.operators,
        phases=selection.phases or figure.phases,
        batch_sizes=selection.batch_sizes or ((figure.batch_size,) if figure.batch_size else ()),
        seq_lens=selection.seq_lens or ((figure.seq_len,) if figure.seq_len else ()),
    )


def panels(sources: Sequence[Source], by: By, selection: Selection) -> list[Panel]:
    """One panel for each source and model. Raises MedusaBenchError where nothing is selected.

    Of several timings the kernel's is shown, of several dtypes the one with most points, unless
    the selection names them.
    """
    found = [panel for source in sources for panel in _panels_of(source, by, selection)]
    if not found:
        raise MedusaBenchError(
            "No point of these results is selected.", hint=_what_there_is(sources)
        )
    return found


def roofs_alone(profiles: Sequence[DeviceProfile], dtype: Dtype) -> list[Panel]:
    """One panel that compares datasheet roofs, without points."""
    ceilings = tuple(
        NamedCeiling.of("datasheet", profile.name, profile, dtype) for profile in profiles
    )
    return [Panel("datasheet roofs", "", dtype, None, None, By.OPERATOR, ceilings, ())]


def _panels_of(source: Source, by: By, selection: Selection) -> Iterator[Panel]:
    points = source.columns
    if points is None:
        return
    wanted = points.has_number & selection.takes(points)
    if by is By.CANDIDATES:
        wanted &= ~_among(points.column("phase"), (Phase.PREFILL,))
    models = points.column("model")
    assert isinstance(models, Words)
    for model in dict.fromkeys(models[np.flatnonzero(wanted)].tolist()):
        of_model = np.flatnonzero(wanted & _among(models, (model,)))
        dtypes = points.asked.columns["dtype"]
        dtype = selection.dtype or _most(dtypes[of_model])
        of_model = of_model[dtypes[of_model] == DTYPES.index(dtype)]
        timings = points.asked.columns["timing"]
        found = set(timings[of_model].tolist())
        timing = Timing.KERNEL if TIMINGS.index(Timing.KERNEL) in found else Timing.EAGER
        of_model = of_model[timings[of_model] == TIMINGS.index(timing)]
        ceilings = _ceilings(source, dtype)
        known, first = points.known, of_model[0]
        panel = Panel(
            device=source.device,
            model=model,
            dtype=dtype,
            timing=timing,
            provenance=points.provenance,
            by=by,
            ceilings=ceilings,
            series=tuple(_series(points, of_model, by, source, ceilings)),
            source=known.words[known.source[points.place[first]]].split(",")[0],
            notes=points.asked.shapes[points.asked.columns["shape"][first]].notes,
        )
        if by is By.OPERATOR:
            yield panel
        else:
            for group, members in groupby(panel.series, key=lambda series: series.group):
                yield replace(panel, series=tuple(members), group=group)


def _ceilings(source: Source, dtype: Dtype) -> tuple[NamedCeiling, ...]:
    ceilings = []
    if source.roofs and dtype in source.roofs.peak_flops_per_s:
        ceilings.append(NamedCeiling.of("measured", source.device, source.roofs, dtype))
    profiles = {each.name: each for each in (source.profile, *source.extra_profiles) if each}
    ceilings += [
        NamedCeiling.of("datasheet", name, each, dtype)
        for name, each in profiles.items()
        if dtype in each.peak_flops_per_s
    ]
    return tuple(ceilings)


def _series(
    points: Points, which: IntArray, by: By, source: Source, ceilings: tuple[NamedCeiling, ...]
) -> Iterator[Series]:
    asked = {name: column[which] for name, column in points.asked.columns.items()}
    groups = [FIGURE_SERIES.index(operator.series) for operator in points.asked.operators]
    group, phase, candidates = np.array(groups)[asked["operator"]], asked["phase"], 0 * which
    if by is By.CANDIDATES:
        candidates = asked["num_candidates"]
        # One candidate is the root alone: a vanilla step, whatever the pass is called.
        phases = [PHASES.index(Phase.MEDUSA), PHASES.index(Phase.DECODE)]
        phase = np.array(phases)[(candidates == 1).astype(int)]
    first, member = distinct([group, phase, candidates])
    keys = [(int(group[at]), int(phase[at]), int(candidates[at])) for at in first]
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        at_group, at_phase, count = keys[index]
        name = f"{FIGURE_SERIES[at_group]} {PHASE_NAMES[PHASES[at_phase]]}"
        if count > 1:
            name += f" (# cand.: {count})"
        yield Series(
            name=name,
            group=FIGURE_SERIES[at_group],
            phase=PHASES[at_phase],
            num_candidates=count or None,
            provenance=points.provenance,
            dots=tuple(_dots(points, which[member == index], source, ceilings)),
        )


def _dots(
    points: Points, members: IntArray, source: Source, ceilings: tuple[NamedCeiling, ...]
) -> Iterator[Dot]:
    """A dot for each distinct product, with the number and setting of its first point."""
    asked, known = points.asked.columns, points.known
    firsts, product = distinct([asked[name][members] for name in ("batch", "m", "n", "k")])
    order = np.argsort(firsts)
    operators = _operators_of(points, members, product)
    places = points.place[members[firsts[order]]]
    settings = (asked[name][members[firsts[order]]] for name in NAMES[3:])
    numbers = (known.operational_intensity, known.flops_per_s, known.latency_s)
    columns = [column.tolist() for column in (*settings, *(each[places] for each in numbers))]
    causes = _causes(known, places, source)
    for index, place, *values in zip(order.tolist(), places.tolist(), *columns, strict=True):
        batch_size, seq_len, num_candidates, intensity, flops_per_s, latency_s = values
        yield Dot(
            operators=operators[index],
            batch_size=batch_size,
            seq_len=seq_len,
            num_candidates=num_candidates,
            operational_intensity=intensity,
            flops_per_s=flops_per_s,
            latency_s=latency_s,
            roof_fraction=(
                flops_per_s / ceilings[0].attainable_flops_per_s(intensity) if ceilings else None
            ),
            cause=causes.get(place),
        )


def _operators_of(points: Points, members: IntArray, product: IntArray) -> list[tuple[str, ...]]:
    """The operators of each product in the order met, as names."""
    operator = points.asked.columns["operator"][members]
    first, _ = distinct([product, operator])
    first = np.sort(first)
    names = [each.name for each in points.asked.operators]
    found: list[tuple[str, ...]] = [()] * (int(product.max()) + 1)
    for index, code in zip(product[first].tolist(), operator[first].tolist(), strict=True):
        found[index] = (*found[index], names[code])
    return found


def _causes(known: Known, places: IntArray, source: Source) -> dict[int, Cause]:
    """The likely cause of each that is above the measured or its own datasheet's roof."""
    dtype = DTYPES[known.dtype[places[0]]]
    intensity, flops_per_s = known.operational_intensity[places], known.flops_per_s[places]
    profile = source.profile or next(iter(source.extra_profiles), None)
    share, peak = np.zeros(len(places)), np.zeros(len(places))
    for roofs, allowed in ((source.roofs, ABOVE_ROOF), (profile, 1.0)):
        if roofs and dtype in roofs.peak_flops_per_s:
            of_peak = roofs.peak_flops_per_s[dtype]
            attainable = np.minimum(of_peak, intensity * roofs.memory_bandwidth_bytes_per_s)
            of_roof = flops_per_s / attainable / allowed
            higher = (of_roof > share) | ((of_roof == share) & (of_peak > peak))
            share, peak = np.where(higher, of_roof, share), np.where(higher, of_peak, peak)
    return {
        int(places[at]): _cause(known, int(places[at]), source, float(share[at]), float(peak[at]))
        for at in np.flatnonzero(share > 1).tolist()
    }


def _cause(known: Known, place: int, source: Source, share: float, peak: float) -> Cause:
    profile = source.profile or next(iter(source.extra_profiles), None)
    l2_bytes = source.l2_bytes or (source.profile.l2_bytes if source.profile else 0)
    if known.flops_per_s[place] <= peak and known.bytes_moved[place] <= l2_bytes:
        return Cause.CACHED
    if profile and source.device not in profile.device_names:
        return Cause.OTHER_DEVICE
    if share < _CLOCK_HEADROOM or QualityFlag.CONTENDED in known.flags_at(place):
        return Cause.CLOCK
    return Cause.FORMULA


_CLOCK_HEADROOM = 1.3  # boost clocks exceed those that peaks are stated or measured at by less


def paths(dots: Iterable[Dot], along: str) -> list[list[Dot]]:
    """Dots that differ in one variable alone, each path in its order; two dots at least."""
    others = [name for name in ("batch_size", "seq_len", "num_candidates") if name != along]

    def key(dot: Dot) -> tuple[object, ...]:
        return (dot.operators, *(getattr(dot, name) for name in others))

    ordered = sorted(dots, key=lambda dot: (*key(dot), getattr(dot, along)))
    grouped = (list(path) for _, path in groupby(ordered, key=key))
    return [path for path in grouped if len(path) > 1]


def _among(column: IntArray | Words, words: Sequence[str]) -> BoolArray:
    """Which cells of a column are one of the words; all of them where there are none."""
    assert isinstance(column, Words)
    allowed = np.array([not words or name in words for name in column.names], dtype=bool)
    taken: BoolArray = allowed[column.codes]
    return taken


def _most(dtypes: IntArray) -> Dtype:
    """The dtype of most points; of equally many the first."""
    return DTYPES[int(np.bincount(dtypes).argmax())]


def _what_there_is(sources: Sequence[Source]) -> str:
    found = [
        {name: column[each.has_number].tolist() for name, column in each.columns.items()}
        for source in sources
        if (each := source.columns) is not None
    ]
    if not any(columns["model"] for columns in found):
        return "they hold no number at all; `medusa-bench results show` says why."

    def of(name: str) -> list[Any]:
        return [value for columns in found for value in columns[name]]

    def listed(values: Iterable[object]) -> str:
        found = [str(value) for value in dict.fromkeys(values)]
        return ", ".join(found[:12]) + (", ..." if len(found) > 12 else "")

    return (
        f"there are models {listed(of('model'))}; "
        f"phases {listed(of('phase'))}; "
        f"operators {listed(of('operator'))}; "
        f"batch sizes {listed(sorted(set(of('batch_size'))))}; "
        f"seq_len {listed(sorted(set(of('seq_len'))))}."
    )
