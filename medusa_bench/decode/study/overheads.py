"""What verifying so many candidates costs: generated steps, beside what operators predict_speedups.

Both are timed in turn, round by round, each number of candidates for one step: a machine that is
slower for a while is slower for all of them.
"""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from medusa_bench.decode.study.arbitrary_tokens import Filler
from medusa_bench.decode.study.operator_times import ModelTimes
from medusa_bench.decode.study.study import GenerationStudy


class Rounds(Protocol):
    """What is timed once more in each round."""

    def time_round(self, dice: random.Random) -> None: ...


@dataclass(frozen=True, slots=True)
class OverheadRow:
    """The cost of verifying so many candidates: generated and simulated."""

    num_candidates: int
    step_s: float
    overhead: float
    simulated_step_s: float
    simulated_overhead: float

    @property
    def error(self) -> float:
        """Simulated over generated overhead, minus 1."""
        return self.simulated_overhead / self.overhead - 1

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "num_candidates": self.num_candidates,
            "step_s": self.step_s,
            "overhead": self.overhead,
            "simulated_step_s": self.simulated_step_s,
            "simulated_overhead": self.simulated_overhead,
            "error": self.error,
        }


def num_steps(counts: Collection[int]) -> int:
    """The steps of one generation of `time_overheads`: every count, 1 once more before them and
    twice among them."""
    return len(counts) + 3


def time_overheads(
    study: GenerationStudy,
    times: ModelTimes,
    counts: Sequence[int],
    *,
    num_rounds: int,
    beside: Sequence[Rounds] = (),
    advance: Callable[[float], None] = lambda _: None,
) -> list[OverheadRow]:
    """Rounds of `times` and of all that stands `beside`, each with a short generation whose steps
    verify each of `counts`.

    counts must hold 1 and be among those of `times`. Proposals hold no tokens, so that every step
    yields one. Medians of all rounds; `advance` is told 1 after each.
    """
    turns = [*counts, 1, 1]  # every ratio is over 1 candidate
    question = min(
        study.questions,
        key=lambda one: abs(len(one.token_ids) + num_steps(counts) // 2 - times.seq_len),
    )
    prompts = [question.token_ids] * study.batch_size
    dice = random.Random(study.seed)
    steps_s: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(num_rounds):
        for one in (times, *beside):
            one.time_round(dice)
        # A first step, not counted, finds the caches as the prefill left them.
        method = Filler([1, *dice.sample(turns, len(turns))])
        output = study.engine.generate(prompts, method, max_new_tokens=1 + num_steps(counts))
        for step in output.steps[1:]:
            steps_s[step.num_nodes].append(step.step_s)
        advance(1)
    step_s = {count: median(samples) for count, samples in steps_s.items()}
    simulated_s = {count: times.simulated(count).latency_s for count in counts}
    return [
        OverheadRow(
            count,
            step_s[count],
            step_s[count] / step_s[1],
            simulated_s[count],
            simulated_s[count] / simulated_s[1],
        )
        for count in counts
    ]
