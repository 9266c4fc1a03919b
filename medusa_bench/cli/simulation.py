"""What compare, schedule and tree share: which GPU, which methods, which acceptance."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.cli import console
from medusa_bench.cli.options import COUNTS, DTYPE, DURATION, MODELS
from medusa_bench.compare.acceptance import KINDS
from medusa_bench.specs.paper_grid import PAPER_GPU

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
GPUS = click.option(
    "--gpu",
    type=MODELS,
    metavar="NAMES",
    default=("paper",),
    show_default="paper",
    help=f"{_GPU_HELP} Several are set side by side.",
)
ONE_GPU = click.option("--gpu", default=None, help=_GPU_HELP)
# An engine replays CUDA graphs: kernel times, where the paper's harness launches each call.
ENGINES_GPU = click.option("--gpu", default=PAPER_GPU, show_default=True, help=_GPU_HELP)
MODEL = click.option(
    "-m", "--model", default="llama-7b", show_default=True, help="The model that decodes."
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
    click.option("--dtype", type=DTYPE, default="float16", show_default=True),
    click.option(
        "--block",
        type=click.Choice(["paper", "full"]),
        default=None,
        help="Count the whole model, or the paper's eight products of a layer.  [default: full; "
        "--gpu paper: paper]",
    ),
    click.option(
        "--host-time",
        "host_s",
        type=DURATION,
        default=None,
        help="Time that a speculating step spends beside its passes, as 0.05ms.",
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
    "--draft-len", type=COUNTS, help="Drafted tokens of a chain.  [default: 1 to 15]"
)
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
