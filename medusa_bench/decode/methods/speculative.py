"""Speculative decoding: a smaller model of the same tokenizer proposes a chain of tokens."""

import torch
from torch import Tensor

from medusa_bench.decode.engine.cache import SlabCache
from medusa_bench.decode.engine.engine import Session
from medusa_bench.decode.engine.layout import TreeLayout
from medusa_bench.decode.engine.model import DecoderModel
from medusa_bench.decode.engine.rules import Proposal, Rejection


class Speculative:
    """Proposes draft_len tokens, one draft pass each, from a draft model with its own cache."""

    def __init__(self, draft: DecoderModel, draft_len: int, *, name: str = "speculative") -> None:
        if draft_len < 1:
            raise ValueError("a draft proposes at least one token")
        self.name = name
        self.draft = draft
        self.draft_len = draft_len
        self.max_nodes = draft_len + 1
        self._cache: SlabCache | None = None

    def begin(self, session: Session) -> None:
        device = self.draft.device
        self._chain = TreeLayout.chain(self.draft_len).to(session.model.device)
        self._one, self._two = (TreeLayout.chain(length).to(device) for length in (0, 1))
        prompts = [text[:-1] for text in session.texts]
        self._cache = self.draft.new_cache(len(prompts), session.cache.capacity)
        self.draft.prefill(self._cache, [self._known(prompt) for prompt in prompts])

    def propose(self, session: Session) -> Proposal:
        cache = self._cache
        assert cache is not None
        cache.lengths = list(session.cache.lengths)
        # Where a whole draft was accepted, its last token has not passed through the draft yet.
        behind = any(count == self.draft_len for count in session.accepted)
        if behind:
            pairs = [self._known(text[-2:]) for text in session.texts]
            first = torch.tensor(pairs, device=self.draft.device)
            layout, offset = self._two, -1
        else:
            first, layout, offset = session.roots[:, None], self._one, 0
        return self._chain_from(session, cache, first, layout, offset)

    def _chain_from(
        self, session: Session, cache: SlabCache, first: Tensor, layout: TreeLayout, offset: int
    ) -> Proposal:
        """Draft one token after another; `first` (b, 1 or 2) ends with the root."""
        vocab_size = session.model.vocab_size
        tokens, probs = [session.roots], []
        feed = self._embeddable(first)
        for position in range(self.draft_len):
            _, logits = self.draft.step(
                cache, feed, layout, offset=offset, first_row=layout.num_nodes - 1
            )
            last = logits[:, -1, :vocab_size]
            if isinstance(session.rule, Rejection):
                drawn_from = session.rule.probs(last)
                token = session.rule.sample(drawn_from)
                missing = vocab_size - drawn_from.shape[-1]
                probs.append(torch.nn.functional.pad(drawn_from, (0, missing)))
            else:
                token = last.argmax(dim=-1)
            tokens.append(token)
            feed, layout, offset = token[:, None], self._one, position + 1
        return Proposal(
            torch.stack(tokens, dim=1), self._chain, torch.stack(probs, dim=1) if probs else None
        )

    def keep(self, rows: list[int]) -> None:
        assert self._cache is not None
        self._cache.keep(rows)

    def _known(self, tokens: list[int]) -> list[int]:
        """Tokens of the target that the draft's smaller vocabulary lacks become token 0."""
        return [token if token < self.draft.vocab_size else 0 for token in tokens]

    def _embeddable(self, tokens: Tensor) -> Tensor:
        return tokens.masked_fill(tokens >= self.draft.vocab_size, 0)
