"""Acceptance models: how many tokens a decoding step yields. Know no latency.

Words, in full, because three things are called "acc" elsewhere: the *acceleration rate* is tokens
per decoding step, the bonus token included (vanilla = 1); the *acceptance rate* is accepted over
drafted tokens; *accuracy* is how often one head's guess is right.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from medusa_bench.base import limits, ranges
from medusa_bench.base.errors import MedusaBenchError, UnknownNameError
from medusa_bench.compare import trees
from medusa_bench.results.rows import Provenance

# The paper, appendix: "acc_rate = 0.477 log(num_candidate)".
PAPER_COEFFICIENT = 0.477


class AcceptanceModel(Protocol):
    """Tokens per step as a function of the tokens verified. `parameter` is what it stands on."""

    @property
    def name(self) -> str:
        """In full; shown beside every number that rests on it."""
        ...

    @property
    def provenance(self) -> Provenance: ...

    @property
    def largest(self) -> int | None:
        """The most candidates that were measured; beyond, it is an extrapolation. None: a law."""
        ...

    @property
    def parameter_name(self) -> str: ...

    @property
    def parameter(self) -> float: ...

    def with_parameter(self, value: float) -> "AcceptanceModel": ...

    def required_parameter(self, num_candidates: int, acceleration_rate: float) -> float | None:
        """The parameter at which num_candidates yield this acceleration rate. It may be out of
        reach (a probability over 1); None where no parameter does it."""
        ...

    def acceleration_rate(self, num_candidates: int) -> float:
        """Expected tokens of one sequence per step that verifies num_candidates, root included."""
        ...

    def survival(self, num_candidates: int) -> tuple[float, ...] | None:
        """[d - 1]: probability that at least d guesses are accepted. None where not known."""
        ...


@dataclass(frozen=True, slots=True)
class LogLaw:
    """offset + coefficient x log(num_candidates), the natural logarithm unless a base is given.

    The paper prints 0.477 log(n); its own figure 21 plots 1 + 0.477 ln(n), the default here.
    """

    coefficient: float = PAPER_COEFFICIENT
    offset: float = 1.0
    base: float = math.e
    provenance: Provenance = Provenance.REPORTED
    largest = None
    parameter_name = "coefficient of the logarithm"

    @property
    def name(self) -> str:
        log = "ln" if self.base == math.e else f"log{self.base:g}"
        law = f"{self.coefficient:g} {log}(candidates)"
        if self.offset:
            law = f"{self.offset:g} + {law}"
        if self.coefficient != PAPER_COEFFICIENT:
            return law
        if self == PAPER:
            return f"{law}, our reading of the paper"
        return f"{law}, as the paper prints it" if self == PAPER_PRINTED else law

    @property
    def parameter(self) -> float:
        return self.coefficient

    def with_parameter(self, value: float) -> "LogLaw":
        return replace(self, coefficient=value)

    def required_parameter(self, num_candidates: int, acceleration_rate: float) -> float | None:
        if num_candidates < 2:
            return None
        return (acceleration_rate - self.offset) * math.log(self.base) / math.log(num_candidates)

    def acceleration_rate(self, num_candidates: int) -> float:
        return self.offset + self.coefficient * math.log(num_candidates) / math.log(self.base)

    def survival(self, num_candidates: int) -> None:
        return None


TOKENS_A_STEP = ranges.Range("tokens a step", 1.0, limits.CANDIDATES)

PAPER = LogLaw()
PAPER_PRINTED = LogLaw(offset=0.0)


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of drafted tokens, each accepted with the same probability if all before it were:
    (1 - a^(g + 1)) / (1 - a) tokens for g drafted ones. Source: Leviathan et al., 2023."""

    acceptance_probability: float
    note: str = ""
    provenance: Provenance = Provenance.SIMULATED
    largest = None
    parameter_name = "acceptance probability of a drafted token"

    @property
    def name(self) -> str:
        return f"chain, each token accepted with {self.acceptance_probability:.3g}{self.note}"

    @property
    def parameter(self) -> float:
        return self.acceptance_probability

    def with_parameter(self, value: float) -> "Chain":
        return replace(self, acceptance_probability=value, note="")

    def required_parameter(self, num_candidates: int, acceleration_rate: float) -> float | None:
        if num_candidates < 2 or acceleration_rate < 1:
            return None
        low, high = 0.0, acceleration_rate  # at a = rate, the first drafted token alone suffices
        for _ in range(80):
            middle = (low + high) / 2
            if sum(middle**i for i in range(num_candidates)) < acceleration_rate:
                low = middle
            else:
                high = middle
        return high

    def acceleration_rate(self, num_candidates: int) -> float:
        return sum(self.acceptance_probability**i for i in range(num_candidates))

    def survival(self, num_candidates: int) -> tuple[float, ...]:
        return tuple(self.acceptance_probability**i for i in range(1, num_candidates))


