"""What a serving step costs beside its matrix products, engine by engine.

A pass through L layers takes, of products P:

    P + layer L          where the engine replays captured graphs (norms, rotations, gaps)
    max(P, layer L)      where it launches every call from Python

    vanilla step      = pass + token b
    speculating step  = sum over drafting passes of (pass + drafting pass) + verification
                        + step + token b q

The parameters are fitted to published speedups (engines.toml says which, and how far they spread);
serving_fit.py fits them. One of host time, `step`, counts only in steps that draft; `layer` and
`token` count on both sides.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from medusa_bench.base.errors import UnknownNameError
from medusa_bench.specs.columns import FloatArray

# Sampling, accepting and bookkeeping of one verified token, of every engine: a cost of its own for
# each did not predict settings left out any better.
TOKEN_S = 4e-6
# What a lookup that finds no first token still drafts, of the steps that accept none.
_IDLE_DRAFTS = 0.35


class Launches(StrEnum):
    """How an engine starts a pass's kernels."""

    GRAPHS = "graphs"
    EAGER = "eager"


class Known(StrEnum):
    """How much of the engine was known when its parameters were chosen."""

    VERSION = "version"
    ENGINE = "engine"
    NOTHING = "nothing"
    NO_ENGINE = "no engine"  # products alone


# Half widths of the 90 % interval of ln(speedup): settings, then versions, then engines left out of
# the fit. Constant widths held better than widths from the parameters' spread.
HALF_WIDTHS: Mapping[Known, float] = {Known.VERSION: 0.20, Known.ENGINE: 0.25, Known.NOTHING: 0.27}


@dataclass(frozen=True, slots=True)
class Parameter:
    """Seconds, with the ends of their 90 % interval."""

    value_s: float
    low_s: float
    high_s: float


@dataclass(frozen=True, slots=True)
class EngineCost:
    """What one engine adds to the products of its steps.

    layer_s: a layer of a pass. step_s: a step that speculates. draft_pass_s: a drafting pass.
    """

    name: str
    launches: Launches
    layer_s: Parameter
    step_s: Parameter
    draft_pass_s: Parameter
    known: Known
    evidence: str
    token_s: float = TOKEN_S

    @property
    def half_width(self) -> float | None:
        """Of the 90 % interval of ln(speedup); None where only the products are uncertain."""
        return HALF_WIDTHS.get(self.known)

    def with_host_time(self, step_s: float) -> "EngineCost":
        """The same engine with the host time of a speculating step as measured."""
        return replace(self, step_s=Parameter(step_s, step_s, step_s))


_FREE = Parameter(0.0, 0.0, 0.0)
NO_ENGINE = EngineCost(
    "none", Launches.GRAPHS, _FREE, _FREE, _FREE, Known.NO_ENGINE, "products alone", token_s=0.0
)


@dataclass(frozen=True, slots=True)
class _Engine:
    """A row of the table of engines. generations: name -> pattern of the versions that are it."""

    launches: Launches
    aliases: tuple[str, ...] = ()
    generations: Mapping[str, str] | None = None


# vLLM's V1 engine came with 0.8; SGLang's speculation was rewritten for 0.5. PyTorch stands for
# research code that runs eagerly, as Spec-Bench's.
ENGINES: Mapping[str, _Engine] = {
    "vllm": _Engine(
        Launches.GRAPHS,
        generations={
            "V1": r"v1\b.*|0\.([89]|[1-9]\d).*|[1-9].*|main|nightly|latest",
            "V0": r"v0\b.*|0\.[0-7](\..*)?",
        },
    ),
    "sglang": _Engine(
        Launches.GRAPHS,
        generations={
            "0.5": r"0\.[5-9].*|spec-v.*|[1-9].*|main|nightly|latest",
            "0.4": r"0\.4.*",
        },
    ),
    "tensorrt-llm": _Engine(Launches.GRAPHS, ("trtllm", "trt-llm")),
    "llama.cpp": _Engine(Launches.GRAPHS),
    "transformers": _Engine(
        Launches.EAGER, ("hf", "pytorch", "samd", "spec-bench"), {"eager": r".*"}
    ),
}
UNKNOWN = ""


