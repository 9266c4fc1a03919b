"""What is asked of a generation: the model, who takes part, on which text, and how."""

from dataclasses import dataclass
from pathlib import Path

from medusa_bench.specs.dtypes import Dtype

OVERHEAD_COUNTS = (1, 4, 8, 16, 32, 64)
DRAFT_LENS = (4,)
ACCURACY_NAME = "accuracy-paths.json"  # what `train` writes beside heads
_TURNS = 10  # timings of each number of candidates, in each round


@dataclass(frozen=True, slots=True)
class Request:
    """A model, the methods beside vanilla decoding, prompts, and how all of it is run.

    model: a folder, a GGUF file, OWNER/NAME or a package that carries one; with random weights a
    preset or a config. swept_on: a GPU or results folder whose latencies stand for the operators.
    """

    model: str
    random_weights: bool = False
    adapter: Path | None = None
    heads: str | None = None
    tree: str | None = None
    accuracy: str | None = None
    num_candidates: tuple[int, ...] = ()
    drafts: tuple[str, ...] = ()
    draft_lens: tuple[int, ...] = DRAFT_LENS
    self_draft: int | None = None
    lookup: bool = True
    acceptance: str = "paper"  # of random weights
    prompts: Path | None = None
    num_prompts: int = 8
    max_new_tokens: int = 64
    rounds: int = 3
    temperature: float = 0.0
    batch_size: int = 1
    seq_len: int = 128  # of random weights
    dtype: Dtype | None = None
    packing: str = "best"
    device: str = "cpu"
    attention: str | None = None
    compiled: bool = False
    seed: int = 0
    swept_on: str | None = None
    offline: bool = False

    @property
    def torch_dtype(self) -> Dtype:
        """What is computed in: float32 on a CPU, float16 elsewhere, if nothing else is asked."""
        return self.dtype or (Dtype.FLOAT32 if self.device == "cpu" else Dtype.FLOAT16)

    @property
    def attention_name(self) -> str:
        """grouped_sdpa copies no keys of grouped heads, and is the fastest on a CPU."""
        return self.attention or ("grouped_sdpa" if self.device == "cpu" else "sdpa")

    @property
    def num_turns(self) -> int:
        """How often each number of candidates is timed before generating."""
        return self.rounds * _TURNS
