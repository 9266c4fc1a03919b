"""Self-speculative decoding: the target's own first layers are the draft."""

from medusa_bench.decode.engine.engine import Session
from medusa_bench.decode.engine.layout import TreeLayout
from medusa_bench.decode.engine.model import DecoderModel
from medusa_bench.decode.engine.rules import Proposal
from medusa_bench.decode.methods.speculative import Speculative


class SelfSpeculative(Speculative):
    """Drafts with the target's first layers, the final norm and the LM head.

    `draft`: DecoderModel(model, num_layers=n) of the target's own model. It shares the target's
    cache: for its layers the target computes the same keys and values, so that it needs no
    prefill, and verification overwrites what it wrote.
    """

    def __init__(self, draft: DecoderModel, draft_len: int) -> None:
        super().__init__(draft, draft_len, name="self-speculative")

    def begin(self, session: Session) -> None:
        device = session.model.device
        self._chain = TreeLayout.chain(self.draft_len).to(device)
        self._one = TreeLayout.chain(0).to(device)

    def propose(self, session: Session) -> Proposal:
        return self._chain_from(session, session.cache, session.roots[:, None], self._one, 0)

    def keep(self, rows: list[int]) -> None:
        """The cache is the target's."""
