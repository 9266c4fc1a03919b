"""The forward passes of one decoding step, and what they count. Knows no latency, no method.

A step proposes tokens (the drafting passes), runs them through the target model at once (the
verification), and keeps the longest accepted prefix.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import (
    BY_NAME,
    Operator,
    of_block,
    of_model,
    of_model_fused,
    weight_bytes,
)
from medusa_bench.specs.settings import Phase, Setting
from medusa_bench.specs.shapes import ModelShape


class Block(StrEnum):
    """How much of the model a pass counts.

    `paper`: the eight products of one layer of the target, as the paper's simulation; good for
    ratios. A draft counts its LM head there too: in a small one it is the largest product.
    `full`: all layers, W_O and the LM head; good for times. What Medusa's heads cost is counted in
    both where a method asks for it. `fused`: the same with attention as one kernel, which reads
    keys and values once and writes no scores.
    """

    PAPER = "paper"
    FULL = "full"
    FUSED = "fused"


class Kind(StrEnum):
    """What the tokens that a step verifies form."""

    ROOT = "root"  # vanilla decoding: nothing is drafted
    CHAIN = "chain"
    TREE = "tree"
    BLOCK = "block"  # a chain that one pass drafts


@dataclass(frozen=True, slots=True)
class Shape:
    """What a step drafts and verifies.

    num_candidates: tokens each sequence verifies, the root included. draft_len: tokens drafted in a
    chain or a block; drafting passes of a tree, None where no pass grows it. width: nodes that each
    pass of a tree but the first extends.
    """

    kind: Kind
    num_candidates: int
    draft_len: int | None = None
    width: int | None = None


ROOT = Shape(Kind.ROOT, 1)


def chain(draft_len: int) -> Shape:
    """One token after the other, each drafted by a pass or copied; one more is verified."""
    return Shape(Kind.CHAIN, draft_len + 1, draft_len)


def block(draft_len: int, num_candidates: int | None = None) -> Shape:
    """draft_len tokens at once, of which num_candidates - 1 are verified (all, unless fewer)."""
    return Shape(Kind.BLOCK, num_candidates or draft_len + 1, draft_len)


def tree(num_candidates: int, depth: int | None = None, width: int | None = None) -> Shape:
    """The num_candidates best nodes of a tree grown by `depth` passes over `width` nodes each.

    A tree as deep as it has drafted nodes is a chain.
    """
    if depth is not None and num_candidates <= depth + 1:
        return chain(num_candidates - 1)
    return Shape(Kind.TREE, num_candidates, depth, width)


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
    """`count` sequential passes of a drafting model, each over query_len tokens a sequence.

    window: cached tokens it attends to at most. beside: operators that a pass runs beside the
    model's layers and LM head, by name, each so many times.
    """

    shape: ModelShape
    count: int
    query_len: int = 1
    window: int | None = None
    beside: tuple[tuple[str, float], ...] = ()

    def run(self, target: ModelShape, batch_size: int, seq_len: int, block: Block) -> Pass:
        cached = min(seq_len, self.window or seq_len)
        setting = _setting(batch_size, cached, self.query_len)
        operators = _operators(self.shape, target, block, self.beside)
        return Pass("draft", self.shape, setting, self.count, operators)


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the table of methods, its shape chosen.

    looks_up: it drafts where it finds something, so not in every step; drafting_share: in how many,
    where that is known.
    """

    name: str
    shape: Shape
    drafts: tuple[Draft, ...] = ()
    medusa_heads: bool = False
    looks_up: bool = False
    drafting_share: float | None = None

    @property
    def num_candidates(self) -> int:
        return self.shape.num_candidates

    @property
    def draft_len(self) -> int | None:
        return self.shape.draft_len

    def step(
        self, target: ModelShape, batch_size: int, seq_len: int, block: Block = Block.PAPER
    ) -> tuple[Pass, ...]:
        """The forward passes of one step, in order; the last is the verification."""
        drafts = [
            each.run(target, batch_size, seq_len, block) for each in self.drafts if each.count
        ]
        verify = Pass(
            "verify" if self.num_candidates > 1 else "decode",
            target,
            _setting(batch_size, seq_len, self.num_candidates),
            1,
            _operators(target, target, block, _HEADS if self.medusa_heads else ()),
        )
        return (*drafts, verify)


_HEADS = (("medusa_block", 1.0), ("medusa_head", 1.0))


def _setting(batch_size: int, seq_len: int, query_len: int) -> Setting:
    if query_len == 1:
        return Setting(Phase.DECODE, batch_size, seq_len)
    return Setting(Phase.MEDUSA, batch_size, seq_len, query_len)


@cache
def _operators(
    shape: ModelShape, target: ModelShape, block: Block, beside: tuple[tuple[str, float], ...]
) -> tuple[tuple[Operator, float], ...]:
    # The paper's block is one layer of the target; a draft counts in the target's layers, so that
    # a shallow draft is as cheap beside it as it is in truth.
    match block:
        case Block.PAPER:
            counted = target.num_layers
            rows = [(op, count / counted) for op, count in of_block(shape)]
            if shape != target:
                rows.append((BY_NAME["lm_head"], 1 / counted))
        case Block.FULL | Block.FUSED:
            counted = 1
            found = of_model(shape) if block is Block.FULL else of_model_fused(shape)
            rows = [(op, float(count)) for op, count in found]
            rows.append((BY_NAME["lm_head"], 1.0))
    rows += [(BY_NAME[name], times / counted) for name, times in beside]
    return tuple(rows)


def all_reduced(shape: ModelShape, setting: Setting, dtype: Dtype) -> tuple[float, float]:
    """How many sums of how many bytes a pass of a tensor-parallel group takes.

    Two a layer, after the attention's or the state's output and after the MLP or the experts, where
    a layer has both; one more after the embedding. Logits are gathered beside: as one more, for the
    tokens that are decided on. Experts that are spread whole are summed alike: every GPU has every
    token, so none is sent to where its experts are.
    """
    tokens = setting.batch_size * setting.query_len
    width_bytes = max(2, dtype.bytes_per_element)  # activations stay in 16 bits
    mixers = min(shape.num_layers, shape.num_attention_layers + shape.num_recurrent_layers)
    widths = min(shape.num_layers, shape.num_mlp_layers + shape.num_expert_layers)
    return float(mixers + widths + 2), tokens * shape.hidden_size * width_bytes


def memory_bytes(target: ModelShape, batch_size: int, seq_len: int, dtype: Dtype) -> int:
    """What decoding must hold: every layer's weights, the LM head and the cached keys and values.

    Embeddings, activations, heads and drafts are left out: less than this does not suffice.
    """
    (decode,) = Method("vanilla", ROOT).step(target, batch_size, seq_len, Block.FULL)
    held = weight_bytes(target, dtype)
    for operator, times in decode.operators:
        if operator.reads_cache:
            product = operator.product(target, decode.setting)
            ((scheme, _),) = operator.formats(target)
            wide = scheme.bytes_per_weight if scheme else dtype.bytes_per_element
            held += product.batch * product.n * product.k * int(times) * wide
    return round(held)
