"""What a backbone that moved still is: beside itself with the adapter off."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medusa_bench.decode.heads.joint import Passages, hidden_states
from medusa_bench.decode.heads.texts import Texts


@dataclass(frozen=True, slots=True)
class Quality:
    """Of all tokens of a text that the frozen model wrote greedily, each given what stands before.

    perplexity: exp of the mean negative log-probability of the text's tokens. kl_nats: the mean of
    KL(frozen || adapted). greedy_equal: the share at which the adapted model would write the same.
    """

    num_tokens: int
    perplexity_before: float
    perplexity_after: float
    kl_nats: float
    greedy_equal: float


@torch.inference_mode()
def quality(adapted: Any, texts: Texts, passages: Passages) -> Quality:
    """The adapted model beside itself with the adapter off. `adapted` is peft's wrapper."""
    base, sums = adapted.get_base_model(), torch.zeros(4, dtype=torch.float64)
    for text in range(len(texts)):
        passage = passages.passage([text])
        after = _log_probs(base, passage)
        with adapted.disable_adapter():
            before = _log_probs(base, passage)
        tokens = passage.tokens[:, None]
        sums += torch.stack(
            [
                -before.gather(1, tokens).sum(),
                -after.gather(1, tokens).sum(),
                (before.exp() * (before - after)).sum(),
                (after.argmax(-1) == passage.tokens).sum(),
            ]
        ).double()
    count = len(texts.tokens)
    nll_before, nll_after, kl, equal = (sums / count).tolist()
    return Quality(count, math.exp(nll_before), math.exp(nll_after), kl, equal)


def _log_probs(model: Any, passage: Any) -> Tensor:
    logits: Tensor = model.get_output_embeddings()(hidden_states(model, passage))
    return logits.float().log_softmax(-1)


@dataclass(frozen=True, slots=True)
class AnswerDifference:
    """Greedy answers of two models to the same prompts, set side by side."""

    num_answers: int
    num_equal: int
    median_first_difference: float | None  # tokens, of the answers that differ
    mean_tokens_before: float
    mean_tokens_after: float


def answer_difference(before: Texts, after: Texts) -> AnswerDifference:
    """Where each answer leaves the other: equal, or from which token on."""
    pairs = list(zip(_split(before), _split(after), strict=True))
    firsts = sorted(
        first for one, other in pairs if (first := _first_difference(one, other)) is not None
    )
    middle = len(firsts) // 2
    return AnswerDifference(
        num_answers=len(pairs),
        num_equal=len(pairs) - len(firsts),
        median_first_difference=(firsts[middle] + firsts[~middle]) / 2 if firsts else None,
        mean_tokens_before=len(before.tokens) / len(pairs),
        mean_tokens_after=len(after.tokens) / len(pairs),
    )


def _split(texts: Texts) -> list[list[int]]:
    bounds = texts.starts.tolist()
    tokens: list[int] = texts.tokens.tolist()
    return [tokens[a:b] for a, b in itertools.pairwise(bounds)]


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return None if len(one) == len(other) else min(len(one), len(other))