@dataclass(frozen=True, slots=True)
class Survival:
    """survives[d - 1]: the share of steps that accept at least d drafted tokens.

    What engines print as per-position acceptance. `scale` multiplies all of it.
    """

    survives: tuple[float, ...]
    name: str = "per-position survival"
    provenance: Provenance = Provenance.MEASURED
    scale: float = 1.0
    parameter_name = "share of the present accepted tokens"

    def __post_init__(self) -> None:
        falling = all(b <= a + 1e-9 for a, b in zip((1.0, *self.survives), self.survives))  # noqa: B905 (one longer)
        if not falling or (self.survives and self.survives[-1] < 0):
            raise ValueError(
                f"survival must fall from at most 1 to at least 0: {list(self.survives)[:8]}"
            )

    @property
    def largest(self) -> int:
        return len(self.survives) + 1

    @property
    def parameter(self) -> float:
        return self.scale

    def with_parameter(self, value: float) -> "Survival":
        return replace(self, scale=value)

    def required_parameter(self, num_candidates: int, acceleration_rate: float) -> float | None:
        return _required_scale(self, num_candidates, acceleration_rate)

    def acceleration_rate(self, num_candidates: int) -> float:
        return 1.0 + sum(self.survival(num_candidates))

    def survival(self, num_candidates: int) -> tuple[float, ...]:
        """Past the positions that are known, nothing more is accepted."""
        return tuple(self.scale * s for s in self.survives[: num_candidates - 1])


@dataclass(frozen=True, slots=True)
class Tree:
    """The best-first trees of given head accuracies, or the first nodes of one given tree.

    nodes: (path, probability) in the order in which a larger tree takes them up.
    """

    nodes: tuple[tuple[trees.Path, float], ...]
    name: str
    provenance: Provenance = Provenance.SIMULATED
    scale: float = 1.0
    largest = None
    parameter_name = "share of the present accepted tokens"
    _total: list[float] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        total = 0.0
        for _, probability in self.nodes:
            total += probability
            self._total.append(total)

    @classmethod
    def best_first(cls, rates: trees.HeadAccuracy | trees.JointFrequency) -> "Tree":
        """Grown from head accuracies to the size asked for."""
        return cls(tuple(trees.best_first(rates)), f"best tree from head accuracies ({rates.name})")

    @property
    def parameter(self) -> float:
        return self.scale

    def with_parameter(self, value: float) -> "Tree":
        return replace(self, scale=value, _total=[])

    def required_parameter(self, num_candidates: int, acceleration_rate: float) -> float | None:
        return _required_scale(self, num_candidates, acceleration_rate)

    def acceleration_rate(self, num_candidates: int) -> float:
        """Past the last node, no more is accepted."""
        count = min(num_candidates - 1, len(self.nodes))
        return 1.0 + self.scale * (self._total[count - 1] if count else 0.0)

    def survival(self, num_candidates: int) -> tuple[float, ...]:
        nodes = self.nodes[: num_candidates - 1]
        depth = max((len(path) for path, _ in nodes), default=0)
        by_depth = [0.0] * depth
        for path, probability in nodes:
            by_depth[len(path) - 1] += self.scale * probability
        return tuple(by_depth)


