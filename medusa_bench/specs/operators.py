"""The operator table: operator x phase -> shapes, FLOPs, bytes.

The only place where FLOPs and bytes are computed. The paper's three sections (prefill, decoding,
parallel decoding) are one table with q = s, 1 or the candidates.

Legend: b batch_size, s seq_len (cached tokens), q query_len, h hidden_size, i intermediate_size,
n num_heads, n_kv num_kv_heads, d head_dim, nd = n x d, n_kv_d = n_kv x d, v vocab_size,
m number of Medusa heads. Of experts: x num_experts, g outputs of the router, u experts that a pass
touches, r rows of each of them (tokens x experts a token / u), e width of an expert, sh width of
the shared ones. Of windows: w cached tokens within it. Of latent attention: c kv_rank, cr = c +
rope_dim (what is cached), dn nope_dim, dv value_dim, ndv = n x dv, a q_rank (h where there is
none), nqd = n x (nope_dim + rope_dim). Of experts that act on a projection: eh its width, else h.
Of an indexer: ix cached tokens it chooses, ih heads of id each, ihd = ih x id. Of layers with a
state: si in_width, so out_width, sx inner_width, ns states of z x p each, ch channels of a
convolution over cw tokens, rk rank, rw rank_width. Of fused attention: kv = 2 s and wkv = 2 w,
keys and values. Where heads differ by layer, w of those that attend to all, a of those within a
window: wn heads, wn_kv key/value heads, of wd and values of wv; nwd = wn x wd, kwd = wn_kv x wd,
kwv = wn_kv x wv, nwv = wn x wv.

Every token of a pass leaves a state, as verification must keep one for each candidate: a pass
reads one state and writes q of them, in 32 bits.

Corrected against the paper's print: the value cache is (b, n, s, d), not (b, n, 1, d); the QK^T
outputs are (b, n, 1, s) and (b, n, q, s); blank PV and W_d cells mean the row above.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from math import ceil, log, prod
from typing import Any

from medusa_bench.base.errors import UnknownNameError
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product
from medusa_bench.specs.schemes import CONVOLUTION, NEW_STATE, STATE, Scheme, cached, fused
from medusa_bench.specs.settings import Setting
from medusa_bench.specs.shapes import EVEN, Experts, ModelShape


class Family(StrEnum):
    """What an operator is part of. Only the first three stand in the paper's block."""

    QKV = "qkv"
    ATTENTION = "attention"
    MLP = "mlp"
    OUTPUT = "output"
    HEADS = "heads"
    EXPERTS = "experts"
    LATENT = "latent"
    STATE = "state"
    FUSED = "fused"
    BY_LAYER = "by-layer"


SYMBOLS = frozenset(
    "b s q h i n n_kv d nd n_kv_d v m mh x g u r e eh sh w c cr dn dv ndv a nqd "
    "ix ih id ihd si so sx ch cw ns z p rk rw kv wkv "
    "wn wn_kv wd wv nwd kwd kwv nwv an an_kv ad av nad kad kav nav".split()
)


