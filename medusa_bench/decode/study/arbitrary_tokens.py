"""A method that proposes arbitrary tokens: what a step of so many candidates costs."""

from collections.abc import Sequence
from itertools import cycle

import torch

from medusa_bench.decode.engine.engine import Session
from medusa_bench.decode.engine.layout import TreeLayout
from medusa_bench.decode.engine.rules import NO_TOKEN, Proposal


def star(num_candidates: int) -> TreeLayout:
    """A root, and the other candidates as its children."""
    return TreeLayout([(rank,) for rank in range(num_candidates - 1)])


class Filler:
    """Verifies so many tokens a step, the counts in turn, and accepts none: overhead without heads
    or a draft."""

    name = "filler"

    def __init__(self, counts: Sequence[int]) -> None:
        self.max_nodes = max(counts)
        self._layouts = {count: star(count) for count in counts}
        self._next_count = cycle(counts)

    def begin(self, session: Session) -> None:
        for layout in self._layouts.values():
            layout.to(session.model.device)

    def propose(self, session: Session) -> Proposal:
        layout = self._layouts[next(self._next_count)]
        roots = session.roots[:, None]
        nothing = torch.full_like(roots, NO_TOKEN).expand(-1, layout.num_nodes - 1)
        return Proposal(torch.cat([roots, nothing], dim=1), layout)

    def keep(self, rows: list[int]) -> None:
        """Nothing is kept between steps."""
