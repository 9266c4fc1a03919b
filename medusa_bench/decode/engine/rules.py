"""Which proposed tokens stay: greedy, exact rejection sampling, typical (lossy)."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.decode.engine.layout import TreeLayout

NO_TOKEN = -1  # a place in a proposal that holds none; never accepted


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one step verifies. tokens: (b, q), the root first, NO_TOKEN where none is proposed.

    draft_probs (b, q - 1, vocab) are those that a sampled chain was drawn from; None where a
    proposal is certain (lookup, heads, a greedy draft).
    """

    tokens: Tensor
    layout: TreeLayout
    draft_probs: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """Per sequence: the last accepted node (b,), and the token that follows it (b,)."""

    nodes: Tensor
    next_tokens: Tensor


class AcceptanceRule(Protocol):
    """How tokens are chosen from logits, and proposals held against them."""

    name: str
    lossless: bool  # keeps the distribution (greedy: the text) of the model alone
    temperature: float

    def choose(self, logits: Tensor) -> Tensor:
        """The next token (b,) after logits (b, vocab)."""
        ...

    def judge(self, proposal: Proposal, logits: Tensor) -> Accepted:
        """Hold a proposal against the model's logits (b, q, vocab)."""
        ...


class Greedy:
    """The most probable token, always: the text is that of the model alone."""

    name = "greedy"
    lossless = True
    temperature = 0.0

    def choose(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=-1)

    def judge(self, proposal: Proposal, logits: Tensor) -> Accepted:
        best = logits.argmax(dim=-1)
        layout = proposal.layout
        agrees = proposal.tokens[:, 1:] == best[:, layout.parent_nodes]
        nodes = _deepest(agrees, layout)
        return Accepted(nodes, best.gather(1, nodes[:, None])[:, 0])


class Rejection:
    """Exact sampling at a temperature: accept with min(1, p / q), else draw from max(p - q, 0).

    Source: Leviathan et al. and Chen et al., 2023. For chains.
    """

    name = "rejection sampling"
    lossless = True

    def __init__(self, temperature: float, generator: torch.Generator) -> None:
        self.temperature = temperature
        self.generator = generator

    def choose(self, logits: Tensor) -> Tensor:
        return self.sample(self.probs(logits))

    def probs(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits.float() / self.temperature, dim=-1)

    def sample(self, probs: Tensor) -> Tensor:
        return torch.multinomial(probs, 1, generator=self.generator)[:, 0]

    def judge(self, proposal: Proposal, logits: Tensor) -> Accepted:
        if not proposal.layout.is_chain:
            raise MedusaBenchError(
                "Rejection sampling is for chains, and this method proposes a tree.",
                hint="Medusa at a temperature uses typical acceptance (lossy).",
            )
        probs = self.probs(logits)
        drafted = proposal.tokens[:, 1:]
        batch_size, draft_len = drafted.shape
        if not draft_len:
            nodes = torch.zeros(batch_size, dtype=torch.long, device=logits.device)
            return Accepted(nodes, self.sample(probs[:, 0]))
        named = drafted != NO_TOKEN
        index = drafted.clamp(min=0)[..., None]
        draft_probs = proposal.draft_probs
        if draft_probs is None:
            certain = torch.zeros_like(probs[:, 1:])
            draft_probs = certain.scatter_(2, index, named[..., None].to(probs.dtype))
        uniform = torch.rand(drafted.shape, generator=self.generator, device=logits.device)
        ratio_holds = uniform * draft_probs.gather(2, index)[..., 0] < probs.gather(2, index)[
            ..., 0
        ].masked_fill(~named, 0)
        nodes = ratio_holds.long().cumprod(dim=1).sum(dim=1)
        rows = torch.arange(batch_size, device=logits.device)
        last = probs[rows, nodes]
        rejected = draft_probs[rows, nodes.clamp(max=draft_len - 1)]
        residual = (last - rejected).clamp(min=0)
        # All accepted: the last distribution itself. Equal but for rounding: likewise.
        whole = (nodes == draft_len) | (residual.sum(dim=-1) <= 0)
        return Accepted(nodes, self.sample(torch.where(whole[:, None], last, residual)))


class Typical:
    """Accept what is not improbable: p > min(epsilon, delta exp(-entropy)), entropy in nats.

    Lossy: it does not keep the model's distribution. The token after the accepted ones is the
    most probable. Source: arXiv 2401.10774, section 2.3.1; delta = sqrt(epsilon) by default.
    """

    name = "typical acceptance (lossy)"
    lossless = False

    def __init__(
        self, temperature: float, epsilon: float = 0.09, delta: float | None = None
    ) -> None:
        self.temperature = temperature
        self.epsilon = epsilon
        self.delta = epsilon**0.5 if delta is None else delta

    def choose(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=-1)

    def judge(self, proposal: Proposal, logits: Tensor) -> Accepted:
        layout = proposal.layout
        log_probs = torch.log_softmax(logits.float() / self.temperature, dim=-1)
        entropy = torch.special.entr(log_probs.exp()).sum(dim=-1)
        threshold = (self.delta * torch.exp(-entropy)).clamp(max=self.epsilon)
        drafted = proposal.tokens[:, 1:]
        at_parents = log_probs[:, layout.parent_nodes]
        drafted_log_probs = at_parents.gather(2, drafted.clamp(min=0)[..., None])[..., 0]
        accepts = (drafted_log_probs.exp() > threshold[:, layout.parent_nodes]) & (
            drafted != NO_TOKEN
        )
        # Of paths of the same length the most probable one.
        nodes = _deepest(accepts, layout, drafted_log_probs)
        rows = torch.arange(len(nodes), device=logits.device)
        return Accepted(nodes, logits[rows, nodes].argmax(dim=-1))


def _deepest(accepts: Tensor, layout: TreeLayout, log_probs: Tensor | None = None) -> Tensor:
    """The deepest node (b,) that is accepted (b, q - 1) with all its ancestors.

    Among equals the one whose path has the highest sum of log_probs (b, q - 1), or the first.
    """
    if layout.num_nodes == 1:
        return torch.zeros(len(accepts), dtype=torch.long, device=accepts.device)
    way = layout.ancestors[:, 1:].float()  # the root is always accepted
    reached = accepts.float() @ way.T == layout.depths
    score = torch.where(reached, layout.depths, -1).double()
    if log_probs is not None:
        total = log_probs.double().clamp(min=-1e4) @ way.double().T
        score = score + torch.where(reached, total, 0.0).exp().clamp(max=1) / 2
    return score.argmax(dim=-1)
