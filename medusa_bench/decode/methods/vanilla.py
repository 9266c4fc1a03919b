"""Vanilla decoding: one token a step, nothing proposed."""

from medusa_bench.decode.engine.engine import Session
from medusa_bench.decode.engine.layout import TreeLayout
from medusa_bench.decode.engine.rules import Proposal


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
