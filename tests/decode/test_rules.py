"""Rejection sampling keeps the model's distribution; typical acceptance is what the paper says."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.decode.engine.engine import Engine
from medusa_bench.decode.engine.layout import TreeLayout
from medusa_bench.decode.engine.model import DecoderModel
from medusa_bench.decode.engine.rules import NO_TOKEN, Greedy, Proposal, Rejection, Typical
from medusa_bench.decode.methods.speculative import Speculative

VOCAB_SIZE, NUM_TRIALS = 8, 40_000


def draft_and_target(seed: int, draft_len: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities (draft_len, v) of a draft and (draft_len + 1, v) of a target."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.log_softmax(torch.randn(draft_len, VOCAB_SIZE, generator=generator), dim=-1),
        torch.log_softmax(torch.randn(draft_len + 1, VOCAB_SIZE, generator=generator), dim=-1),
    )


def judged(rule: Rejection, draft: Tensor, target: Tensor, *, certain: bool = False) -> Tensor:
    """Many independent steps at once: (NUM_TRIALS, draft_len + 1) tokens, NO_TOKEN past the end.

    The logits do not depend on the tokens before, so that each place has one true distribution.
    """
    draft_len = len(draft)
    probs = torch.softmax(draft / rule.temperature, dim=-1)
    if certain:
        drafted = target[:draft_len].argmax(dim=-1).expand(NUM_TRIALS, -1)
        draft_probs = None
    else:
        drafted = torch.stack([rule.sample(row.expand(NUM_TRIALS, -1)) for row in probs], dim=1)
        draft_probs = probs.expand(NUM_TRIALS, -1, -1)
    roots = torch.zeros(NUM_TRIALS, 1, dtype=torch.long)
    proposal = Proposal(
        torch.cat([roots, drafted], dim=1), TreeLayout.chain(draft_len), draft_probs
    )
    verdict = rule.judge(proposal, target.expand(NUM_TRIALS, -1, -1))
    places = torch.arange(draft_len + 1)
    padded = torch.cat([drafted, torch.full_like(roots, NO_TOKEN)], dim=1)
    tokens = torch.where(places < verdict.nodes[:, None], padded, NO_TOKEN)
    return tokens.scatter(1, verdict.nodes[:, None], verdict.next_tokens[:, None])


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("certain", [False, True])
def test_rejection_sampling_keeps_the_distribution(temperature: float, certain: bool) -> None:
    draft, target = draft_and_target(seed=0, draft_len=2)
    rule = Rejection(temperature, torch.Generator().manual_seed(1))
    tokens = judged(rule, draft, target, certain=certain)
    for place, logits in enumerate(target):
        here = tokens[:, place]
        seen = torch.bincount(here[here != NO_TOKEN], minlength=VOCAB_SIZE)
        expected = torch.softmax(logits.double() / temperature, dim=-1) * int(seen.sum())
        assert int(seen.sum()) > 1000
        assert stats.chisquare(seen.numpy(), expected.numpy()).pvalue > 1e-3


def test_rejection_accepts_as_often_as_the_distributions_overlap() -> None:
    draft, target = draft_and_target(seed=3, draft_len=1)
    rule = Rejection(1.0, torch.Generator().manual_seed(4))
    accepted = float((judged(rule, draft, target)[:, 1] != NO_TOKEN).double().mean())
    overlap = float(torch.minimum(draft[0].exp(), target[0].exp()).sum())
    assert accepted == pytest.approx(overlap, abs=4 * math.sqrt(0.25 / NUM_TRIALS))


def test_a_draft_drawn_from_the_target_itself_is_always_accepted() -> None:
    _, target = draft_and_target(seed=5, draft_len=3)
    rule = Rejection(0.8, torch.Generator().manual_seed(6))
    assert (judged(rule, target[:3], target) != NO_TOKEN).all()


def test_a_place_without_a_token_is_never_accepted() -> None:
    _, target = draft_and_target(seed=7, draft_len=1)
    proposal = Proposal(torch.tensor([[0, NO_TOKEN]]), TreeLayout.chain(1))
    for rule in (Greedy(), Rejection(1.0, torch.Generator()), Typical(1.0)):
        assert rule.judge(proposal, target[None]).nodes.tolist() == [0]


def test_rejection_sampling_refuses_a_tree() -> None:
    proposal = Proposal(torch.tensor([[0, 1, 2]]), TreeLayout([(0,), (1,)]))
    with pytest.raises(MedusaBenchError, match="for chains"):
        Rejection(1.0, torch.Generator()).judge(proposal, torch.zeros(1, 3, VOCAB_SIZE))


def test_greedy_follows_the_one_branch_that_is_right() -> None:
    layout = TreeLayout([(0,), (1,), (0, 0), (1, 0), (1, 0, 0)])
    tokens = torch.tensor([[7, 1, 2, 3, 4, 5]])
    best = torch.tensor([[2, 0, 4, 0, 6, 0]])  # after the root 2, after 2 comes 4, then 6
    logits = torch.nn.functional.one_hot(best, VOCAB_SIZE).float()
    verdict = Greedy().judge(Proposal(tokens, layout), logits)
    assert (verdict.nodes.tolist(), verdict.next_tokens.tolist()) == ([4], [6])


@pytest.mark.parametrize(("drafted_probability", "accepted"), [(0.26, True), (0.24, False)])
def test_typical_acceptance_has_the_papers_threshold(
    drafted_probability: float, accepted: bool
) -> None:
    """min(epsilon, delta exp(-entropy)); here delta is chosen so that the threshold is 1/4."""
    rest = (1 - drafted_probability) / (VOCAB_SIZE - 1)
    probs = torch.tensor([drafted_probability, *[rest] * (VOCAB_SIZE - 1)])
    entropy = float(-(probs * probs.log()).sum())
    rule = Typical(1.0, epsilon=0.9, delta=0.25 * math.exp(entropy))
    logits = probs.log().expand(1, 2, -1)
    verdict = rule.judge(Proposal(torch.tensor([[1, 0]]), TreeLayout.chain(1)), logits)
    assert verdict.nodes.tolist() == [int(accepted)]
    assert not rule.lossless and "lossy" in rule.name


def test_typical_acceptance_caps_its_threshold_at_epsilon() -> None:
    probs = torch.tensor([0.1, 0.9, *[0.0] * (VOCAB_SIZE - 2)])
    logits = probs.log().expand(1, 2, -1)
    proposal = Proposal(torch.tensor([[1, 0]]), TreeLayout.chain(1))
    assert Typical(1.0).judge(proposal, logits).nodes.tolist() == [1]  # 0.1 > 0.09
    assert Typical(1.0, epsilon=0.11).judge(proposal, logits).nodes.tolist() == [0]


def test_typical_acceptance_takes_the_likeliest_of_equally_long_paths() -> None:
    probs = torch.tensor([0.3, 0.5, *[0.2 / (VOCAB_SIZE - 2)] * (VOCAB_SIZE - 2)])
    logits = probs.log().expand(1, 3, -1)
    verdict = Typical(1.0).judge(
        Proposal(torch.tensor([[7, 0, 1]]), TreeLayout([(0,), (1,)])), logits
    )
    assert verdict.nodes.tolist() == [2]


@torch.inference_mode()
def test_speculative_sampling_gives_texts_as_often_as_the_model_alone() -> None:
    """All texts of three tokens over a vocabulary of five, against their exact probabilities."""
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=5,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    target, draft = (DecoderModel(LlamaForCausalLM(config)) for _ in range(2))
    prompt, temperature, num_texts = [1, 2], 1.3, 8192
    texts = torch.cartesian_prod(*[torch.arange(5)] * 3)
    ids = torch.cat([torch.tensor([prompt]).expand(len(texts), -1), texts], dim=1)
    log_probs = torch.log_softmax(target.model(ids).logits.double() / temperature, dim=-1)
    exact = log_probs[:, 1:4].gather(2, texts[..., None])[..., 0].sum(dim=1).exp()
    assert float(exact.sum()) == pytest.approx(1)
    generator = torch.Generator().manual_seed(0)
    output = Engine(target).generate(
        [prompt] * num_texts,
        Speculative(draft, 2),
        max_new_tokens=3,
        rule=Rejection(temperature, generator),
    )
    index = torch.tensor(output.sequences) @ torch.tensor([25, 5, 1])
    seen = torch.bincount(index, minlength=len(texts)).double()
    often = exact * num_texts >= 5
    observed = [*seen[often].tolist(), float(seen[~often].sum())]
    expected = [*(exact[often] * num_texts).tolist(), float(exact[~often].sum()) * num_texts]
    assert 0.1 < output.acceleration_rate - 1 < 1.9  # some were accepted, some were not
    assert stats.chisquare(observed, expected).pvalue > 1e-3
