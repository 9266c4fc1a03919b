"""`medusa-bench schedule`: draft length by batch size, as an engine reads it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.base import limits
from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.base.files import read_text, write_whole
from medusa_bench.cli import completion, console, here, hub, simulation
from medusa_bench.cli.options import JSON, OFFLINE, Number, Whole
from medusa_bench.compare.methods import Asked

if TYPE_CHECKING:
    from medusa_bench.compare.comparisons import Comparison
    from medusa_bench.compare.schedules import Replay, Schedule

_ENGINES = ("vllm", "tensorrt-llm", "sglang", "llama.cpp", "json")


class EngineName(click.Choice):  # type: ignore[type-arg]
    """One of the engines whose form is written, also by the names of habit (trtllm)."""

    def __init__(self) -> None:
        super().__init__(_ENGINES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from medusa_bench.compare.serving import engine_of

        return str(super().convert(engine_of(str(value)) or value, param, ctx))


@click.command(epilog="Example: medusa-bench schedule --engine vllm --draft llama-160m")
@simulation.ENGINES_GPU
@simulation.MODEL
@OFFLINE
@click.option(
    "--method",
    default="draft-model",
    shell_complete=completion.METHODS,
    show_default=True,
    help="draft-model, medusa, eagle-3, mtp, ...",
)
@click.option("--draft", help="The draft model.  [default: the smallest of the model's family]")
@click.option("--served-model", help="The model as the engine loads it.  [default: --model]")
@click.option("--served-draft", help="The draft as the engine loads it.  [default: --draft]")
@simulation.DRAFT_LEN
@simulation.ACCEPTANCE
@click.option("--max-batch-size", type=Whole(1, 4096), default=64, show_default=True)
@click.option("-s", "--seq-len", type=Whole(1), default=1024, show_default=True)
@click.option(
    "--margin",
    type=Number(0, 10),
    default=0.0,
    show_default=True,
    help="Off where the speedup is at most 1 + this.",
)
@click.option(
    "--tolerance",
    type=Number(0, 0.5),
    default=0.02,
    show_default=True,
    help="Share of the speedup that a batch size may give up so that spans are fewer; less is "
    "within any interval.",
)
@simulation.COST
@simulation.STORED
@simulation.GROUP
@simulation.ROUTING
@simulation.HEADS
@click.option(
    "--engine",
    type=EngineName(),
    default="vllm",
    show_default=True,
    help="In whose form, and with whose costs beside a step's products (json: of any engine).",
)
@simulation.ENGINE_VERSION
@click.option("--check", type=click.Path(path_type=Path), help="Simulate this schedule again.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, writable=True, path_type=Path))
@JSON
@simulation.asking
def command(
    *,
    gpu: str | None,
    model: str,
    assume_block: str | None,
    offline: bool,
    method: str,
    draft: str | None,
    served_model: str | None,
    served_draft: str | None,
    asked: Asked,
    acceptance: tuple[str, ...],
    max_batch_size: int,
    seq_len: int,
    margin: float,
    tolerance: float,
    timing: str | None,
    by: str,
    dtype: str | None,
    weights: str | None,
    kv_dtype: str | None,
    block: str | None,
    host_s: float | None,
    tp: int,
    interconnect: str | None,
    ep: int,
    expert_skew: float,
    expert_locality: float,
    engine: str,
    engine_version: str | None,
    check: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """The draft length for every batch size, in the form that a serving engine loads.

    Covers batch sizes 1 to the largest; off where speculation does not pay. --check reads such a
    file back and simulates it beside always-on and always-off.
    """
    from medusa_bench.compare import choosing, methods, named, schedule_files, schedules
    from medusa_bench.compare.acceptance import Constant, caveats
    from medusa_bench.compare.passes import Block
    from medusa_bench.compare.simulation import simulate
    from medusa_bench.specs.dtypes import Dtype

    target = hub.load(
        model, assume_block=assume_block, offline=offline, weights=weights, cache=kv_dtype
    )
    target = simulation.routed(target, expert_skew, expert_locality, ep)
    gpu = here.gpu(gpu)
    method = methods.find(method)
    request = choosing.Request(
        (method,),
        (hub.located(draft, offline=offline),) if draft else (),
        acceptance,
        asked=choosing.schedulable(method, asked),
        engine=named.engine_name("" if engine == "json" else engine, gpu=gpu),
    )
    simulation.refuse_without_effect(request, target)
    variants = choosing.variants(request, target)
    if isinstance(variants[0].acceptance, Constant):
        raise MedusaBenchError(
            f"{variants[0].acceptance.name!r} says nothing of how acceptance depends on the "
            "draft length.",
            hint="give --acceptance chain:P, survival:P1,P2,... or what the engine counted "
            "(vLLM's metrics or log).",
        )
    warnings = [*target.notes]
    warnings += caveats(
        variants[0].acceptance, {variant.method.num_candidates for variant in variants}
    )
    for words in warnings:
        console.warn(words)
    read = (
        schedule_files.read(read_text(check, limits.COMPARISON_BYTES), where=str(check))
        if check
        else None
    )
    batch_sizes = range(1, (read.max_batch_size if read else max_batch_size) + 1)
    (latency,) = named.latency_models((gpu,), timing=timing, by=by)
    rows = simulate(
        variants,
        target,
        latency,
        Dtype(here.dtype(dtype, gpu)),
        [(batch_size, seq_len) for batch_size in batch_sizes],
        engine=named.engine_cost(
            "" if engine == "json" else engine, engine_version, host_s, gpu=gpu
        ),
        block=Block(block or "full"),
        group=named.group_of(latency, tp, interconnect, Block(block or "full")),
    )
    schedule, written = read, None
    if schedule is None:
        if methods.METHODS[method].uses_draft_model and not served_draft:
            served_draft = draft or variants[0].method.drafts[0].shape.name
        written = schedule_files.write(
            schedules.plan(rows, margin, tolerance),
            schedule_files.ServingEngine(engine),
            schedule_files.Served(method, served_model or model, served_draft or "", tp),
            always=schedules.best_constant(rows),
        )
        schedule = written.means
    replay = schedules.replay(schedule, rows)
    if output and written:
        write_whole(output, written.text.encode())
    if as_json:
        drafts = variants[0].method.drafts
        console.print_json(
            {
                "warnings": warnings,
                "notes": written.notes if written else [],
                "device": latency.device,
                "latency_model": latency.name,
                "method": method,
                "model": target.name,
                "draft": drafts[0].shape.name if drafts else None,
                "seq_len": seq_len,
                "margin": margin,
                "engine": engine,
                "written": written.text if written else None,
                "spans": [
                    [span.first_batch, span.last_batch, span.draft_len] for span in schedule.spans
                ],
                "replay": [
                    {
                        "batch_size": point.batch_size,
                        "draft_len": point.draft_len,
                        "speedup": point.speedup,
                        "always_on_draft_len": point.always_on_draft_len,
                        "always_on_speedup": point.always_on_speedup,
                    }
                    for point in replay
                ],
            }
        )
        return
    if written is None:
        console.stdout().print(_replay_table(schedule, replay))
    else:
        click.echo(written.text, nl=False)
        for note in written.notes:
            console.stderr().print(f"Note: {note}", markup=False)
    _print_hints(schedule, replay, rows)


def _replay_table(schedule: "Schedule", replay: "Sequence[Replay]") -> object:
    columns = ["batch", "drafted", "speedup", f"always {replay[0].always_on_draft_len}", "off"]
    ends = {end for span in schedule.spans for end in (span.first_batch, span.last_batch)}
    cells = [
        [
            str(point.batch_size),
            str(point.draft_len or "off"),
            f"{point.speedup:.3f}",
            f"{point.always_on_speedup:.3f}",
            "1.000",
        ]
        for point in replay
        if point.batch_size in ends
    ]
    return console.table(columns, cells, "Both ends of every span, simulated again")


def _print_hints(
    schedule: "Schedule", replay: "Sequence[Replay]", rows: "Sequence[Comparison]"
) -> None:
    from medusa_bench.compare import schedules

    on = [point for point in replay if point.draft_len]
    if not on:
        words = "Speculation pays at no batch size here: serve without it."
    else:
        mean = sum(point.speedup for point in replay) / len(replay)
        always = sum(point.always_on_speedup for point in replay) / len(replay)
        words = (
            f"On up to batch size {on[-1].batch_size}; mean speedup over batch sizes 1 to "
            f"{schedule.max_batch_size}: {mean:.2f}, against {always:.2f} with "
            f"{schedules.drafted(replay[0].always_on_draft_len)} always, and 1 without."
        )
    console.stderr().print(words, markup=False)
    console.stderr().print(
        f"Simulated: latencies {rows[0].latency_source} on {rows[0].device}; acceptance "
        f"{rows[0].acceptance_source}.",
        markup=False,
    )
