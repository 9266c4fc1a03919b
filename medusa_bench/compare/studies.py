"""What a page says about decoding: comparisons of one model on one device, and how to read them.

Rows are simulated here, or read from the document that `compare --json` prints, with --generate
too; simulated and generated ones are never in one study.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from medusa_bench.base import limits
from medusa_bench.base.documents import JsonObject, parse_object
from medusa_bench.base.errors import InvalidFileError
from medusa_bench.base.files import read_bytes
from medusa_bench.base.quantities import duration
from medusa_bench.compare import comparisons, tree_layout, verdicts
from medusa_bench.compare.break_even import break_even
from medusa_bench.compare.comparisons import (
    Comparison,
    best,
    by_setting,
    cliffs_by_batch,
    shown_seq_len,
)
from medusa_bench.compare.methods import medusa
from medusa_bench.compare.serving import NO_ENGINE, EngineCost
from medusa_bench.compare.simulation import Variant, simulate, step_costs
from medusa_bench.compare.trees import ChosenTree, HeadAccuracy, JointFrequency, grow_for_cost
from medusa_bench.predict.latency import LatencyModel
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.shapes import ModelShape

_NEARLY_BEST = 0.98  # of the best speedup: what no one would notice
ALL_METHODS = "the best of all"


@dataclass(frozen=True)
class Study:
    """Comparisons of one model on one device, from one kind of source."""

    rows: Sequence[Comparison]
    verdict: Sequence[str]
    warnings: Sequence[str] = field(default=())
    reasons: Sequence[str] = field(default=())

    @property
    def title(self) -> str:
        """Model, device and where the numbers come from, which are never shown apart."""
        first = self.rows[0]
        return f"{first.model} on {first.device} ({first.source}, {first.dtype})"


def simulated(
    variants: Sequence[Variant],
    target: ModelShape,
    latency: LatencyModel,
    dtype: Dtype,
    settings: Sequence[tuple[int, int]],
    *,
    engine: EngineCost = NO_ENGINE,
    warnings: Sequence[str] = (),
) -> Study:
    """A study by simulation. Raises MedusaBenchError as compare.simulate does."""
    at = partial(simulate, variants, target, latency, dtype, engine=engine)
    rows = at(settings)
    ends = break_even(rows, at)
    return Study(rows, verdicts.verdict(rows), warnings, verdicts.reasons(rows, ends))


@dataclass(frozen=True)
class GrownTree:
    """The tree with the most tokens per second for a model on a device, at one setting."""

    chosen: ChosenTree
    rates: HeadAccuracy | JointFrequency
    speedup: float
    title: str


def grown_tree(
    target: ModelShape,
    latency: LatencyModel,
    dtype: Dtype,
    rates: HeadAccuracy | JointFrequency,
    *,
    batch_size: int = 1,
    seq_len: int = 1024,
    max_candidates: int = 64,
) -> GrownTree:
    """The tree that is grown for the device's steps. Raises MedusaBenchError for the dtype."""
    steps = [
        medusa(count).step(target, batch_size, seq_len) for count in range(1, max_candidates + 1)
    ]
    costs_s = step_costs(steps, latency, dtype).latency_s.tolist()
    chosen = grow_for_cost(
        rates, lambda count, depth: float(costs_s[count - 1]), max_candidates=max_candidates
    )
    return GrownTree(
        chosen,
        rates,
        speedup=chosen.expected_tokens * costs_s[0] / chosen.step_latency_s,
        title=f"{target.name} on {latency.device} (simulated, {dtype}), batch size {batch_size}, "
        f"{seq_len} cached tokens; head accuracies {rates.name}",
    )


def read(path: Path) -> list[Study]:
    """The studies of a document as `compare --json` or `compare --generate --json` prints it.

    Raises InvalidFileError, naming the row and the field, for what is none.
    """
    document = parse_object(read_bytes(path, limits.COMPARISON_BYTES), where=str(path))
    groups: dict[tuple[str, ...], list[Comparison]] = {}
    for number, row in enumerate(_rows(document), start=1):
        comparison = comparisons.from_dict(row, where=f"{path}, comparison {number}")
        key = (comparison.device, comparison.model, comparison.source, comparison.dtype)
        groups.setdefault(key, []).append(comparison)
    if not groups:
        raise InvalidFileError(
            f"{path} holds no comparisons.",
            hint="give a results folder, or what `medusa-bench compare --json` prints.",
        )
    warnings = [str(each) for each in document.get("warnings") or ()]
    return [
        Study(rows, verdicts.verdict(rows), warnings, verdicts.reasons(rows, break_even(rows)))
        for rows in groups.values()
    ]


def _rows(document: JsonObject) -> Iterator[Any]:
    """The comparisons of one device or of several, or each generated one and its simulation."""
    devices = document.get("devices")
    for part in devices if isinstance(devices, list) else [document]:
        if isinstance(part, dict) and isinstance(part.get("comparisons"), list):
            yield from part["comparisons"]
    methods = document.get("methods")
    for method in methods if isinstance(methods, list) else []:
        if isinstance(method, dict):
            yield from (method[name] for name in ("generated", "simulated") if method.get(name))


