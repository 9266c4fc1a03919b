"""What a roofline figure shows, before it is drawn: panels of series under their ceilings.

Knows neither matplotlib nor the terminal; the figure, the text and the JSON all start here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby

from medusa_bench.base.errors import MedusaBenchError
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

    def takes(self, each: ResultPoint) -> bool:
        point, setting = each.point, each.point.setting
        return (
            _in(point.shape.name, self.models)
            and _in(point.operator.name, self.operators)
            and _in(setting.phase, self.phases)
            and _in(setting.batch_size, self.batch_sizes)
            and _in(setting.seq_len, self.seq_lens)
            and (
                setting.phase is not Phase.MEDUSA
                or _in(setting.num_candidates, self.num_candidates)
            )
            and (self.dtype is None or point.dtype is self.dtype)
            and (self.timing is None or each.timing is self.timing)
        )


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
    wanted = [each for each in source.points if each.summary and selection.takes(each)]
    if by is By.CANDIDATES:
        wanted = [each for each in wanted if each.point.setting.phase is not Phase.PREFILL]
    for model in dict.fromkeys(each.point.shape.name for each in wanted):
        of_model = [each for each in wanted if each.point.shape.name == model]
        dtype = selection.dtype or _most([each.point.dtype for each in of_model])
        of_model = [each for each in of_model if each.point.dtype is dtype]
        timings = {each.timing for each in of_model}
        timing = Timing.KERNEL if Timing.KERNEL in timings else Timing.EAGER
        of_model = [each for each in of_model if each.timing is timing]
        ceilings = _ceilings(source, dtype)
        first = of_model[0]
        panel = Panel(
            device=source.device,
            model=model,
            dtype=dtype,
            timing=timing,
            provenance=first.provenance,
            by=by,
            ceilings=ceilings,
            series=tuple(_series(of_model, by, source, ceilings)),
            source=first.summary.source.split(",")[0] if first.summary else "",
            notes=first.point.shape.notes,
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
    points: Sequence[ResultPoint], by: By, source: Source, ceilings: tuple[NamedCeiling, ...]
) -> Iterator[Series]:
    def key(each: ResultPoint) -> tuple[int, int, int, Provenance]:
        setting = each.point.setting
        phase, candidates = setting.phase, 0
        if by is By.CANDIDATES:
            candidates = setting.num_candidates
            # One candidate is the root alone: a vanilla step, whatever the pass is called.
            phase = Phase.DECODE if candidates == 1 else Phase.MEDUSA
        group = FIGURE_SERIES.index(each.point.operator.series)
        return group, tuple(Phase).index(phase), candidates, each.provenance

    for (group, phase, candidates, provenance), members in groupby(
        sorted(points, key=key), key=key
    ):
        name = f"{FIGURE_SERIES[group]} {PHASE_NAMES[tuple(Phase)[phase]]}"
        if candidates > 1:
            name += f" (# cand.: {candidates})"
        yield Series(
            name=name,
            group=FIGURE_SERIES[group],
            phase=tuple(Phase)[phase],
            num_candidates=candidates or None,
            provenance=provenance,
            dots=tuple(_dots(members, source, ceilings)),
        )


def _dots(
    members: Iterable[ResultPoint], source: Source, ceilings: tuple[NamedCeiling, ...]
) -> Iterator[Dot]:
    by_product: dict[object, list[ResultPoint]] = {}
    for each in members:
        by_product.setdefault(each.point.product, []).append(each)
    for alike in by_product.values():
        first = alike[0]
        product, setting, summary = first.point.product, first.point.setting, first.summary
        assert summary is not None
        intensity = product.operational_intensity(first.point.dtype)
        flops_per_s = product.flops / summary.latency_s
        yield Dot(
            operators=tuple(dict.fromkeys(each.point.operator.name for each in alike)),
            batch_size=setting.batch_size,
            seq_len=setting.seq_len,
            num_candidates=setting.num_candidates,
            operational_intensity=intensity,
            flops_per_s=flops_per_s,
            latency_s=summary.latency_s,
            roof_fraction=(
                flops_per_s / ceilings[0].attainable_flops_per_s(intensity) if ceilings else None
            ),
            cause=_cause(first, source, intensity, flops_per_s),
        )


def _cause(each: ResultPoint, source: Source, intensity: float, flops_per_s: float) -> Cause | None:
    """The likely cause, where a point is above the measured or its own datasheet's roof."""
    dtype = each.point.dtype
    shares = []  # of a roof, and its peak
    if source.roofs and dtype in source.roofs.peak_flops_per_s:
        attainable = source.roofs.attainable_flops_per_s(intensity, dtype)
        peak = source.roofs.peak_flops_per_s[dtype]
        shares.append((flops_per_s / attainable / ABOVE_ROOF, peak))
    profile = source.profile or next(iter(source.extra_profiles), None)
    if profile and dtype in profile.peak_flops_per_s:
        attainable = profile.attainable_flops_per_s(intensity, dtype)
        shares.append((flops_per_s / attainable, profile.peak(dtype)))
    share, peak = max(shares, default=(0.0, 0.0))
    if share <= 1:
        return None
    l2_bytes = source.l2_bytes or (source.profile.l2_bytes if source.profile else 0)
    if flops_per_s <= peak and each.point.product.bytes_moved(dtype) <= l2_bytes:
        return Cause.CACHED
    if profile and source.device not in profile.device_names:
        return Cause.OTHER_DEVICE
    if share < _CLOCK_HEADROOM or QualityFlag.CONTENDED in each.flags:
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


def _in(value: object, allowed: tuple[object, ...]) -> bool:
    return not allowed or value in allowed


def _most(dtypes: Sequence[Dtype]) -> Dtype:
    return max(Dtype, key=dtypes.count)


def _what_there_is(sources: Sequence[Source]) -> str:
    with_numbers = [each for source in sources for each in source.points if each.summary]
    if not with_numbers:
        return "they hold no number at all; `medusa-bench results show` says why."

    def listed(values: Iterable[object]) -> str:
        found = [str(value) for value in dict.fromkeys(values)]
        return ", ".join(found[:12]) + (", ..." if len(found) > 12 else "")

    settings = [each.point.setting for each in with_numbers]
    return (
        f"there are models {listed(each.point.shape.name for each in with_numbers)}; "
        f"phases {listed(setting.phase for setting in settings)}; "
        f"operators {listed(each.point.operator.name for each in with_numbers)}; "
        f"batch sizes {listed(sorted({setting.batch_size for setting in settings}))}; "
        f"seq_len {listed(sorted({setting.seq_len for setting in settings}))}."
    )
