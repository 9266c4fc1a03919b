"""One comparison by generation: expect, generate, set side by side.

What is expected (simulated) and what is generated are the same record; between them stands a gap,
split into the operators, the rest of the model, drafting, and the engine's own time.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch

from medusa_bench.compare.comparisons import (
    Comparison,
    Generation,
    compare_generation,
    speedup_interval,
)
from medusa_bench.compare.passes import Block
from medusa_bench.compare.trees import (
    CandidateTree,
    HeadAccuracy,
    JointFrequency,
    expected_tokens,
    grow,
)
from medusa_bench.decode.engine.clock import Clock, now_s
from medusa_bench.decode.engine.engine import DecodingMethod, Engine
from medusa_bench.decode.engine.model import DecoderModel
from medusa_bench.decode.engine.rules import AcceptanceRule
from medusa_bench.decode.methods.medusa import Heads
from medusa_bench.decode.methods.speculative import Speculative
from medusa_bench.decode.study import rounds
from medusa_bench.decode.study.judging import Candidate, Paired, paired, verdict
from medusa_bench.decode.study.operator_times import ModelTimes
from medusa_bench.decode.study.rounds import BatchRun, Difference, GeneratedVariant, Question
from medusa_bench.results.rows import Provenance
from medusa_bench.specs import configs
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.latency import Latency
from medusa_bench.specs.shapes import ModelShape

Rates = HeadAccuracy | JointFrequency


@dataclass(frozen=True, slots=True)
class ExpectedStep:
    """What a Medusa step of so many candidates is expected to cost and to bring, before any."""

    num_candidates: int
    tree: CandidateTree | None  # grown from accuracies; None where none are known
    step: Latency
    vanilla: Latency
    acceleration_rate: float | None

    @property
    def overhead(self) -> float:
        return self.step.latency_s / self.vanilla.latency_s

    @property
    def speedup(self) -> float | None:
        return None if self.acceleration_rate is None else self.acceleration_rate / self.overhead

    @property
    def speedup_interval(self) -> tuple[float, float] | None:
        """From how far the latencies spread; None where no speedup is known."""
        if self.acceleration_rate is None:
            return None
        return speedup_interval(self.step, self.vanilla, self.acceleration_rate)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        low, high = self.speedup_interval or (None, None)
        return {
            "num_candidates": self.num_candidates,
            "step_latency_s": self.step.latency_s,
            "overhead": self.overhead,
            "acceleration_rate": self.acceleration_rate,
            "speedup": self.speedup,
            "speedup_low": low,
            "speedup_high": high,
        }


def predict_speedups(
    times: ModelTimes, counts: Sequence[int], rates: Rates | None, heads_s: float
) -> list[ExpectedStep]:
    """Overheads at each count from what was timed alone, and speedups where accuracies are known.

    `times` must hold 1 and every count; heads_s is what the heads take, paid beyond 1 candidate.
    """
    vanilla = times.simulated(1)
    found = []
    for count in counts:
        step = times.simulated(count)
        if count > 1:
            step = Latency(step.latency_s + heads_s, step.low_s + heads_s, step.high_s + heads_s)
        tree = grow(rates, count) if rates else None
        rate = expected_tokens(tree, rates) if rates and tree else None
        found.append(ExpectedStep(count, tree, step, vanilla, rate))
    return found


def best(foreseen: Sequence[ExpectedStep]) -> ExpectedStep | None:
    """The count that is expected to pay most; None where none is expected to."""
    paying = [(row.speedup, -row.num_candidates, row) for row in foreseen if row.speedup]
    if not paying:
        return None
    speedup, _, row = max(paying, key=lambda entry: entry[:2])
    return row if speedup > 1 else None


class HeadsTimes:
    """What proposing takes: the heads' best 8 tokens after one hidden state each, by rounds.

    `clock` is injected by tests.
    """

    def __init__(
        self,
        heads: Heads,
        model: DecoderModel,
        batch_size: int,
        *,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._now_s = partial(now_s, model.device, clock)
        hidden_size = model.config.hidden_size
        hidden = torch.randn(batch_size, hidden_size, dtype=model.dtype, device=model.device)
        roots = torch.zeros(batch_size, dtype=torch.long, device=model.device)
        max_rank = min(8, heads.num_proposable)
        self._propose = partial(heads.top, hidden, max_rank, roots if heads.reads_root else None)
        self._rounds_s: list[float] = []

    @torch.inference_mode()
    def time_round(self, dice: random.Random) -> None:
        """Once more."""
        start_s = self._now_s()
        self._propose()
        self._rounds_s.append(self._now_s() - start_s)

    @property
    def latency_s(self) -> float:
        """The median of the rounds."""
        return median(self._rounds_s)


def draft_times(draft: DecoderModel, target: ModelTimes) -> ModelTimes:
    """Of one draft pass, simulated as the target's are; no rounds yet."""
    shape = replace(
        configs.from_config(draft.config.to_dict(), name="draft", where="the draft's config"),
        num_layers=draft.num_layers,
    )
    return ModelTimes(draft, shape, [1], target.batch_size, target.seq_len)