@dataclass(frozen=True, slots=True)
class Table:
    """Measured acceleration rates by candidates. Between two rows the smaller holds (more
    candidates accept no less); before the first, one token a step."""

    rate_by_candidates: tuple[tuple[int, float], ...]
    name: str
    provenance: Provenance = Provenance.MEASURED
    scale: float = 1.0
    parameter_name = "share of the present accepted tokens"

    def __post_init__(self) -> None:
        counts = [count for count, _ in self.rate_by_candidates]
        if not counts or counts != sorted(set(counts)) or counts[0] < 1:
            raise ValueError("candidates must rise from at least 1")
        if not all(rate > 0 for _, rate in self.rate_by_candidates):
            raise ValueError("acceleration rates must be above 0")

    @property
    def largest(self) -> int:
        return self.rate_by_candidates[-1][0]

    @property
    def parameter(self) -> float:
        return self.scale

    def with_parameter(self, value: float) -> "Table":
        return replace(self, scale=value)

    def required_parameter(self, num_candidates: int, acceleration_rate: float) -> float | None:
        return _required_scale(self, num_candidates, acceleration_rate)

    def acceleration_rate(self, num_candidates: int) -> float:
        row = bisect_right(self.rate_by_candidates, (num_candidates, math.inf)) - 1
        rate = self.rate_by_candidates[row][1] if row >= 0 else 1.0
        return 1.0 + self.scale * (rate - 1.0)

    def survival(self, num_candidates: int) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Constant:
    """One measured or published acceleration rate, taken to hold whatever the candidates."""

    rate: float
    note: str = ""
    provenance: Provenance = Provenance.REPORTED
    largest = None
    parameter_name = "acceleration rate"

    @property
    def name(self) -> str:
        return f"{self.rate:.3g} tokens a step{self.note}"

    @property
    def parameter(self) -> float:
        return self.rate

    def with_parameter(self, value: float) -> "Constant":
        return replace(self, rate=value, note="")

    def required_parameter(self, num_candidates: int, acceleration_rate: float) -> float | None:
        return acceleration_rate if num_candidates > 1 else None

    def acceleration_rate(self, num_candidates: int) -> float:
        return self.rate if num_candidates > 1 else 1.0

    def survival(self, num_candidates: int) -> None:
        return None


def first_accepted(model: AcceptanceModel, num_candidates: int) -> float:
    """The share of steps that accept a drafted token, as a chain's where only the mean is known."""
    if survives := model.survival(num_candidates):
        return survives[0]
    rate = model.acceleration_rate(num_candidates)
    return min(1.0, Chain(0.0).required_parameter(num_candidates, rate) or 0.0)


def lock_step_rate(model: AcceptanceModel, num_candidates: int, batch_size: int) -> float:
    """E[min of batch_size steps]: tokens a sequence advances where all must advance alike.

    1 + sum over depths of survival^batch_size, sequences being independent of each other.
    Raises MedusaBenchError where the model knows only the mean.
    """
    survives = model.survival(num_candidates)
    if survives is None:
        raise MedusaBenchError(
            f"Lock-step batches need to know how acceptance is spread, and {model.name!r} "
            "gives only its mean.",
            hint="name a chain, a survival, a histogram or head accuracies with --acceptance.",
        )
    return 1.0 + sum(survive**batch_size for survive in survives)


def _required_scale(
    model: Survival | Tree | Table, num_candidates: int, acceleration_rate: float
) -> float | None:
    accepted = model.acceleration_rate(num_candidates) - 1
    return model.scale * (acceleration_rate - 1) / accepted if accepted > 0 else None


