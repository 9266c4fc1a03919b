"""The page in a browser: it asks for nothing, shows all of the data, and answers to a hand."""

import csv
import html
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from medusa_bench import cli
from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.compare import acceptance, studies, trees
from medusa_bench.compare.comparisons import best, by_setting, cliffs
from medusa_bench.compare.methods import draft_model, medusa
from medusa_bench.compare.simulation import Variant
from medusa_bench.predict.priors import calibrated
from medusa_bench.report import page
from medusa_bench.report.page_data import Folder, columns, thinned
from medusa_bench.results import exports
from medusa_bench.results import folders as result_folders
from medusa_bench.results.flags import WORDS
from medusa_bench.results.reading import Results
from medusa_bench.results.rows import Estimate, Grid, Provenance, Timing
from medusa_bench.specs import models, operators, paper_grid, profiles
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.settings import Phase
from tests.builders import browser, samples
from tests.builders.browser import Browser
from tests.builders.fakes import FakeBackend
from tests.builders.results import fake_results

HOSTILE = "</script><script>document.title='owned'</script><b>\"'&amp;é\u202e模型\u2028"
RIGHT, PAGE_DOWN = "\ue014", "\ue00f"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser.launched(tmp_path_factory.mktemp("profile")) as launched:
        yield launched


def render(*sources: Results) -> str:
    folders = [Folder.of(results) for results in sources]
    return page.render(folders, command="medusa-bench report", flag_words=WORDS)


def write(path: Path, *sources: Results) -> Path:
    path.write_text(render(*sources))
    return path


@pytest.fixture(scope="module")
def paper() -> Results:
    return result_folders.load(paper_grid.RESULTS)


@pytest.fixture(scope="module")
def paper_page(paper: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("page") / "paper.html", paper)


@pytest.mark.parametrize(("width", "dark"), [(1600, False), (400, True)])
def test_page_loads_without_an_error_or_a_request_and_fits_its_width(
    chromium: Browser, paper_page: Path, width: int, dark: bool
) -> None:
    chromium.open(paper_page, width=width, dark=dark)
    assert chromium.errors() == []
    assert chromium.requests() == []
    assert chromium.js("return document.documentElement.scrollWidth") <= width
    background = chromium.js("return getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")


def test_a_request_from_the_page_would_be_refused_and_noticed(
    chromium: Browser, paper_page: Path
) -> None:
    chromium.open(paper_page)
    chromium.js("const image = new Image(); image.src = 'http://127.0.0.1:9/x'")
    chromium.js("fetch('http://127.0.0.1:9/y').catch(() => 0)")
    refused = [error for error in chromium.errors() if "Content Security Policy" in error]
    for address in ("http://127.0.0.1:9/x", "http://127.0.0.1:9/y"):
        assert any(address in error for error in refused)


def test_chart_holds_every_point_that_has_a_number(
    chromium: Browser, paper: Results, paper_page: Path
) -> None:
    chromium.open(paper_page)
    with_number = sum(each.summary is not None for each in paper.points())
    assert chromium.js("return dots.data.x.length") == with_number == 376
    assert "376 of 376 points" in chromium.text("#shown")


def test_filter_leaves_the_points_it_names(
    chromium: Browser, paper: Results, paper_page: Path
) -> None:
    chromium.open(paper_page)
    chromium.choose("operator", "qk")
    chromium.choose("batch_size", "16")
    wanted = [
        each.flops_per_s
        for each in paper.points()
        if each.point.operator.name == "qk" and each.point.setting.batch_size == 16
    ]
    assert chromium.js("return dots.data.y") == wanted
    assert f"{len(wanted)} of 376 points" in chromium.text("#shown")
    chromium.choose("operator", "all")
    chromium.choose("batch_size", "all")
    assert chromium.js("return dots.data.y.length") == 376


