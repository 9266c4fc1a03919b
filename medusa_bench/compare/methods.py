"""The table of decoding methods: who drafts, in which shapes, what is accepted, who serves it.

Vanilla, Medusa, a draft model, EAGLE, prompt lookup and the rest differ in a few words, so each is
one row of METHODS; simulation, schedules, scores and help texts read it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from medusa_bench.base.errors import MedusaBenchError, UnknownNameError
from medusa_bench.compare import acceptance
from medusa_bench.compare.acceptance import AcceptanceModel
from medusa_bench.compare.passes import ROOT, Draft, Kind, Method, Shape, block, chain, tree
from medusa_bench.results.rows import Provenance
from medusa_bench.specs.settings import SIZES
from medusa_bench.specs.shapes import ModelShape


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of sizes and drafters; None for what is usual.

    num_candidates: verified tokens, the root included, of trees and blocks. draft_len: drafted
    tokens of chains and blocks, drafting passes of a tree. tree_width: nodes that a pass extends.
    draft_layers, draft_vocab: of a drafter that is made for its target. kept_layers: the share that
    a self-speculative draft runs. draft_window: cached tokens that a drafter attends to.
    drafting_share: of steps in which a lookup finds something. heads: count what Medusa's cost.
    """

    num_candidates: Sequence[int] | None = None
    draft_len: Sequence[int] | None = None
    tree_width: int | None = None
    draft_layers: int | None = None
    draft_vocab: int | None = None
    kept_layers: float | None = None
    draft_window: int | None = None
    drafting_share: float | None = None
    heads: bool | None = None


USUAL = Asked()


@dataclass(frozen=True, slots=True)
class Drafting:
    """What a drafter is made from. draft: the draft model, the target itself where none is."""

    target: ModelShape
    draft: ModelShape
    shape: Shape
    asked: Asked = USUAL


Drafter = Callable[[Drafting], tuple[Draft, ...]]


# --- drafters -------------------------------------------------------------------------------------


def _nothing(_: Drafting) -> tuple[Draft, ...]:
    """Drafted by heads in the verification, or on the CPU."""
    return ()


def _passes(each: Draft, shape: Shape) -> tuple[Draft, ...]:
    """A chain's passes over one token, or a tree's: the first over the root, the others wide."""
    depth = shape.draft_len or 0
    if shape.width is None:
        return (replace(each, count=depth),)
    return (replace(each, count=1), replace(each, count=depth - 1, query_len=shape.width))


def _draft_model(of: Drafting) -> tuple[Draft, ...]:
    return _passes(Draft(of.draft, 1, window=of.asked.draft_window), of.shape)


def _own_layers(of: Drafting, name: str, num_layers: int, vocab_size: int) -> ModelShape:
    """Plain layers of the target's hidden size, trained to draft for it."""
    layers = of.target.plain_layers(of.asked.draft_layers or num_layers, f"{of.target.name} {name}")
    return replace(layers, vocab_size=of.asked.draft_vocab or vocab_size, num_medusa_heads=1)


# One product of hidden x hidden: what joins features and embeddings is made of those.
_SQUARE = "medusa_block"


def _eagle(of: Drafting) -> tuple[Draft, ...]:
    """One layer over the last feature and the next embedding, which a product joins."""
    layer = _own_layers(of, "EAGLE layer", 1, of.target.vocab_size)
    return _passes(Draft(layer, 1, beside=((_SQUARE, 2),)), of.shape)


# Source: draft_vocab_size in the published checkpoints for Llama 3 and Qwen3.
_EAGLE_3_VOCAB = 32_000


def _eagle_3(of: Drafting) -> tuple[Draft, ...]:
    """One layer that attends from features and embeddings side by side, of a smaller vocabulary.

    The features of three depths are joined once, before the first pass.
    """
    vocab_size = min(of.target.vocab_size, _EAGLE_3_VOCAB)
    layer = _own_layers(of, "EAGLE-3 layer", 1, vocab_size)
    twice_as_wide = (("q", 1), ("k", 1), ("v", 1))
    first, *others = _passes(Draft(layer, 1, beside=twice_as_wide), of.shape)
    joins = replace(first, count=1, beside=(*twice_as_wide, (_SQUARE, 3)))
    return (joins, replace(first, count=first.count - 1), *others)


def _mtp(of: Drafting) -> tuple[Draft, ...]:
    """DeepSeek-V3's module, a whole layer of the target, run again for each token."""
    layer = of.target.of_depth(of.asked.draft_layers or 1, f"{of.target.name} MTP layer")
    vocab_size = of.asked.draft_vocab or of.target.vocab_size
    layer = replace(layer, vocab_size=vocab_size, num_medusa_heads=1)
    return _passes(Draft(layer, 1, beside=((_SQUARE, 2),)), of.shape)