# -- as a page holds it ---------------------------------------------------------------------------


def columns(study: Study) -> JsonObject:
    """The rows as columns, the best of each setting by method, and where latency leaps."""
    dicts = [row.as_dict() for row in study.rows]
    position = {id(row): index for index, row in enumerate(study.rows)}
    return {
        "title": study.title,
        "seq_len": shown_seq_len(study.rows),
        "rows": {name: _packed([each[name] for each in dicts]) for name in comparisons.PAGE_FIELDS},
        "best": {
            name: [_best(group, position) for group in by_setting(rows).values()]
            for name, rows in _by_method(study.rows).items()
        },
        "cliffs": [
            {"method": method, "batch_size": batch_size, "seq_len": seq_len, "after": counts}
            for (method, batch_size, seq_len), counts in cliffs_by_batch(study.rows).items()
        ],
    }


def tree_columns(grown: GrownTree) -> JsonObject:
    """The tree's nodes, the root first, where they stand and how likely each is accepted."""
    tree = grown.chosen.tree
    places = tree_layout.across(tree)
    probability = {(): 1.0} | {path: grown.rates.probability(path) for path in tree.paths}
    likeliest = tree_layout.likeliest(tree, probability)
    nodes = [(), *tree.paths]
    return {
        "x": [places[path] for path in nodes],
        "depth": list(tree.positions),
        "parent": list(tree.parents),
        "path": [" ".join(map(str, path)) or "root" for path in nodes],
        "probability": _packed(probability[path] for path in nodes),
        "likeliest": [path in likeliest for path in nodes],
    }


@dataclass(frozen=True, slots=True)
class TableRow:
    """A method at its best size in one setting, beside the others."""

    name: str
    size: str
    step: str
    acceleration_rate: str
    overhead: str
    speedup: str
    interval: str
    outcome: str
    marks: str
    source: str


def method_table(study: Study) -> list[tuple[str, list[TableRow]]]:
    """Each method's best size at up to three batch sizes of `shown_seq_len`; last what is none."""
    seq_len = shown_seq_len(study.rows)
    of_length = [row for row in study.rows if row.seq_len == seq_len]
    batch_sizes = sorted({row.batch_size for row in of_length})
    shown = sorted({batch_sizes[0], batch_sizes[len(batch_sizes) // 2], batch_sizes[-1]})
    parts = []
    for batch_size in shown:
        groups: dict[tuple[str, str], list[Comparison]] = {}
        for row in of_length:
            if row.batch_size == batch_size:
                groups.setdefault((row.method, row.draft), []).append(row)
        rows = sorted(map(best, groups.values()), key=lambda row: (bool(row.unfit), -row.speedup))
        title = f"batch size {batch_size}, {seq_len} cached tokens"
        parts.append((title, [_table_row(row) for row in rows]))
    return parts


def _table_row(row: Comparison) -> TableRow:
    low, high = row.speedup_interval
    size = f"{row.num_candidates} candidates"
    name = f"{row.method} {row.draft}" if row.method == "draft-model" else row.method
    outcome = row.outcome if row.method != "vanilla" else ""
    return TableRow(
        name=f"{name} (no choice)" if row.unfit else name,
        size=f"{row.draft_len} drafted" if row.draft_len is not None else size,
        step=duration(row.step.latency_s),
        acceleration_rate=f"{row.acceleration_rate:.2f}",
        overhead=f"{row.overhead:.2f}",
        speedup=f"{row.speedup:.2f}",
        interval=f"{low:.2f} to {high:.2f}" if low < high else "",
        outcome=row.unfit or outcome,
        marks="" if row.lossless else "lossy",
        source=f"{row.source}; {row.acceptance_source}",
    )


def _by_method(rows: Sequence[Comparison]) -> Mapping[str, list[Comparison]]:
    """The rows of each method but vanilla, and first all of them."""
    named: dict[str, list[Comparison]] = {}
    for row in rows:
        if row.method != "vanilla":
            named.setdefault(row.method, []).append(row)
    return named if len(named) == 1 else {ALL_METHODS: list(rows), **named}


def _best(group: Sequence[Comparison], position: Mapping[int, int]) -> JsonObject:
    """The fastest row of a setting, and the sizes that come as near as no one would notice."""
    chosen = best(group)
    near = [
        row.num_candidates
        for row in group
        if (row.method, row.draft) == (chosen.method, chosen.draft)
        and row.speedup >= _NEARLY_BEST * chosen.speedup
    ]
    return {"row": position[id(chosen)], "fewest": min(near), "most": max(near)}


def _packed(values: Iterable[Any]) -> JsonObject | list[Any]:
    """Words once, with indices into them; numbers to six digits, more than they are good to."""
    values = list(values)
    if any(isinstance(value, str) for value in values):
        words = list(dict.fromkeys(values))
        index = {word: number for number, word in enumerate(words)}
        return {"words": words, "indices": [index[value] for value in values]}
    return [float(f"{value:.6g}") if isinstance(value, float) else value for value in values]
