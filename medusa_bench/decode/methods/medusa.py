"""Medusa decoding: heads on the last hidden state propose a tree of tokens."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.decode.engine.engine import Session
from medusa_bench.decode.engine.layout import TreeLayout
from medusa_bench.decode.engine.rules import Proposal


class Heads(Protocol):
    """What Medusa decoding asks of heads; decode/heads.py has them."""

    @property
    def num_heads(self) -> int: ...

    @property
    def num_proposable(self) -> int:
        """The most ranks a head can give."""
        ...

    @property
    def reads_root(self) -> bool:
        """Whether root_ids must be given."""
        ...

    def top(
        self, hidden: Tensor, max_rank: int, root_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Token ids and log-probabilities, each (num_heads, rows, max_rank), best first."""
        ...


class Medusa:
    """Fills a fixed tree: a node of depth k and rank r is the r-th guess of head k.

    Raises MedusaBenchError where the tree asks for a head or a rank that the heads do not give.
    """

    name = "medusa"

    def __init__(self, heads: Heads, paths: Sequence[Sequence[int]]) -> None:
        self.heads = heads
        self._layout = TreeLayout(paths)
        self.max_nodes = self._layout.num_nodes
        if self._layout.max_depth > heads.num_heads:
            raise MedusaBenchError(
                f"The tree is {self._layout.max_depth} tokens deep, but there are "
                f"{heads.num_heads} heads.",
                hint="use a tree of fewer levels, or heads that look further ahead.",
            )
        self._max_rank = max(self._layout.max_ranks, default=0)
        if self._max_rank > heads.num_proposable:
            raise MedusaBenchError(
                f"The tree asks a head for its guess number {self._max_rank}, but these heads "
                f"propose {heads.num_proposable} tokens.",
                hint="use a tree whose ranks are smaller.",
            )

    def begin(self, session: Session) -> None:
        self._layout.to(session.model.device)

    def propose(self, session: Session) -> Proposal:
        layout = self._layout
        roots = session.roots[:, None]
        if layout.num_nodes == 1:
            return Proposal(roots, layout)
        root_ids = session.roots if self.heads.reads_root else None
        guesses, _ = self.heads.top(session.hidden, self._max_rank, root_ids)
        drafted = guesses[layout.depths[1:] - 1, :, layout.ranks[1:]].T
        return Proposal(torch.cat([roots, drafted], dim=1), layout)

    def keep(self, rows: list[int]) -> None:
        """Nothing is kept between steps."""
