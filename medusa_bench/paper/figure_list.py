"""The paper's figures 6, 7 and 9 to 23, each redrawn from what is here: measured where a results
folder holds the points, else predicted or simulated, beside what the paper reports.
"""

import csv
import re
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from medusa_bench.base.files import shipped
from medusa_bench.compare import acceptance, trees
from medusa_bench.compare.methods import METHODS, draft_model
from medusa_bench.compare.simulation import Variant, simulate
from medusa_bench.paper import figures
from medusa_bench.paper.reproduction import Reproduction
from medusa_bench.predict import priors
from medusa_bench.report import comparison, roofline, style
from medusa_bench.report.series import (
    PAPER_FIGURES,
    PaperFigure,
    Selection,
    Source,
    of_paper_figure,
    panels,
)
from medusa_bench.results.reading import Results
from medusa_bench.results.rows import Provenance, ResultPoint, Summary, Timing
from medusa_bench.specs import models as model_specs
from medusa_bench.specs import paper_grid, profiles
from medusa_bench.specs.columns import Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import points, select
from medusa_bench.specs.paper_grid import PAPER_GPU
from medusa_bench.specs.profiles import DeviceProfile
from medusa_bench.specs.settings import Setting, settings
from medusa_bench.specs.shapes import ModelShape

# The paper's figure 7: target, its name in the readings, and the drafts that the paper tried.
_DRAFTED = {
    "7a": ("llama-7b", "vicuna-7b", ("llama-68m", "llama-160m", "tinyllama-1b")),
    "7b": ("llama-13b", "vicuna-13b", ("llama-68m", "llama-160m", "tinyllama-1b")),
    "7c": ("llama-33b", "vicuna-33b", ("llama-68m", "llama-160m", "tinyllama-1b")),
}
_DRAFT_LENS = range(1, 16)
_NAMES_IN_READINGS = {"tinyllama-1b": "vicuna-1b"}
_TREE, _TREE_ACCURACY = "vicuna_7b_stage2", "vicuna-7b-v1.3"

NAMES = ("6", *_DRAFTED, *map(str, range(9, 24)))
REPRODUCED = ("18", "19", "20", "21", "22", "23")  # these need a Reproduction


def named(words: Sequence[str]) -> list[str]:
    """The figures that words name, "7" standing for its three parts. Raises KeyError."""
    found: list[str] = []
    for word in words or NAMES:
        parts = [name for name in NAMES if name == word or name.rstrip("abc") == word]
        if not parts:
            raise KeyError(word)
        found += parts
    return list(dict.fromkeys(found))


def draw(
    name: str,
    measured: Sequence[Results] = (),
    reproduction: Reproduction | None = None,
    width: str | None = None,
) -> Figure:
    """One figure by its name in NAMES, one or two columns wide. Call within `style.applied()`.

    reproduction: needed for those in REPRODUCED.
    """
    if name in REPRODUCED:
        assert reproduction is not None
        made = figures.figures(reproduction, measured, width or "two")[int(name)]()
    elif name == "6":
        made = _tree()
    elif name in _DRAFTED:
        made = _drafts(name)
    else:
        made = _roofline(int(name), measured, width)
    if width:
        made.set_figwidth(style.WIDTHS_IN[width])
    return made


def _tree() -> Figure:
    shown, rates = trees.load_tree(_TREE), trees.load_accuracy(_TREE_ACCURACY)
    title = (
        f"Figure 6: the published tree {_TREE}, {shown.num_candidates} candidates; areas: "
        f"head accuracies of {rates.name} (reported)"
    )
    return comparison.tree(shown, rates, title=title)


# -- figure 7 -----------------------------------------------------------------------------------


def _drafts(name: str) -> Figure:
    """Simulated at batch size 1, one acceptance for every draft, beside what was read off."""
    target_name, read_as, drafts = _DRAFTED[name]
    target = model_specs.load(target_name)
    law = METHODS["draft-model"].acceptance
    assert isinstance(law, acceptance.Chain)
    model = priors.calibrated(profiles.load(PAPER_GPU))
    variants = [
        Variant(draft_model(model_specs.load(draft), draft_len), law)
        for draft in drafts
        for draft_len in _DRAFT_LENS
    ]
    rows = simulate(variants, target, model, Dtype.FLOAT16, [(1, 1024)])
    readings = _draft_readings(name)
    reported = {
        draft: readings[f"{read_as} {_NAMES_IN_READINGS.get(draft, draft)}"]
        for draft in drafts
        if f"{read_as} {_NAMES_IN_READINGS.get(draft, draft)}" in readings
    }
    title = (
        f"Figure {name}: {target_name} on {model.device}, simulated,\n"
        f"each drafted token accepted with {law.parameter:g} (assumed)"
    )
    return comparison.draft_grid(rows, title=title, reported=reported)


def _draft_readings(figure: str) -> Mapping[str, Mapping[int, float]]:
    """Speedups by series and draft length: tokens per second over vanilla decoding's."""
    found: dict[str, dict[int, float]] = {}
    path = shipped(paper_grid.RESULTS) / "figure_readings.csv"
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            vanilla = re.search(r"vanilla ([\d.]+)", row["what"])
            if row["figure"] == figure and vanilla:
                speedup = float(row["y"]) / float(vanilla[1])
                found.setdefault(row["series"], {})[int(row["x"])] = speedup
    return found


# -- figures 9 to 17 ----------------------------------------------------------------------------


def _roofline(number: int, measured: Sequence[Results], width: str | None) -> Figure:
    """A model's operators on a GPU: as measured there, else predicted for it."""
    asked = PAPER_FIGURES[number]
    profile = profiles.load(asked.profile)
    found = [
        Source(
            results.environment.device, results.points(), results.roof, profile,
            results.environment.l2_bytes,
        )
        for results in measured
        if _is_of(results, profile, asked.model)
    ]  # fmt: skip
    if not found:
        found = [Source(profile.title, predicted(asked, profile), profile=profile)]
    by, selection = of_paper_figure(number, Selection())
    return roofline.draw(panels(found, by, selection), width or "one")


def _is_of(results: Results, profile: DeviceProfile, model: str) -> bool:
    environment = results.environment
    own = profiles.match(environment.device, environment.memory_bytes)
    models = {shape.name for grid in results.grids for shape in grid.shapes}
    return own is not None and own.name == profile.name and model in models


def predicted(asked: PaperFigure, profile: DeviceProfile) -> list[ResultPoint]:
    """Every point of a figure that fits into the GPU's memory, predicted with its interval."""
    model = priors.calibrated(profile, Timing.KERNEL)
    shape: ModelShape = model_specs.load(asked.model)
    grid: list[Setting] = list(settings(asked.phases))
    fitting = [
        point
        for point in points([shape], select(asked.operators), grid, [Dtype.FLOAT16])
        if point.product.bytes_moved(point.dtype) <= profile.memory_bytes
    ]
    products = list(dict.fromkeys(point.product for point in fitting))
    predictions = model.predict(Products.of(products), Dtype.FLOAT16)
    summaries = {
        product: Summary(float(middle), float(low), float(high), 1, source=str(source))
        for product, middle, low, high, source in zip(
            products,
            predictions.latency_s,
            predictions.low_s,
            predictions.high_s,
            predictions.source,
            strict=True,
        )
    }
    return [
        ResultPoint(
            point, Timing.KERNEL, Provenance.PREDICTED, profile.title, summaries[point.product]
        )
        for point in fitting
    ]