def where(chromium: Browser, point: int) -> tuple[float, float]:
    """Where on the screen a point of the data stands."""
    x, y = chromium.js(
        "const view = Bokeh.index.get_by_id(roofline.id);"
        "view.el.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const box = view.canvas_view.el.getBoundingClientRect();"
        "const row = dots.data.index.indexOf(arguments[0]);"
        "return [box.left + view.frame.x_scale.compute(dots.data.x[row]),"
        "        box.top + view.frame.y_scale.compute(dots.data.y[row])]",
        point,
    )
    return x, y


TOOLTIP = (
    "(() => {const walk = (node) => [...(node.shadowRoot?.children ?? []), ...node.children]"
    ".map(child => child.classList.contains('bk-tooltip-content') ? child.textContent"
    " : walk(child)).join(''); return walk(document.body)})()"
)


def test_hover_tells_setting_rate_share_bound_spread_and_provenance(
    chromium: Browser, paper: Results, paper_page: Path
) -> None:
    chromium.open(paper_page)
    point = next(
        number
        for number, each in enumerate(paper.points())
        if each.point.operator.name == "qk" and each.point.setting.num_candidates == 112
    )
    setting = paper.points()[point].point.setting
    chromium.move_to(*where(chromium, point))
    chromium.until(f"{TOOLTIP} !== ''")
    told = str(chromium.js(f"return {TOOLTIP}"))
    for words in (
        f"batch {setting.batch_size}, sequence {setting.seq_len}, 112 candidates",
        "TFLOP/s", "of the datasheet's roof", "bound by memory", "spread", "reported",
    ):  # fmt: skip
        assert words in told


def rows_followed(chromium: Browser) -> list[int]:
    cells: list[str] = chromium.js(
        "return [...document.querySelectorAll('#followed tr td:first-child')].map(c => c.innerText)"
    )
    return [int(cell) for cell in cells]


def test_click_follows_one_setting_while_the_others_stay(
    chromium: Browser, paper: Results, paper_page: Path
) -> None:
    chromium.open(paper_page)
    chromium.choose("follow", "candidates")
    points = paper.points()
    point = next(
        number
        for number, each in enumerate(points)
        if each.point.operator.name == "qk" and each.point.setting.num_candidates == 1
    )
    chromium.move_to(*where(chromium, point), click=True)
    chromium.until("document.querySelector('#followed table')")
    start = points[point].point
    wanted = sorted(
        each.point.setting.num_candidates
        for each in points
        if replace(each.point.setting, num_candidates=1) == start.setting
        and each.point.operator == start.operator
    )
    assert rows_followed(chromium) == wanted == [1, 16, 32, 48, 64, 80, 96, 112]
    assert chromium.js("return path.data.x.length") == 8


def test_keys_follow_a_setting_and_change_the_series(chromium: Browser, paper_page: Path) -> None:
    chromium.open(paper_page)
    chromium.choose("follow", "candidates")
    chromium.js("document.getElementById('roofline-chart').focus()")
    chromium.press(RIGHT)
    first = chromium.js("return current")
    chromium.press(RIGHT)
    assert chromium.js("return points.num_candidates[current]") == 16
    assert chromium.js("return current") != first
    before = chromium.text("#followed h3")
    chromium.press(PAGE_DOWN)
    assert chromium.text("#followed h3") != before


def test_csv_of_the_page_is_the_export_of_the_results(
    chromium: Browser, paper: Results, tmp_path: Path
) -> None:
    fake = fake_results(tmp_path / "fake")
    chromium.open(write(tmp_path / "page.html", paper, fake))
    read = list(csv.DictReader(io.StringIO(chromium.js("return csvText()"), newline="")))
    exported = list(exports.rows([paper.points(), fake.points()]))
    assert len(read) == len(exported)
    for got, row in zip(read, exported, strict=True):
        assert list(got) == list(row)
        for name, cell in row.items():
            if isinstance(cell, int | float):
                assert float(got[name]) == cell
            else:
                assert got[name] == (cell or "")


