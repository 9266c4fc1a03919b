"""Simulated speedups against published ones: how far off, how well covered, on the right side of 1.

A published row that cannot be expressed is counted with its reason. Engine costs are the shipped
ones, those fitted to another file, or those fitted with what is scored left out.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medusa_bench.base import limits, ranges
from medusa_bench.base.documents import parse_csv
from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.base.files import read_text
from medusa_bench.compare import acceptance, choosing, methods, serving, serving_fit
from medusa_bench.compare.break_even import break_even
from medusa_bench.compare.comparisons import Comparison
from medusa_bench.compare.methods import Asked
from medusa_bench.compare.passes import Block, Kind, Method
from medusa_bench.compare.serving import CostTable, EngineCost, Steps
from medusa_bench.compare.serving_fit import Evidence
from medusa_bench.compare.simulation import Variant, product_steps, simulate
from medusa_bench.predict.allreduce import AllReduce, all_reduce
from medusa_bench.predict.choosing import model_for
from medusa_bench.predict.latency import LatencyModel
from medusa_bench.specs import models, profiles
from medusa_bench.specs.columns import FloatArray
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.shapes import ModelShape

T = TypeVar("T")

_REQUIRED = ("gpu", "model", "method", "batch_size", "tokens_per_step", "speedup")
_SERIES = (
    "setting", "dataset", "gpu", "model", "dtype", "engine", "engine_version", "method", "shape",
    "draft", "draft_len", "num_candidates", "seq_len",
)  # fmt: skip
_GROUPS = ("setting", "engine", "method", "gpu")
_EITHER_SIDE = (0.97, 1.03)  # a reported speedup that counts as a gain and as a loss
_DEFAULT_SEQ_LEN = 512
_BEYOND = 8  # times the largest reported batch: how far a crossing is looked for


class LeaveOut(StrEnum):
    """What is held out together while the engines' costs are fitted."""

    SETTING = "setting"
    ENGINE = "engine"


@dataclass(frozen=True, slots=True)
class Published:
    """One published speedup that the simulation can express; `text` is the row as printed."""

    text: Mapping[str, str]
    variant: Variant
    target: ModelShape
    latency: LatencyModel
    dtype: Dtype
    batch_size: int
    seq_len: int
    speedup: float
    group: AllReduce | None = None  # of several GPUs

    @property
    def engine(self) -> str:
        return serving.engine_of(self.text.get("engine", ""))

    @property
    def generation(self) -> str:
        return serving.generation_of(self.engine, self.text.get("engine_version", ""))

    @property
    def acceleration_rate(self) -> float:
        count = self.variant.method.num_candidates
        return self.variant.acceptance.acceleration_rate(count)

    def cost(self, table: CostTable) -> EngineCost:
        """What its engine costs by a table."""
        return table.cost(self.text.get("engine", ""), self.text.get("engine_version", ""))

    def label(self, name: str) -> str:
        """A column's text; that of the engine with its version."""
        words = [self.text.get(name, "")]
        if name == "engine":
            words.append(self.text.get("engine_version", ""))
        return " ".join(filter(None, words)) or "not stated"

    @property
    def vanilla_s(self) -> float:
        """Seconds of a vanilla step, where its throughput is printed; else NaN."""
        tokens_per_s = self.text.get("baseline_tokens_per_s")
        return self.batch_size / float(tokens_per_s) if tokens_per_s else math.nan


@dataclass(frozen=True, slots=True)
class Table:
    """A file of published speedups: what can be expressed of it, and why the others cannot."""

    rows: Sequence[Published]
    refused: Mapping[str, int]


def read(path: Path) -> Table:
    """The file's rows. Raises InvalidFileError for a file that cannot be read as such a table."""
    names, table = parse_csv(read_text(path, limits.TABLE_BYTES), where=str(path))
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise InvalidFileError(
            f"{path} has no column {missing[0]!r}.",
            hint=f"published speedups are read from the columns {', '.join(_REQUIRED)}.",
        )
    rows, refused = [], Counter[str]()
    for row in table:
        try:
            rows.append(_express(row))
        except _RefusedError as error:
            refused[str(error)] += 1
    return Table(rows, refused)


class _RefusedError(Exception):
    """Why a row cannot be expressed, in words that rows of its kind share."""


