"""A library of published acceptance: tokens a step by method, model family, task and temperature.

Provenance `reported`: nothing in it was measured by this project. acceptance.json holds every
figure with its conditions and source; `find` takes the nearest series for a method and a model.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import combinations, pairwise
from statistics import fmean

import numpy as np

from medusa_bench.compare.acceptance import Chain
from medusa_bench.results.rows import Provenance

COLUMNS = (
    "method", "target", "dataset", "temperature", "shape", "num_candidates", "draft_len",
    "tokens_per_step", "survival", "source",
)  # fmt: skip
ANY_TASK = "mixed"
# Task -> how the data sets' names are recognised, in lower case.
TASKS = {
    "chat": r"mt-bench|alpaca|arena|sharegpt|magpie|writing|roleplay|humanities",
    "code": r"humaneval|mbpp|livecodebench|coder|\bcod(e|ing)\b",
    "math": r"gsm8k|math|aime",
    "summary": r"cnn|summar|gov_report",
    "qa": r"question|\bqa\b|gpqa|hotpot|qasper|stem|reasoning|mmstar",
    "rag": r"\brag\b",
    "translation": r"translation|multilingual",
}
_FAMILIES = {
    "llama-3": r"llama-?3(?!\d)",
    "llama-2": r"llama-?2|vicuna|llama-(7|13|33)b|llama-(68|160)m|tinyllama",
    "qwen3.5": r"qwen3\.5",
    "qwen3": r"qwen3(?!\.)",
    "qwen2.5": r"qwen2",
    "gemma": r"gemma",
    "gpt-oss": r"gpt-oss",
    "deepseek": r"deepseek-v",
    "kimi": r"kimi",
    "minimax": r"minimax",
    "llama-4": r"llama-?4",
    "mixtral": r"mixtral",
    "mistral": r"mistral|zephyr",
}
# Where the source prints no size, its method's usual one stands for it (Spec-Bench's settings).
_USUAL_CANDIDATES = {
    "eagle-1": 26, "eagle-2": 60, "eagle-3": 60, "medusa": 64, "hydra": 64, "prompt-lookup": 11,
    "draft-model": 6, "lookahead": 56, "mtp": 2, "dflash": 16, "dspark": 8,
}  # fmt: skip
# Half widths of ln(tokens a step) that hold 90 % of other figures for the same method, family and
# size: the rest agreeing, and what each difference adds in squares. Rounded from `spreads`.
_HALF_WIDTH = 0.30
_HALF_WIDTHS = {"task": 0.35, "temperature": 0.10, "model": 0.10}


@dataclass(frozen=True, slots=True)
class PublishedAcceptance:
    """Published tokens a step by the tokens verified, an acceptance model of provenance reported.

    rates: (num_candidates, tokens a step) rising. survives: by position, for chains and blocks;
    trees go with the logarithm of their candidates between the rates and beyond them.
    """

    rates: tuple[tuple[int, float], ...]
    survives: tuple[float, ...] | None
    name: str
    half_width: float
    scale: float = 1.0
    provenance = Provenance.REPORTED
    parameter_name = "share of the present accepted tokens"

    @property
    def largest(self) -> int:
        """The most candidates that were published; beyond, this is an extrapolation."""
        return self.rates[-1][0]

    @property
    def parameter(self) -> float:
        return self.scale

    def with_parameter(self, value: float) -> "PublishedAcceptance":
        return replace(self, scale=value)

    def required_parameter(self, num_candidates: int, acceleration_rate: float) -> float | None:
        accepted = self.acceleration_rate(num_candidates) - 1
        return self.scale * (acceleration_rate - 1) / accepted if accepted > 0 else None

    def acceleration_rate(self, num_candidates: int) -> float:
        if rate := dict(self.rates).get(num_candidates):
            return 1.0 + self.scale * (rate - 1)
        survives = self.survival(num_candidates)
        if survives is not None:
            return 1.0 + sum(survives)
        counts, rates = zip((1, 1.0), *self.rates, strict=True)
        logs = np.log(counts)
        at = math.log(num_candidates)
        if at > logs[-1]:
            slope = (rates[-1] - rates[-2]) / (logs[-1] - logs[-2])
            return 1.0 + self.scale * float(rates[-1] + slope * (at - logs[-1]) - 1)
        return 1.0 + self.scale * float(np.interp(at, logs, rates) - 1)

    def survival(self, num_candidates: int) -> tuple[float, ...] | None:
        """Past the last published position nothing more is accepted. None for trees."""
        if self.survives is None:
            return None
        return tuple(self.scale * each for each in self.survives[: num_candidates - 1])


@dataclass(frozen=True, slots=True)
class _Figure:
    """One published figure with its conditions."""

    method: str
    target: str
    dataset: str
    temperature: str
    shape: str
    num_candidates: int
    draft_len: int
    tokens_per_step: float
    survival: str
    source: str

    @property
    def candidates(self) -> int:
        counted = self.num_candidates or (self.draft_len + 1 if self.draft_len else 0)
        return counted or _USUAL_CANDIDATES.get(self.method, 0)

    @property
    def series(self) -> tuple[str, ...]:
        """What figures of one series share: all but size and data set."""
        task = task_of(self.dataset)
        paper = self.source.partition(", ")[0]
        return (self.method, self.target, task, self.temperature, self.shape, paper)


@cache
def _figures() -> tuple[_Figure, ...]:
    text = resources.files(__package__).joinpath("acceptance.json").read_text(encoding="utf-8")
    document = json.loads(text)
    sources = document["sources"]
    named = (dict(zip(COLUMNS, row, strict=True)) for row in document["rows"])
    return tuple(_Figure(**row | {"source": sources[row["source"]]}) for row in named)


def task_of(dataset: str) -> str:
    """The task that a data set stands for, "mixed" where it is several or unknown."""
    lower = dataset.lower()
    return next((task for task, words in TASKS.items() if re.search(words, lower)), ANY_TASK)


def family_of(model: str) -> str:
    """The family of a model's name: "" for one that is in none known here."""
    lower = model.lower()
    return next((name for name, words in _FAMILIES.items() if re.search(words, lower)), "")


