"""`medusa-bench tree`: grow, load, show and export candidate trees."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.base.files import write_whole
from medusa_bench.cli import console, here, hub, simulation
from medusa_bench.cli.options import JSON, OFFLINE, Whole

if TYPE_CHECKING:
    from medusa_bench.compare.trees import CandidateTree, ChosenTree, HeadAccuracy, JointFrequency


@click.command(epilog="Example: medusa-bench tree --gpu a100-80gb-pcie --batch-size 4 -o tree.png")
@click.option(
    "--load", "loaded", metavar="NAME|FILE", help="Show this tree instead of growing one."
)
@click.option(
    "--accuracy",
    metavar="MODEL|FILE",
    default="vicuna-7b-v1.3",
    show_default=True,
    help="Head accuracies: published ones of a model, or a JSON or CSV file.",
)
@click.option(
    "-q",
    "--num-candidates",
    type=Whole(1, 4096),
    default=64,
    show_default=True,
    help="Size, the root included; with --gpu the largest to consider.",
)
@click.option("--max-depth", type=Whole(1, 64), default=64, help="Heads to use at most.")
@simulation.ONE_GPU
@simulation.MODEL
@OFFLINE
@click.option("-b", "--batch-size", type=Whole(1), default=1, show_default=True)
@click.option("-s", "--seq-len", type=Whole(1), default=1024, show_default=True)
@click.option(
    "--draft",
    help="A draft model grows the tree: each level costs one of its passes over --draft-width "
    "nodes.",
)
@click.option("--draft-width", type=Whole(1, 4096), default=10, show_default=True)
@simulation.COST
@simulation.STORED
@simulation.HEADS
@click.option("--list", "list_names", is_flag=True, help="List the published trees and accuracies.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a figure (.png, .svg, .pdf) or the list of paths (.json).",
)
@JSON
def command(
    *,
    loaded: str | None,
    accuracy: str,
    num_candidates: int,
    max_depth: int,
    gpu: str | None,
    model: str,
    batch_size: int,
    seq_len: int,
    draft: str | None,
    draft_width: int,
    timing: str | None,
    by: str,
    dtype: str | None,
    weights: str | None,
    kv_dtype: str | None,
    block: str | None,
    heads: bool,
    host_s: float | None,
    assume_block: str | None,
    offline: bool,
    list_names: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """The tree of guesses to verify: the likeliest one, or the fastest on a GPU.

    Without --gpu: the tree of that many candidates with the most expected tokens a step. With
    --gpu: size and shape for the most tokens per second at this batch and context, cliffs of the
    GPU's cost curve included.
    """
    from medusa_bench.compare import named, trees

    if list_names:
        _print_names(as_json)
        return
    rates = trees.load_accuracy(accuracy)
    chosen: ChosenTree | None = None
    facts: dict[str, Any] = {"accuracy": rates.name}
    if loaded:
        tree = trees.load_tree(loaded)
        facts["tree"] = loaded
        _warn_of_unknown_ranks(tree, rates)
    elif gpu:
        target = hub.load(
            model, assume_block=assume_block, offline=offline, weights=weights, cache=kv_dtype
        )
        latency_s = named.tree_latency(
            gpu,
            target,
            batch_size,
            seq_len,
            num_candidates,
            draft=hub.located(draft, offline=offline) if draft else None,
            draft_width=draft_width,
            timing=timing,
            by=by,
            dtype=here.dtype(dtype, gpu),
            block=block or "paper",
            heads=heads,
            host_s=host_s or 0.0,
        )
        chosen = trees.grow_for_cost(
            rates, latency_s, max_candidates=num_candidates, max_depth=max_depth
        )
        tree = chosen.tree
        plain = trees.grow(rates, num_candidates, max_depth=max_depth)
        notes = target.notes
        for note in notes:
            console.warn(note)
        facts |= {
            "warnings": notes,
            "gpu": gpu,
            "model": model,
            "batch_size": batch_size,
            "seq_len": seq_len,
            "draft": draft,
            "step_latency_s": chosen.step_latency_s,
            "overhead": chosen.step_latency_s / latency_s(1, 0),
            "speedup": chosen.expected_tokens * latency_s(1, 0) / chosen.step_latency_s,
            "speedup_of_largest_tree": trees.expected_tokens(plain, rates)
            * latency_s(1, 0)
            / latency_s(plain.num_candidates, plain.depth),
        }
    else:
        tree = trees.grow(rates, num_candidates, max_depth=max_depth)
    facts |= {
        "num_candidates": tree.num_candidates,
        "depth": tree.depth,
        "expected_tokens_per_step": trees.expected_tokens(tree, rates),
        "survival": list(trees.survival(tree, rates)),
    }
    if output:
        _write(output, tree, rates, facts)
    if as_json:
        console.print_json(
            facts
            | {
                "paths": [list(path) for path in tree.paths],
                "positions": list(tree.positions),
                "parents": list(tree.parents),
                "mask": ["".join("01"[sees] for sees in row) for row in tree.mask().tolist()],
            }
        )
        return
    out = console.stdout()
    for line in _lines(tree, rates):
        out.print(line, markup=False)
    out.print(_summary(facts), markup=False)


def _summary(facts: dict[str, Any]) -> str:
    words = (
        f"{facts['num_candidates']} candidates, {facts['depth']} deep: "
        f"{facts['expected_tokens_per_step']:.3f} tokens a step expected "
        f"(head accuracies: {facts['accuracy']})"
    )
    if "speedup" in facts:
        words += (
            f"\nOn {facts['gpu']} at batch size {facts['batch_size']}, {facts['seq_len']} cached "
            f"tokens: overhead {facts['overhead']:.3f}, predicted speedup {facts['speedup']:.2f}; "
            f"the likeliest tree of the largest size gives {facts['speedup_of_largest_tree']:.2f}"
        )
    return words


def _lines(tree: "CandidateTree", rates: "HeadAccuracy | JointFrequency") -> list[str]:
    """The tree as text: a guess's rank a line, the probability of the path down to it."""
    children: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for path in tree.paths:
        children.setdefault(path[:-1], []).append(path)
    lines = ["root"]

    def walk(path: tuple[int, ...], indent: str) -> None:
        below = children.get(path, [])
        for child in below:
            last = child == below[-1]
            branch = f"{indent}{'└─' if last else '├─'} {child[-1]}"
            lines.append(f"{branch:<24} {rates.probability(child):.4f}")
            walk(child, indent + ("   " if last else "│  "))

    walk((), "")
    return lines


