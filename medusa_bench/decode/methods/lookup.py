"""Prompt lookup: what followed the last few tokens where they stood before is proposed again."""

import torch

from medusa_bench.decode.engine.engine import Session
from medusa_bench.decode.engine.layout import TreeLayout
from medusa_bench.decode.engine.rules import NO_TOKEN, Proposal


class Lookup:
    """Proposes up to draft_len tokens from the text itself, on the CPU.

    The longest of the last max_ngram .. 1 tokens that occur earlier decide, at their latest
    occurrence. Source: Saxena, "Prompt Lookup Decoding", 2023.
    """

    name = "prompt lookup"

    def __init__(self, draft_len: int, *, max_ngram: int = 3) -> None:
        if min(draft_len, max_ngram) < 1:
            raise ValueError("a lookup proposes at least one token after at least one")
        self.draft_len, self.max_ngram = draft_len, max_ngram
        self.max_nodes = draft_len + 1

    def begin(self, session: Session) -> None:
        device = session.model.device
        self._chains = [TreeLayout.chain(length).to(device) for length in range(self.draft_len + 1)]

    def propose(self, session: Session) -> Proposal:
        found = [self.continuation(text) for text in session.texts]
        # A static step always has the same shape; otherwise no more rows than were found.
        length = self.draft_len if session.cache.static else max(map(len, found))
        padded = [tokens + [NO_TOKEN] * (length - len(tokens)) for tokens in found]
        drafted = torch.tensor(padded, dtype=torch.long, device=session.roots.device)
        tokens = torch.cat([session.roots[:, None], drafted.view(len(found), length)], dim=1)
        return Proposal(tokens, self._chains[length])

    def continuation(self, text: list[int]) -> list[int]:
        """What followed the end of text where it stood before; [] if it is new."""
        for size in range(min(self.max_ngram, len(text) - 1), 0, -1):
            end = text[-size:]
            for start in range(len(text) - size - 1, -1, -1):
                if text[start : start + size] == end:
                    return text[start + size : start + size + self.draft_len]
        return []

    def keep(self, rows: list[int]) -> None:
        """The texts are the session's."""
