"""The paper's figures: each from one command, the same twice, with text as text."""

import io
import json
from pathlib import Path

import pytest

from medusa_bench import cli
from medusa_bench.base.files import shipped
from medusa_bench.paper import figure_list
from medusa_bench.paper import reproduction as paper
from medusa_bench.paper.figure_list import NAMES
from medusa_bench.paper.reproduction import Reproduction
from medusa_bench.report import style
from medusa_bench.report.series import PAPER_FIGURES
from medusa_bench.results import folders
from medusa_bench.results.rows import Provenance
from medusa_bench.specs import paper_grid
from tests.builders.results import fake_results
from tools import gallery, readme


@pytest.fixture(scope="module")
def reproduction() -> Reproduction:
    return paper.reproduce(num_seeds=1)


def svg(name: str, reproduction: Reproduction, width: str | None = None) -> str:
    text = io.StringIO()
    with style.applied():
        figure = figure_list.draw(name, (), reproduction, width)
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def test_names_are_the_figures_the_issue_asks_for() -> None:
    assert ("6", "7a", "7b", "7c", *map(str, range(9, 24))) == NAMES
    assert figure_list.named(["7", "22", "7a"]) == ["7a", "7b", "7c", "22"]
    assert figure_list.named([]) == list(NAMES)


@pytest.mark.parametrize("name", ["6", "7a", "9", "18", "22"])  # one of each kind
def test_figure_is_the_same_twice_and_its_text_is_text(
    name: str, reproduction: Reproduction
) -> None:
    first = svg(name, reproduction)
    assert first == svg(name, reproduction)
    assert first.count("<text") > 10
    assert "<path" in first


@pytest.mark.parametrize("name", ["6", "7c", "17", "19", "21"])
@pytest.mark.parametrize("width", ["one", "two"])
def test_figure_is_as_wide_as_the_columns_asked_for(
    name: str, width: str, reproduction: Reproduction
) -> None:
    with style.applied():
        figure = figure_list.draw(name, (), reproduction, width)
    assert figure.get_figwidth() == style.WIDTHS_IN[width]


def test_rooflines_are_predicted_where_nothing_was_measured_and_say_so() -> None:
    points = figure_list.predicted(PAPER_FIGURES[14], figure_list.profiles.load("a40"))
    assert {each.provenance for each in points} == {Provenance.PREDICTED}
    assert all(each.summary and each.summary.low_s < each.summary.high_s for each in points)
    with style.applied():
        figure = figure_list.draw("14")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert "predicted" in legend.get_title().get_text()


def test_measured_results_take_the_place_of_predictions(tmp_path: Path) -> None:
    environment = folders.load(shipped(paper_grid.RESULTS)).environment
    measured = fake_results(tmp_path / "fake", environment=environment)
    with style.applied():
        figure = figure_list.draw("9", [measured])
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert "measured" in legend.get_title().get_text()


def test_readings_of_figure_7_are_speedups_over_vanilla_decoding() -> None:
    readings = figure_list._draft_readings("7a")["vicuna-7b llama-68m"]
    assert max(readings.values()) == pytest.approx(1.49, abs=0.01)  # the paper says 1.47
    assert max(readings, key=lambda length: readings[length]) == 4


def test_unknown_figure_is_an_error_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["figures", "8"]) == 1
    assert "No figure named '8'" in capsys.readouterr().err


def test_gallery_is_what_the_commands_draw_now(tmp_path: Path) -> None:
    recorded = json.loads((gallery.FOLDER / gallery.VERSIONS).read_text())
    names = sorted((*gallery.IMAGES, gallery.MEDUSA_2))
    gallery.draw(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        (*gallery.IMAGES, gallery.MEDUSA_2)
    )
    if recorded != gallery.versions():
        pytest.skip(f"drawn with {recorded}, here are {gallery.versions()}")
    stale = [
        name
        for name in names
        if (tmp_path / name).read_bytes() != (gallery.FOLDER / name).read_bytes()
    ]
    assert stale == [], "run `make figures`"


def test_gallery_is_shown() -> None:
    text = (readme.ROOT / "docs" / "gallery.md").read_text()
    assert [name for name in gallery.IMAGES if f"(figures/{name})" not in text] == []
