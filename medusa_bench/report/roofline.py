"""Roofline figures: the paper's 9 to 17 (by operator) and 18 to 20 (by candidates)."""

import math
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter
from matplotlib.transforms import ScaledTranslation

from medusa_bench.report import style
from medusa_bench.report.series import By, Cause, Dot, Panel, Series, paths
from medusa_bench.results.rows import Provenance

_DASHES = ((0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)))
_HEADROOM = 2.0  # above the highest roof
_ARROW_GAP_POINTS = 11
_VARIABLES = {
    "batch_size": "batch size",
    "seq_len": "seq. length",
    "num_candidates": "candidates",
}


def draw(panels: Sequence[Panel], width: str = "two") -> Figure:
    """The panels side by side on common axes, one legend below. Call within `style.applied()`.

    Dots are filled where measured, hollow where predicted, half-filled where reported; ringed
    where above a roof. Datasheet roofs are dashed, measured ones solid.
    """
    columns = min(len(panels), 3 if width == "two" else 1)
    rows = math.ceil(len(panels) / columns)
    figure, axes = style.figure(
        width,
        rows=rows,
        columns=columns,
        height_in=_height_in(panels, rows, columns, style.WIDTHS_IN[width]),
        sharex=True,
        sharey=True,
    )
    for ax in axes[len(panels) :]:
        ax.remove()
    axes = axes[: len(panels)]
    low, high = _limits(panels)
    for ax, panel in zip(axes, panels, strict=True):
        ax.set(xscale="log", yscale="log", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        _draw_ceilings(ax, panel)
        _draw_paths(ax, panel)
        for series in panel.series:
            _draw_series(ax, series, panel)
        _draw_rings(ax, panel)
        _draw_arrows(ax, panel)
        _draw_title(ax, panel)
    for index, ax in enumerate(axes):
        if index % columns == 0:
            ax.set_ylabel("performance (FLOP/s)")
        if index + columns >= len(axes):
            ax.set_xlabel("operational intensity (FLOP/byte)")
            ax.tick_params(labelbottom=True)
    style.plain_log_ticks(axes, minor=len(panels) == 1)
    if handles := _legend_handles(panels):
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=_legend_columns(handles, style.WIDTHS_IN[width]),
            handletextpad=0.4,
            columnspacing=1.2,
        )
    return figure


def _legend_columns(handles: Sequence[Line2D], width_in: float) -> int:
    entry_in = 0.4 + 0.046 * max(len(str(handle.get_label())) for handle in handles)
    return max(1, min(len(handles), int(width_in / entry_in)))


def _height_in(panels: Sequence[Panel], rows: int, columns: int, width_in: float) -> float:
    handles = _legend_handles(panels)
    legend_rows = math.ceil(len(handles) / _legend_columns(handles, width_in)) if handles else 0
    roofs = max(len(panel.ceilings) for panel in panels)
    axes_in = min(0.75 * width_in / columns, 2.6)
    return rows * (axes_in + 0.14 * (4 + roofs) + 0.35) + 0.14 * legend_rows + 0.1


