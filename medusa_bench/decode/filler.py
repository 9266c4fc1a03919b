"""A method that proposes arbitrary tokens: what a step of so many candidates costs."""

import torch

from medusa_bench.decode.acceptance import NO_TOKEN, Proposal
from medusa_bench.decode.engine import Session
from medusa_bench.decode.layout import TreeLayout


class Filler:
    """Verifies num_candidates tokens and accepts none: overhead without heads or a draft."""

    def __init__(self, num_candidates: int) -> None:
        self.name = f"{num_candidates} candidates"
        self.max_nodes = num_candidates
        self.layout = TreeLayout([(rank,) for rank in range(num_candidates - 1)])

    def begin(self, session: Session) -> None:
        self.layout.to(session.model.device)

    def propose(self, session: Session) -> Proposal:
        roots = session.roots[:, None]
        nothing = torch.full_like(roots, NO_TOKEN).expand(-1, self.max_nodes - 1)
        return Proposal(torch.cat([roots, nothing], dim=1), self.layout)

    def keep(self, rows: list[int]) -> None:
        """Nothing is kept between steps."""
