"""Decoding methods: each is the list of forward passes of one step. Knows no latency.

A step proposes tokens (the drafts), runs them through the target model at once (the
verification), and keeps the longest accepted prefix. Vanilla, Medusa, a draft model, EAGLE,
prompt lookup and the rest differ in a few numbers, so they are rows of one record.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache

from medusa_bench.compare import acceptance
from medusa_bench.compare.acceptance import AcceptanceModel
from medusa_bench.results.rows import Provenance
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import ModelShape
from medusa_bench.specs.operators import BY_NAME, OPERATORS, Operator
from medusa_bench.specs.settings import SIZES, Phase, Setting


class Block(StrEnum):
    """How much of the model a pass counts.

    `paper`: the eight products of one layer of the target, as the paper's simulation; good for
    ratios. A draft counts its LM head there too: in a small one it is the largest product.
    `full`: all layers, W_O and the LM head; good for times. What Medusa's heads cost is counted in
    both where a method asks for it.
    """

    PAPER = "paper"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Pass:
    """`count` forward passes, one after the other, each of these operators so many times."""

    name: str
    shape: ModelShape
    setting: Setting
    count: int
    operators: tuple[tuple[Operator, float], ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """`count` sequential passes of a drafting model, each over query_len tokens a sequence."""

    shape: ModelShape
    count: int
    query_len: int = 1


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the table of methods, its sizes filled in.

    num_candidates: tokens each sequence verifies in a step, the root included. draft_len: tokens
    drafted in a chain, where that is what the method drafts.
    """

    name: str
    num_candidates: int = 1
    drafts: tuple[Draft, ...] = ()
    medusa_heads: bool = False
    draft_len: int | None = None

    def step(
        self, target: ModelShape, batch_size: int, seq_len: int, block: Block = Block.PAPER
    ) -> tuple[Pass, ...]:
        """The forward passes of one step, in order; the last is the verification."""
        drafts = [
            Pass(
                "draft",
                draft.shape,
                _setting(batch_size, seq_len, draft.query_len),
                draft.count,
                _operators(draft.shape, target, block),
            )
            for draft in self.drafts
            if draft.count
        ]
        verify = Pass(
            "verify" if self.num_candidates > 1 else "decode",
            target,
            _setting(batch_size, seq_len, self.num_candidates),
            1,
            _operators(target, target, block, medusa_heads=self.medusa_heads),
        )
        return (*drafts, verify)


def _setting(batch_size: int, seq_len: int, query_len: int) -> Setting:
    if query_len == 1:
        return Setting(Phase.DECODE, batch_size, seq_len)
    return Setting(Phase.MEDUSA, batch_size, seq_len, query_len)


@cache
def _operators(
    shape: ModelShape, target: ModelShape, block: Block, *, medusa_heads: bool = False
) -> tuple[tuple[Operator, float], ...]:
    # The paper's block is one layer of the target; a draft counts in the target's layers, so that
    # a shallow draft is as cheap beside it as it is in truth.
    match block:
        case Block.PAPER:
            layers = shape.num_layers / target.num_layers
            rows = [(operator, layers) for operator in OPERATORS]
            once = 1 / target.num_layers
            if shape != target:
                rows.append((BY_NAME["lm_head"], once))
        case Block.FULL:
            layers = float(shape.num_layers)
            rows = [(operator, layers) for operator in OPERATORS]
            rows += [(BY_NAME["o"], layers), (BY_NAME["lm_head"], 1.0)]
            once = 1.0
    if medusa_heads:
        rows += [(BY_NAME["medusa_block"], once), (BY_NAME["medusa_head"], once)]
    return tuple(rows)


def memory_bytes(target: ModelShape, batch_size: int, seq_len: int, dtype: Dtype) -> int:
    """What decoding must hold: every layer's weights, the LM head and the cached keys and values.

    Embeddings, activations, heads and drafts are left out: less than this does not suffice.
    """
    (decode,) = vanilla().step(target, batch_size, seq_len, Block.FULL)
    products = [(op.product(target, decode.setting), times) for op, times in decode.operators]
    held = sum(product.batch * product.n * product.k * int(times) for product, times in products)
    return held * dtype.bytes_per_element


# --- the rows -------------------------------------------------------------------------------------


def vanilla() -> Method:
    """One token a step."""
    return Method("vanilla")


def medusa(num_candidates: int, *, heads: bool = False) -> Method:
    """A tree of candidates from extra heads. heads: count what the heads themselves cost, over
    every candidate, as the reference implementation runs them."""
    return Method("medusa", num_candidates, medusa_heads=heads)


def draft_model(shape: ModelShape, draft_len: int) -> Method:
    """Speculative decoding: a small model drafts a chain. Source: Leviathan et al., 2023."""
    return Method("draft-model", draft_len + 1, (Draft(shape, draft_len),), draft_len=draft_len)


def eagle(target: ModelShape, num_candidates: int, depth: int, width: int, name: str) -> Method:
    """A tree grown by `depth` passes of one layer of the target, over `width` nodes each."""
    layer = replace(target, name=f"{target.name} layer", num_layers=1)
    passes = (Draft(layer, 1), Draft(layer, depth - 1, width))
    return Method(name, num_candidates, passes)


def prompt_lookup(draft_len: int) -> Method:
    """Copies what followed the same words before (n-gram, suffix): drafts on the CPU."""
    return Method("prompt-lookup", draft_len + 1, draft_len=draft_len)


def lookahead(window: int, ngram: int, guesses: int) -> Method:
    """Jacobi windows and n-gram guesses in the verification itself: (W + G)(N - 1) tokens."""
    return Method("lookahead", (window + guesses) * (ngram - 1))


