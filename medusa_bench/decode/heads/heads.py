"""Medusa heads: several tokens ahead, proposed from one hidden state of the backbone.

Head k (from 0) reads the hidden state that predicts token t + 1 and predicts token t + k + 2:
logits = W2 (SiLU(W1 h) + h), with W1 starting at 0 and W2 at the LM head, so that an untrained
head repeats the LM head. Source: arXiv 2401.10774, section 2.1.1.
"""

import torch
from torch import Tensor, nn

from medusa_bench.base.errors import MedusaBenchError


class MedusaHeads(nn.Module):
    """All heads at once: the blocks are one product, and so is the LM head they share.

    `num_heads` heads of `num_layers` residual blocks. `token_ids` (proposable,) restricts what they
    may propose; None is the whole vocabulary. `lm_head` (vocab, hidden_size) is the backbone's:
    shared and frozen, or with `own_lm_head` the start of one per head. `embedding`
    (vocab, hidden_size) of the backbone adds the embedding of the root token t + 1 to what the
    first block reads (as Hydra does, arXiv 2402.05109); without it the heads are Medusa's.
    """

    def __init__(
        self,
        num_heads: int,
        lm_head: Tensor,
        *,
        num_layers: int = 1,
        token_ids: Tensor | None = None,
        own_lm_head: bool = False,
        embedding: Tensor | None = None,
    ) -> None:
        super().__init__()
        vocab_size, hidden_size = lm_head.shape
        self.num_heads, self.num_layers = num_heads, num_layers
        self.hidden_size, self.vocab_size = hidden_size, vocab_size
        dtype, device = lm_head.dtype, lm_head.device
        # Every head's first block reads the same hidden state: one wide product.
        self.first = nn.Linear(hidden_size, num_heads * hidden_size, dtype=dtype, device=device)
        self.later_weights = nn.Parameter(
            torch.zeros(
                num_layers - 1, num_heads, hidden_size, hidden_size, dtype=dtype, device=device
            )
        )
        self.later_biases = nn.Parameter(
            torch.zeros(num_layers - 1, num_heads, 1, hidden_size, dtype=dtype, device=device)
        )
        nn.init.zeros_(self.first.weight)
        nn.init.zeros_(self.first.bias)
        self.token_ids: Tensor | None
        self.register_buffer("token_ids", token_ids, persistent=False)
        rows = lm_head.detach() if token_ids is None else lm_head.detach()[token_ids]
        self.lm_head: nn.Linear | None = None
        self.own_lm_heads: nn.Parameter | None = None
        if own_lm_head:
            self.own_lm_heads = nn.Parameter(rows.repeat(num_heads, 1, 1))
        else:
            self.lm_head = nn.Linear(hidden_size, len(rows), bias=False, device="meta")
            self.lm_head.weight = nn.Parameter(rows, requires_grad=False)
        self.from_root: nn.Linear | None = None
        self.embedding: Tensor | None
        self.register_buffer(
            "embedding", None if embedding is None else embedding.detach(), persistent=False
        )
        if embedding is not None:
            self.from_root = nn.Linear(
                hidden_size, num_heads * hidden_size, bias=False, dtype=dtype, device=device
            )
            nn.init.zeros_(self.from_root.weight)
        self.notes: tuple[str, ...] = ()  # in words, what a reader of the file should know

    @property
    def num_proposable(self) -> int:
        """How many tokens a head can propose: the most ranks that `top` gives."""
        return self.vocab_size if self.token_ids is None else len(self.token_ids)

    @property
    def reads_root(self) -> bool:
        """Whether the heads read the root token too; then `root_ids` must be given."""
        return self.from_root is not None

    def features(self, hidden: Tensor, root_ids: Tensor | None = None) -> Tensor:
        """What the LM head reads: (num_heads, rows, hidden_size). See `forward`."""
        out = self.first(hidden)
        if self.from_root is not None:
            assert self.embedding is not None
            if root_ids is None:
                raise ValueError("these heads read the root token: give root_ids")
            out = out + self.from_root(self.embedding[root_ids].to(hidden.dtype))
        rows = hidden.shape[0]
        out = out.view(rows, self.num_heads, self.hidden_size).transpose(0, 1)
        out = hidden + nn.functional.silu(out)
        for weight, bias in zip(self.later_weights, self.later_biases, strict=True):
            out = out + nn.functional.silu(torch.baddbmm(bias, out, weight.transpose(1, 2)))
        return out

    def forward(self, hidden: Tensor, root_ids: Tensor | None = None) -> Tensor:
        """Logits (num_heads, rows, proposable), columns in the order of `token_ids`.

        hidden: (rows, hidden_size), as the LM head reads it (after the final norm). root_ids:
        (rows,), the token t + 1 that was chosen from it, needed where `reads_root`.
        """
        features = self.features(hidden, root_ids)
        if self.own_lm_heads is not None:
            return torch.bmm(features, self.own_lm_heads.transpose(1, 2))
        assert self.lm_head is not None
        logits: Tensor = self.lm_head(features)
        return logits

    def top(
        self, hidden: Tensor, max_rank: int, root_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The best max_rank tokens of each head and their log-probabilities, best first.

        Both (num_heads, rows, max_rank). Raises MedusaBenchError where the heads cannot propose
        that many: a further rank is never the next head's token.
        """
        if not 1 <= max_rank <= self.num_proposable:
            raise MedusaBenchError(
                f"The tree asks a head for its guess of rank {max_rank}, but these heads "
                f"propose {self.num_proposable} tokens.",
                hint="use a tree whose ranks are smaller.",
            )
        logits = self.forward(hidden, root_ids).float()
        values, columns = logits.topk(max_rank, dim=-1)
        log_probs = values - logits.logsumexp(dim=-1, keepdim=True)
        token_ids = columns if self.token_ids is None else self.token_ids[columns]
        return token_ids, log_probs
