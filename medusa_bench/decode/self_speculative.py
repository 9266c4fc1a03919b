"""Self-speculative decoding: the target's own first layers are the draft."""

from torch import nn

from medusa_bench.decode.acceptance import Proposal
from medusa_bench.decode.engine import Session
from medusa_bench.decode.layout import TreeLayout
from medusa_bench.decode.model import DecoderModel
from medusa_bench.decode.speculative import Speculative


class SelfSpeculative(Speculative):
    """Drafts with the first `num_layers` layers, the final norm and the LM head.

    The draft shares the target's cache: for its layers the target computes the same keys and
    values, so that it needs no prefill, and verification overwrites what it wrote.
    """

    def __init__(
        self, model: nn.Module, num_layers: int, draft_len: int, *, compiled: bool = False
    ) -> None:
        draft = DecoderModel(model, num_layers=num_layers, compiled=compiled)
        super().__init__(draft, draft_len, name="self-speculative")

    def begin(self, session: Session) -> None:
        device = session.model.device
        self._chain = TreeLayout.chain(self.draft_len).to(device)
        self._one = TreeLayout.chain(0).to(device)

    def propose(self, session: Session) -> Proposal:
        return self._chain_from(session, session.cache, session.roots[:, None], self._one, 0)

    def keep(self, rows: list[int]) -> None:
        """The cache is the target's."""
