"""The paper's figures 18 to 23, redrawn: what it prints or plots, beside ours."""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.base.files import shipped
from medusa_bench.compare.comparisons import Comparison
from medusa_bench.paper.reproduction import MeasuredSpeedup, Predictor, Reproduction
from medusa_bench.report import roofline, style
from medusa_bench.report.series import Panel, Selection, Source, of_paper_figure, panels
from medusa_bench.results import folders
from medusa_bench.results.reading import Results
from medusa_bench.results.rows import Provenance, ResultPoint, Summary, Timing
from medusa_bench.specs import paper_grid, profiles
from medusa_bench.specs.paper_grid import PAPER_GPU


def figures(
    reproduction: Reproduction, measured: Sequence[Results], width: str = "two"
) -> dict[int, Callable[[], Figure]]:
    """How to draw each figure, by its number in the paper. Call within `style.applied()`.

    width: of the rooflines, in columns; the others are one column wide.
    """
    return {
        18: lambda: _roofline(18, reproduction, measured, width),
        19: lambda: _roofline(19, reproduction, measured, width),
        20: lambda: _roofline(20, reproduction, measured, width),
        21: lambda: _over_candidates(reproduction),
        22: lambda: _by_batch(reproduction),
        23: lambda: _by_length(reproduction),
    }


# -- figures 18 to 20 ---------------------------------------------------------------------------


def _roofline(
    number: int, reproduction: Reproduction, measured: Sequence[Results], width: str
) -> Figure:
    """The printed cells, our predictions of them, and what was measured, side by side."""
    profile = profiles.load(PAPER_GPU)
    paper = folders.load(shipped(paper_grid.RESULTS))
    device = paper.environment.device
    sources = [
        Source(device, paper.points(), profile=profile),
        Source(device, _predicted(reproduction), profile=profile),
    ]
    for results in measured:
        environment = results.environment
        own = profiles.match(environment.device, environment.memory_bytes)
        sources.append(
            Source(environment.device, results.points(), results.roof, own, environment.l2_bytes)
        )
    by, selection = of_paper_figure(number, Selection())
    drawn: list[Panel] = []
    for source in sources:
        drawn += _panels_if_any(source, by, selection)
    return roofline.draw(drawn, width)


def _panels_if_any(source: Source, by: Any, selection: Selection) -> list[Panel]:
    try:
        return panels([source], by, selection)
    except MedusaBenchError:  # a user's results need not hold the paper's points
        return []


def _predicted(reproduction: Reproduction) -> list[ResultPoint]:
    """The cells as predicted knowing nothing but the harness's launch time."""
    found = []
    for cell in reproduction.cells:
        if cell.is_repeated:
            continue
        for point in cell.printed.points:
            latency_s = point.product.flops / cell.predicted_flops_per_s[Predictor.LAUNCH]
            summary = Summary(latency_s, latency_s, latency_s, 1, source="launch time known")
            found.append(
                ResultPoint(
                    point, cell.printed.timing, Provenance.PREDICTED, "A100 80GB PCIe", summary
                )
            )
    return found


# -- figures 21 to 23 ---------------------------------------------------------------------------


def _over_candidates(reproduction: Reproduction) -> Figure:
    """Figure 21: rate and speedup over the parts of a step, at batch size 1."""
    figure, (axes,) = style.figure("one", height_in=3.4)
    rows = [r for r in reproduction.speedups if (r.batch_size, r.seq_len) == (1, 1024)]
    places = {row.num_candidates: place for place, row in enumerate(rows)}
    bottom = [0.0] * len(rows)
    for label, shade, values in (
        ("latency: q, k, v", "#5C5C5C", [part.qkv for part in reproduction.step_parts]),
        ("latency: QK^T, PV", "#9A9A9A", [part.attention for part in reproduction.step_parts]),
        ("latency: up, gate, down", "#D4D4D4", [part.mlp for part in reproduction.step_parts]),
    ):
        axes.bar(range(len(rows)), values, 0.55, bottom, color=shade, label=label)
        bottom = [below + value for below, value in zip(bottom, values, strict=True)]
    simulated: dict[str, Any] = {"fillstyle": "none", "markerfacecoloralt": "white"}
    axes.plot(
        [row.acceleration_rate for row in rows],
        color=style.DARK, marker="o", label="acceleration rate, ours", **simulated,
    )  # fmt: skip
    axes.plot(
        [row.speedup for row in rows],
        color=style.MIDDLE, marker="D", ls="--", label="speedup, ours", **simulated,
    )  # fmt: skip
    rates = [r for r in reproduction.rate_readings if r.figure == "21"]
    _read(axes, places, [(r.num_candidates, r.read) for r in rates], style.DARK, "o",
          label="acceleration rate, read off")  # fmt: skip
    speedups = [r for r in reproduction.speedup_readings if r.batch_size == 1]
    _read(axes, places, [(r.num_candidates, r.read) for r in speedups], style.MIDDLE, "D",
          label="speedup, read off (figure 22)")  # fmt: skip
    measured = [m for m in _shown(reproduction) if (m.batch_size, m.seq_len) == (1, 1024)]
    _measured(axes, places, measured, style.MIDDLE, "D",
              label="speedup, latencies measured")  # fmt: skip
    _finish(figure, axes, places, reproduction, "ratio to vanilla decoding")
    axes.set_title("Figure 21: Llama-7B, batch size 1, seq. length 1024", loc="left")
    axes.grid(visible=False, axis="x")
    return figure