def _express(row: Mapping[str, str]) -> Published:
    target = _found(models.load, row["model"], "model unknown")
    speedup = _number(row, "speedup")
    method = _method(row, target)
    rate = _number(row, "tokens_per_step", "acceptance not published")
    return Published(
        row,
        Variant(method, acceptance.Constant(rate)),
        target,
        _latency(row),
        _found(Dtype, row.get("dtype") or "float16", "dtype unknown"),
        _whole(row, "batch_size"),
        _whole(row, "seq_len") if row.get("seq_len") else _DEFAULT_SEQ_LEN,
        speedup,
        _group(row, target),
    )


def _group(row: Mapping[str, str], target: ModelShape) -> AllReduce | None:
    """The GPUs over which a row's model is split, one node's; None for one.

    transformers puts layers on one GPU after the other: a token takes as long as on one.
    """
    num_gpus = _whole(row, "num_gpus") if row.get("num_gpus") else 1
    if num_gpus == 1 or serving.engine_of(row.get("engine", "")) == _ONE_AFTER_THE_OTHER:
        return None
    profile = _found(profiles.profile_of, row["gpu"] or "no GPU", "GPU unknown")
    try:
        target.split(num_gpus)
        return all_reduce(profile, num_gpus)
    except (MedusaBenchError, ValueError):
        raise _RefusedError("a group of GPUs over which the model does not divide") from None


_ONE_AFTER_THE_OTHER = "transformers"


def _found(find: Callable[[str], T], name: str, reason: str) -> T:
    try:
        return find(name)
    except (MedusaBenchError, ValueError):
        raise _RefusedError(reason) from None


def _number(row: Mapping[str, str], name: str, absent: str = "") -> float:
    try:
        return ranges.FACTOR.of_text(row[name])
    except ValueError:
        raise _RefusedError(absent or f"no {name}") from None


def _whole(row: Mapping[str, str], name: str) -> int:
    number = _number(row, name)
    if number < 1 or number != int(number):
        raise _RefusedError(f"{name} is no whole number from 1 on")
    return int(number)


def _latency(row: Mapping[str, str]) -> LatencyModel:
    profile = _found(profiles.profile_of, row["gpu"] or "no GPU", "GPU unknown")
    printed = row.get("gpu_as_printed", "").lower().replace(" ", "-")
    if printed in profiles.names() and printed != profile.name:
        raise _RefusedError("GPU doubtful: another one is printed")
    return _latency_of(profile.name)


@cache
def _latency_of(profile: str) -> LatencyModel:
    return model_for(profile)


def _method(row: Mapping[str, str], target: ModelShape) -> Method:
    """The method at the row's size, and at its usual one where none is printed."""
    name = _found(methods.find, row["method"], "method unknown")
    usual = methods.METHODS[name].shapes
    printed = row.get("shape", "")
    draft_len, count = (
        (_whole(row, key),) if row.get(key) else None for key in ("draft_len", "num_candidates")
    )
    if Kind.CHAIN in usual and printed != Kind.TREE:
        lengths = draft_len or (_USUAL_LENGTHS.get(name, 1),)
        asked = Asked(draft_len=lengths)
    elif Kind.CHAIN in usual:
        asked = Asked(
            num_candidates=count or (usual[Kind.TREE][0].num_candidates,), draft_len=draft_len
        )
    else:
        asked = Asked(num_candidates=count, draft_len=None if count else draft_len)
    asked = replace(asked, heads=True)
    draft = target
    if methods.METHODS[name].uses_draft_model:
        known = choosing.default_draft(target)
        named = row.get("draft") or (known.name if known else "none")
        draft = _found(models.load, named, "draft unknown")
    shape = methods.shapes(name, asked)[-1]
    return methods.make(name, shape, target, draft, asked)


# Where no draft length is printed, of those that have several.
_USUAL_LENGTHS = {"eagle-1": 3, "eagle-2": 3, "eagle-3": 3, "prompt-lookup": 10, "draft-model": 5}


# --- simulated beside published -------------------------------------------------------------------