class OperatorError(ValueError):
    """A row of the table that is no matrix product. Raised when the table is imported."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One matrix product of a transformer block: lhs x rhs -> out, dimensions as symbols.

    `series` names it in figures, where operators that coincide or nearly do share one. `layers` is
    the property of a ModelShape that says in how many layers it stands; "" is once a model. Every
    symbol is contracted (in lhs and rhs), kept (in one of them and out) or batch (in all three;
    n_kv of the rhs groups n). Raises OperatorError otherwise, with the symbol.
    """

    name: str
    family: Family
    title: str
    series: str
    lhs: str
    rhs: str
    out: str
    layers: str = "num_layers"

    def __post_init__(self) -> None:
        for side in ("lhs", "rhs", "out"):
            symbols = getattr(self, side).split()
            for symbol in symbols:
                if symbol not in SYMBOLS:
                    raise self._error(symbol, f"is no symbol of the table (its {side})")
                if symbols.count(symbol) > 1:
                    raise self._error(symbol, f"stands twice in {side}: give each side its own")
        lhs, rhs, out = (set(each.split()) for each in (self.lhs, self.rhs, self.out))
        groups = {symbol for symbol in rhs if symbol.removesuffix("_kv") in (lhs & out) - rhs}
        for symbol in sorted(lhs | rhs | out):
            is_contracted = symbol in lhs & rhs - out
            is_kept = symbol in (lhs ^ rhs) & out
            is_batch = symbol in lhs & rhs & out
            if not (is_contracted or is_kept or is_batch or symbol in groups):
                raise self._error(symbol, "is neither contracted, nor kept, nor batch")

    def _error(self, symbol: str, what: str) -> OperatorError:
        return OperatorError(f"operator {self.name}: {symbol} {what}.")

    @property
    def reads_cache(self) -> bool:
        """Whether its right operand is the cache, a row for each cached token, or a state: no
        weights."""
        return not {"s", "w", "ix", "p", "kv", "wkv"}.isdisjoint(self.rhs.split())

    def num_layers(self, shape: ModelShape) -> int:
        """In how many layers of a model it stands; 1 where it stands once beside them."""
        return int(getattr(shape, self.layers)) if self.layers else 1

    def num_weights(self, shape: ModelShape) -> int:
        """Elements of one layer's right operand, all experts' together; weights unless it reads the
        cache."""
        size = symbols(shape, 1, 1, 1)
        return prod(int(size["x" if symbol == "u" else symbol]) for symbol in self.rhs.split())

    def formats(self, shape: ModelShape) -> list[tuple[Scheme | None, float]]:
        """How its right operand is stored, and for which share of its layers; None: as the rest."""
        if self.name == "state_conv":
            return [(CONVOLUTION, 1.0)]
        if self.family is Family.STATE and self.reads_cache:
            return [(STATE if "z" in self.rhs.split() else NEW_STATE, 1.0)]
        if self.family is Family.FUSED:
            return [(fused((shape.quantised and shape.quantised.cache_bits) or 16), 1.0)]
        if shape.quantised is None:
            return [(None, 1.0)]
        if self.reads_cache:
            bits = shape.quantised.cache_bits
            return [(None if bits is None else cached(bits), 1.0)]
        return list(shape.quantised.of(self.name))

    def bytes_moved(self, shape: ModelShape, setting: Setting, dtype: Dtype) -> float:
        """Traffic of one layer if operands and result cross memory once, quantised ones as they are
        stored; the mean of its layers, where those differ."""
        product = self.product(shape, setting)
        return sum(
            share * product.stored_bytes(dtype, scheme) for scheme, share in self.formats(shape)
        )

    def product(self, shape: ModelShape, setting: Setting) -> Product:
        """The matrix product of this operator for a model and a setting.

        The query heads that share a key/value head become rows of one product (m = n/n_kv x q),
        so grouped keys and values are counted, and read, once.
        """
        return Product(*self.sizes(dimensions(shape, setting)))

    def sizes(self, size: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
        """batch, m, n and k of the product, of the table's symbols as numbers or NumPy arrays."""
        lhs, rhs, out = self.lhs.split(), self.rhs.split(), self.out.split()
        # A batch of products: in lhs and out, and in rhs too (n by groups of n_kv).
        shared = set(lhs) & set(out)
        batched = [symbol for symbol in rhs if {symbol, symbol.removesuffix("_kv")} & shared]
        batch = prod(size[symbol] for symbol in batched)
        k = prod(size[symbol] for symbol in rhs if symbol not in out + batched)
        return (
            batch,
            _quotient(prod(size[symbol] for symbol in lhs), batch * k),
            _quotient(prod(size[symbol] for symbol in rhs), batch * k),
            k,
        )


def _quotient(product: Any, part: Any) -> Any:
    """Exact for whole numbers; the rows of an expert are none on average, so not always whole."""
    return product // part if _is_whole(product) and _is_whole(part) else product / part


def _is_whole(size: Any) -> bool:
    return isinstance(size, int) or getattr(getattr(size, "dtype", None), "kind", "") == "i"


Op, _QKV, _ATT, _FFN = Operator, Family.QKV, Family.ATTENTION, Family.MLP
_OUT, _HEAD, _X, _L = Family.OUTPUT, Family.HEADS, Family.EXPERTS, Family.LATENT
_S, _F, _BL = Family.STATE, Family.FUSED, Family.BY_LAYER
_GQA, _MLP, _GATE = "num_grouped_layers", "num_mlp_layers", "num_gated_mlp_layers"
_ALL, _WIN = "num_unwindowed_layers", "num_windowed_layers"
OPERATORS = (  # in the order a block runs them
    Op("q",    _QKV, "XW_Q", "qkv mlp",      "b q h",   "h nd",       "b q nd",     _GQA),
    Op("k",    _QKV, "XW_K", "qkv mlp",      "b q h",   "h n_kv_d",   "b q n_kv_d", _GQA),
    Op("v",    _QKV, "XW_V", "qkv mlp",      "b q h",   "h n_kv_d",   "b q n_kv_d", _GQA),
    Op("qk",   _ATT, "QK^T", "qk/pv",        "b n q d", "b n_kv s d", "b n q s",    _ALL),
    Op("pv",   _ATT, "PV",   "qk/pv",        "b n q s", "b n_kv s d", "b n q d",    _ALL),
    Op("up",   _FFN, "XW_u", "up/gate/down", "b q h",   "h i",        "b q i",      _MLP),
    Op("gate", _FFN, "XW_g", "up/gate/down", "b q h",   "h i",        "b q i",      _GATE),
    Op("down", _FFN, "XW_d", "up/gate/down", "b q i",   "i h",        "b q h",      _MLP),
)  # fmt: skip

OUTSIDE_THE_BLOCK = (  # what the paper's block leaves out of a decoding step
    Op("o",            _OUT,  "XW_O",  "o",            "b q nd",  "nd h",  "b q h",   _GQA),
    Op("lm_head",      _HEAD, "XW_LM", "lm head",      "b q h",   "h v",   "b q v",   ""),
    Op("medusa_block", _HEAD, "XW_1",  "Medusa heads", "b q h",   "h mh",  "b q mh",  ""),
    Op("medusa_head",  _HEAD, "XW_2",  "Medusa heads", "m b q h", "m h v", "m b q v", ""),
)  # fmt: skip

_MOE, _SH = "num_expert_layers", "num_shared_expert_layers"
_GMOE, _GSH = "num_gated_expert_layers", "num_gated_shared_expert_layers"
_NARR, _GOUT = "num_narrow_expert_layers", "num_gated_output_layers"
_REC, _CONV, _ST = "num_recurrent_layers", "num_convolved_layers", "num_state_layers"
_WMLA, _IDX = "num_whole_latent_layers", "num_indexed_layers"
_WH, _WHV = "num_whole_layers", "num_whole_value_layers"
_NE, _NEV = "num_near_layers", "num_near_value_layers"
_INN, _RANK = "num_inner_layers", "num_ranked_layers"
_MLA, _LOW = "num_latent_layers", "num_low_rank_layers"
OF_OTHER_LAYERS = (  # of models whose layers are not the paper's block
    Op("qk_window",   _ATT, "QK^T",    "window qk/pv", "b n q d",  "b n_kv w d", "b n q w",  _WIN),
    Op("pv_window",   _ATT, "PV",      "window qk/pv", "b n q w",  "b n_kv w d", "b n q d",  _WIN),
    Op("router",      _X,   "XW_r",    "router",       "b q h",    "h g",        "b q g",    _MOE),
    Op("expert_up",   _X,   "X_e W_u", "experts",      "u r eh",   "u eh e",     "u r e",    _MOE),
    Op("expert_gate", _X,   "X_e W_g", "experts",      "u r eh",   "u eh e",     "u r e",    _GMOE),
    Op("expert_down", _X,   "X_e W_d", "experts",      "u r e",    "u e eh",     "u r eh",   _MOE),
    Op("shared_up",   _X,   "XW_u",    "shared exp.",  "b q h",    "h sh",       "b q sh",   _SH),
    Op("shared_gate", _X,   "XW_g",    "shared exp.",  "b q h",    "h sh",       "b q sh",   _GSH),
    Op("shared_down", _X,   "XW_d",    "shared exp.",  "b q sh",   "sh h",       "b q h",    _SH),
    Op("q_a",         _L,   "XW_DQ",   "latent proj.", "b q h",    "h a",        "b q a",    _LOW),
    Op("q_b",         _L,   "XW_UQ",   "latent proj.", "b q a",    "a nqd",      "b q nqd",  _MLA),
    Op("kv_a",        _L,   "XW_DKV",  "latent proj.", "b q h",    "h cr",       "b q cr",   _MLA),
    Op("absorb_q",    _L,   "QW_UK",   "latent proj.", "n b q dn", "n dn c",     "n b q c",  _MLA),
    Op("qk_latent",   _L,   "QK^T",    "latent qk/pv", "b n q cr", "b s cr",     "b n q s",  _WMLA),
    Op("pv_latent",   _L,   "PV",      "latent qk/pv", "b n q s",  "b s c",      "b n q c",  _WMLA),
    Op("absorb_o",    _L,   "OW_UV",   "latent proj.", "n b q c",  "n c dv",     "n b q dv", _MLA),
    Op("o_latent",    _L,   "XW_O",    "latent proj.", "b q ndv",  "ndv h",      "b q h",    _MLA),
)  # fmt: skip
HEADS_BY_LAYER = (  # of models whose heads differ between layers with a window and the others
    Op("q_whole",   _BL, "XW_Q",  "qkv whole",   "b q h",      "h nwd",         "b q nwd",    _WH),
    Op("k_whole",   _BL, "XW_K",  "qkv whole",   "b q h",      "h kwd",         "b q kwd",    _WH),
    Op("v_whole",   _BL, "XW_V",  "qkv whole",   "b q h",      "h kwv",         "b q kwv",    _WHV),
    Op("qk_whole",  _BL, "QK^T",  "qk/pv whole", "b wn q wd",  "b wn_kv s wd",  "b wn q s",   _WH),
    Op("pv_whole",  _BL, "PV",    "qk/pv whole", "b wn q s",   "b wn_kv s wv",  "b wn q wv",  _WH),
    Op("o_whole",   _BL, "XW_O",  "o",           "b q nwv",    "nwv h",         "b q h",      _WH),
    Op("q_near",    _BL, "XW_Q",  "qkv near",    "b q h",      "h nad",         "b q nad",    _NE),
    Op("k_near",    _BL, "XW_K",  "qkv near",    "b q h",      "h kad",         "b q kad",    _NE),
    Op("v_near",    _BL, "XW_V",  "qkv near",    "b q h",      "h kav",         "b q kav",    _NEV),
    Op("qk_near",   _BL, "QK^T",  "qk/pv near",  "b an q ad",  "b an_kv w ad",  "b an q w",   _NE),
    Op("pv_near",   _BL, "PV",    "qk/pv near",  "b an q w",   "b an_kv w av",  "b an q av",  _NE),
    Op("o_near",    _BL, "XW_O",  "o",           "b q nav",    "nav h",         "b q h",      _NE),
)  # fmt: skip
BESIDE_THEM = (  # what models have beside those: an indexer, experts on a projection, gates, states
    Op("index_q",      _L,   "XW_IQ", "indexer",      "b q a",     "a ihd",   "b q ihd",   _IDX),
    Op("index_k",      _L,   "XW_IK", "indexer",      "b q h",     "h id",    "b q id",    _IDX),
    Op("index_w",      _L,   "XW_Iw", "indexer",      "b q h",     "h ih",    "b q ih",    _IDX),
    Op("index_qk",     _L,   "QK^T",  "indexer",      "b ih q id", "b s id",  "b ih q s",  _IDX),
    Op("qk_indexed",   _L,   "QK^T",  "latent qk/pv", "b n q cr",  "b ix cr", "b n q ix",  _IDX),
    Op("pv_indexed",   _L,   "PV",    "latent qk/pv", "b n q ix",  "b ix c",  "b n q c",   _IDX),
    Op("expert_in",    _X,   "XW_in", "expert proj.", "b q h",     "h eh",    "b q eh",    _NARR),
    Op("expert_out",   _X,   "XW_ex", "expert proj.", "b q eh",    "eh h",    "b q h",     _NARR),
    Op("o_gate",       _OUT, "XW_OG", "o",            "b q h",     "h nd",    "b q nd",    _GOUT),
    Op("state_in",     _S,   "XW_in", "state proj.",  "b q h",     "h si",    "b q si",    _REC),
    Op("state_conv",   _S,   "X * c", "convolution",  "ch b q cw", "ch cw",   "ch b q",    _CONV),
    Op("state_inner",  _S,   "XW_x",  "state proj.",  "b q so",    "so sx",   "b q sx",    _INN),
    Op("state_rank",   _S,   "XW_dt", "state proj.",  "b q rk",    "rk rw",   "b q rw",    _RANK),
    Op("state_update", _S,   "K^T V", "state",        "b ns q z",  "b ns q p", "b ns q z p", _ST),
    Op("state_read",   _S,   "QS",    "state",        "b ns q z",  "b ns z p", "b ns q p",  _ST),
    Op("state_out",    _S,   "XW_so", "state proj.",  "b q so",    "so h",    "b q h",     _REC),
)  # fmt: skip

# QK^T and PV as one kernel: kv is a token's key and value, so a row has the FLOPs of both and reads
# both once; scores never leave the chip, so its result is as large as its queries. In the order of
# the pairs that each replaces.
FUSED = (
    Op("fused_attention", _F, "SDPA", "fused", "b n q d",  "b n_kv kv d", "b n q kv", _ALL),
    Op("fused_window",    _F, "SDPA", "fused", "b n q d",  "b n_kv wkv d", "b n q wkv", _WIN),
)  # fmt: skip
_REPLACED = {"qk": FUSED[0], "pv": None, "qk_window": FUSED[1], "pv_window": None}

BY_NAME: Mapping[str, Operator] = {
    op.name: op
    for op in (
        *OPERATORS,
        *OUTSIDE_THE_BLOCK,
        *OF_OTHER_LAYERS,
        *BESIDE_THEM,
        *FUSED,
        *HEADS_BY_LAYER,
    )
}

FAMILIES: Mapping[str, tuple[Operator, ...]] = {
    family.value: tuple(op for op in BY_NAME.values() if op.family is family) for family in Family
}


# By the table's order, which a new row goes to the end of; and as figures list them, the paper's.
SERIES = tuple(dict.fromkeys(op.series for op in BY_NAME.values()))
FIGURE_SERIES = tuple(
    dict.fromkeys(
        op.series
        for family in dict.fromkeys((Family.QKV, Family.MLP, *Family))
        for op in FAMILIES[family]
    )
)


def select(names: Iterable[str]) -> tuple[Operator, ...]:
    """The operators of those names and families, each once. Raises UnknownNameError."""
    chosen = [op for name in names for op in FAMILIES.get(name) or (find(name),)]
    return tuple(dict.fromkeys(chosen))


def find(name: str) -> Operator:
    """The operator of that name. Raises UnknownNameError."""
    try:
        return BY_NAME[name]
    except KeyError:
        raise UnknownNameError("operator", name, BY_NAME) from None


# What one forward pass of a whole model runs, layer by layer and once at its end.
OF_A_LAYER = tuple(op for op in BY_NAME.values() if op.layers and op.family is not Family.FUSED)


def of_model(shape: ModelShape) -> tuple[tuple[Operator, int], ...]:
    """The operators of a model's layers, and in how many layers each stands."""
    return tuple((op, count) for op in OF_A_LAYER if (count := op.num_layers(shape)))


def of_model_fused(shape: ModelShape) -> tuple[tuple[Operator, int], ...]:
    """The same with each pair of products of grouped attention as one kernel."""
    return tuple(
        (one, count)
        for op, count in of_model(shape)
        if (one := _REPLACED.get(op.name, op)) is not None
    )


_OUTPUTS = frozenset({"o", "o_latent", "o_whole", "o_near"})


def of_block(shape: ModelShape) -> tuple[tuple[Operator, int], ...]:
    """The same without the output projection, which the paper leaves out of its block."""
    return tuple((op, count) for op, count in of_model(shape) if op.name not in _OUTPUTS)


def distinct_experts(experts: Experts, num_tokens: Any, skew: float = 0.0) -> Any:
    """How many experts so many tokens touch, each token choosing anew.

    Evenly E (1 - (1 - k/E)^t); with a skew the sum over experts of 1 - (1 - p)^t, p proportional to
    rank^-skew, at most 1 and k in all. Skew lowers it, as do tokens that are alike.
    """
    if not skew:
        share = experts.experts_per_token / experts.num_experts
        return experts.num_experts * (1.0 - (1.0 - share) ** num_tokens)
    chances = _chances(experts.num_experts, experts.experts_per_token, skew)
    return sum(count * (1.0 - (1.0 - chance) ** num_tokens) for chance, count in chances)


_MOST_RANKS = 4096  # experts of further ranks count as these do


@cache
def _chances(num_experts: int, per_token: int, skew: float) -> tuple[tuple[float, float], ...]:
    """Each expert's chance to be among those of a token, and how many have it."""
    ranks = min(num_experts, _MOST_RANKS)
    each = num_experts / ranks
    popularity = [rank**-skew for rank in range(1, ranks + 1)]
    certain = 0
    while certain < min(per_token, ranks):
        scale = (per_token - certain * each) / (each * sum(popularity[certain:]))
        if scale * popularity[certain] < 1:
            break
        certain += 1
    else:
        scale = 0.0
    return tuple(
        (1.0 if rank < certain else scale * popularity[rank], each) for rank in range(ranks)
    )


def fullest(experts: Experts, touched: Any, ranks: int) -> Any:
    """Of the experts touched, how many the busiest of so many GPUs has, each with its equal part.

    The mean and sqrt(2 ln ranks) deviations of so many draws, at most all that it holds: a step
    waits for that GPU.
    """
    held = experts.num_experts / ranks
    share = touched / experts.num_experts
    most = held * share + (2 * log(ranks) * held * share * (1 - share)) ** 0.5
    return most - (most > held) * (most - held)


def dimensions(shape: ModelShape, setting: Setting) -> dict[str, int]:
    """The table's symbols as whole numbers: of experts, the nearest number and rows enough."""
    size = symbols(shape, setting.batch_size, setting.seq_len, setting.query_len)
    if shape.experts:
        size["r"] = max(1, ceil(size["r"] * size["u"] / max(1, round(size["u"])) - 1e-9))
        size["u"] = max(1, round(size["u"]))
    return size


def symbols(shape: ModelShape, batch_size: Any, seq_len: Any, query_len: Any) -> dict[str, Any]:
    """The table's symbols for many settings at once: the three may be NumPy arrays of numbers.

    Of parts that a model has not, the symbols are missing: no operator of its layers has them.
    """
    size = {
        "b": batch_size,
        "s": seq_len,
        "kv": 2 * seq_len,
        "q": query_len,
        "h": shape.hidden_size,
        "i": shape.intermediate_size,
        "n": shape.num_heads,
        "n_kv": shape.num_kv_heads,
        "d": shape.head_dim,
        "nd": shape.num_heads * shape.head_dim,
        "n_kv_d": shape.num_kv_heads * shape.head_dim,
        "v": shape.vocab_size,
        "m": shape.num_medusa_heads,
        "mh": shape.num_medusa_heads * shape.hidden_size,
    }
    if experts := shape.experts:
        tokens, routing = batch_size * query_len, shape.routing or EVEN
        anew = batch_size * (1 + (query_len - 1) * (1 - routing.locality))
        touched = distinct_experts(experts, anew, routing.skew)
        ranks = routing.ranks
        size |= {
            "x": experts.num_experts // ranks,
            "g": experts.num_experts + experts.shared_is_gated,
            "u": touched if ranks == 1 else fullest(experts, touched, ranks),
            "r": tokens * experts.experts_per_token / touched,
            "e": experts.width,
            "eh": experts.input_width or shape.hidden_size,
            "sh": experts.shared_width,
        }
    if window := shape.window:
        size["w"] = _at_most(seq_len, window.tokens)
        size["wkv"] = 2 * size["w"]
    for letter, heads in (("w", shape.whole_heads), ("a", shape.near_heads)):
        if heads:
            n, n_kv, d, dv = shape.num_heads, heads.num_kv_heads, heads.head_dim, heads.value_dim
            size |= {
                f"{letter}n": n,
                f"{letter}n_kv": n_kv,
                f"{letter}d": d,
                f"{letter}v": dv,
                f"n{letter}d": n * d,
                f"k{letter}d": n_kv * d,
                f"k{letter}v": n_kv * dv,
                f"n{letter}v": n * dv,
            }
    if latent := shape.latent:
        size |= {
            "c": latent.kv_rank,
            "cr": latent.kv_rank + latent.rope_dim,
            "dn": latent.nope_dim,
            "dv": latent.value_dim,
            "ndv": shape.num_heads * latent.value_dim,
            "a": latent.q_rank or shape.hidden_size,
            "nqd": shape.num_heads * (latent.nope_dim + latent.rope_dim),
            "ix": _at_most(seq_len, latent.index_tokens),
            "ih": latent.index_heads,
            "id": latent.index_dim,
            "ihd": latent.index_heads * latent.index_dim,
        }
    if states := shape.recurrence:
        size |= {
            "si": states.in_width,
            "so": states.out_width,
            "sx": states.inner_width,
            "ch": states.conv_channels,
            "cw": states.conv_width,
            "ns": states.num_states,
            "z": states.key_dim,
            "p": states.value_dim,
            "rk": states.rank,
            "rw": states.rank_width,
        }
    return size


def _at_most(seq_len: Any, tokens: int) -> Any:
    return min(seq_len, tokens) if isinstance(seq_len, int) else seq_len.clip(max=tokens)


def num_weights(shape: ModelShape) -> int:
    """Weights of all layers and the LM head; norms, biases and embeddings are left out."""
    layers = sum(
        count * op.num_weights(shape) for op, count in of_model(shape) if not op.reads_cache
    )
    return layers + find("lm_head").num_weights(shape)


def weight_bytes(shape: ModelShape, dtype: Dtype) -> float:
    """Bytes of the same weights, quantised ones with their scales and the others in dtype."""
    held = 0.0
    for op, count in (*of_model(shape), (find("lm_head"), 1)):
        if not op.reads_cache:
            for scheme, share in op.formats(shape):
                wide = dtype.bytes_per_element if scheme is None else scheme.bytes_per_weight
                held += count * share * op.num_weights(shape) * wide
    return held


def heads_weight_share(shape: ModelShape) -> float:
    """Weights of the Medusa heads over those of the layers and the LM head together."""
    heads = sum(find(name).num_weights(shape) for name in ("medusa_block", "medusa_head"))
    return heads / num_weights(shape)


@dataclass(frozen=True, slots=True)
class Point:
    """A logical point: one operator of one model in one setting. Many share one Product."""

    shape: ModelShape
    operator: Operator
    setting: Setting
    dtype: Dtype

    @property
    def product(self) -> Product:
        return self.operator.product(self.shape, self.setting)

    @property
    def bytes_moved(self) -> float:
        """Of one layer, quantised operands as they are stored."""
        return self.operator.bytes_moved(self.shape, self.setting, self.dtype)

    def as_dict(self) -> dict[str, str | int]:
        """What names the point in every table and JSON document, in their order."""
        return {
            "model": self.shape.name,
            "operator": self.operator.name,
            "phase": self.setting.phase,
            "batch_size": self.setting.batch_size,
            "seq_len": self.setting.seq_len,
            "num_candidates": self.setting.num_candidates,
            "dtype": self.dtype,
        }


def points(
    shapes: Iterable[ModelShape],
    operators: Iterable[Operator],
    settings: Iterable[Setting],
    dtypes: Iterable[Dtype],
) -> list[Point]:
    """The logical points of a grid: model by model, operator by operator, setting by setting.

    An operator that stands in no layer of a model has no points of it.
    """
    operators, settings, dtypes = list(operators), list(settings), list(dtypes)
    return [
        Point(shape, operator, setting, dtype)
        for shape in shapes
        for operator in operators
        if operator.num_layers(shape)
        for setting in settings
        for dtype in dtypes
    ]
