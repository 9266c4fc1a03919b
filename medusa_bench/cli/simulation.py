"""What compare, schedule and tree share: which GPU, which methods, which acceptance."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.cli import console
from medusa_bench.cli.options import COUNTS, DTYPE, DURATION, MODELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from medusa_bench.compare.methods import Block
    from medusa_bench.compare.serving import EngineCost
    from medusa_bench.predict.latency import LatencyModel
    from medusa_bench.specs.dtypes import Dtype
    from medusa_bench.specs.models import ModelShape

PAPER_GPU = "a100-80gb-pcie"
PAPER_RESULTS = "results/paper"

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
    help="Acceptance model, for all methods or for the method or draft NAME. MODEL: paper, "
    "printed, log:A[:BASE], chain:P, survival:P1,P2, tree:MODEL, tokens:N, or a file (JSON, CSV, "
    "vLLM's metrics or log).",
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


def is_papers(gpu: str) -> bool:
    """Whether a --gpu is the paper's own points: then its block, grid and no engine are counted."""
    return gpu in {"paper", PAPER_RESULTS}


def engine_cost(
    engine: str | None, version: str | None, host_s: float | None, *, gpu: str
) -> "EngineCost":
    """What serving adds to a step, its host time replaced where it is known. Raises as cost_of."""
    from medusa_bench.compare import serving

    usual = serving.NO_ENGINE.name if is_papers(gpu) else serving.UNKNOWN
    cost = serving.cost_of(usual if engine is None else engine, version or "")
    return cost if host_s is None else cost.with_host_time(host_s)


def counted_block(block: str | None, *, gpu: str) -> "Block":
    """The whole model unless told otherwise, and the paper's eight products for its own points."""
    from medusa_bench.compare.methods import Block

    return Block(block or ("paper" if is_papers(gpu) else "full"))


def latency_models(
    names: Sequence[str], *, timing: str | None = None, by: str = "best"
) -> "list[LatencyModel]":
    """The latency model that each name stands for. Raises MedusaBenchError.

    Kernel times unless asked for otherwise; the paper's own are eager, its harness included.
    """
    from medusa_bench.predict import choosing
    from medusa_bench.results.rows import Timing

    kind = choosing.Kind(by)
    models = []
    for name in names:
        called = Timing(timing) if timing else Timing.EAGER if is_papers(name) else Timing.KERNEL
        models.append(choosing.model_for(PAPER_GPU if name == "paper" else name, called, kind))
    return models


def too_large(
    latency: "LatencyModel",
    target: "ModelShape",
    settings: "Sequence[tuple[int, int]]",
    dtype: "Dtype",
) -> list[str]:
    """In words, which settings do not fit into the device's memory, where a profile tells it."""
    from medusa_bench.compare.methods import memory_bytes
    from medusa_bench.specs import profiles

    found = [
        each
        for each in profiles.all_profiles()
        if latency.device in {each.name, *each.device_names}
    ]
    if not found:
        return []
    large = [
        (batch_size, seq_len)
        for batch_size, seq_len in settings
        if memory_bytes(target, batch_size, seq_len, dtype) > found[0].memory_bytes
    ]
    if not large:
        return []
    batch_size, seq_len = large[0]
    has = f"{latency.device} has ({found[0].memory_bytes / 2**30:.0f} GiB)"
    return [
        f"{len(large)} of {len(settings)} settings need more memory than {has}, the first of them "
        f"batch size {batch_size} with {seq_len} cached tokens; what they show is the speed of the "
        "arithmetic alone"
    ]


def tree_latency(
    gpu: str,
    model: str,
    batch_size: int,
    seq_len: int,
    max_candidates: int,
    *,
    draft: str | None,
    draft_width: int,
    timing: str | None,
    by: str,
    dtype: str,
    block: str,
    heads: bool,
    host_s: float,
) -> "Callable[[int, int], float]":
    """What a step costs in seconds as a function of a tree's candidates and depth.

    With a draft model each level is one of its passes: the first over the root, the others over
    draft_width nodes.
    """
    from medusa_bench.compare.methods import Block, Draft, medusa
    from medusa_bench.compare.simulation import step_costs
    from medusa_bench.specs import models as model_specs
    from medusa_bench.specs.dtypes import Dtype

    target = model_specs.load(model)
    (latency,) = latency_models((gpu,), timing=timing, by=by)
    methods = [medusa(n, heads=heads and n > 1) for n in range(1, max_candidates + 1)]
    steps = [method.step(target, batch_size, seq_len, Block(block)) for method in methods]
    if draft:
        shape = model_specs.load(draft)
        levels = (Draft(shape, 1), Draft(shape, 1, draft_width))
        drafting = replace(medusa(2), drafts=levels).step(target, batch_size, seq_len, Block(block))
        steps += [drafting[:1], drafting[1:2]]
    costs = step_costs(steps, latency, Dtype(dtype)).latency_s.tolist()
    first_s, next_s = costs[max_candidates:] if draft else (0.0, 0.0)

    def step_latency_s(num_candidates: int, depth: int) -> float:
        drafts_s = first_s + (depth - 1) * next_s if depth else 0.0
        return float(costs[num_candidates - 1] + drafts_s + (host_s if depth else 0.0))

    return step_latency_s


def save(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of the path's ending. Raises MedusaBenchError."""
    from medusa_bench.report import style

    with style.applied():
        written = style.save(figure, path)
    console.stderr().print(f"Wrote {written}", markup=False, soft_wrap=True)