def caveats(model: AcceptanceModel, num_candidates: Iterable[int]) -> list[str]:
    """In words, where a model says what cannot be: fewer tokens than one a step, or more than
    were verified; and where it goes beyond what was measured."""
    counts = sorted(set(num_candidates))
    below = [n for n in counts if model.acceleration_rate(n) < 1 - 1e-12]
    above = [n for n in counts if model.acceleration_rate(n) > n + 1e-9]
    found = []
    if below:
        found.append(
            f"{model.name} gives {model.acceleration_rate(below[0]):.2f} tokens a step at "
            f"{below[0]} candidates; every step yields at least 1. It is below 1 up to "
            f"{below[-1]} candidates"
        )
    if above:
        found.append(
            f"{model.name} gives {model.acceleration_rate(above[-1]):.2f} tokens a step at "
            f"{above[-1]} candidates, more than are verified"
        )
    if model.largest is not None and counts and counts[-1] > model.largest:
        found.append(
            f"{model.name} is known up to {model.largest} candidates; what is said of "
            f"{counts[-1]} is an extrapolation"
        )
    return found


# --- how a model is named on the command line, and read from files --------------------------------


def _log_law(*numbers: str) -> LogLaw:
    coefficient = _COEFFICIENT.of_text(numbers[0])
    return LogLaw(coefficient, base=_BASE.of_text(numbers[1]) if len(numbers) > 1 else math.e)


_COEFFICIENT = ranges.Range("a coefficient of the logarithm", 0.0, 1e3)
_BASE = ranges.Range("a base of a logarithm", 1 + 1e-6, 1e6)


def _chain(probability: str) -> Chain:
    return Chain(ranges.SHARE.of_text(probability))


def _constant(rate: str) -> Constant:
    return Constant(TOKENS_A_STEP.of_text(rate))


def _survival(values: str) -> Survival:
    survives = tuple(map(ranges.SHARE.of_text, values.split(",")))
    return Survival(survives, f"survival {values}", Provenance.SIMULATED)


KINDS: Mapping[str, tuple[str, Callable[..., AcceptanceModel]]] = {
    "paper": ("paper: 1 + 0.477 ln(candidates), our reading of the paper", lambda: PAPER),
    "printed": ("printed: 0.477 ln(candidates), as the paper prints it", lambda: PAPER_PRINTED),
    "log": ("log:A or log:A:BASE: 1 + A log(candidates)", _log_law),
    "chain": ("chain:P: each drafted token accepted with probability P", _chain),
    "survival": ("survival:P1,P2,...: share of steps that accept at least 1, 2, ...", _survival),
    "tree": (
        "tree:MODEL or tree:FILE: best trees from head accuracies",
        lambda name: Tree.best_first(trees.load_accuracy(name)),
    ),
    "tokens": ("tokens:N: N tokens a step, measured or published elsewhere", _constant),
}


def parse(text: str) -> AcceptanceModel:
    """A model as written on the command line: KIND, KIND:VALUE, or the path of a file.

    Raises UnknownNameError, InvalidFileError, MedusaBenchError.
    """
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        if Path(text).is_file():
            from medusa_bench.compare import acceptance_files

            return acceptance_files.load(Path(text))
        raise UnknownNameError("acceptance model or file", text, KINDS, see=known())
    try:
        arguments = [rest] if kind in {"tree", "survival"} else rest.split(":")
        return KINDS[kind][1](*(arguments if rest else ()))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        reason = "it does not fit" if isinstance(error, TypeError) else str(error)
        raise MedusaBenchError(
            f"{text[:80]!r} is no acceptance model: {reason}.", hint=f"write {KINDS[kind][0]}."
        ) from None


def known() -> str:
    """Every way to name a model, as a sentence."""
    return "known: " + "; ".join(help_ for help_, _ in KINDS.values()) + "; or a file."
