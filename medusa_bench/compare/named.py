"""From the names on a command line to latency models, an engine's cost and what is counted."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.compare import serving
from medusa_bench.compare.methods import medusa
from medusa_bench.compare.passes import Block, Draft, memory_bytes
from medusa_bench.compare.serving import EngineCost
from medusa_bench.compare.simulation import step_costs
from medusa_bench.predict import choosing
from medusa_bench.predict.allreduce import AllReduce, all_reduce
from medusa_bench.predict.latency import LatencyModel
from medusa_bench.results import folders
from medusa_bench.results.rows import Timing
from medusa_bench.specs import models as model_specs
from medusa_bench.specs import paper_grid, profiles
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.shapes import ModelShape


def is_papers(gpu: str) -> bool:
    """Whether a --gpu is the paper's own points: then its block, grid and no engine are counted."""
    return gpu in {"paper", paper_grid.RESULTS}


def engine_name(engine: str | None, *, gpu: str) -> str:
    """The engine asked for; else one of unknown name, none for the paper's points or a CPU's."""
    if engine is not None:
        return engine
    return serving.NO_ENGINE.name if is_papers(gpu) or _is_cpu(gpu) else serving.UNKNOWN


@cache
def _is_cpu(gpu: str) -> bool:
    """Whether a --gpu is a results folder measured on a CPU."""
    return Path(gpu).is_dir() and folders.load(gpu).environment.device_type == "cpu"


def engine_cost(
    engine: str | None, version: str | None, host_s: float | None, *, gpu: str
) -> EngineCost:
    """What serving adds to a step, its host time replaced where it is known. Raises as cost_of."""
    cost = serving.cost_of(engine_name(engine, gpu=gpu), version or "")
    return cost if host_s is None else cost.with_host_time(host_s)


def counted_block(block: str | None, *, gpu: str) -> Block:
    """The whole model unless told otherwise, and the paper's eight products for its own points."""

    return Block(block or ("paper" if is_papers(gpu) else "full"))


def latency_models(
    names: Sequence[str], *, timing: str | None = None, by: str = "best"
) -> list[LatencyModel]:
    """The latency model that each name stands for. Raises MedusaBenchError.

    Kernel times unless asked for otherwise; the paper's own are eager, its harness included.
    """

    kind = choosing.Kind(by)
    models = []
    for name in names:
        called = Timing(timing) if timing else Timing.EAGER if is_papers(name) else Timing.KERNEL
        models.append(
            choosing.model_for(paper_grid.PAPER_GPU if name == "paper" else name, called, kind)
        )
    return models


def group_of(
    latency: LatencyModel, tp: int, interconnect: str | None, block: Block
) -> AllReduce | None:
    """The GPUs of a tensor-parallel group, of the kind that a latency model is of; None for one.

    Raises MedusaBenchError where no profile tells how that GPU is joined to others, and where one
    layer alone is counted.
    """
    if tp == 1 and interconnect is None:
        return None
    if block is Block.PAPER:
        raise MedusaBenchError(
            "Several GPUs are counted for a whole model.", hint="add --block full."
        )
    return all_reduce(profiles.profile_of(latency.device), tp, interconnect)


def too_large(
    latency: LatencyModel,
    target: ModelShape,
    settings: Sequence[tuple[int, int]],
    dtype: Dtype,
    num_gpus: int = 1,
) -> list[str]:
    """In words, which settings do not fit into the device's memory, where a profile tells it."""

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
        if memory_bytes(target, batch_size, seq_len, dtype) > num_gpus * found[0].memory_bytes
    ]
    if not large:
        return []
    batch_size, seq_len = large[0]
    own = f"{found[0].memory_bytes / 2**30:.0f} GiB"
    has = f"{latency.device} has ({own})" if num_gpus == 1 else f"{num_gpus} GPUs have ({own} each)"
    return [
        f"{len(large)} of {len(settings)} settings need more memory than {has}, the first of them "
        f"batch size {batch_size} with {seq_len} cached tokens; what they show is the speed of the "
        "arithmetic alone"
    ]


def tree_latency(
    gpu: str,
    target: ModelShape,
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
) -> Callable[[int, int], float]:
    """What a step costs in seconds as a function of a tree's candidates and depth.

    With a draft model each level is one of its passes: the first over the root, the others over
    draft_width nodes.
    """

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