def _billions(model: str) -> float:
    found = re.search(r"(\d+(?:\.\d+)?)b\b", model.lower())
    return float(found[1]) if found else 0.0


def find(
    method: str, model: str, *, shape: str = "", task: str = "", temperature: str = ""
) -> PublishedAcceptance | None:
    """The nearest published series of a method for a model of the same family.

    shape, task, temperature: "" for any, chat and 0 being preferred. None where nothing near is
    published: of another family, acceptance says little.
    """
    family = family_of(model)
    series: dict[tuple[str, ...], list[_Figure]] = {}
    for figure in _figures():
        same = figure.method == method and family and family_of(figure.target) == family
        # Where no size is printed, the usual one can be too small for the tokens that are.
        sized = figure.candidates > 1 and figure.candidates >= figure.tokens_per_step
        if same and sized and (not shape or figure.shape in {shape, ""}):
            series.setdefault(figure.series, []).append(figure)
    if not series:
        return None
    key = min(
        series, key=lambda key: (*_distance(key, model, task, temperature), -len(series[key]))
    )
    differences = _differences(key, model, task, temperature)
    return _model(series[key], differences)


def _distance(key: tuple[str, ...], model: str, task: str, temperature: str) -> tuple[int, float]:
    _, target, its_task, its_temperature, _, _ = key
    wanted = task or "chat"
    tasks = 0 if its_task == wanted else 1 if its_task == ANY_TASK else 3
    temperatures = 0 if its_temperature in {temperature or "0", ""} else 1
    ours, theirs = _billions(model), _billions(target)
    sizes = abs(math.log(ours / theirs)) if ours and theirs else 1.0
    return tasks + temperatures, round(sizes, 1)