def test_button_saves_the_csv(chromium: Browser, paper_page: Path, tmp_path: Path) -> None:
    chromium.open(paper_page)
    saved = chromium.download("#csv", tmp_path)
    assert saved.name == "medusa-bench-points.csv"
    assert saved.read_bytes().decode() == chromium.js("return csvText()")
    assert chromium.errors() == []


def test_script_tags_quotes_and_unicode_in_names_show_as_text(
    chromium: Browser, tmp_path: Path
) -> None:
    grid = replace(samples.GRID, shapes=(replace(samples.GRID.shapes[0], name=HOSTILE),))
    environment = replace(
        FakeBackend.environment, device=HOSTILE, details={f"host {HOSTILE}": HOSTILE}
    )
    results = fake_results(tmp_path / "<b>\"fôlder'", grid, environment=environment)
    chromium.open(write(tmp_path / "page.html", results))
    assert chromium.errors() == []
    assert chromium.js("return document.title") == "medusa-bench report"
    assert chromium.js("return document.querySelectorAll('main b, main b *').length") == 0
    assert HOSTILE in chromium.js("return document.querySelector('#verdict').textContent")
    assert HOSTILE in chromium.js("return document.querySelector('#environment').textContent")
    options = "return [...document.querySelectorAll('select[name=title] option')].map(o => o.text)"
    assert f"{HOSTILE} (measured)".split() == chromium.js(options)[1].split()
    chromium.move_to(*where(chromium, 0))
    chromium.until(f"{TOOLTIP} !== ''")
    assert HOSTILE in chromium.js(f"return {TOOLTIP}")
    chromium.move_to(*where(chromium, 0), click=True)
    chromium.until("document.querySelector('#followed table')")
    assert HOSTILE in chromium.js("return document.querySelector('#followed').textContent")
    rows = list(csv.DictReader(io.StringIO(chromium.js("return csvText()"), newline="")))
    assert rows[0]["model"] == rows[0]["device"] == HOSTILE


def test_12_000_points_are_drawn_in_3_s_of_processor_time_from_under_6_mb(
    chromium: Browser, tmp_path: Path
) -> None:
    grid = Grid(
        tuple(models.PRESETS[name] for name in ("llama-7b", "llama-13b", "llama-33b")),
        (*operators.OPERATORS, operators.find("o")),
        tuple(Phase), (1, 2, 4, 8, 16, 32, 64), (128, 256, 512, 1024, 2048, 4096, 8192),
        (1, 16, 32, 48, 64, 80, 96, 112), (Dtype.FLOAT16,), (Timing.KERNEL,),
    )  # fmt: skip
    results = fake_results(tmp_path / "fake", grid)
    written = write(tmp_path / "page.html", results)
    assert written.stat().st_size < 6e6
    chromium.open(written)
    assert chromium.js("return dots.data.x.length") == 9 * 3 * (49 + 49 + 392) == 13_230
    assert chromium.main_thread_s() < 3


def test_provenances_are_marked_apart(chromium: Browser, paper: Results, tmp_path: Path) -> None:
    measured = fake_results(tmp_path / "measured")
    with result_folders.Writer(
        tmp_path / "predicted", FakeBackend.environment, samples.GRID,
        provenance=Provenance.PREDICTED,
    ) as writer:  # fmt: skip
        writer.extend(
            Estimate(task, 1e-4, 0.9e-4, 1.1e-4, "calibrated: fake") for task in samples.tasks()
        )
    predicted = result_folders.load(tmp_path / "predicted")
    chromium.open(write(tmp_path / "page.html", paper, measured, predicted))
    looks: list[list[object]] = chromium.js(
        "return dots.data.index.map((p, i) =>"
        "[value('provenance', p), dots.data.marker[i].endsWith('_dot'), dots.data.solid[i] > 0])"
    )
    assert {tuple(look) for look in looks} == {
        ("reported", True, False), ("measured", False, True), ("predicted", False, False),
    }  # fmt: skip
    legend = chromium.text("#roofline-legend")
    assert all(word in legend for word in ("measured", "predicted", "reported"))