@dataclass(frozen=True, slots=True)
class Gap:
    """Generated minus simulated step latency, in seconds, by where it arises."""

    operators_s: float
    rest_s: float
    drafting_s: float
    engine_s: float  # accepting, committing, bookkeeping: not simulated


@dataclass(frozen=True, slots=True)
class CategoryRow:
    """One category's sums."""

    category: str
    num_texts: int
    tokens_per_s: float
    acceleration_rate: float
    speedup: float


@dataclass(frozen=True, slots=True)
class Row:
    """All that one method's rounds say."""

    generated: Comparison
    tokens_per_s: float  # decoding only
    prefill_s: float  # of a batch, on average
    speedups: tuple[float, ...]  # by round
    survival: tuple[float, ...]
    num_texts: int
    differences: tuple[Difference, ...]
    by_category: tuple[CategoryRow, ...]
    joules_per_token: float | None
    simulated: Comparison | None
    gap: Gap | None
    is_library: bool
    is_assisted: bool
    sampled: bool  # at a temperature: texts cannot be the same
    over_vanilla: Paired | None = None
    over_library: Paired | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        gap = self.gap
        return {
            "generated": {**self.generated.as_dict(), "tokens_per_s": self.tokens_per_s},
            "simulated": self.simulated.as_dict() if self.simulated else None,
            "gap_s": None
            if gap is None
            else {
                "operators": gap.operators_s,
                "rest_of_model": gap.rest_s,
                "drafting": gap.drafting_s,
                "engine": gap.engine_s,
            },
            "prefill_s": self.prefill_s,
            "speedups_by_round": list(self.speedups),
            "paired_over_vanilla": self.over_vanilla.as_dict() if self.over_vanilla else None,
            "paired_over_library": self.over_library.as_dict() if self.over_library else None,
            "share_of_steps_accepting_at_least": list(self.survival),
            "joules_per_token": self.joules_per_token,
            "num_texts": self.num_texts,
            "num_identical_texts": None if self.sampled else self.num_texts - len(self.differences),
            "differences": [
                {
                    "question": one.question,
                    "position": one.position,
                    "token": one.token,
                    "baseline_token": one.baseline_token,
                    "logit_gap": one.logit_gap,
                }
                for one in self.differences
            ],
            "by_category": [
                {
                    "category": one.category,
                    "num_texts": one.num_texts,
                    "tokens_per_s": one.tokens_per_s,
                    "acceleration_rate": one.acceleration_rate,
                    "speedup": one.speedup,
                }
                for one in self.by_category
            ],
        }


