"""`medusa-bench advise`: this machine's card, a model, an engine; what to launch."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.cli import console, here, hub, simulation
from medusa_bench.cli.options import COUNTS, JSON, OFFLINE, Whole
from medusa_bench.cli.schedule import EngineName

if TYPE_CHECKING:
    from medusa_bench.compare.choosing import Request
    from medusa_bench.compare.comparisons import Comparison
    from medusa_bench.compare.schedule_files import Written
    from medusa_bench.compare.simulation import Variant
    from medusa_bench.specs.shapes import ModelShape

_CALIBRATION_S = 20.0
_TOLERANCE = 0.02  # of the speedup, as `schedule` gives up for fewer spans


@click.command(epilog="Example: medusa-bench advise -m llama-3-8b --gpu h100-sxm --engine vllm")
@simulation.ENGINES_GPU
@simulation.MODEL
@OFFLINE
@click.option(
    "--engine", type=EngineName(), default="vllm", show_default=True, help="Which engine serves."
)
@simulation.ENGINE_VERSION
@click.option("--served-model", help="The model as the engine loads it.  [default: --model]")
@click.option("--served-draft", help="The draft as the engine loads it.")
@click.option(
    "-b", "--batch-size", type=COUNTS, default=(1, 2, 4, 8, 16, 32, 64), show_default="1..64"
)
@click.option("-s", "--seq-len", type=Whole(1), default=1024, show_default=True)
@JSON
def command(
    *,
    gpu: str | None,
    model: str,
    assume_block: str | None,
    offline: bool,
    engine: str,
    engine_version: str | None,
    served_model: str | None,
    served_draft: str | None,
    batch_size: tuple[int, ...],
    seq_len: int,
    as_json: bool,
) -> None:
    """What to launch on this machine's GPU: a sentence, a table and the launch line.

    A GPU that is here and has no results yet is calibrated for 20 s first; without one, --gpu names
    a profile or a results folder. Then every method that the engine serves, and whose acceptance
    is published for the model or its like, is simulated.
    """
    from medusa_bench.compare import choosing, named
    from medusa_bench.compare.simulation import simulate
    from medusa_bench.compare.verdicts import verdict
    from medusa_bench.specs.dtypes import Dtype

    target = hub.load(model, assume_block=assume_block, offline=offline)
    source = gpu or _calibrated() or here.gpu(None)
    asked = "" if engine == "json" else engine
    variants, left_out = _served(target, asked)
    if not variants:
        raise MedusaBenchError(
            f"Of no method that {engine} serves is the acceptance known for {target.name}.",
            hint="`compare --acceptance NAME=FILE` takes what an engine counted; another --engine "
            "may serve more.",
        )
    (latency,) = named.latency_models((source,))

    def at(chosen: "Sequence[Variant]", batches: Sequence[int]) -> "list[Comparison]":
        return simulate(
            chosen,
            target,
            latency,
            Dtype(here.dtype(None, source)),
            [(batch, seq_len) for batch in batches],
            engine=named.engine_cost(asked, engine_version, None, gpu=source),
        )

    rows = at(variants, batch_size)
    words = verdict(rows)
    best = _best_of_each_batch(rows)
    method = _method_to_launch(rows)
    launch = None
    if method:
        sized = choosing.variants(_request(method, asked, schedulable=True), target)
        every = at(sized, range(1, max(batch_size) + 1))
        launch = _launch(method, engine, (served_model or model, served_draft), sized, every)
    if as_json:
        console.print_json(
            {
                "device": latency.device,
                "latency_model": latency.name,
                "engine": engine,
                "verdict": words,
                "best": [row.as_dict() for row in best],
                "launch": launch.text if launch else None,
                "notes": launch.notes if launch else [],
                "left_out": left_out,
            }
        )
        return
    _print(words, best, launch, latency.provenance, left_out)


def _calibrated() -> str | None:
    """The folder of a calibration of the GPU that is here, made now where it has no results."""
    import os

    from medusa_bench.results.rows import Timing

    device = here.present()
    if device is None or os.environ.get(here.GPU_VARIABLE) or here.newest_results(device):
        return None
    from medusa_bench.cli import calibrate

    console.stderr().print(f"Calibrating the {device} for {_CALIBRATION_S:.0f} s ...", markup=False)
    path, _ = calibrate.measured("cuda", None, Timing.KERNEL, None, _CALIBRATION_S)
    return str(path)


def _request(method: str, engine: str, *, schedulable: bool = False) -> "Request":
    from medusa_bench.compare import choosing
    from medusa_bench.compare.methods import USUAL

    asked = choosing.schedulable(method, USUAL) if schedulable else USUAL
    return choosing.Request((method,), engine=engine, asked=asked)


def _served(target: "ModelShape", engine: str) -> "tuple[list[Variant], dict[str, str]]":
    """The methods that an engine ("" for any) serves for a model; and why others are left out."""
    from medusa_bench.compare import choosing
    from medusa_bench.compare.methods import METHODS

    found: list[Variant] = []
    left_out: dict[str, str] = {}
    for name, row in METHODS.items():
        if name == "vanilla" or not row.engines or (engine and engine not in row.engines):
            continue
        try:
            variants = choosing.variants(_request(name, engine), target)
        except MedusaBenchError as error:
            left_out[name] = error.message
            continue
        fit = [each for each in variants if not each.unfit]
        found += fit
        if not fit:
            left_out[name] = variants[0].unfit
    return found, left_out


def _best_of_each_batch(rows: "Sequence[Comparison]") -> "list[Comparison]":
    from medusa_bench.compare.comparisons import best, by_setting

    return [best(group) for _, group in sorted(by_setting(rows).items())]


def _method_to_launch(rows: "Sequence[Comparison]") -> str | None:
    """The method with the highest mean of its best speedups over the batch sizes, if one pays."""
    methods = dict.fromkeys(row.method for row in rows if row.num_candidates > 1)
    if all(row.speedup <= 1 for row in _best_of_each_batch(rows)):
        return None

    def total(method: str) -> float:
        mine = [row for row in rows if row.method in {method, "vanilla"}]
        return sum(max(1.0, row.speedup) for row in _best_of_each_batch(mine))

    return max(methods, key=total)


def _launch(
    method: str,
    engine: str,
    served: tuple[str, str | None],
    variants: "Sequence[Variant]",
    rows: "Sequence[Comparison]",
) -> "Written":
    """The launch line by rows of every batch size; served: model and draft as the engine loads."""
    from medusa_bench.compare import schedule_files, schedules
    from medusa_bench.compare.methods import METHODS

    model, draft = served
    if METHODS[method].uses_draft_model:
        draft = draft or variants[0].method.drafts[0].shape.name
    return schedule_files.write(
        schedules.plan(rows, 0.0, _TOLERANCE),
        schedule_files.ServingEngine(engine),
        schedule_files.Served(method, model, draft or "", 1),
        always=schedules.best_constant(rows),
    )


def _print(
    words: Sequence[str],
    best: "Sequence[Comparison]",
    launch: "Written | None",
    provenance: str,
    left_out: dict[str, str],
) -> None:
    from medusa_bench.compare.verdicts import name

    out = console.stdout()
    out.print(textwrap.fill(words[0], min(out.width, 100)), markup=False)
    cells = []
    for row in best:
        low, high = row.speedup_interval
        cells.append(
            [str(row.batch_size), name(row), f"{row.speedup:.2f}", f"{low:.2f} to {high:.2f}"]
        )
    out.print()
    out.print(console.table(["batch size", "method", "speedup", "90 %"], cells))
    first = best[0]
    out.print(
        f"Simulated from {provenance} latencies ({first.latency_source}), {first.engine}.",
        markup=False,
    )
    if launch:
        out.print(f"The launch gives up at most {_TOLERANCE:.0%} of it for fewer draft lengths.")
    out.print()
    if launch is None:
        out.print("Serve without speculation: nothing that the engine serves pays here.")
    else:
        click.echo(launch.text, nl=False)
        for note in launch.notes:
            console.stderr().print(f"Note: {note}", markup=False)
    for method, reason in left_out.items():
        console.stderr().print(f"Left out: {method}: {reason}", markup=False)