def engine_of(name: str) -> str:
    """The table's name of an engine, or UNKNOWN for one that is not in it."""
    lower = name.lower()
    found = (key for key, engine in ENGINES.items() if lower == key or lower in engine.aliases)
    return next(found, UNKNOWN)


def generation_of(engine: str, version: str) -> str:
    """Which of an engine's generations a version is: "" where it is not known."""
    row = ENGINES.get(engine)
    generations = (row.generations if row else None) or {}
    number = re.sub(r"^v(?=\d+\.)", "", version.lower())  # a release's tag
    found = (name for name, of in generations.items() if re.fullmatch(of, number))
    return next(found, "") if version else ""


def launches_of(engine: str) -> Launches:
    return ENGINES[engine].launches if engine in ENGINES else Launches.GRAPHS


@dataclass(frozen=True, slots=True)
class CostTable:
    """Costs by (engine, generation); ("", launches) holds what is taken where neither is known,
    (engine, "") where the engine alone is."""

    rows: Mapping[tuple[str, str], EngineCost]

    def cost(self, engine: str = UNKNOWN, version: str = "") -> EngineCost:
        """The nearest row: the version's, the engine's, or that of an engine of unknown name."""
        name = engine_of(engine)
        for key in ((name, generation_of(name, version)), (name, "")):
            if key in self.rows:
                return self.rows[key]
        unknown = self.rows[UNKNOWN, launches_of(name)]
        return replace(unknown, name=f"{name}, taken as {unknown.name}") if name else unknown


def cost_of(engine: str = UNKNOWN, version: str = "") -> EngineCost:
    """What an engine costs by the shipped table; "none" is NO_ENGINE.

    Raises UnknownNameError for an engine that is not in it.
    """
    if engine == NO_ENGINE.name:
        return NO_ENGINE
    if engine and not engine_of(engine):
        raise UnknownNameError("engine", engine, [*ENGINES, NO_ENGINE.name])
    return shipped().cost(engine, version)


@cache
def shipped() -> CostTable:
    """The table as engines.toml has it."""
    text = resources.files(__package__).joinpath("engines.toml").read_text(encoding="utf-8")
    return from_toml(text)


def from_toml(text: str) -> CostTable:
    """A table as to_toml wrote it."""
    rows = {}
    for row in tomllib.loads(text)["engine"]:
        layer_s, step_s, draft_pass_s = (Parameter(*row[name]) for name in _PARAMETERS)
        rows[row["engine"], row["generation"]] = EngineCost(
            row["name"],
            Launches(row["launches"]),
            layer_s,
            step_s,
            draft_pass_s,
            Known(row["known"]),
            row["evidence"],
        )
    return CostTable(rows)


_PARAMETERS = ("layer_s", "step_s", "draft_pass_s")


def to_toml(table: CostTable, *, heading: Sequence[str]) -> str:
    """The table as a file, with comments above it."""
    lines = [f"# {line}".rstrip() for line in heading]
    for (engine, generation), cost in table.rows.items():
        lines += ["", "[[engine]]"]
        words = {"engine": engine, "generation": generation, "name": cost.name}
        words |= {"launches": cost.launches, "known": cost.known}
        lines += [f'{key} = "{value}"' for key, value in words.items()]
        lines += [f"{name} = {_triple(getattr(cost, name))}" for name in _PARAMETERS]
        lines.append(f'evidence = "{cost.evidence}"')
    return "\n".join([*lines, ""])


def _triple(parameter: Parameter) -> str:
    values = (parameter.value_s, parameter.low_s, parameter.high_s)
    return f"[{', '.join(f'{value:.3g}' for value in values)}]"