def _by_batch(reproduction: Reproduction) -> Figure:
    """Figure 22: speedup by batch size, with the readings."""
    curves = _curves(r for r in reproduction.speedups if r.seq_len == 1024)
    readings: dict[int, list[tuple[int, float]]] = {}
    for reading in reproduction.speedup_readings:
        pair = (reading.num_candidates, reading.read)
        readings.setdefault(reading.batch_size, []).append(pair)
    measured = [m for m in _shown(reproduction) if m.seq_len == 1024]
    return _family(
        reproduction,
        {row[0].batch_size: row for row in curves},
        readings,
        {
            row[0].batch_size: [m for m in measured if m.batch_size == row[0].batch_size]
            for row in curves
        },
        name="batch size",
        title="Figure 22: Llama-7B, seq. length 1024",
        bottom=0.0,
    )


def _by_length(reproduction: Reproduction) -> Figure:
    """Figure 23: speedup by seq_len at batch size 4. No readings of it are shipped but figure 22's
    at the batch size and seq_len that both have."""
    curves = _curves(r for r in reproduction.speedups if r.batch_size == 4)
    readings = {
        1024: [(r.num_candidates, r.read) for r in reproduction.speedup_readings
               if r.batch_size == 4]
    }  # fmt: skip
    measured = [m for m in _shown(reproduction) if m.batch_size == 4]
    lengths = {row[0].seq_len: row for row in sorted(curves, key=lambda row: row[0].seq_len)}
    return _family(
        reproduction,
        lengths,
        readings,
        {length: [m for m in measured if m.seq_len == length] for length in lengths},
        name="seq. length",
        title="Figure 23: Llama-7B, batch size 4",
        bottom=0.9,  # the curves lie so close that they need the room
    )


def _shown(reproduction: Reproduction) -> list[MeasuredSpeedup]:
    """Of two timings the kernel's: two marks of one look could not be told apart."""
    timings = {each.timing for each in reproduction.measured_speedups}
    timing = Timing.KERNEL if Timing.KERNEL in timings else Timing.EAGER
    return [each for each in reproduction.measured_speedups if each.timing is timing]


def _curves(rows: Iterable[Comparison]) -> list[list[Comparison]]:
    found: dict[tuple[int, int], list[Comparison]] = {}
    for row in rows:
        found.setdefault((row.batch_size, row.seq_len), []).append(row)
    return list(found.values())


def _family(
    reproduction: Reproduction,
    curves: Mapping[int, Sequence[Comparison]],
    readings: Mapping[int, Sequence[tuple[int, float]]],
    measured: Mapping[int, Sequence[MeasuredSpeedup]],
    *,
    name: str,
    title: str,
    bottom: float,
) -> Figure:
    figure, (axes,) = style.figure("one", height_in=3.4)
    places = {row.num_candidates: place for place, row in enumerate(next(iter(curves.values())))}
    colours = style.sequence(len(curves))
    for index, (key, rows) in enumerate(curves.items()):
        marker = style.sequence_marker(index)
        axes.plot(
            [row.speedup for row in rows],
            color=colours[index], marker=marker, fillstyle="none", label=f"{name} {key}",
        )  # fmt: skip
        there = {row.num_candidates: row.speedup for row in rows}
        for count, value in readings.get(key, ()):  # which curve a reading belongs to
            axes.plot([places[count]] * 2, [there[count], value], color=colours[index], lw=1.8)
        _read(axes, places, readings.get(key, ()), colours[index], marker)
        _measured(axes, places, measured.get(key, ()), colours[index], marker)
    grey: dict[str, Any] = {"ls": "", "marker": "o", "color": "0.35", "markerfacecoloralt": "white"}
    axes.plot([], [], fillstyle="none", label="hollow: ours, simulated", **grey)
    axes.plot([], [], fillstyle="bottom", ms=6, label="half: read off figure 22", **grey)
    for timing in {each.timing for points in measured.values() for each in points}:
        label = f"filled: {timing} times measured"
        axes.plot([], [], fillstyle="full", label=label, **grey)
    _finish(figure, axes, places, reproduction, "speedup over vanilla decoding")
    axes.set_ylim(bottom=bottom)
    axes.set_title(title, loc="left")
    return figure


def _read(
    axes: Axes,
    places: Mapping[int, int],
    points: Sequence[tuple[int, float]],
    colour: str,
    marker: str,
    *,
    label: str = "_",
) -> None:
    """Half-filled: reported."""
    axes.plot(
        [places[count] for count, _ in points],
        [value for _, value in points],
        ls="", marker=marker, fillstyle="bottom", ms=6, mew=0.8, color=colour,
        markerfacecoloralt="white", label=label, zorder=4,
    )  # fmt: skip


def _measured(
    axes: Axes,
    places: Mapping[int, int],
    points: Sequence[MeasuredSpeedup],
    colour: str,
    marker: str,
    *,
    label: str = "_",
) -> None:
    if points:
        axes.plot(
            [places[point.num_candidates] for point in points],
            [point.speedup for point in points],
            ls="", marker=marker, ms=4.5, color=colour, label=label, zorder=5,
        )  # fmt: skip


_LINE_CHARACTERS = 50  # that fit across one column


def _finish(
    figure: Figure,
    axes: Axes,
    places: Mapping[int, int],
    reproduction: Reproduction,
    y_label: str,
) -> None:
    axes.axhline(1, color=style.VANILLA_COLOR, lw=0.8, zorder=1)
    axes.set_xticks(list(places.values()), [str(count) for count in places])
    form = f"acceleration rate: {reproduction.acceptance.name}"
    lines = ["candidates, the root included", *textwrap.wrap(form, _LINE_CHARACTERS)]
    axes.set_xlabel("\n".join(lines))
    axes.set_ylabel(y_label)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=2, columnspacing=1.2, handletextpad=0.5)
