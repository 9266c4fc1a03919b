"""Which pass over how many tokens: phases, settings, and the paper's grid of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from medusa_bench.specs.paper_grid import PAPER_BATCH_SIZES, PAPER_NUM_CANDIDATES, PAPER_SEQ_LENS

# The candidates that every command tries unless told otherwise: large batches want few.
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


class Phase(StrEnum):
    """The three passes the paper's appendix measures. They differ only in `query_len`."""

    PREFILL = "prefill"
    DECODE = "decode"
    MEDUSA = "medusa"


@dataclass(frozen=True, slots=True)
class Setting:
    """One forward pass: batch_size sequences with seq_len cached tokens each.

    num_candidates counts the tokens that one Medusa pass verifies, the root included; it is 1 in
    the other phases. The keys and values a pass attends to number seq_len, not seq_len +
    query_len: that is how the paper counts (its 168 intensities come out exactly so).
    """

    phase: Phase
    batch_size: int
    seq_len: int
    num_candidates: int = 1

    def __post_init__(self) -> None:
        if min(self.batch_size, self.seq_len, self.num_candidates) < 1:
            raise ValueError(f"a setting's sizes are at least 1: {self}")
        if self.phase is not Phase.MEDUSA and self.num_candidates != 1:
            raise ValueError(f"only a Medusa pass has candidates: {self}")

    @property
    def query_len(self) -> int:
        """Tokens each sequence puts through the block in this pass."""
        match self.phase:
            case Phase.PREFILL:
                return self.seq_len
            case Phase.DECODE:
                return 1
            case Phase.MEDUSA:
                return self.num_candidates


def settings(
    phases: Sequence[Phase] = tuple(Phase),
    batch_sizes: Sequence[int] = PAPER_BATCH_SIZES,
    seq_lens: Sequence[int] = PAPER_SEQ_LENS,
    num_candidates: Sequence[int] = PAPER_NUM_CANDIDATES,
) -> Iterator[Setting]:
    """Every setting of a grid, phase by phase; the defaults are the paper's."""
    for phase in phases:
        for batch_size in batch_sizes:
            for seq_len in seq_lens:
                for count in num_candidates if phase is Phase.MEDUSA else (1,):
                    yield Setting(phase, batch_size, seq_len, count)
