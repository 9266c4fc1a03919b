"""`medusa-bench report`: one self-contained HTML page from any mix of results."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.base.files import write_whole
from medusa_bench.cli import console, here, simulation
from medusa_bench.cli.options import MODELS
from medusa_bench.specs.settings import SIZES

if TYPE_CHECKING:
    from medusa_bench.compare.studies import GrownTree, Study
    from medusa_bench.predict.latency import LatencyModel
    from medusa_bench.report.page_data import Folder

# The small sizes that large batches want, and every eighth count, which shows a GPU's tiles.
_CANDIDATES = tuple(sorted({*SIZES, *range(8, 129, 8)}))
_MAX_LOSSES = 6


@click.command(epilog="Example: medusa-bench report results/paper -o report.html")
@click.argument("results", metavar="[RESULTS]...", nargs=-1)
@click.option("-o", "--output", default="report.html", show_default=True, help="The page to write.")
@click.option(
    "-m",
    "--model",
    "models",
    type=MODELS,
    help="Models whose decoding is compared.  [default: those of the results]",
)
@click.option(
    "--method",
    "methods",
    type=MODELS,
    help="Methods to compare.  [default: all with a published acceptance]",
)
@simulation.DRAFT
@simulation.ACCEPTANCE
@click.option(
    "--accuracy",
    metavar="MODEL|FILE",
    help="Head accuracies that the candidate tree is grown from.  [default: the published ones of "
    "the model's size, else vicuna-7b-v1.3]",
)
@click.pass_obj
def command(
    arguments: tuple[str, ...],
    *,
    results: tuple[str, ...],
    output: str,
    models: tuple[str, ...] | None,
    methods: tuple[str, ...] | None,
    draft: tuple[str, ...],
    acceptance: tuple[str, ...],
    accuracy: str | None,
) -> None:
    """Write one page: what was measured, where it stands under the roof, and whether it pays.

    RESULTS are folders of measured, predicted or reported results, by default the newest in
    ./results, and documents of `compare --json`, simulated or generated. The page holds its data
    and its scripts, asks for nothing from anywhere, and opens in any browser. The verdict is
    printed too.
    """
    from medusa_bench.cli.progress import busy, progress
    from medusa_bench.compare import studies
    from medusa_bench.report import page
    from medusa_bench.report.page_data import Folder
    from medusa_bench.results import folders as result_folders
    from medusa_bench.results.flags import WORDS

    folders, given = [], []
    for name in results or (here.newest(),):
        if Path(name).is_file():
            given += studies.read(Path(name))
        else:
            with busy(f"Reading {name}"):
                folders.append(Folder.of(result_folders.load(name)))
    simulated: list[Study] = []
    latencies = [_latency_model(folder) for folder in folders]
    with progress("Comparing", max(1, len(folders))) as advance:
        for folder, latency in zip(folders, latencies, strict=True):
            if latency:
                simulated += _simulated(
                    folder,
                    latency,
                    models=models,
                    methods=methods,
                    draft=draft,
                    acceptance=acceptance,
                )
            advance(1)
    text = page.render(
        folders,
        [*simulated, *given],
        command=shlex.join(("medusa-bench", *arguments)),
        flag_words=WORDS,
        latencies=latencies,
        losses=[
            _losses(folder, latency) for folder, latency in zip(folders, latencies, strict=True)
        ],
        tree=_tree(folders, latencies, models, accuracy),
    )
    path = Path(output)
    write_whole(path, text.encode())
    console.stderr().print(f"Wrote {path} ({len(text.encode()) / 1e6:.1f} MB)", markup=False)
    out = console.stdout()
    for study in (*simulated, *given):
        out.print(study.title, markup=False, style="bold")
        out.print("\n".join(study.verdict), markup=False)


def _latency_model(folder: "Folder") -> "LatencyModel | None":
    """The folder's own numbers with its gaps predicted, else its GPU's calibration; None where
    nothing is known of the device."""
    from medusa_bench.predict import choosing, priors
    from medusa_bench.results.rows import Provenance, Timing

    timings = {each.timing for each in folder.points if each.summary}
    timing = Timing.EAGER if timings == {Timing.EAGER} else Timing.KERNEL
    if folder.results.provenance is not Provenance.PREDICTED:
        try:
            return choosing.model_for(folder.results.path, timing)
        except MedusaBenchError:  # too few points to stand on
            pass
    return priors.calibrated(folder.profile, timing) if folder.profile else None


def _losses(folder: "Folder", latency: "LatencyModel | None") -> list[str]:
    """What points that were not predicted lose most time to, beside what their roof asks for."""
    from medusa_bench.predict import attribution
    from medusa_bench.predict.interpolation import Measured
    from medusa_bench.predict.latency import Calibrated
    from medusa_bench.results.rows import Provenance

    if folder.results.provenance is Provenance.PREDICTED:
        return []
    if not isinstance(latency, Measured | Calibrated):
        return []
    calibration = latency.calibration
    found = attribution.explain(folder.results, {calibration.timing: calibration})
    return [each.words for each in attribution.findings(found)[:_MAX_LOSSES]]


def _simulated(
    folder: "Folder",
    latency: "LatencyModel",
    *,
    models: Sequence[str] | None,
    methods: Sequence[str] | None,
    draft: Sequence[str],
    acceptance: Sequence[str],
) -> "list[Study]":
    from medusa_bench.compare import choosing, named, studies
    from medusa_bench.compare.acceptance import caveats
    from medusa_bench.compare.methods import METHODS, Asked
    from medusa_bench.specs import models as model_specs
    from medusa_bench.specs.paper_grid import PAPER_BATCH_SIZES, PAPER_SEQ_LENS

    found = {each.point.shape.name: each.point.shape for each in folder.points}
    targets = [model_specs.load(name) for name in models] if models else list(found.values())
    dtypes = [each.point.dtype for each in folder.points]
    if not dtypes:
        return []
    dtype = max(dict.fromkeys(dtypes), key=dtypes.count)
    gpu = folder.results.path.as_posix()  # as `compare --gpu` counts it
    settings = [(batch, seq) for seq in PAPER_SEQ_LENS for batch in PAPER_BATCH_SIZES]
    made = []
    for target in targets:
        drafts = draft or choosing.default_draft(target)
        names = methods or [
            name
            for name, row in METHODS.items()
            if row.acceptance is not None and (drafts or not row.uses_draft_model)
        ]
        variants = [
            variant
            for name in names
            for variant in choosing.variants(
                choosing.Request(
                    [name],
                    draft,
                    acceptance,
                    asked=Asked(num_candidates=_CANDIDATES if name == "medusa" else None),
                    engine=named.engine_name(None, gpu=gpu),
                    papers=named.is_papers(gpu),
                ),
                target,
            )
        ]
        warnings = [
            warning
            for model in dict.fromkeys(each.acceptance for each in variants)
            for warning in caveats(
                model,
                {each.method.num_candidates for each in variants if each.acceptance is model},
            )
        ]
        warnings += target.notes
        warnings += named.too_large(latency, target, settings, dtype)
        made.append(
            studies.simulated(
                variants,
                target,
                latency,
                dtype,
                settings,
                engine=named.engine_cost(None, None, None, gpu=gpu),
                warnings=warnings,
            )
        )
    return made


def _tree(
    folders: "Sequence[Folder]",
    latencies: "Sequence[LatencyModel | None]",
    models: Sequence[str] | None,
    accuracy: str | None,
) -> "GrownTree | None":
    """The fastest tree for the first model on the first device whose latencies are known."""
    from medusa_bench.compare import studies, trees
    from medusa_bench.specs import models as model_specs

    for folder, latency in zip(folders, latencies, strict=True):
        if latency and folder.points:
            first = folder.points[0].point
            target = model_specs.load(models[0]) if models else first.shape
            rates = trees.load_accuracy(accuracy or _accuracy_of(target.name))
            return studies.grown_tree(target, latency, first.dtype, rates)
    return None


def _accuracy_of(model: str) -> str:
    """The published head accuracies of a model's size: llama-33b has vicuna-33b-v1.3's."""
    from medusa_bench.compare import trees

    size = model.rpartition("-")[2]
    alike = [name for name in trees.accuracy_names() if f"-{size}-" in name]
    return alike[0] if alike else "vicuna-7b-v1.3"