# --- steps ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Steps:
    """Products of steps, columns over the steps; those of drafts (steps, drafts), 0 where none.

    drafting: the share of sequences that draft in a step.
    """

    batch_size: FloatArray
    num_candidates: FloatArray
    layers: FloatArray
    decode_s: FloatArray  # the products of a vanilla pass
    verify_s: FloatArray
    draft_s: FloatArray  # of one pass
    draft_layers: FloatArray
    draft_count: FloatArray
    drafting: FloatArray

    def __getitem__(self, rows: slice | NDArray[np.generic]) -> "Steps":
        return Steps(*(getattr(self, name)[rows] for name in Steps.__slots__))


def joined(parts: Sequence[Steps]) -> Steps:
    """The steps of several as one, with as many drafts as the most have."""
    depth = max(part.draft_s.shape[1] for part in parts)

    def column(name: str) -> FloatArray:
        columns = [getattr(part, name) for part in parts]
        if columns[0].ndim == 2:
            columns = [np.pad(each, ((0, 0), (0, depth - each.shape[1]))) for each in columns]
        return np.concatenate(columns)

    return Steps(*(column(name) for name in Steps.__slots__))


@dataclass(frozen=True, slots=True)
class Costs:
    """Engines' parameters as arrays: one value for all steps, or a column over them."""

    eager: NDArray[np.bool_]
    layer_s: FloatArray
    step_s: FloatArray
    draft_pass_s: FloatArray
    token_s: FloatArray

    @classmethod
    def of(cls, cost: EngineCost, num_layers: int = 1) -> "Costs":
        """One engine's. num_layers: of how many layers the steps count one alone."""
        per_step = [cost.step_s.value_s, cost.draft_pass_s.value_s, cost.token_s]
        eager = np.array(cost.launches is Launches.EAGER)
        return cls(eager, np.array(cost.layer_s.value_s), *(np.array(per_step) / num_layers))

    def vanilla_s(self, steps: Steps) -> FloatArray:
        """Seconds of each step's vanilla counterpart."""
        pass_s = _pass_s(steps.decode_s, steps.layers, self.layer_s, self.eager)
        return pass_s + self.token_s * steps.batch_size

    def step_latency_s(self, steps: Steps) -> FloatArray:
        """Seconds of each step. Where only some sequences draft, the others verify one token, and
        a step in which none drafts is a vanilla one."""
        drafts_s = self.draft_pass_s[..., None] + _pass_s(
            steps.draft_s, steps.draft_layers, self.layer_s[..., None], self.eager[..., None]
        )
        verify_s = _pass_s(steps.verify_s, steps.layers, self.layer_s, self.eager)
        verify_s = verify_s + self.token_s * steps.batch_size * steps.num_candidates
        share = steps.drafting
        speculates = np.where(steps.num_candidates > 1, 1 - (1 - share) ** steps.batch_size, 0)
        latency_s: FloatArray = (
            (steps.draft_count * drafts_s).sum(axis=-1)
            + share * verify_s
            + (1 - share) * self.vanilla_s(steps)
            + speculates * self.step_s
        )
        return latency_s


def columns(costs: Sequence[EngineCost]) -> Costs:
    """Several engines' parameters, one for each step."""
    each = [Costs.of(cost) for cost in costs]
    return Costs(*(np.stack([getattr(cost, name) for cost in each]) for name in Costs.__slots__))


def _pass_s(
    products_s: FloatArray, layers: FloatArray, layer_s: FloatArray, eager: NDArray[np.bool_]
) -> FloatArray:
    layers_s = layer_s * layers
    latency_s: FloatArray = np.where(eager, np.maximum(products_s, layers_s), products_s + layers_s)
    return latency_s


def drafting_share(first_accepted: float) -> float:
    """The share of sequences for which a lookup finds something to draft in a step.

    first_accepted: of steps, those whose first drafted token is accepted.
    """
    return first_accepted + _IDLE_DRAFTS * (1 - first_accepted)
