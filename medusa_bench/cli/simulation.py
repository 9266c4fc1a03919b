"""What compare, schedule and tree share: which GPU, which methods, which acceptance."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.cli import completion, console
from medusa_bench.cli.options import (
    ASSUME_BLOCK,
    CACHE,
    COUNTS,
    DTYPE,
    DURATION,
    MODELS,
    WEIGHTS,
    Number,
    Whole,
)
from medusa_bench.compare.acceptance import KINDS
from medusa_bench.compare.methods import Asked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from medusa_bench.compare.choosing import Request
    from medusa_bench.specs.shapes import ModelShape


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def stack(*decorators: Decorator) -> Decorator:
    """Several options as one, in the order in which help lists them."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


_GPU_HELP = (
    "Whose latencies: a profile's name (predicted), a results folder (measured, the gaps "
    "predicted), or `paper` (fitted to the paper's A100 points, its harness included)."
)
_GPU_DEFAULT = "[default: $MEDUSA_BENCH_GPU, the GPU here, or the newest results in ./results]"
GPUS = click.option(
    "--gpu",
    type=MODELS,
    metavar="NAMES",
    default=(),
    shell_complete=completion.GPUS,
    help=f"{_GPU_HELP} Several are set side by side.  {_GPU_DEFAULT}",
)
ONE_GPU = click.option("--gpu", shell_complete=completion.GPUS, help=_GPU_HELP)
ENGINES_GPU = click.option(
    "--gpu", shell_complete=completion.GPUS, help=f"{_GPU_HELP}  {_GPU_DEFAULT}"
)
MODEL = stack(
    click.option(
        "-m",
        "--model",
        default="llama-7b",
        show_default=True,
        envvar="MEDUSA_BENCH_MODEL",
        shell_complete=completion.MODELS,
        help="The model that decodes: a preset, a config.json or its folder, or OWNER/NAME of the "
        "Hugging Face hub. $MEDUSA_BENCH_MODEL names another default.",
    ),
    ASSUME_BLOCK,
)
HEADS = click.option("--heads", is_flag=True, help="Count what Medusa's heads themselves cost.")
COST = stack(
    click.option(
        "--timing",
        type=click.Choice(["kernel", "eager"]),
        help="What the GPU takes, or calls launched one by one.  [default: kernel; paper: eager]",
    ),
    click.option(
        "--by",
        type=click.Choice(["best", "roofline", "calibrated", "measured"]),
        default="best",
        help="Which latency model.",
    ),
    click.option("--dtype", type=DTYPE, help="[default: the results folder's, else float16]"),
    click.option(
        "--block",
        type=click.Choice(["paper", "full", "fused"]),
        default=None,
        help="Count the whole model (fused: attention as one kernel), or the paper's eight "
        "products of a layer.  [default: full; --gpu paper: paper]",
    ),
    click.option(
        "--host-time",
        "host_s",
        type=DURATION,
        default=None,
        help="Time that a speculating step spends beside its passes, as 0.05ms.",
    ),
)
STORED = stack(WEIGHTS, CACHE)
GROUP = stack(
    click.option(
        "--tp",
        type=Whole(1, 1024),
        default=1,
        show_default=True,
        help="GPUs of one node over which target and drafts are split (tensor parallelism).",
    ),
    click.option(
        "--interconnect",
        type=click.Choice(["nvlink", "pcie"]),
        help="What joins them.  [default: what the GPU has]",
    ),
)
ROUTING = stack(
    click.option(
        "--ep",
        type=Whole(1, 1024),
        default=1,
        show_default=True,
        help="Of the --tp GPUs, those over which whole experts are spread (expert parallelism).",
    ),
    click.option(
        "--expert-skew",
        type=Number(0, 4),
        default=0.0,
        help="Experts' popularity as rank^-SKEW.  [default: 0, even]",
    ),
    click.option(
        "--expert-locality",
        type=Number(0, 1),
        default=0.0,
        help="Share of a sequence's candidates that choose its first one's experts.  [default: 0]",
    ),
)
ENGINE_VERSION = click.option(
    "--engine-version", help="The engine's version, which tells more than its name."
)
ENGINE = stack(
    click.option(
        "--engine",
        metavar="NAME",
        help="Which serving engine's costs a step counts beside its products: vllm, sglang, "
        "tensorrt-llm, transformers, llama.cpp, none.  [default: an engine of unknown name; "
        "--gpu paper: none]",
    ),
    ENGINE_VERSION,
)
ACCEPTANCE = click.option(
    "--acceptance",
    multiple=True,
    metavar="[NAME=]MODEL",
    help="Acceptance model, for all methods or for the method or draft NAME. MODEL: "
    f"{', '.join(words.partition(': ')[0] for words, _ in KINDS.values())}, or a file (JSON, CSV, "
    "what an engine printed).",
)
DRAFT = click.option(
    "--draft",
    type=MODELS,
    default=(),
    help="Draft models.  [default: the smallest of the model's family and vocabulary]",
)
DRAFT_LEN = click.option(
    "--draft-len",
    type=COUNTS,
    help="Drafted tokens of a chain or a block, drafting passes of a tree.  [default: 1 to 15 of a "
    "chain]",
)
_DRAFTERS = stack(
    click.option("--tree-width", type=Whole(1, 4096), help="Nodes that a drafting pass extends."),
    click.option("--draft-layers", type=Whole(1, 4096), help="Layers of EAGLE's and its like."),
    click.option("--draft-vocab", type=Whole(1, 1 << 24), help="Tokens that those can draft."),
    click.option(
        "--kept-layers",
        type=Number(0, 1, above=True),
        help="Share of its layers with which a model drafts for itself.",
    ),
    click.option("--draft-window", type=Whole(1), help="Cached tokens that a draft attends to."),
    click.option(
        "--drafting-share",
        type=Number(0, 1),
        help="Share of steps in which a lookup finds something to draft.",
    ),
)


def asking(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of sizes and drafters, which reach the command as one `asked`.

    Its own options give num_candidates, draft_len and heads, where it has those.
    """

    @wraps(function)
    def gathered(*args: Any, **options: Any) -> Any:
        given = {each.name: options.pop(each.name, None) for each in fields(Asked)}
        given["heads"] = None if given["heads"] in {None, False} else True
        return function(*args, asked=Asked(**given), **options)

    return _DRAFTERS(gathered)


def routed(target: "ModelShape", skew: float, locality: float, spread: int) -> "ModelShape":
    """The model with its experts chosen and spread so. Raises UsageError where it has none."""
    from medusa_bench.specs.shapes import EVEN, Routing

    routing = Routing(skew, locality, spread)
    if routing == EVEN:
        return target
    if target.experts is None:
        raise click.UsageError(
            f"{target.name} has no experts: leave --ep, --expert-skew and --expert-locality out."
        )
    return replace(target, routing=routing)


def refuse_without_effect(request: "Request", target: "ModelShape") -> None:
    """Raises click.UsageError for an option that acts on none of the methods."""
    from medusa_bench.compare import choosing

    if unused := choosing.without_effect(request, target):
        named = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        methods = ", ".join(choosing.names_of(request, target))
        raise click.UsageError(f"{named} has no effect on {methods}.")


TASK = click.option(
    "--task",
    metavar="NAME",
    help="Which task's published acceptance to take, at --temperature where one is given: chat, "
    "code, math, summary, qa, rag, translation.  [default: chat]",
)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of the path's ending. Raises MedusaBenchError."""
    from medusa_bench.report import style

    with style.applied():
        written = style.save(figure, path)
    console.stderr().print(f"Wrote {written}", markup=False, soft_wrap=True)