def _limits(panels: Sequence[Panel]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Corners (intensity, FLOP/s) that take in all dots and the ridge points."""
    dots = [dot for panel in panels for dot in panel.dots]
    ceilings = [ceiling for panel in panels for ceiling in panel.ceilings]
    xs = [dot.operational_intensity for dot in dots] + [c.ridge_point for c in ceilings]
    ys = [dot.flops_per_s for dot in dots]
    tops = ys + [ceiling.peak_flops_per_s for ceiling in ceilings]
    left, right = min(xs, default=1.0) / 2, max(xs, default=1000.0) * 2
    if not dots:
        left, right = 0.5, right * 10
    if not ys:
        ys = [ceiling.attainable_flops_per_s(left) for ceiling in ceilings]
    return (left, min(ys) / 2), (right, max(tops) * _HEADROOM)


_TITLE_LENGTH = 56  # characters above an axes one column wide


def _draw_title(ax: Axes, panel: Panel) -> None:
    """Above the axes: what is shown, where it comes from, and the roofs in numbers."""
    legend = ax.legend(
        handles=[line for line in ax.lines if str(line.get_label()) in _ceiling_labels(panel)],
        title="\n".join(shorten(line, _TITLE_LENGTH, placeholder=" ...") for line in panel.title),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        alignment="left",
        borderaxespad=0,
        borderpad=0,
        handlelength=2.2,
        handletextpad=0.5,
        labelspacing=0.25,
        title_fontproperties={"size": mpl.rcParams["font.size"]},
    )
    legend.set_in_layout(True)


def _ceiling_labels(panel: Panel) -> list[str]:
    labels = []
    for ceiling in panel.ceilings:
        name = ceiling.kind
        if ceiling.kind == "datasheet" and (panel.provenance is None or len(panel.ceilings) > 2):
            name += f" {ceiling.name}"
        peak = _quantity(ceiling.peak_flops_per_s, "FLOP/s")
        bandwidth = _quantity(ceiling.memory_bandwidth_bytes_per_s, "B/s")
        labels.append(f"{name}: {peak}, {bandwidth}")
    return labels


def _draw_ceilings(ax: Axes, panel: Panel) -> None:
    left, right = ax.get_xlim()
    datasheets = 0
    for ceiling, label in zip(panel.ceilings, _ceiling_labels(panel), strict=True):
        measured = ceiling.kind == "measured"
        xs = sorted({left, min(max(ceiling.ridge_point, left), right), right})
        ax.plot(
            xs,
            [ceiling.attainable_flops_per_s(x) for x in xs],
            label=label,
            color=style.ROOF_COLOR,
            linestyle="-" if measured else _DASHES[datasheets % len(_DASHES)],
            linewidth=1.1 if measured else 0.9,
            zorder=1.5,
        )
        datasheets += not measured


def _quantity(value: float, unit: str) -> str:
    return str(EngFormatter(unit=unit)(float(f"{value:.4g}")))


def _color(series: Series, panel: Panel) -> str:
    if panel.by is By.OPERATOR:
        return style.SERIES_COLORS[series.group]
    if series.is_vanilla:
        return style.VANILLA_COLOR
    counts = _candidate_counts([panel])
    return style.sequence(len(counts))[counts.index(series.num_candidates or 1)]


def _marker(series: Series, panel: Panel) -> str:
    if panel.by is By.OPERATOR:
        return style.PHASE_MARKERS[series.phase]
    if series.is_vanilla:
        return "o"
    return style.sequence_marker(1 + _candidate_counts([panel]).index(series.num_candidates or 1))


def _candidate_counts(panels: Sequence[Panel]) -> list[int]:
    return sorted(
        {
            series.num_candidates
            for panel in panels
            for series in panel.series
            if series.num_candidates and not series.is_vanilla
        }
    )


def _look(series: Series, panel: Panel) -> dict[str, Any]:
    color = _color(series, panel)
    measured = series.provenance is Provenance.MEASURED  # with a thin white rim
    rim = 0.2 if measured else 0.6
    return {
        "linestyle": "none",
        "marker": _marker(series, panel),
        "fillstyle": style.FILL_STYLES[series.provenance],
        "color": color,
        "markerfacecoloralt": "white",
        "markeredgecolor": "white" if measured else color,
        "markeredgewidth": rim if _is_crowded(panel) else 1.5 * rim,
    }


def _is_crowded(panel: Panel) -> bool:
    return len(panel.dots) > 150


def _draw_series(ax: Axes, series: Series, panel: Panel) -> None:
    ax.plot(
        [dot.operational_intensity for dot in series.dots],
        [dot.flops_per_s for dot in series.dots],
        zorder=3,
        markersize=3 if _is_crowded(panel) else 4,
        **_look(series, panel),
    )


def _draw_paths(ax: Axes, panel: Panel) -> None:
    """Thin lines through the dots that differ in one variable alone."""
    found: list[tuple[Sequence[Dot], str, str]]
    if panel.by is By.CANDIDATES:
        found = [(panel.dots, "num_candidates", style.FAINT)]
    else:
        found = [
            (
                series.dots,
                "seq_len" if series.group == "qk/pv" else "batch_size",
                style.SERIES_COLORS[series.group],
            )
            for series in panel.series
        ]
    for dots, along, color in found:
        lines = [
            [(dot.operational_intensity, dot.flops_per_s) for dot in path]
            for path in paths(dots, along)
        ]
        ax.add_collection(
            LineCollection(lines, colors=color, linewidths=0.4, alpha=0.5, zorder=2),
            autolim=False,
        )


def _draw_rings(ax: Axes, panel: Panel) -> None:
    flagged = [dot for dot in panel.dots if dot.cause]
    ax.plot(
        [dot.operational_intensity for dot in flagged],
        [dot.flops_per_s for dot in flagged],
        zorder=4,
        **_RING,
    )


_RING: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 5.5,
    "markerfacecolor": "none",
    "markeredgecolor": "black",
    "markeredgewidth": 0.5,
}


def _draw_arrows(ax: Axes, panel: Panel) -> None:
    """For each variable an arrow beside the path along which it moves dots furthest."""
    arrows: list[tuple[list[Dot], list[str]]] = []
    for variable, label in _VARIABLES.items():
        found = [
            path
            for dots in _path_sources(panel)
            for path in paths(dots, variable)
            if path[-1].flops_per_s >= path[0].flops_per_s  # noise has no direction
        ]
        path = max(found, key=_length_and_lowness, default=None)
        if path is None or math.hypot(*_log_step(path)) < _SHORTEST_ARROW:
            continue
        for other, labels in arrows:
            if _beside(path, other):  # one arrow with both names, not two on top of each other
                labels.append(label)
                break
        else:
            arrows.append((path, [label]))
    for path, labels in arrows:
        _draw_arrow(ax, path, " or ".join(labels))


def _length_and_lowness(path: Sequence[Dot]) -> tuple[int, float]:
    """Of about equally long paths the lowest is best: below it no other dots are in the way."""
    return round(math.hypot(*_log_step(path)) / _ALIKE_DECADES), -path[0].flops_per_s


def _draw_arrow(ax: Axes, path: Sequence[Dot], label: str) -> None:
    dx, dy = _log_step(path)
    gap = _ARROW_GAP_POINTS / 72 / math.hypot(dx, dy)
    figure = ax.get_figure(root=True)
    assert figure is not None
    beside = ax.transData + ScaledTranslation(gap * dy, -gap * dx, figure.dpi_scale_trans)
    start, end = ((dot.operational_intensity, dot.flops_per_s) for dot in (path[0], path[-1]))
    ax.annotate(
        "",
        xy=end,
        xytext=start,
        xycoords=beside,
        textcoords=beside,
        arrowprops={"arrowstyle": "->", "linewidth": 0.7, "color": _ARROW_COLOR},
    )
    if dy > 3 * dx:  # upright: so is the label, lest it reach into the next arrow
        along, offset, ha, va, rotation = 0.5, (3, 0), "left", "center", 90
    elif dy > dx / 3:  # steep: dots crowd towards its end
        along, offset, ha, va, rotation = 0.3, (4, -4), "left", "top", 0
    else:
        along, offset, ha, va, rotation = 0.5, (0, -4), "center", "top", 0
    ax.annotate(
        label,
        xy=(start[0] * 10 ** (along * dx), start[1] * 10 ** (along * dy)),
        xycoords=beside,
        xytext=offset,
        textcoords="offset points",
        ha=ha,
        va=va,
        rotation=rotation,
        fontsize=6.5,
        color=_ARROW_COLOR,
    )


def _beside(path: Sequence[Dot], other: Sequence[Dot]) -> bool:
    """Whether two arrows would run into each other: from near places in near directions."""
    one, two = path[0], other[0]
    near = (
        abs(math.log10(one.operational_intensity / two.operational_intensity)) < _NEAR_DECADES
        and abs(math.log10(one.flops_per_s / two.flops_per_s)) < 2 * _NEAR_DECADES
    )
    turn = math.atan2(*_log_step(path)) - math.atan2(*_log_step(other))
    return near and abs(turn) < _NEAR_RADIANS


_NEAR_DECADES, _NEAR_RADIANS = 0.7, 0.35
_ARROW_COLOR = "#444444"
_SHORTEST_ARROW = 0.5  # decades
_ALIKE_DECADES = 0.3


def _path_sources(panel: Panel) -> list[Sequence[Dot]]:
    if panel.by is By.CANDIDATES:
        return [panel.dots]
    return [series.dots for series in panel.series]


def _log_step(path: Sequence[Dot]) -> tuple[float, float]:
    first, last = path[0], path[-1]
    return (
        math.log10(last.operational_intensity / first.operational_intensity),
        math.log10(last.flops_per_s / first.flops_per_s),
    )


def _legend_handles(panels: Sequence[Panel]) -> list[Line2D]:
    handles: dict[str, Line2D] = {}
    for panel in panels:
        for series in panel.series:
            label = series.short_name
            look = _look(series, panel)
            handles.setdefault(label, Line2D([], [], label=label, markersize=4.5, **look))
    provenances = [series.provenance for panel in panels for series in panel.series]
    for provenance in dict.fromkeys(provenances):
        look = {**_PROVENANCE_LOOK, "fillstyle": style.FILL_STYLES[provenance]}
        handles[provenance] = Line2D([], [], label=_PROVENANCE_WORDS[provenance], **look)
    causes = [dot.cause for panel in panels for dot in panel.dots if dot.cause]
    for cause in dict.fromkeys(causes):
        label = f"ring: {_CAUSE_WORDS[cause]} ({causes.count(cause)})"
        handles[label] = Line2D([], [], label=label, **_RING)
    return list(handles.values())


_CAUSE_WORDS = {  # why a ringed dot is above a roof
    Cause.CACHED: "fits in L2",
    Cause.OTHER_DEVICE: "other profile",
    Cause.CLOCK: "clock or load",
    Cause.FORMULA: "formula or time",
}
_PROVENANCE_LOOK: dict[str, Any] = {
    "linestyle": "none",
    "marker": "h",
    "markersize": 5.5,
    "color": "#555555",
    "markerfacecoloralt": "white",
}
_PROVENANCE_WORDS = {
    Provenance.MEASURED: "filled: measured",
    Provenance.GENERATED: "filled: generated",
    Provenance.SERVED: "filled: served",
    Provenance.PREDICTED: "hollow: predicted",
    Provenance.SIMULATED: "hollow: simulated",
    Provenance.REPORTED: "half: reported",
}