def _differences(key: tuple[str, ...], model: str, task: str, temperature: str) -> dict[str, str]:
    """In words, what the series differs in from what was asked for."""
    _, target, its_task, its_temperature, _, _ = key
    found = {}
    if task and its_task != task:
        found["task"] = f"{its_task}, not {task}"
    if temperature and its_temperature != temperature:
        found["temperature"] = f"temperature {its_temperature or 'not stated'}, not {temperature}"
    if _billions(model) != _billions(target):
        found["model"] = f"{target}, not {model}"
    return found


def _model(figures: Sequence[_Figure], differences: Mapping[str, str]) -> PublishedAcceptance:
    by_size: dict[int, list[float]] = {}
    for figure in figures:
        by_size.setdefault(figure.candidates, []).append(figure.tokens_per_step)
    rates = tuple((count, fmean(each)) for count, each in sorted(by_size.items()))
    first = figures[0]
    chained = first.shape in {"chain", "block"} or first.method in {"draft-model", "mtp"}
    temperature = f", temperature {first.temperature}" if first.temperature else ""
    sizes = f"{rates[0][0]} to {rates[-1][0]}" if len(rates) > 1 else str(rates[0][0])
    data = ", ".join(dict.fromkeys(figure.dataset for figure in figures))
    unlike = f"; {'; '.join(differences.values())}" if differences else ""
    name = (
        f"reported for {first.target} on {data}{temperature}: {rates[-1][1]:.2f} tokens a step at "
        f"{sizes} candidates ({first.source}){unlike}"
    )
    half_width = math.hypot(_HALF_WIDTH, *(_HALF_WIDTHS[each] for each in differences))
    survives = _survives(figures, rates) if chained else None
    return PublishedAcceptance(rates, survives, name, half_width)


def _survives(figures: Sequence[_Figure], rates: Sequence[tuple[int, float]]) -> tuple[float, ...]:
    """By position: as printed for the longest chain, else what the series' steps add."""
    printed = [figure for figure in figures if figure.survival]
    if printed:
        longest = max(len(figure.survival.split(";")) for figure in printed)
        columns = [list(map(float, figure.survival.split(";"))) for figure in printed]
        full = [column for column in columns if len(column) == longest]
        return _falling(fmean(each) for each in zip(*full, strict=True))
    count, rate = rates[0]
    probability = Chain(0.0).required_parameter(count, min(rate, float(count))) or 0.0
    survives = [probability**position for position in range(1, count)]
    for (shorter, less), (longer, more) in pairwise(rates):
        survives += [max(0.0, more - less) / (longer - shorter)] * (longer - shorter)
    return _falling(survives)


def _falling(values: Iterable[float]) -> tuple[float, ...]:
    lowest = 1.0
    return tuple(lowest := min(lowest, value) for value in values)


def spreads() -> dict[str, float]:
    """What holds 90 % of |ln| between two figures of the same method, family, shape and size, by
    what they differ in: the evidence behind the half widths."""
    groups: dict[tuple[str, str, str, int], list[_Figure]] = {}
    for figure in _figures():
        key = (figure.method, family_of(figure.target), figure.shape, figure.candidates)
        groups.setdefault(key, []).append(figure)
    found: dict[str, list[float]] = {}
    for group in groups.values():
        for one, other in combinations(group, 2):
            differs = [name for name, of in _CONDITIONS.items() if of(one) != of(other)]
            if len(differs) < 2:
                ratio = one.tokens_per_step / other.tokens_per_step
                found.setdefault("".join(differs) or "nothing", []).append(abs(math.log(ratio)))
    return {differs: float(np.quantile(each, 0.9)) for differs, each in sorted(found.items())}


_CONDITIONS: Mapping[str, Callable[[_Figure], object]] = {
    "task": lambda figure: task_of(figure.dataset),
    "temperature": lambda figure: figure.temperature,
    "model": lambda figure: _billions(figure.target),
}