def test_points_without_a_number_are_listed_with_their_reason(tmp_path: Path) -> None:
    tasks = samples.tasks()
    with result_folders.Writer(tmp_path, FakeBackend.environment, samples.GRID) as writer:
        writer.extend([samples.failed(tasks[0]), samples.measured(tasks[1])])
    text = render(result_folders.load(tmp_path))
    assert "out-of-memory: out of memory" in text
    assert "not measured" in text


def test_page_is_the_same_twice(paper: Results) -> None:
    first, second = (render(paper) for _ in range(2))
    assert first == second


def test_missing_library_is_said_in_a_sentence(
    paper: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bokeh.resources", None)
    with pytest.raises(MedusaBenchError, match="needs bokeh, which is not installed") as raised:
        render(paper)
    assert "medusa-bench[report]" in str(raised.value.hint)


# -- decoding ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study() -> studies.Study:
    target = models.PRESETS["llama-7b"]
    variants = [Variant(medusa(n), acceptance.PAPER) for n in (1, 16, 64, 112)]
    variants.append(Variant(draft_model(models.PRESETS["llama-68m"], 4), acceptance.Chain(0.578)))
    settings = [(b, s) for s in (256, 1024) for b in (1, 8, 64)]
    latency = calibrated(profiles.load("a100-80gb-pcie"))
    return studies.simulated(variants, target, latency, Dtype.FLOAT16, settings)


@pytest.fixture(scope="module")
def full_page(
    paper: Results, study: studies.Study, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    latency = calibrated(profiles.load("a100-80gb-pcie"), Timing.EAGER)
    rates = trees.load_accuracy("vicuna-7b-v1.3")
    tree = studies.grown_tree(models.PRESETS["llama-7b"], latency, Dtype.FLOAT16, rates)
    path = tmp_path_factory.mktemp("page") / "full.html"
    path.write_text(
        page.render(
            [Folder.of(paper)],
            [study],
            command="medusa-bench report",
            flag_words=WORDS,
            latencies=[latency],
            tree=tree,
        )
    )
    return path


@pytest.mark.parametrize(("width", "dark"), [(400, False), (1600, True)])
def test_full_page_loads_without_an_error_or_a_request_and_fits_its_width(
    chromium: Browser, full_page: Path, width: int, dark: bool
) -> None:
    chromium.open(full_page, width=width, dark=dark)
    assert chromium.errors() == []
    assert chromium.requests() == []
    assert chromium.js("return document.documentElement.scrollWidth") <= width


def test_map_shows_the_best_of_each_setting_with_its_interval(
    chromium: Browser, full_page: Path, study: studies.Study
) -> None:
    chromium.open(full_page)
    chromium.choose("method", studies.ALL_METHODS)
    wanted = {
        (str(batch), str(seq)): best(group)
        for (batch, seq), group in by_setting(study.rows).items()
    }
    shown = chromium.js("return cells.data")
    assert len(shown["x"]) == len(wanted) == 6
    for number, key in enumerate(zip(shown["x"], shown["y"], strict=True)):
        row = wanted[key]
        low, high = row.speedup_interval
        assert shown["top"][number].rstrip("?") == f"{row.speedup:.2f}"
        assert shown["middle"][number] == f"@{row.num_candidates}"
        assert shown["interval"][number] == f"{low:.2f} to {high:.2f}"
        assert (shown["hatch"][number] == "blank") == (row.speedup > 1)


def test_keys_on_the_map_choose_the_setting_whose_curves_are_shown(
    chromium: Browser, full_page: Path, study: studies.Study
) -> None:
    chromium.open(full_page)
    chromium.choose("method", "medusa")
    assert "batch size 1, 1024 cached tokens" in chromium.text("#cliff-words")
    chromium.js("document.getElementById('map-chart').focus()")
    chromium.press(RIGHT)
    assert "batch size 8, 1024 cached tokens" in chromium.text("#cliff-words")
    curve = [
        row
        for row in study.rows
        if (row.method, row.batch_size, row.seq_len) == ("medusa", 8, 1024)
    ]
    for name in ("speedup", "overhead", "acceleration_rate"):
        drawn = chromium.js("return curves[arguments[0]].data.y", name)
        assert drawn == pytest.approx([getattr(row, name) for row in curve], rel=1e-5)
    after = cliffs({row.num_candidates: row.step.latency_s for row in curve})
    assert chromium.js("return leaps.data.x") == after


def test_csv_of_the_comparisons_holds_every_row(
    chromium: Browser, full_page: Path, study: studies.Study
) -> None:
    chromium.open(full_page)
    read = list(csv.DictReader(io.StringIO(chromium.js("return rowsCsvText()"), newline="")))
    assert [float(row["speedup"]) for row in read] == pytest.approx(
        [row.speedup for row in study.rows], rel=1e-5
    )
    assert {row["study"] for row in read} == {study.title}


def test_page_of_comparisons_alone_has_no_empty_chart(
    chromium: Browser, study: studies.Study, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(page.render([], [study], command="c", flag_words=WORDS))
    chromium.open(path)
    assert chromium.errors() == []
    assert chromium.js("return document.getElementById('roofline')") is None
    assert chromium.js("return figures.length") == 3


def test_split_of_the_slowest_points_sums_to_their_latency(
    chromium: Browser, full_page: Path, paper: Results
) -> None:
    chromium.open(full_page)
    columns = chromium.js("return data.slowest[0].columns")
    slowest = sorted({each.summary.latency_s for each in paper.points() if each.summary})
    assert columns["latency_s"][0] == slowest[-1]
    parts = [values for name, values in columns.items() if name not in ("label", "latency_s")]
    for latency_s, *split in zip(columns["latency_s"], *parts, strict=True):
        assert sum(split) == pytest.approx(latency_s)


def test_tree_is_drawn_with_every_candidate(chromium: Browser, full_page: Path) -> None:
    chromium.open(full_page)
    assert f"{chromium.js('return data.tree.x.length')} candidates" in chromium.text("#tree")


def test_methods_stand_side_by_side_in_words(full_page: Path, study: studies.Study) -> None:
    text = full_page.read_text()
    for sentence in study.verdict:
        assert sentence in html.unescape(text)
    assert text.count("<td>draft-model llama-68m</td>") == 3  # batch sizes 1, 8, 64


def test_document_of_compare_is_read_back_as_it_was(tmp_path: Path, study: studies.Study) -> None:
    rows = [row.as_dict() for row in study.rows]
    path = tmp_path / "compare.json"
    path.write_text(json.dumps({"warnings": [], "devices": [{"comparisons": rows}]}))
    (read,) = studies.read(path)
    assert list(read.rows) == list(study.rows)
    generated = [{**row, "source": "generated"} for row in rows]
    path.write_text(json.dumps({"devices": [{"comparisons": rows}, {"comparisons": generated}]}))
    assert [each.rows[0].source for each in studies.read(path)] == ["simulated", "generated"]


def test_generated_rows_are_read_apart_from_their_simulation(
    tmp_path: Path, study: studies.Study
) -> None:
    row = study.rows[0].as_dict()
    methods = [{"generated": row | {"source": "generated"}, "simulated": row}]
    path = tmp_path / "generated.json"
    path.write_text(json.dumps({"model": "llama-7b", "methods": methods}))
    generated, simulated = studies.read(path)
    assert generated.title == "llama-7b on a100-80gb-pcie (generated, float16)"
    assert list(simulated.rows) == [study.rows[0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size 0 is no whole number"),
        ({"step_latency_s": "fast"}, "step_latency_s 'fast' is not a latency"),
        ({"source": "guessed"}, "source 'guessed' is not a valid Provenance"),
        ({"method": 7}, "method is no text"),
    ],
)
def test_document_that_is_none_is_refused_with_its_row_and_field(
    tmp_path: Path, study: studies.Study, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "compare.json"
    path.write_text(json.dumps({"comparisons": [study.rows[0].as_dict() | change]}))
    with pytest.raises(InvalidFileError, match=f"comparison 1: {message}"):
        studies.read(path)


def test_command_writes_a_page_of_folders_and_documents(
    tmp_path: Path, study: studies.Study, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "compare.json"
    document.write_text(json.dumps({"comparisons": [row.as_dict() for row in study.rows]}))
    output = tmp_path / "report.html"
    arguments = ["report", paper_grid.RESULTS, str(document), "-m", "llama-7b", "-o", str(output)]
    assert cli.run(arguments) == 0
    text = html.unescape(output.read_text())
    names = f"{paper_grid.RESULTS} {document.name} -m llama-7b -o {output.name}"
    assert f"medusa-bench report {names}" in text
    assert str(tmp_path) not in text
    assert "NVIDIA A100 80GB PCIe (reported)" in text
    assert f"Wrote {output}" in capsys.readouterr().err


def test_page_begins_with_the_answer_and_keeps_its_reasons_folded(
    study: studies.Study, tmp_path: Path, chromium: Browser
) -> None:
    path = tmp_path / "page.html"
    path.write_text(page.render([], [study], command="medusa-bench report", flag_words=WORDS))
    chromium.open(path, width=400)
    assert chromium.text(".answer") == study.verdict[0]
    size = "return parseFloat(getComputedStyle(document.querySelector(arguments[0])).fontSize)"
    assert chromium.js(size, ".answer") > 1.2 * chromium.js(size, "#verdict p")
    assert study.reasons[0] not in chromium.text("#verdict")
    chromium.js("document.querySelector('#verdict details').open = true")
    assert all(each in chromium.text("#verdict") for each in study.reasons)


def test_a_phone_shows_the_speedup_of_every_method(
    study: studies.Study, tmp_path: Path, chromium: Browser
) -> None:
    path = tmp_path / "page.html"
    path.write_text(page.render([], [study], command="medusa-bench report", flag_words=WORDS))
    chromium.open(path, width=400)
    ends = chromium.js(
        "return [...document.querySelectorAll('#methods td b')]"
        ".map(cell => cell.getBoundingClientRect().right)"
    )
    assert ends
    assert max(ends) < 400


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("medusa-bench report /home/me/a/results/h100 -o=/tmp/x/page.html", "report h100 -o=page"),
        ("measured: ../../other/h100", "measured: h100"),
        ("~/models/llama/config.json", "config.json"),
        ("results/paper, 3.2 TFLOP/s, 1/2", "results/paper, 3.2 TFLOP/s, 1/2"),
        ("https://example.org/a/b.html", "https://example.org/a/b.html"),
    ],
)
def test_no_folder_of_this_machine_is_told(text: str, told: str) -> None:
    assert told in page.portable(text)
    assert "/home" not in page.portable(text)


def test_many_points_are_thinned_with_whole_series_left_and_the_count_said() -> None:
    folder = Folder.of(result_folders.load(paper_grid.RESULTS))
    assert thinned(folder.points, len(folder.points)) is folder.points
    few = thinned(folder.points, 60)
    assert 0 < len(few) <= 60

    def of(name: str, points: object) -> set[int]:
        return {getattr(each.point.setting, name) for each in points}  # type: ignore[attr-defined]

    for each in folder.points:  # a setting whose values are all left is left at every point
        there = all(
            getattr(each.point.setting, name) in of(name, few)
            for name in ("batch_size", "seq_len", "num_candidates")
        )
        assert there == (each in few)
    for name in ("seq_len", "num_candidates"):
        assert {min(of(name, folder.points)), max(of(name, folder.points))} <= of(name, few)
    assert columns([folder])["num_points"] == len(folder.points)
