"""Vanilla decoding: one token a step, nothing proposed."""

from medusa_bench.decode.acceptance import Proposal
from medusa_bench.decode.engine import Session
from medusa_bench.decode.layout import TreeLayout


class Vanilla:
    """The baseline: the root alone is verified."""

    name = "vanilla"
    max_nodes = 1

    def begin(self, session: Session) -> None:
        self._layout = TreeLayout([]).to(session.model.device)

    def propose(self, session: Session) -> Proposal:
        return Proposal(session.roots[:, None], self._layout)

    def keep(self, rows: list[int]) -> None:
        """Nothing is kept between steps."""