@dataclass
class GenerationStudy:
    """An engine, prompts, and how they are to be run."""

    engine: Engine
    shape: ModelShape
    questions: Sequence[Question]
    device: str  # its name
    dtype: Dtype
    how: str  # packing, threads, back end: shown beside every number
    text: str  # whose prompts
    max_new_tokens: int
    eos_token_ids: Collection[int] = ()
    batch_size: int = 1
    seed: int = 0
    rule: Callable[[], AcceptanceRule] | None = None
    energy_j: Callable[[], float | None] = lambda: None

    def variant(
        self,
        method: DecodingMethod,
        *,
        name: str = "",
        draft: str = "",
        rule: Callable[[], AcceptanceRule] | None = None,
        lossless: bool = True,
    ) -> GeneratedVariant:
        """A method of this engine, made ready; `rule` where it is not the study's."""
        make_rule = rule or self.rule

        def answer(prompts: rounds.Texts) -> Any:
            return self.engine.generate(
                prompts,
                method,
                max_new_tokens=self.max_new_tokens,
                eos_token_ids=self.eos_token_ids,
                rule=make_rule() if make_rule else None,
            )

        draft_len = method.draft_len if isinstance(method, Speculative) else None
        return GeneratedVariant(
            name or method.name, answer, draft, draft_len, method.max_nodes, lossless
        )

    def library(self) -> GeneratedVariant:
        """transformers' generate(), greedy."""
        model = self.engine.model
        answer = rounds.library_answer(
            model.model,
            max_new_tokens=self.max_new_tokens,
            eos_token_ids=self.eos_token_ids,
            context_limit=model.context_limit,
        )
        return GeneratedVariant("generate()", answer, is_library=True)

    def assisted(
        self, draft_len: int, draft: DecoderModel | None = None, name: str = ""
    ) -> GeneratedVariant:
        """generate() with its own drafting: a draft model, or prompt lookup without one.

        As many tokens in every step as drafts are long, as our methods have it.
        """
        model = self.engine.model
        if draft is None:
            assistance: dict[str, Any] = {"prompt_lookup_num_tokens": draft_len}
        else:
            config = draft.model.generation_config
            config.num_assistant_tokens = draft_len
            config.num_assistant_tokens_schedule = "constant"
            config.assistant_confidence_threshold = 0.0
            assistance = {"assistant_model": draft.model}
        answer = rounds.library_answer(
            model.model,
            max_new_tokens=self.max_new_tokens,
            eos_token_ids=self.eos_token_ids,
            context_limit=model.context_limit,
            assistance=assistance,
        )
        label = f"generate(), {name or 'prompt lookup'}, {draft_len}"
        return GeneratedVariant(
            label, answer, name, draft_len, num_candidates=draft_len + 1, is_assisted=True
        )

    def run_rounds(
        self, variants: Sequence[GeneratedVariant], num_rounds: int
    ) -> Iterator[BatchRun]:
        """Batches as they are done."""
        return rounds.run_rounds(
            variants,
            self.questions,
            rounds=num_rounds,
            batch_size=self.batch_size,
            seed=self.seed,
            energy_j=self.energy_j,
        )

    def num_batches(self) -> int:
        return len(rounds.batches(self.questions, self.batch_size))

    def typical_seq_len(self) -> int:
        """Cached tokens of a step in the middle of a text of this study."""
        prompt = sum(len(question.token_ids) for question in self.questions)
        return prompt // len(self.questions) + self.max_new_tokens // 2

    def rows(
        self,
        variants: Sequence[GeneratedVariant],
        runs: Sequence[BatchRun],
        *,
        times: ModelTimes | None = None,
        drafting_s: Mapping[str, float] | None = None,
        rates: Mapping[str, float] | None = None,
        rate_source: str = "",
    ) -> list[Row]:
        """One row for each variant; the first is the baseline.

        drafting_s: by variant, what proposing takes where it was timed alone; without it, or where
        `times` lacks the variant's candidates, no simulated row. rates: acceleration rates that
        were expected, by variant; otherwise a simulated row takes the generated one.
        """
        by_variant = {
            variant.name: [one for one in runs if one.variant == variant.name]
            for variant in variants
        }
        baseline = by_variant[variants[0].name]
        library = [one for each in variants if each.is_library for one in by_variant[each.name]]
        base = self._generation(variants[0], baseline)
        found = []
        for variant in variants:
            own = by_variant[variant.name]
            generation = self._generation(variant, own)
            generated = compare_generation(generation, base, step_spread_s=self._half_spread_s(own))
            sampled = self.rule is not None
            simulated = None
            if times and drafting_s and variant.name in drafting_s and not variant.is_library:
                simulated = self._simulated(
                    generated,
                    own,
                    times,
                    drafting_s=drafting_s[variant.name],
                    expected_rate=(rates or {}).get(variant.name),
                    rate_source=rate_source,
                )
            found.append(
                Row(
                    generated=generated,
                    tokens_per_s=rounds.decode_tokens_per_s(own),
                    prefill_s=sum(one.output.prefill_s for one in own) / len(own),
                    speedups=tuple(rounds.speedups_by_round(own, baseline)),
                    survival=() if variant.is_library else rounds.survival(own),
                    num_texts=len(self.questions),
                    differences=()
                    if sampled
                    else tuple(
                        rounds.differences(own, baseline, self.questions, self.engine.model)
                    ),
                    by_category=self._by_category(own, baseline),
                    joules_per_token=rounds.joules_per_token(own),
                    simulated=simulated,
                    gap=_gap(own, times, drafting_s[variant.name])
                    if simulated and times and drafting_s
                    else None,
                    is_library=variant.is_library,
                    is_assisted=variant.is_assisted,
                    sampled=sampled,
                    over_vanilla=paired(own, baseline),
                    over_library=paired(own, library),
                )
            )
        return found

    def _generation(self, variant: GeneratedVariant, runs: Sequence[BatchRun]) -> Generation:
        generation = rounds.generation(
            variant,
            runs,
            self.questions,
            model=self.shape.name,
            device=self.device,
            dtype=self.dtype,
            batch_size=self.batch_size,
            how=self.how,
            text=self.text,
        )
        steps = [step for one in runs for step in one.output.steps]
        # Lookup verifies fewer where it finds fewer: what it did verify, on average.
        return replace(
            generation,
            num_candidates=round(sum(step.num_nodes for step in steps) / max(1, len(steps))),
        )

    def _half_spread_s(self, runs: Sequence[BatchRun]) -> float:
        by_round = []
        for index in sorted({one.round_index for one in runs}):
            own = [one.output for one in runs if one.round_index == index]
            steps = sum(len(output.steps) for output in own)
            by_round.append(sum(output.decode_s for output in own) / max(1, steps))
        return (max(by_round) - min(by_round)) / 2

    def _simulated(
        self,
        generated: Comparison,
        runs: Sequence[BatchRun],
        times: ModelTimes,
        *,
        drafting_s: float,
        expected_rate: float | None,
        rate_source: str,
    ) -> Comparison | None:
        steps = [step for one in runs for step in one.output.steps]
        verify = times.mean(Counter(step.num_nodes for step in steps)) if steps else None
        vanilla = times.mean({1: 1})
        if verify is None or vanilla is None:
            return None
        return replace(
            generated,
            step=Latency(
                verify.latency_s + drafting_s,
                verify.low_s + drafting_s,
                verify.high_s + drafting_s,
            ),
            vanilla=vanilla,
            acceleration_rate=expected_rate or generated.acceleration_rate,
            latency_source=times.name,
            acceptance_source=rate_source if expected_rate else "the generated rate",
            source=Provenance.SIMULATED,
            block=Block.FULL,
        )

    def _by_category(
        self, runs: Sequence[BatchRun], baseline: Sequence[BatchRun]
    ) -> tuple[CategoryRow, ...]:
        categories = dict.fromkeys(question.category for question in self.questions)
        found = []
        for category in categories:
            own, base = (
                [one for one in side if self.questions[one.questions[0]].category == category]
                for side in (runs, baseline)
            )
            steps = sum(one.output.num_sequence_steps for one in own)
            base_tokens_per_s = rounds.decode_tokens_per_s(base)
            found.append(
                CategoryRow(
                    category,
                    num_texts=sum(question.category == category for question in self.questions),
                    tokens_per_s=rounds.decode_tokens_per_s(own),
                    acceleration_rate=sum(one.output.num_tokens for one in own) / max(1, steps),
                    speedup=rounds.decode_tokens_per_s(own) / base_tokens_per_s
                    if base_tokens_per_s
                    else 0.0,
                )
            )
        return tuple(found)