def _warn_of_unknown_ranks(tree: "CandidateTree", rates: "HeadAccuracy | JointFrequency") -> None:
    unknown = sum(rates.probability(path) == 0 for path in tree.paths)
    if unknown:
        console.warn(
            f"{unknown} of {len(tree.paths)} nodes use guesses past those that {rates.name} gives "
            "accuracies for; they are counted as never right."
        )


def _write(
    output: Path,
    tree: "CandidateTree",
    rates: "HeadAccuracy | JointFrequency",
    facts: dict[str, Any],
) -> None:
    if output.suffix == ".json":
        paths = json.dumps([list(path) for path in tree.paths])
        write_whole(output, f"{paths}\n".encode())
        return
    from medusa_bench.report import comparison

    title = (
        f"{facts['num_candidates']} candidates, {facts['expected_tokens_per_step']:.2f} tokens a "
        f"step ({facts['accuracy']})"
    )
    simulation.save(comparison.tree(tree, rates, title=title), output)


def _print_names(as_json: bool) -> None:
    from medusa_bench.compare import trees

    published = trees.published_trees()
    if as_json:
        console.print_json(
            {"trees": list(published), "head_accuracies": list(trees.accuracy_names())}
        )
        return
    cells = [[name, str(tree.num_candidates), str(tree.depth)] for name, tree in published.items()]
    console.stdout().print(console.table(["published tree", "candidates", "depth"], cells))
    console.stdout().print(
        f"published head accuracies: {', '.join(trees.accuracy_names())}", markup=False
    )