def _hydra(of: Drafting) -> tuple[Draft, ...]:
    """A head after the other, each over what the one before drafted. Source: Ankner et al., 2024,
    whose heads are four."""
    head = replace(of.target.plain_layers(0, "Hydra head"), num_medusa_heads=1)
    width = max(1, (of.shape.num_candidates - 1) // _HYDRA_HEADS)
    return (Draft(head, _HYDRA_HEADS, width, beside=((_SQUARE, 2),)),)


_HYDRA_HEADS = 4


def _block(num_layers: int) -> Drafter:
    """A few layers of the target's kind over a block of masks, the root first (DFlash)."""

    def drafts(of: Drafting) -> tuple[Draft, ...]:
        layers = _own_layers(of, "drafting layers", num_layers, of.target.vocab_size)
        return (Draft(layers, 1, (of.shape.draft_len or 0) + 1),)

    return drafts


def _p_eagle(of: Drafting) -> tuple[Draft, ...]:
    """Four layers that draft all tokens in one pass."""
    layers = _own_layers(of, "P-EAGLE layers", 4, of.target.vocab_size)
    return (Draft(layers, 1, of.shape.draft_len or 1),)


def _pard(of: Drafting) -> tuple[Draft, ...]:
    """A draft model over as many masks as it drafts tokens."""
    return (Draft(of.draft, 1, of.shape.draft_len or 1, of.asked.draft_window),)


def _self_speculative(of: Drafting) -> tuple[Draft, ...]:
    """The target with a share of its layers (early exit), or of its cache (a window)."""
    window = of.asked.draft_window
    share = of.asked.kept_layers or (1.0 if window else 0.5)
    kept = of.target.of_depth(
        max(1, round(share * of.target.num_layers)), f"{of.target.name}, {share:.0%} of layers"
    )
    return _passes(Draft(kept, 1, window=window), of.shape)


# --- rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One method. shapes: those swept unless told otherwise, by kind, the usual kind first.

    takes: what can be asked of it, beside the sizes of its shapes. acceptance: None where no
    published figure can be fallen back on. served_by: engines that run it, and its name there, by
    their sources of late 2026.
    """

    summary: str
    shapes: Mapping[Kind, Sequence[Shape]]
    acceptance: AcceptanceModel | None
    drafts: Drafter = _nothing
    takes: frozenset[str] = frozenset()
    uses_draft_model: bool = False
    looks_up: bool = False
    needs_mtp_layers: bool = False
    served_by: Mapping[str, str] | None = None

    @property
    def options(self) -> frozenset[str]:
        """The fields of Asked that act on it."""
        found = set(self.takes)
        for kind, shapes in self.shapes.items():
            grown = kind is Kind.TREE and shapes[0].draft_len is not None
            if kind in {Kind.CHAIN, Kind.BLOCK} or grown:
                found.add("draft_len")
            if kind in {Kind.TREE, Kind.BLOCK}:
                found.add("num_candidates")
            if grown:
                found.add("tree_width")
        return frozenset(found)

    @property
    def needs_draft_weights(self) -> bool:
        """Whether weights beside the target's draft: a model's, or layers trained for it."""
        return self.uses_draft_model or ("draft_layers" in self.takes and not self.needs_mtp_layers)

    @property
    def engines(self) -> Mapping[str, str]:
        return self.served_by or {}


def _chains(first: int, last: int) -> Mapping[Kind, Sequence[Shape]]:
    return {Kind.CHAIN: [chain(draft_len) for draft_len in range(first, last + 1)]}


def _blocks(draft_len: int, *num_candidates: int) -> Mapping[Kind, Sequence[Shape]]:
    return {Kind.BLOCK: [block(draft_len, each) for each in num_candidates or (draft_len + 1,)]}


def _trees(*num_candidates: int) -> Mapping[Kind, Sequence[Shape]]:
    """Of heads, or of none: no pass grows them."""
    return {Kind.TREE: [tree(each) for each in num_candidates]}


def _grown(num_candidates: int, depth: int, width: int) -> Mapping[Kind, Sequence[Shape]]:
    """EAGLE's tree as it is set by default, and its chains (top-k 1), which engines schedule."""
    return {Kind.TREE: [tree(num_candidates, depth, width)], **_chains(1, 15)}


_OWN = frozenset({"draft_layers", "draft_vocab"})
# Spec-Bench (github.com/hemingkx/Spec-Bench), Vicuna-7B on an A100: tokens a step as published.
_SPEC_BENCH = ", Spec-Bench, Vicuna-7B"

METHODS: Mapping[str, Row] = {
    "vanilla": Row("one token a step", {Kind.ROOT: [ROOT]}, acceptance.Constant(1.0)),
    "medusa": Row(
        "extra heads, a tree of candidates",
        _trees(*SIZES),
        acceptance.PAPER,
        takes=frozenset({"heads"}),
        served_by={"text-generation-inference": "medusa"},
    ),
    "hydra": Row("heads that see each other's tokens, a tree", _trees(64), None, _hydra),
    "draft-model": Row(
        "a small model drafts a chain",
        _chains(1, 15),
        # Gives Spec-Bench's 2.28 tokens a step (a 68M draft) if its drafts are 5 tokens long.
        acceptance.Chain(
            0.578, ", assumed from Spec-Bench's 2.28 tokens a step", Provenance.REPORTED
        ),
        _draft_model,
        frozenset({"draft_window"}),
        uses_draft_model=True,
        served_by={
            "vllm": "draft_model",
            "sglang": "STANDALONE",
            "tensorrt-llm": "Draft_Target",
            "llama.cpp": "draft-simple",
            "transformers": "assistant_model",
        },
    ),
    "pard": Row(
        "a small model drafts all tokens in one pass",
        _blocks(8),
        None,
        _pard,
        frozenset({"draft_window"}),
        uses_draft_model=True,
        served_by={"vllm": "draft_model", "tensorrt-llm": "PARD"},
    ),
    "eagle-1": Row(
        "one layer drafts a tree, 5 passes; or a chain",
        _grown(26, 5, 4),
        None,
        _eagle,
        _OWN,
        served_by={"vllm": "eagle", "sglang": "EAGLE"},
    ),
    "eagle-2": Row(
        "one layer drafts a tree by confidence, 6 passes; or a chain",
        _grown(60, 6, 10),
        acceptance.Constant(4.34, _SPEC_BENCH),
        _eagle,
        _OWN,
        served_by={"vllm": "eagle", "sglang": "EAGLE"},
    ),
    "eagle-3": Row(
        "as EAGLE-2 with features of three depths, 8 passes; or a chain",
        _grown(60, 8, 10),
        None,
        _eagle_3,
        _OWN,
        served_by={
            "vllm": "eagle3",
            "sglang": "EAGLE3",
            "tensorrt-llm": "Eagle3",
            "llama.cpp": "draft-eagle3",
        },
    ),
    "p-eagle": Row(
        "four layers draft all tokens in one pass",
        _blocks(5),
        None,
        _p_eagle,
        _OWN,
        served_by={"vllm": "eagle3"},
    ),
    "mtp": Row(
        "a one-layer module drafts a chain",
        _chains(1, 3),
        # DeepSeek-V3 reports that 85 to 90 % of second tokens are accepted.
        acceptance.Chain(0.85, ", DeepSeek-V3's lower figure", Provenance.REPORTED),
        _mtp,
        _OWN,
        needs_mtp_layers=True,
        served_by={
            "vllm": "mtp",
            "sglang": "EAGLE",
            "tensorrt-llm": "MTP",
            "llama.cpp": "draft-mtp",
        },
    ),
    "dflash": Row(
        "five layers draft a block in one pass",
        _blocks(15),
        None,
        _block(5),
        _OWN,
        served_by={
            "vllm": "dflash",
            "sglang": "DFLASH",
            "tensorrt-llm": "DFlash",
            "llama.cpp": "draft-dflash",
        },
    ),
    "dspark": Row(
        "five layers draft a block, of which as much as pays is verified",
        _blocks(7, 2, 3, 4, 5, 6, 7, 8),
        None,
        _block(5),
        _OWN,
        served_by={"vllm": "dspark", "sglang": "DSPARK"},
    ),
    "prompt-lookup": Row(
        "copies what followed the same words before (n-gram)",
        _chains(10, 10),
        acceptance.Constant(1.75, _SPEC_BENCH),
        takes=frozenset({"drafting_share"}),
        looks_up=True,
        served_by={
            "vllm": "ngram",
            "sglang": "NGRAM",
            "tensorrt-llm": "NGram",
            "llama.cpp": "ngram-simple",
            "transformers": "prompt_lookup_num_tokens",
        },
    ),
    "suffix": Row(
        "copies by a suffix tree of this and earlier answers",
        _chains(10, 10),
        None,
        takes=frozenset({"drafting_share"}),
        looks_up=True,
        served_by={"vllm": "suffix", "tensorrt-llm": "SA"},
    ),
    "lookahead": Row(
        # W = 7 columns, G = 7 guesses, N-grams of 5: (W + G)(N - 1) tokens in the verification.
        "Jacobi windows, (7 + 7)(5 - 1) tokens",
        _trees(56),
        acceptance.Constant(1.64, _SPEC_BENCH),
    ),
    "self-speculative": Row(
        "the target drafts with a share of its layers, or of its cache",
        _chains(1, 8),
        None,
        _self_speculative,
        frozenset({"kept_layers", "draft_window"}),
    ),
}
ALIASES: Mapping[str, str] = {
    "block-diffusion": "dflash",
    "draft": "draft-model",
    "eagle": "eagle-1",
    "eagle1": "eagle-1",
    "eagle2": "eagle-2",
    "eagle3": "eagle-3",
    "n-gram": "prompt-lookup",
    "ngram": "prompt-lookup",
    "sam": "suffix",
}


def find(name: str) -> str:
    """A method's name in the table. Raises UnknownNameError."""
    known = ALIASES.get(name.lower(), name.lower())
    if known not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    return known


def make(
    name: str,
    shape: Shape,
    target: ModelShape,
    draft: ModelShape | None = None,
    asked: Asked = USUAL,
) -> Method:
    """The method of a row in one shape."""
    row = METHODS[name]
    return Method(
        name,
        shape,
        row.drafts(Drafting(target, draft or target, shape, asked)),
        medusa_heads=bool(asked.heads) and "heads" in row.takes,
        looks_up=row.looks_up,
        drafting_share=asked.drafting_share if row.looks_up else None,
    )


def shapes(name: str, asked: Asked = USUAL, *, chains: bool = False) -> Sequence[Shape]:
    """The shapes asked of a method, its usual ones where none is.

    chains: whether only chains and blocks can be served. Of methods that draft trees and chains, a
    draft length alone asks for a chain, anything of a tree for a tree that many passes deep.
    Raises MedusaBenchError for a tree that is smaller than it is deep.
    """
    asked = _acting(asked, METHODS[name])
    usual = METHODS[name].shapes
    kinds = [kind for kind in usual if not (chains and kind is Kind.TREE)] or list(usual)
    asks_tree = asked.num_candidates or asked.tree_width
    if Kind.TREE in usual and Kind.CHAIN in usual:
        kind = Kind.TREE if asks_tree else Kind.CHAIN if asked.draft_len else kinds[0]
    else:
        kind = kinds[0]
    if not is_sized(name, asked):
        return usual[kind]
    if found := _asked_shapes(kind, usual[kind][0], asked):
        return found
    raise MedusaBenchError(
        f"No {kind} of {name} has as few candidates and is as deep as asked for.",
        hint="a tree has more candidates (-q) than drafting passes (--draft-len); a block "
        "verifies at most one token more than it drafts.",
    )


def is_sized(name: str, asked: Asked) -> bool:
    """Whether sizes of this method are asked for."""
    acting = _acting(asked, METHODS[name])
    return bool(acting.num_candidates or acting.draft_len or acting.tree_width)


def _acting(asked: Asked, row: Row) -> Asked:
    """What of it acts on a row."""
    unused = {each.name: None for each in fields(Asked) if each.name not in row.options}
    return replace(asked, **unused)


def _asked_shapes(kind: Kind, usual: Shape, asked: Asked) -> list[Shape]:
    lengths, counts = asked.draft_len, asked.num_candidates
    match kind:
        case Kind.ROOT:
            return [usual]
        case Kind.CHAIN:
            return [chain(each) for each in lengths or (usual.draft_len or 1,)]
        case Kind.BLOCK:
            drafted = usual.draft_len or 1
            verifies_less = usual.num_candidates <= drafted
            if counts and not lengths and not verifies_less:
                return [block(count - 1) for count in counts if count > 1]
            return [
                block(length, count)
                for length in lengths or (drafted,)
                for count in counts or (length + 1,)
                if 1 < count <= length + 1
            ]
        case Kind.TREE:
            depths = lengths or (usual.draft_len,)
            return [
                tree(count, depth, asked.tree_width or usual.width)
                for depth in depths
                for count in counts or (usual.num_candidates,)
                if not lengths or depth is None or count > depth
            ]


# --- those that are made by hand ------------------------------------------------------------------


def vanilla() -> Method:
    """One token a step."""
    return Method("vanilla", ROOT)


def medusa(num_candidates: int, *, heads: bool = False) -> Method:
    """A tree of candidates from extra heads. heads: count what the heads themselves cost, over
    every candidate, as the reference implementation runs them."""
    return Method("medusa", tree(num_candidates), medusa_heads=heads)


def draft_model(shape: ModelShape, draft_len: int) -> Method:
    """Speculative decoding: a small model drafts a chain. Source: Leviathan et al., 2023."""
    return make("draft-model", chain(draft_len), shape, shape)