def evidence_of(rows: Sequence[Published]) -> Evidence:
    """The rows as the fit reads them: every pass's products predicted, engines left out."""
    steps: list[Steps | None] = [None] * len(rows)
    groups: dict[tuple[int, str, Dtype, AllReduce | None], list[int]] = {}
    for index, row in enumerate(rows):
        key = (id(row.latency), row.target.name, row.dtype, row.group)
        groups.setdefault(key, []).append(index)
    for indices in groups.values():
        first = rows[indices[0]]
        settings = [(rows[i].variant, rows[i].batch_size, rows[i].seq_len) for i in indices]
        found = product_steps(settings, first.target, first.latency, first.dtype, first.group)
        for position, index in enumerate(indices):
            steps[index] = found[position : position + 1]
    return Evidence(
        serving.joined([each for each in steps if each is not None]),
        np.array([row.engine for row in rows]),
        np.array([row.generation for row in rows]),
        np.array([row.text.get("setting", "") for row in rows]),
        np.array([row.acceleration_rate for row in rows]),
        np.array([row.speedup for row in rows]),
        np.array(
            [bool(row.text.get("draft_len") or row.text.get("num_candidates")) for row in rows]
        ),
    )


@dataclass(frozen=True, slots=True)
class Score:
    """How far simulated speedups are from published ones; errors are ln(simulated / published).

    coverage_90 and sign_right are shares. recognised: of the losing rows, those simulated to lose.
    """

    rows: int
    median_abs_log_error: float
    mean_log_error: float
    coverage_90: float
    sign_right: float
    losing: int
    recognised: int


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where one published series of batch sizes crosses 1, and where its simulation does.

    reported: the last batch above 1 and the first below. predicted: the last batch that pays;
    None if it pays at every one tried.
    """

    setting: str
    method: str
    num_candidates: int
    reported: tuple[int, int]
    predicted: int | None

    @property
    def within_2x(self) -> bool:
        low, high = self.reported
        return self.predicted is not None and low / 2 <= self.predicted <= 2 * high


@dataclass(frozen=True, slots=True)
class Scored:
    """Every published row beside its simulation, columns over rows."""

    rows: Sequence[Published]
    costs: Sequence[EngineCost]  # those each row was simulated with
    speedup: FloatArray
    vanilla_s: FloatArray

    @property
    def log_error(self) -> FloatArray:
        errors: FloatArray = np.log(self.speedup / np.array([row.speedup for row in self.rows]))
        return errors

    @property
    def vanilla_log_error(self) -> FloatArray:
        """Of vanilla step times, where one is printed."""
        observed_s = np.array([row.vanilla_s for row in self.rows])
        errors: FloatArray = np.log(self.vanilla_s / observed_s)[np.isfinite(observed_s)]
        return errors


def run(table: Table, *, leave_out: LeaveOut | None = None, fit_on: Table | None = None) -> Scored:
    """Simulate every row, the engines' costs from the shipped table unless told otherwise.

    leave_out: each setting or engine with costs fitted to the others. Raises MedusaBenchError
    where nothing is left to score.
    """
    if not table.rows:
        raise MedusaBenchError("No row can be expressed, so there is nothing to score.")
    evidence = evidence_of(table.rows)
    if leave_out is None:
        costs = serving_fit.fit(evidence_of(fit_on.rows)) if fit_on else serving.shipped()
        chosen = [row.cost(costs) for row in table.rows]
    else:
        held = np.array([_held_together(row, leave_out) for row in table.rows])
        fitted = {key: serving_fit.fit(evidence[held != key]) for key in np.unique(held)}
        chosen = [row.cost(fitted[key]) for row, key in zip(table.rows, held, strict=True)]
    columns = serving.columns(chosen)
    vanilla_s = columns.vanilla_s(evidence.steps)
    overhead = columns.step_latency_s(evidence.steps) / vanilla_s
    return Scored(table.rows, chosen, evidence.acceleration_rate / overhead, vanilla_s)


def _held_together(row: Published, leave_out: LeaveOut) -> str:
    match leave_out:
        case LeaveOut.SETTING:
            return row.text.get("setting", "")
        case LeaveOut.ENGINE:
            return row.engine


def score(scored: Scored, which: Sequence[int] | None = None) -> Score:
    """One score of these rows, or of all."""
    chosen = list(range(len(scored.rows)) if which is None else which)
    error = scored.log_error[chosen]
    reported = np.array([scored.rows[index].speedup for index in chosen])
    width = np.array([scored.costs[index].half_width or 0.0 for index in chosen])
    low, high = _EITHER_SIDE
    right = (scored.speedup[chosen] > 1) == (reported > 1)
    right |= (low <= reported) & (reported <= high)
    losing = reported < 1
    return Score(
        len(chosen),
        float(np.median(np.abs(error))),
        float(error.mean()),
        float((np.abs(error) <= width).mean()),
        float(right.mean()),
        int(losing.sum()),
        int((losing & (scored.speedup[chosen] < 1)).sum()),
    )


def groups(scored: Scored) -> dict[str, dict[str, Score]]:
    """Scores by setting, engine with version, method and gpu."""
    found: dict[str, dict[str, Score]] = {}
    for name in _GROUPS:
        indices: dict[str, list[int]] = {}
        for index, row in enumerate(scored.rows):
            indices.setdefault(row.label(name), []).append(index)
        found[name] = {label: score(scored, which) for label, which in indices.items()}
    return found


def mean_over_settings(scored: Scored) -> float:
    """The mean absolute log error of each setting, and the mean of those."""
    errors: dict[str, list[float]] = {}
    for row, error in zip(scored.rows, np.abs(scored.log_error).tolist(), strict=True):
        errors.setdefault(row.label("setting"), []).append(error)
    return float(np.mean([np.mean(each) for each in errors.values()]))


def crossings(scored: Scored) -> list[Crossing]:
    """Every series over batch sizes that goes from above 1 to below it, and its simulation."""
    series: dict[tuple[str, ...], dict[int, int]] = {}
    for index, row in enumerate(scored.rows):
        key = tuple(row.text.get(name, "") for name in _SERIES)
        series.setdefault(key, {})[row.batch_size] = index
    return [
        crossing
        for by_batch in series.values()
        if (crossing := _crossing(scored, [by_batch[batch] for batch in sorted(by_batch)]))
    ]


def _crossing(scored: Scored, indices: Sequence[int]) -> Crossing | None:
    rows = [scored.rows[index] for index in indices]
    losing = next((place for place, row in enumerate(rows) if row.speedup < 1), 0)
    if not losing:
        return None
    first = rows[0]

    def at(settings: Sequence[tuple[int, int]]) -> list[Comparison]:
        return simulate(
            [first.variant],
            first.target,
            first.latency,
            first.dtype,
            settings,
            engine=scored.costs[indices[0]],
            block=Block.FULL,
            group=first.group,
        )

    batch_sizes = [1, *(row.batch_size for row in rows), _BEYOND * rows[-1].batch_size]
    (end,) = break_even(at([(batch, first.seq_len) for batch in sorted(set(batch_sizes))]), at)
    return Crossing(
        first.label("setting"),
        first.label("method"),
        first.variant.method.num_candidates,
        (rows[losing - 1].batch_size, rows[losing].batch_size),
        None if end.pays_throughout else end.last_paying_batch,
    )


def as_dict(table: Table, scored: Scored | None) -> dict[str, Any]:
    """All of it for JSON. scored: None where no row could be expressed."""
    document: dict[str, Any] = {
        "rows": len(table.rows) + sum(table.refused.values()),
        "scored": len(table.rows),
        "refused": dict(table.refused),
    }
    if scored is None:
        empty = dict.fromkeys(name for name in Score.__slots__ if name != "rows")
        return document | empty | {"break_even": [], "groups": {}}
    vanilla = np.abs(scored.vanilla_log_error)
    return document | {
        **_without_rows(score(scored)),
        "mean_over_settings": mean_over_settings(scored),
        "vanilla_steps": {
            "rows": len(vanilla),
            "mean_abs_log_error": float(vanilla.mean()) if len(vanilla) else None,
            "max_abs_log_error": float(vanilla.max()) if len(vanilla) else None,
        },
        "break_even": [{**asdict(each), "within_2x": each.within_2x} for each in crossings(scored)],
        "groups": {
            name: {label: asdict(each) for label, each in group.items()}
            for name, group in groups(scored).items()
        },
        "engine_costs": sorted({f"{cost.name}: {cost.evidence}" for cost in scored.costs}),
    }


def _without_rows(score: Score) -> dict[str, Any]:
    return {name: value for name, value in asdict(score).items() if name != "rows"}
