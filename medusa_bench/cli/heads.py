"""`medusa-bench heads`: what a file of Medusa heads holds, and how often they are right."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from medusa_bench.base.files import writing
from medusa_bench.cli import console
from medusa_bench.cli.options import JSON, OFFLINE, Whole
from medusa_bench.cli.progress import progress
from medusa_bench.cli.train import accuracy_rows, accuracy_table

if TYPE_CHECKING:
    from medusa_bench.decode.heads.heads import MedusaHeads

_COUNTS = (2, 4, 8, 16, 32, 64)


@click.command(
    epilog="""\b
Examples:
  medusa-bench heads path/to/vicuna-7b medusa-vicuna-7b -o accuracies
  medusa-bench generate path/to/vicuna-7b --heads medusa-vicuna-7b \\
      --accuracy accuracies/accuracy-paths.json
"""
)
@click.argument("model")
@click.argument("heads", metavar="HEADS")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write accuracy.csv and accuracy-paths.json there, which `tree` reads.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Prompts to measure on (MT-Bench, AlpacaEval, Spec-Bench files); default: 80 of our own.",
)
@click.option(
    "--max-new-tokens",
    type=Whole(2, 4096),
    default=160,
    show_default=True,
    help="Most tokens of one answer.",
)
@click.option(
    "--adapter",
    type=click.Path(path_type=Path, file_okay=False),
    help="A LoRA adapter of MODEL that the heads were trained with (Medusa-2).",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:1.")
@OFFLINE
@JSON
def command(
    *,
    model: str,
    heads: str,
    output: Path | None,
    prompts: Path | None,
    max_new_tokens: int,
    adapter: Path | None,
    device: str,
    offline: bool,
    as_json: bool,
) -> None:
    """Measure how often the HEADS of MODEL are right, on your own prompts.

    HEADS is a file or folder in the FasterDecoding, TGI or vLLM layout. MODEL answers the prompts
    greedily; every head is asked at every token of the answers. Last, the tokens per step that
    generation would accept with the best tree of so many candidates, replayed on the same answers.
    """
    from medusa_bench.decode.engine import loading
    from medusa_bench.decode.heads import adapters, distillation, files
    from medusa_bench.decode.heads.accuracy import ranks, write_accuracy
    from medusa_bench.decode.study import prompts as prompt_files

    asked = prompt_files.read(prompts or prompt_files.OWN)
    if output:
        with writing(output):  # before minutes of measuring, which would be lost
            output.mkdir(parents=True, exist_ok=True)
    with console.stderr().status(f"Loading {model}"):
        backbone, tokenizer = loading.load(model, device=device, offline=offline)
        if adapter is not None:
            backbone = adapters.merged(adapters.load(adapter, backbone))
    loaded = files.load(heads, backbone)
    for note in loaded.notes:
        console.warn(note)
    done = 0
    with progress("Answering (tokens)", len(asked) * max_new_tokens) as advance:

        def so_far(tokens: int) -> bool:
            nonlocal done
            advance(tokens - done)
            done = tokens
            return True

        answers = distillation.answer(backbone, tokenizer, asked, max_new_tokens, so_far)
    assert answers is not None
    name = prompt_files.OWN_TEXT if prompts is None else f"answers to {prompts.name}"
    measured = ranks(loaded, answers, text=name)
    rates = measured.replayed_rates(_COUNTS)
    if output:
        write_accuracy(measured, output, "accuracy", model=model)
    if as_json:
        console.print_json(
            {
                "num_heads": loaded.num_heads,
                "num_layers": loaded.num_layers,
                "num_proposable": loaded.num_proposable,
                "accuracy": accuracy_rows([measured]),
                "replayed_acceleration_rate": {str(n): rate for n, rate in rates.items()},
            }
        )
        return
    out = console.stdout()
    out.print(_words(loaded), markup=False)
    out.print(accuracy_table([measured]))
    cells = [["tokens/step", *(f"{rate:.2f}" for rate in rates.values())]]
    title = "Replayed on these answers, with the tree that suits them best"
    out.print(console.table(["candidates", *map(str, rates)], cells, title))
    if output:
        out.print(f"Written to {output}.", markup=False)


def _words(heads: "MedusaHeads") -> str:
    layers = f"{heads.num_layers} residual block{'s' if heads.num_layers > 1 else ''} each"
    own = (
        "an LM head of its own each"
        if heads.own_lm_heads is not None
        else "sharing the model's LM head"
    )
    return (
        f"{heads.num_heads} heads, {layers}, {own}; they can propose {heads.num_proposable:,} "
        "tokens."
    )