def mtp(target: ModelShape, draft_len: int) -> Method:
    """Multi-token prediction: a one-layer module run draft_len times, as in DeepSeek-V3."""
    return eagle_chain(target, draft_len, "mtp")


def eagle_chain(target: ModelShape, draft_len: int, name: str) -> Method:
    """EAGLE with top-k 1, a chain: what engines draft whose draft length can be scheduled."""
    layer = replace(target, name=f"{target.name} layer", num_layers=1)
    return Method(name, draft_len + 1, (Draft(layer, draft_len),), draft_len=draft_len)


def self_speculative(target: ModelShape, draft_len: int, kept_layers: float) -> Method:
    """The target drafts with a share of its own layers (early exit, skipped layers)."""
    kept = replace(
        target,
        name=f"{target.name}, {kept_layers:.0%} of layers",
        num_layers=max(1, round(kept_layers * target.num_layers)),
    )
    return Method("self-speculative", draft_len + 1, (Draft(kept, draft_len),), draft_len=draft_len)


def block_diffusion(target: ModelShape, block_len: int, draft_layers: int) -> Method:
    """A block drafted in one pass by a few layers (DFlash): block_len tokens are verified."""
    layers = replace(target, name=f"{target.name} diffusion draft", num_layers=draft_layers)
    return Method(
        "block-diffusion", block_len, (Draft(layers, 1, block_len),), draft_len=block_len - 1
    )


def parallel_draft(shape: ModelShape, draft_len: int, name: str) -> Method:
    """draft_len tokens drafted in one pass over as many mask tokens (PARD, P-EAGLE)."""
    return Method(name, draft_len + 1, (Draft(shape, 1, draft_len),), draft_len=draft_len)


@dataclass(frozen=True, slots=True)
class Row:
    """How a method is offered on the command line: its sizes swept, and what it accepts unless
    told otherwise."""

    summary: str
    make: Callable[[ModelShape, ModelShape, int], Method]  # target, draft, size
    sizes: tuple[int, ...]  # candidates, or drafted tokens
    acceptance: AcceptanceModel | None  # None: no published figure to fall back on
    size_is_draft_len: bool = False
    uses_draft_model: bool = False
    served_by: tuple[str, ...] = ()  # engines that run it today, by their sources of late 2026


# Spec-Bench (github.com/hemingkx/Spec-Bench), Vicuna-7B on an A100: tokens a step as published.
_SPEC_BENCH = ", Spec-Bench, Vicuna-7B"

METHODS: Mapping[str, Row] = {
    "vanilla": Row("one token a step", lambda t, d, n: vanilla(), (1,), acceptance.Constant(1.0)),
    "medusa": Row(
        "extra heads, a tree of candidates",
        lambda t, d, n: medusa(n),
        SIZES,
        acceptance.PAPER,
        served_by=("text-generation-inference",),
    ),
    "draft-model": Row(
        "a small model drafts a chain",
        lambda t, d, n: draft_model(d, n),
        tuple(range(1, 16)),
        # Gives Spec-Bench's 2.28 tokens a step (a 68M draft) if its drafts are 5 tokens long.
        acceptance.Chain(
            0.578, ", assumed from Spec-Bench's 2.28 tokens a step", Provenance.REPORTED
        ),
        size_is_draft_len=True,
        uses_draft_model=True,
        served_by=("vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers"),
    ),
    "eagle-1": Row(
        "one layer drafts a tree, 5 passes",
        lambda t, d, n: eagle(t, n, depth=5, width=4, name="eagle-1"),
        (26,),
        None,
        served_by=("vllm", "sglang"),
    ),
    "eagle-2": Row(
        "one layer drafts a tree by confidence, 6 passes",
        lambda t, d, n: eagle(t, n, depth=6, width=10, name="eagle-2"),
        (60,),
        acceptance.Constant(4.34, _SPEC_BENCH),
        served_by=("vllm", "sglang"),
    ),
    "eagle-3": Row(
        "as EAGLE-2 with features of three depths, 8 passes",
        lambda t, d, n: eagle(t, n, depth=8, width=10, name="eagle-3"),
        (60,),
        None,
        served_by=("vllm", "sglang", "tensorrt-llm", "llama.cpp"),
    ),
    "prompt-lookup": Row(
        "copies from the prompt",
        lambda t, d, n: prompt_lookup(n),
        (10,),
        acceptance.Constant(1.75, _SPEC_BENCH),
        size_is_draft_len=True,
        served_by=("vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers"),
    ),
    "lookahead": Row(
        "Jacobi windows, (7 + 7)(5 - 1) tokens",
        lambda t, d, n: replace(lookahead(7, 5, 7), num_candidates=n),
        (56,),
        acceptance.Constant(1.64, _SPEC_BENCH),
    ),
    "mtp": Row(
        "a one-layer module drafts a chain",
        lambda t, d, n: mtp(t, n),
        (1, 2, 3),
        # DeepSeek-V3 reports that 85 to 90 % of second tokens are accepted.
        acceptance.Chain(0.85, ", DeepSeek-V3's lower figure", Provenance.REPORTED),
        size_is_draft_len=True,
        served_by=("vllm", "sglang", "tensorrt-llm", "llama.cpp"),
    ),
    "self-speculative": Row(
        "half of the target's own layers draft a chain",
        lambda t, d, n: self_speculative(t, n, 0.5),
        tuple(range(1, 9)),
        None,
        size_is_draft_len=True,
    ),
    "block-diffusion": Row(
        "five layers draft a block in one pass",
        lambda t, d, n: block_diffusion(t, n, draft_layers=5),
        (16,),
        None,
        served_by=("vllm", "sglang", "tensorrt-llm", "llama.cpp"),
    ),
}