def judged(rows: Sequence[Row]) -> list[str]:
    """What the rounds decide, in words; the first row is the baseline."""
    library = next((row.over_vanilla for row in rows if row.is_library), None)
    candidates = [
        Candidate(row.generated.method, row.over_vanilla, row.over_library)
        for row in rows[1:]
        if not (row.is_library or row.is_assisted)
    ]
    assisted = [
        Candidate(row.generated.method, row.over_vanilla) for row in rows if row.is_assisted
    ]
    return verdict(candidates, library, assisted)


def _gap(runs: Sequence[BatchRun], times: ModelTimes, drafting_s: float) -> Gap | None:
    """Means over the steps; None where passes were not split into operators and the rest."""
    steps = [step for one in runs for step in one.output.steps]
    operators_s = rest_s = verify_s = draft_s = 0.0
    for step in steps:
        share = times.operators_share(step.num_nodes)
        if share is None:
            return None
        operators_s += step.verify_s * share - times.operators_s(step.num_nodes).latency_s
        rest_s += step.verify_s * (1 - share) - times.rest_s(step.num_nodes).latency_s
        verify_s += step.verify_s
        draft_s += step.draft_s
    decode_s = sum(one.output.decode_s for one in runs)
    return Gap(
        operators_s=operators_s / len(steps),
        rest_s=rest_s / len(steps),
        drafting_s=draft_s / len(steps) - drafting_s,
        engine_s=(decode_s - verify_s - draft_s) / len(steps),
    )
