"""Methods against each other by generating: rounds in shuffled order, sums over sums.

Every method answers the same prompts in every round; tokens are counted by one rule, none past
EOS or a limit, and prefill is kept apart on every side.
"""

import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch

from medusa_bench.compare.comparisons import Generation
from medusa_bench.decode.engine.clock import Clock, now_s
from medusa_bench.decode.engine.engine import Finish, Output, Step
from medusa_bench.decode.engine.loading import quiet
from medusa_bench.decode.engine.model import DecoderModel
from medusa_bench.measure.host import Usage
from medusa_bench.specs.dtypes import Dtype

Texts = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt as token ids."""

    token_ids: tuple[int, ...]
    category: str = "all"


@dataclass(frozen=True, slots=True)
class GeneratedVariant:
    """A method, ready to answer a batch of prompts."""

    name: str
    answer: Callable[[Texts], Output]
    draft: str = ""
    draft_len: int | None = None
    num_candidates: int = 1
    lossless: bool = True
    is_library: bool = False  # transformers' own loop: a second baseline
    is_assisted: bool = False  # the same with its own drafting: a third


@dataclass(frozen=True, slots=True)
class BatchRun:
    """One batch of one round by one variant."""

    variant: str
    round_index: int
    questions: tuple[int, ...]  # which of the questions, in the order of the output's sequences
    output: Output
    energy_j: float | None = None
    taken_share: float = 0.0  # of its time, in which others had the processor


def batches(questions: Sequence[Question], batch_size: int) -> list[tuple[int, ...]]:
    """Indices of questions, batch by batch; a batch is of one category."""
    order = sorted(range(len(questions)), key=lambda index: questions[index].category)
    return [
        tuple(group[start : start + batch_size])
        for _, members in groupby(order, key=lambda index: questions[index].category)
        for group in [list(members)]
        for start in range(0, len(group), batch_size)
    ]


def run_rounds(
    variants: Sequence[GeneratedVariant],
    questions: Sequence[Question],
    *,
    rounds: int,
    batch_size: int = 1,
    seed: int = 0,
    energy_j: Callable[[], float | None] = lambda: None,
    usage: Callable[[], Usage] = Usage.now,
) -> Iterator[BatchRun]:
    """Every batch by every variant, round by round; variants in another order for each batch, so
    that a machine that slows down slows all of them. A first batch, not counted, warms each up."""
    dice = random.Random(seed)
    groups = batches(questions, batch_size)
    first = [questions[index].token_ids for index in groups[0]]
    for variant in variants:
        variant.answer(first)
    for round_index in range(rounds):
        for group in groups:
            prompts = [questions[index].token_ids for index in group]
            for variant in dice.sample(variants, len(variants)):
                before_j, before = energy_j(), usage()
                output = variant.answer(prompts)
                after, after_j = usage(), energy_j()
                spent_j = None if before_j is None or after_j is None else after_j - before_j
                taken = before.taken_share(after)
                yield BatchRun(variant.name, round_index, group, output, spent_j, taken)


def library_answer(
    model: Any,
    *,
    max_new_tokens: int,
    eos_token_ids: Collection[int] = (),
    context_limit: int,
    assistance: Mapping[str, Any] | None = None,
    clock: Clock = time.perf_counter,
) -> Callable[[Texts], Output]:
    """transformers' generate(), greedy, timed as the engine is: prefill ends with its first step.

    assistance: what generate() drafts with (assistant_model, prompt_lookup_num_tokens); it does so
    for one text at a time, and its first step brings what it verified along with the prompt.
    Prompts of a batch are padded to the left, as generate() wants them.
    """
    device = next(model.parameters()).device

    def answer(prompts: Texts) -> Output:
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        stamps: list[tuple[float, int]] = []

        def stamp(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            stamps.append((now_s(device, clock), input_ids.shape[1] - longest))
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

        start_s = now_s(device, clock)
        with quiet():  # of what transformers passes to itself when it drafts
            output = model.generate(
                ids.to(device),
                attention_mask=mask.to(device),
                do_sample=False,
                max_new_tokens=min(max_new_tokens, context_limit - longest),
                eos_token_id=sorted(eos_token_ids) or None,
                pad_token_id=0,
                stopping_criteria=[stamp],
                **(assistance or {}),
            )
        end_s = now_s(device, clock)
        texts = [_until_eos(row, eos_token_ids) for row in output[:, longest:].tolist()]
        decode_s = end_s - stamps[0][0]
        return Output(
            method="generate()",
            sequences=tuple(texts),
            finishes=tuple(
                Finish.EOS if text[-1] in eos_token_ids else Finish.LENGTH for text in texts
            ),
            prefill_s=stamps[0][0] - start_s,
            decode_s=decode_s,
            steps=_library_steps(texts, [length for _, length in stamps], decode_s),
        )

    return answer


def _library_steps(
    texts: Sequence[Sequence[int]], lengths: Sequence[int], decode_s: float
) -> tuple[Step, ...]:
    """Steps as long as each other, after the first; lengths: of the new text after each step.

    A text takes part until its end; what lies beyond that does not count.
    """
    taking_part = []
    for before, after in pairwise(lengths):
        brought = {
            row: min(after, len(text)) - before
            for row, text in enumerate(texts)
            if len(text) > before
        }
        if brought:
            taking_part.append((after - before, brought))
    each_s = decode_s / max(1, len(taking_part))
    return tuple(
        Step(
            rows=tuple(brought),
            accepted=(added - 1,) * len(brought),
            kept=tuple(brought.values()),
            num_nodes=added,
            step_s=each_s,
            draft_s=0.0,
            verify_s=each_s,
        )
        for added, brought in taking_part
    )


def _until_eos(tokens: Sequence[int], eos_token_ids: Collection[int]) -> tuple[int, ...]:
    ends = (index + 1 for index, token in enumerate(tokens) if token in eos_token_ids)
    return tuple(tokens[: next(ends, len(tokens))])


# --- what the rounds say --------------------------------------------------------------------------


def generation(
    variant: GeneratedVariant,
    runs: Sequence[BatchRun],
    questions: Sequence[Question],
    *,
    model: str,
    device: str,
    dtype: Dtype,
    batch_size: int,
    how: str,
    text: str,
) -> Generation:
    """All batches of an variant as one record: sums, whatever their number."""
    outputs = [one.output for one in runs]
    steps = [step for output in outputs for step in output.steps]
    sequence_steps = sum(len(step.rows) for step in steps)
    return Generation(
        method=variant.name,
        model=model,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        seq_len=round(sum(cached_tokens(one, questions) for one in runs) / max(1, sequence_steps)),
        num_candidates=variant.num_candidates,
        num_tokens=sum(output.num_tokens for output in outputs),
        num_steps=len(steps),
        num_sequence_steps=sequence_steps,
        decode_s=sum(output.decode_s for output in outputs),
        latency_source=how,
        acceptance_source=text,
        draft=variant.draft,
        draft_len=variant.draft_len,
        lossless=variant.lossless,
    )


def cached_tokens(one: BatchRun, questions: Sequence[Question]) -> int:
    """Tokens in the cache before a step, summed over steps and the sequences taking part."""
    lengths = [len(questions[index].token_ids) for index in one.questions]
    total = 0
    for step in one.output.steps:
        for row, kept in zip(step.rows, step.kept, strict=True):
            total += lengths[row]
            lengths[row] += kept
    return total


def survival(runs: Sequence[BatchRun]) -> tuple[float, ...]:
    """[d - 1]: the share of steps that accepted at least d proposed tokens."""
    accepted = [count for one in runs for step in one.output.steps for count in step.accepted]
    return tuple(
        sum(count >= depth for count in accepted) / len(accepted)
        for depth in range(1, max(accepted, default=0) + 1)
    )


def joules_per_token(runs: Sequence[BatchRun]) -> float | None:
    """Prefill included, for it cannot be told apart; None where the device does not tell."""
    spent = [one.energy_j for one in runs]
    tokens = sum(len(text) for one in runs for text in one.output.sequences)
    if not tokens or any(value is None for value in spent):
        return None
    return sum(value for value in spent if value is not None) / tokens


def decode_tokens_per_s(runs: Sequence[BatchRun]) -> float:
    """Tokens of all decoding steps over their time; prefill and its token are left out."""
    seconds = sum(one.output.decode_s for one in runs)
    return sum(one.output.num_tokens for one in runs) / seconds if seconds else 0.0


def speedups_by_round(runs: Sequence[BatchRun], baseline: Sequence[BatchRun]) -> list[float]:
    """Tokens per second over the baseline's in the same round."""
    rounds = sorted({one.round_index for one in runs})
    return [
        decode_tokens_per_s([one for one in runs if one.round_index == index])
        / decode_tokens_per_s([one for one in baseline if one.round_index == index])
        for index in rounds
    ]


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a text first departs from the baseline's."""

    question: int
    position: int  # of the new token, from 0
    token: int
    baseline_token: int
    logit_gap: float  # of the model at that place, between the two tokens: near 0 is a tie


def differences(
    runs: Sequence[BatchRun],
    baseline: Sequence[BatchRun],
    questions: Sequence[Question],
    model: DecoderModel,
) -> list[Difference]:
    """The first departure of each text from the baseline's, of the first round."""
    expected = _texts(baseline)
    found = []
    for question, text in sorted(_texts(runs).items()):
        reference = expected[question]
        position = next(
            (
                index
                for index, (token, wanted) in enumerate(zip(text, reference, strict=False))
                if token != wanted
            ),
            None,
        )
        if position is None:
            continue
        prefix = [*questions[question].token_ids, *reference[:position]]
        cache = model.new_cache(1, len(prefix))
        logits = model.logits(model.prefill(cache, [prefix]))[0].float()
        gap = float((logits[reference[position]] - logits[text[position]]).abs())
        found.append(Difference(question, position, text[position], reference[position], gap))
    return found


def _texts(runs: Sequence[BatchRun]) -> dict[int, tuple[int, ...]]:
    return {
        question: text
        for one in runs
        if one.round_index == 0
        for question, text in zip(one.questions, one.output.sequences, strict=True)
    }
