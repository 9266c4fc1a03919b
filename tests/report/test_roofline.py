"""Roofline figures, text and JSON, from a synthetic device that runs at a fixed share of its roof.

No number here comes from a GPU: the device is called synthetic, and so are its results.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import matplotlib.text
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medusa_bench.base.errors import MedusaBenchError, StorageError
from medusa_bench.cli import run
from medusa_bench.report import roofline, style, terminal
from medusa_bench.report.series import (
    PAPER_FIGURES,
    By,
    Cause,
    Panel,
    Selection,
    Source,
    of_paper_figure,
    panels,
    paths,
    roofs_alone,
)
from medusa_bench.results import folders
from medusa_bench.results.rows import (
    Environment,
    Grid,
    Measurement,
    Provenance,
    QualityFlag,
    ResultPoint,
    Roofs,
    Summary,
    Task,
    Timing,
)
from medusa_bench.specs import profiles
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS
from medusa_bench.specs.operators import OPERATORS, Point, of_model, points
from medusa_bench.specs.paper_grid import PAPER_BATCH_SIZES, PAPER_SEQ_LENS
from medusa_bench.specs.settings import Phase, settings

A100 = profiles.load("a100-80gb-pcie")
SYNTHETIC = replace(A100, name="synthetic", device_names=("Synthetic",), l2_bytes=1)
ROOFS = Roofs({Dtype.FLOAT16: 250e12}, 1.6e12)
BLOCK = [op.name for op in OPERATORS]


def at_share(
    point: Point,
    share: float,
    provenance: Provenance = Provenance.MEASURED,
    timing: Timing = Timing.KERNEL,
) -> ResultPoint:
    """The point at a fixed share of the measured roof."""
    intensity = point.product.operational_intensity(point.dtype)
    latency_s = point.product.flops / (share * ROOFS.attainable_flops_per_s(intensity, point.dtype))
    summary = Summary(latency_s, latency_s, latency_s, 2)
    return ResultPoint(point, timing, provenance, "Synthetic", summary)


def source(
    share: float = 0.8,
    *,
    models: Sequence[str] = ("llama-7b",),
    batch_sizes: Sequence[int] = (1, 4, 64),
    seq_lens: Sequence[int] = (256, 1024, 8192),
    **changes: Any,
) -> Source:
    grid = settings(batch_sizes=batch_sizes, seq_lens=seq_lens, num_candidates=(1, 16, 64, 112))
    logical = points([PRESETS[name] for name in models], OPERATORS, grid, [Dtype.FLOAT16])
    measured = [
        at_share(point, share, changes.get("provenance", Provenance.MEASURED)) for point in logical
    ]
    changes.pop("provenance", None)
    return replace(Source("Synthetic", measured, ROOFS, SYNTHETIC), **changes)


def drawn(shown: Sequence[Panel], width: str = "two") -> Figure:
    with style.applied():
        return roofline.draw(shown, width)


# -- what is shown ------------------------------------------------------------------------------


def test_the_papers_figures_are_three_models_on_three_gpus_then_candidates() -> None:
    models = [PAPER_FIGURES[number].model for number in range(9, 18)]
    gpus = [PAPER_FIGURES[number].profile for number in range(9, 18)]
    assert models == ["llama-7b", "llama-13b", "llama-33b"] * 3
    assert gpus == ["a100-80gb-pcie"] * 3 + ["a40"] * 3 + ["a6000"] * 3
    assert [PAPER_FIGURES[n].batch_size for n in (18, 19, 20)] == [16, None, None]
    assert [PAPER_FIGURES[n].seq_len for n in (18, 19, 20)] == [None, 1024, None]
    assert PAPER_FIGURES[20].operators == ("up", "gate", "down")


def test_figure_9_has_the_papers_six_series() -> None:
    by, selection = of_paper_figure(9, Selection())
    (panel,) = panels([source()], by, selection)
    assert [series.name for series in panel.series] == [
        "qkv mlp init", "qkv mlp ar", "up/gate/down init", "up/gate/down ar",
        "qk/pv init", "qk/pv ar",
    ]  # fmt: skip


def test_all_49_settings_of_attention_are_shown_and_identical_products_once() -> None:
    by, selection = of_paper_figure(9, Selection())
    shown = source(batch_sizes=PAPER_BATCH_SIZES, seq_lens=PAPER_SEQ_LENS)
    (panel,) = panels([shown], by, selection)
    dots = {series.name: series.dots for series in panel.series}
    # QK^T and PV coincide where seq_len = head_dim, so 2 x 49 - 7.
    assert len(dots["qk/pv init"]) == 91
    assert len(dots["qkv mlp ar"]) == 7  # decode linears do not depend on seq_len
    assert len(dots["qkv mlp init"]) == 13  # batch_size x seq_len takes 13 values
    assert dots["qkv mlp ar"][0].operators == ("q", "k", "v")


def test_by_candidates_one_candidate_is_vanilla_decoding_in_grey() -> None:
    by, selection = of_paper_figure(20, Selection(models=("llama-7b",)))
    (panel,) = panels([source()], by, selection)
    assert [series.name for series in panel.series] == [
        "up/gate/down ar", "up/gate/down Medusa (# cand.: 16)",
        "up/gate/down Medusa (# cand.: 64)", "up/gate/down Medusa (# cand.: 112)",
    ]  # fmt: skip
    vanilla = panel.series[0]
    assert vanilla.is_vanilla
    assert {dot.num_candidates for dot in vanilla.dots} == {1}
    assert len(vanilla.dots) == 2 * 3  # up = gate, and down, at three batch sizes


def test_by_candidates_each_group_has_its_own_panel() -> None:
    shown = panels([source()], By.CANDIDATES, Selection())
    assert [panel.group for panel in shown] == ["qkv mlp", "up/gate/down", "qk/pv"]


def test_there_is_a_panel_for_each_source_and_model() -> None:
    shown = panels(
        [source(models=("llama-7b", "llama-33b")), source(device="Other")],
        By.OPERATOR,
        Selection(),
    )
    assert [(panel.model, panel.device) for panel in shown] == [
        ("llama-7b", "Synthetic"),
        ("llama-33b", "Synthetic"),
        ("llama-7b", "Other"),
    ]


def test_the_filters_leave_what_they_name() -> None:
    (panel,) = panels(
        [source()],
        By.OPERATOR,
        Selection(
            operators=("qk", "pv"),
            phases=(Phase.DECODE, Phase.MEDUSA),
            batch_sizes=(4,),
            seq_lens=(1024,),
            num_candidates=(64,),
        ),
    )
    assert {(dot.batch_size, dot.seq_len) for dot in panel.dots} == {(4, 1024)}
    assert {dot.num_candidates for dot in panel.dots} == {1, 64}


def test_selecting_nothing_is_an_error_that_says_what_there_is() -> None:
    with pytest.raises(MedusaBenchError, match="No point") as caught:
        panels([source()], By.OPERATOR, Selection(models=("llama-13b",)))
    assert "models llama-7b" in str(caught.value.hint)


def test_kernel_times_are_shown_unless_eager_ones_are_asked_for() -> None:
    both = source()
    eager = [replace(each, timing=Timing.EAGER) for each in both.points]
    both = replace(both, points=[*eager, *both.points])
    (kernel,) = panels([both], By.OPERATOR, Selection())
    (asked,) = panels([both], By.OPERATOR, Selection(timing=Timing.EAGER))
    assert (kernel.timing, asked.timing) == (Timing.KERNEL, Timing.EAGER)
    assert len(kernel.dots) == len(asked.dots)


def test_a_device_at_a_fixed_share_of_its_roof_shows_that_share_everywhere() -> None:
    (panel,) = panels([source(0.8)], By.OPERATOR, Selection())
    for dot in panel.dots:
        assert dot.roof_fraction == pytest.approx(0.8)
        assert dot.cause is None


def test_ceilings_are_the_measured_one_then_the_datasheets() -> None:
    extra = profiles.load("h100-sxm")
    (panel,) = panels([source(extra_profiles=(extra,))], By.OPERATOR, Selection())
    assert [(c.kind, c.name, c.peak_flops_per_s) for c in panel.ceilings] == [
        ("measured", "Synthetic", 250e12),
        ("datasheet", "synthetic", 312e12),
        ("datasheet", "h100-sxm", pytest.approx(989.4e12)),
    ]
    assert panel.ceilings[0].ridge_point == pytest.approx(250 / 1.6)


# -- above the roof -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "changes", "causes"),
    [
        (1.04, {}, set()),  # within what a measured roof may be beaten by
        (1.2, {}, {Cause.CLOCK}),
        (1.2, {"l2_bytes": 1 << 50}, {Cause.CACHED, Cause.CLOCK}),  # a cache adds no FLOPs
        (3.0, {}, {Cause.FORMULA}),
        (3.0, {"device": "Unknown", "profile": None, "roofs": None}, set()),  # no roof, no flag
        (
            3.0,
            {"device": "Unknown", "profile": None, "extra_profiles": (A100,)},
            {Cause.OTHER_DEVICE},
        ),
    ],
)
def test_a_point_above_a_roof_is_flagged_with_its_likely_cause(
    share: float, changes: dict[str, Any], causes: set[Cause]
) -> None:
    (panel,) = panels([source(share, **changes)], By.OPERATOR, Selection())
    assert {dot.cause for dot in panel.dots} - {None} == causes


def test_where_others_used_the_machine_the_load_is_the_likely_cause() -> None:
    shown = source(3.0)
    contended = [replace(each, flags=(QualityFlag.CONTENDED,)) for each in shown.points]
    (panel,) = panels([replace(shown, points=contended)], By.OPERATOR, Selection())
    assert {dot.cause for dot in panel.dots} == {Cause.CLOCK}


def test_flagged_points_are_ringed_in_the_figure_and_named_in_the_legend() -> None:
    (panel,) = panels([source(1.2)], By.OPERATOR, Selection())
    figure = drawn([panel])
    rings = [
        line
        for line in lines(figure)
        if line.get_markerfacecolor() == "none" and line.get_markeredgecolor() == "black"
    ]
    assert sum(len(line.get_xdata()) for line in rings) == len(panel.dots)
    assert f"ring: clock or load ({len(panel.dots)})" in legend_texts(figure)


# -- the figure ---------------------------------------------------------------------------------


def lines(figure: Figure) -> list[Line2D]:
    return [line for ax in figure.axes for line in ax.lines]


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@pytest.mark.parametrize(
    ("provenance", "fillstyle", "word"),
    [
        (Provenance.MEASURED, "full", "filled: measured"),
        (Provenance.PREDICTED, "none", "hollow: predicted"),
        (Provenance.REPORTED, "bottom", "half: reported"),
    ],
)
def test_provenance_shows_in_the_fill_and_stands_in_title_and_legend(
    provenance: Provenance, fillstyle: str, word: str
) -> None:
    shown = panels([source(provenance=provenance)], By.OPERATOR, Selection())
    figure = drawn(shown)
    marked = [
        line
        for line in lines(figure)
        if line.get_marker() in set("so^")
        and len(line.get_xdata())
        and line.get_markeredgecolor() != "black"
    ]
    assert {line.get_fillstyle() for line in marked} == {fillstyle}
    assert word in legend_texts(figure)
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert f"{provenance}, kernel times" in legend.get_title().get_text()


def test_the_measured_roof_is_solid_the_datasheets_dashed_and_both_are_labelled() -> None:
    figure = drawn(panels([source()], By.OPERATOR, Selection()))
    roofs = {str(line.get_label()): line for line in lines(figure)}
    assert roofs["measured: 250 TFLOP/s, 1.6 TB/s"].get_linestyle() == "-"
    assert roofs["datasheet: 312 TFLOP/s, 1.935 TB/s"].get_linestyle() == "--"
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 2


def test_axes_are_logarithmic_and_take_in_every_dot() -> None:
    shown = panels([source(), source(0.1)], By.OPERATOR, Selection())
    figure = drawn(shown)
    for ax, panel in zip(figure.axes, shown, strict=True):
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        left, right = ax.get_xlim()
        bottom, top = ax.get_ylim()
        for dot in panel.dots:
            assert left < dot.operational_intensity < right
            assert bottom < dot.flops_per_s < top


@pytest.mark.parametrize(
    ("number", "names"), [(9, ["batch size", "seq. length"]), (20, ["batch size or candidates"])]
)
def test_arrows_name_the_direction_in_which_each_variable_grows(
    number: int, names: list[str]
) -> None:
    by, selection = of_paper_figure(number, Selection(models=("llama-7b",)))
    figure = drawn(panels([source()], by, selection), "one")
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == names


def texts_shown(figure: Figure) -> list[matplotlib.text.Text]:
    """Every text that is drawn: tick labels outside the axes' limits are not."""
    found = [text for legend in figure.legends for text in legend.get_texts()]
    for ax in figure.axes:
        legend = ax.get_legend()
        assert legend is not None
        found += [legend.get_title(), *legend.get_texts(), *ax.texts]
        found += [ax.xaxis.label, ax.yaxis.label]
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            for tick, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True):
                if limits[0] <= tick <= limits[1]:
                    found.append(label)
    return [text for text in found if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("width", ["one", "two"])
@pytest.mark.parametrize("number", [9, 18, 20])
def test_no_two_texts_of_a_figure_run_into_each_other(number: int, width: str) -> None:
    by, selection = of_paper_figure(number, Selection(models=("llama-7b",)))
    shown = source(batch_sizes=(1, 16, 64))
    with style.applied():
        figure = roofline.draw(panels([shown], by, selection), width)
        figure.draw_without_rendering()
        boxes = [(text.get_text(), text.get_window_extent()) for text in texts_shown(figure)]
    assert len(boxes) > 15
    for text, box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text
    for (text, box), (other, other_box) in combinations(boxes, 2):
        width_px = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
        height_px = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
        assert width_px <= 1 or height_px <= 1, (text, other)


def test_paths_join_dots_that_differ_in_one_variable_alone() -> None:
    by, selection = of_paper_figure(18, Selection(models=("llama-7b",), batch_sizes=(4,)))
    (panel,) = panels([source()], by, selection)
    found = paths(panel.dots, "num_candidates")
    assert len(found) == 2 * 3  # QK^T and PV at three lengths
    for path in found:
        assert [dot.num_candidates for dot in path] == [1, 16, 64, 112]
        assert len({(dot.seq_len, dot.batch_size, dot.operators) for dot in path}) == 1


def test_datasheet_roofs_stand_alone_with_their_names() -> None:
    (panel,) = roofs_alone([A100, profiles.load("h100-sxm")], Dtype.FLOAT16)
    labels = [str(line.get_label()) for line in lines(drawn([panel], "one"))]
    assert "datasheet a100-80gb-pcie: 312 TFLOP/s, 1.935 TB/s" in labels
    assert "datasheet h100-sxm: 989.4 TFLOP/s, 3.35 TB/s" in labels


# -- style --------------------------------------------------------------------------------------


def lightness(color: str) -> float:
    """CIE L*, 0 to 100: what is left of a colour in grey print."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(color)]
    luminance = sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


def test_the_papers_three_groups_are_told_apart_in_grey_print() -> None:
    levels = [lightness(style.SERIES_COLORS[g]) for g in ("qkv mlp", "up/gate/down", "qk/pv")]
    for one, other in combinations(levels, 2):
        assert abs(one - other) > 15
    assert max(levels) < 80  # on white


@pytest.mark.parametrize("name", PRESETS)
def test_no_two_series_of_a_model_share_a_colour(name: str) -> None:
    series = {op.series for op, _ in of_model(PRESETS[name])} | {"lm head", "Medusa heads"}
    assert len({style.SERIES_COLORS[each] for each in series}) == len(series)


def test_a_sequence_of_colours_darkens_step_by_step() -> None:
    levels = [lightness(color) for color in style.sequence(8)]
    steps = [a - b for a, b in pairwise(levels)]
    assert min(steps) > 5
    assert len({style.sequence_marker(index) for index in range(8)}) == 8


@pytest.mark.parametrize("suffix", style.SUFFIXES)
def test_a_figure_made_twice_is_the_same_file(tmp_path: Path, suffix: str) -> None:
    made = []
    for name in ("a", "b"):
        with style.applied():
            shown = panels([source()], By.OPERATOR, Selection(phases=(Phase.DECODE,)))
            figure = roofline.draw(shown, "one")
            made.append(style.save(figure, tmp_path / f"{name}{suffix}").read_bytes())
    assert made[0] == made[1]


def test_text_in_vector_files_stays_text(tmp_path: Path) -> None:
    with style.applied():
        figure = roofline.draw(panels([source()], By.OPERATOR, Selection()), "one")
        svg = style.save(figure, tmp_path / "a.svg").read_text()
    assert ">operational intensity (FLOP/byte)</text>" in svg
    assert not re.search(r"<dc:date>", svg)


def test_a_users_matplotlibrc_changes_nothing(tmp_path: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black"}), style.applied():
        figure, (ax, *_) = style.figure("one")
        assert ax.get_facecolor() == (1, 1, 1, 1)
        assert figure.get_figwidth() == pytest.approx(3.35)
    assert mpl.rcParams["svg.fonttype"] == mpl.rcParamsDefault["svg.fonttype"]


def test_an_unknown_ending_and_an_unwritable_place_are_refused(tmp_path: Path) -> None:
    with style.applied():
        figure, _ = style.figure("one")
        with pytest.raises(MedusaBenchError, match="ends in none of") as caught:
            style.save(figure, tmp_path / "a.jpg")
        assert not isinstance(caught.value, StorageError)
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="cannot be written"):
            style.save(figure, tmp_path / "file" / "a.png")


# -- the terminal -------------------------------------------------------------------------------


@pytest.mark.parametrize("characters", [terminal.ASCII, terminal.UNICODE])
def test_the_terminal_picture_fits_80_columns_and_shows_every_series(
    characters: terminal.Characters,
) -> None:
    selection = Selection(operators=("qk", "pv"), phases=(Phase.PREFILL, Phase.DECODE))
    (panel,) = panels([source()], By.OPERATOR, selection)
    text = terminal.draw(panel, columns=80, characters=characters).plain
    assert max(map(len, text.splitlines())) <= 80
    assert text.isascii() == (characters is terminal.ASCII)
    picture = "".join(line[7:] for line in text.splitlines()[:22])
    assert set("ab") <= set(picture)
    assert characters.measured in picture
    assert "measured roof of Synthetic: 250 TFLOP/s, 1.6 TB/s" in text
    assert terminal.letters(panel) == {"qk/pv init": "a", "qk/pv ar": "b"}


def test_a_point_above_a_roof_is_an_exclamation_mark() -> None:
    (panel,) = panels([source(1.2)], By.OPERATOR, Selection())
    assert "!" in terminal.draw(panel, characters=terminal.ASCII).plain
    (panel,) = panels([source(0.5)], By.OPERATOR, Selection())
    assert "!" not in terminal.draw(panel, characters=terminal.ASCII).plain


# -- the command --------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder of the synthetic device, as ./results/synthetic."""
    monkeypatch.chdir(tmp_path)
    grid = Grid(
        shapes=(PRESETS["llama-7b"],),
        operators=OPERATORS,
        phases=tuple(Phase),
        batch_sizes=(1, 64),
        seq_lens=(256, 1024),
        num_candidates=(1, 64),
        dtypes=(Dtype.FLOAT16,),
        timings=(Timing.KERNEL,),
    )
    path = tmp_path / "results" / "synthetic"
    environment = Environment("Synthetic", "cuda", 80 * 10**9)
    measurements = {}
    for point in grid.points():
        task = Task(point.product, point.dtype, Timing.KERNEL)
        summary = at_share(point, 0.8).summary
        assert summary is not None
        s = summary.latency_s
        measurements[task] = Measurement(task, 0, s, s, s, s, 10)
    with folders.Writer(path, environment, grid) as writer:
        writer.add_roofs(ROOFS)
        writer.extend(measurements.values())
    return path


def test_the_newest_results_are_drawn_in_the_terminal_with_their_table(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["roofline", "--operator", "mlp"]) == 0
    captured = capsys.readouterr()
    assert "The newest results: results/synthetic" in captured.err
    assert "llama-7b on Synthetic, measured, kernel times, float16" in captured.out
    rows = [line.split() for line in captured.out.splitlines()]
    assert "b up/gate/down ar 4 1.00..62.7 1.28 T..80.2 T 80% (80..80%)".split() in rows
    assert max(map(len, captured.out.splitlines())) <= 80


def test_without_results_the_error_says_how_to_get_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "paper").mkdir(parents=True)
    (tmp_path / "results" / "paper" / "run.json").write_text("{}")  # never the newest
    assert run(["roofline"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: There are no results under ./results.")
    assert "medusa-bench sweep" in captured.err


def test_json_holds_series_and_ceilings_and_nothing_else_is_printed(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["roofline", str(results), "--json"]) == 0
    (panel,) = json.loads(capsys.readouterr().out)
    assert panel["ceilings"][0]["kind"] == "measured"
    assert panel["ceilings"][0]["ridge_point"] == pytest.approx(250 / 1.6)
    assert [series["name"] for series in panel["series"]][:2] == ["qkv mlp init", "qkv mlp ar"]
    for series in panel["series"]:
        for dot in series["points"]:
            assert dot["roof_fraction"] == pytest.approx(0.8)


@pytest.mark.parametrize("number", [18, 19, 20])
def test_the_papers_own_points_make_its_figures_18_to_20(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figure.svg"
    arguments = ["roofline", "results/paper", "--figure", str(number), "-o", str(path), "--json"]
    assert run(arguments) == 0
    (panel,) = json.loads(capsys.readouterr().out)
    assert panel["provenance"] == "reported"
    assert "arXiv 2401.10774" in panel["source"]
    assert panel["series"][0]["name"].endswith(" ar")
    assert [series["num_candidates"] for series in panel["series"]] == [
        1, 16, 32, 48, 64, 80, 96, 112
    ]  # fmt: skip
    # All published points lie under the datasheet's roof, at 19 % of it or more.
    shares = [dot["roof_fraction"] for each in panel["series"] for dot in each["points"]]
    assert min(shares) > 0.19
    assert max(shares) < 0.81
    assert "half: reported" in path.read_text()


def test_a_figure_of_another_gpu_than_the_papers_says_so(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["roofline", str(results), "--figure", "12"]) == 0
    assert "figure 12 is of a40; this is of Synthetic" in capsys.readouterr().err


def test_datasheet_roofs_are_drawn_for_profiles_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["roofline", "--gpu", "a40,h100-sxm"]) == 0
    out = capsys.readouterr().out
    assert "datasheet roof of a40: 149.7 TFLOP/s, 696 GB/s" in out
    assert "datasheet roof of h100-sxm: 989.4 TFLOP/s, 3.35 TB/s" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--figure 8", 2, "8 is not in the range"),
        ("--figure 18 --by operator", 2, "figure 18 is by candidates"),
        ("--model llama-13b", 1, "No point of these results is selected"),
        ("--gpu a100", 1, "No profile named 'a100'"),
        ("-o roof.jpg", 1, "ends in none of .png, .svg, .pdf"),
        ("nowhere", 1, "no results folder"),
    ],
)
def test_a_wrong_request_is_refused_with_a_hint(
    arguments: str, code: int, message: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["roofline", *arguments.split()]) == code
    assert message in capsys.readouterr().err


def test_the_terminal_and_json_load_neither_matplotlib_nor_torch(results: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    code = (
        "import sys; from medusa_bench.cli import run; "
        f"run(['roofline', {str(results)!r}]); run(['roofline', {str(results)!r}, '--json']); "
        "print([m for m in ('matplotlib', 'torch', 'pandas', 'transformers') if m in sys.modules],"
        " file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"


def test_where_the_locale_has_no_unicode_the_picture_is_ascii(results: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "medusa_bench", "roofline", str(results)],
        cwd=root,
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
        check=True,
    )
    assert done.stdout.isascii()
    assert b"===" in done.stdout
