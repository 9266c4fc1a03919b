"""The operator table: operator x phase -> shapes, FLOPs, bytes.

The only place where FLOPs and bytes are computed. The paper's three sections (prefill, decoding,
parallel decoding) are one table with q = s, 1 or the candidates.

Legend: b batch_size, s seq_len (cached tokens), q query_len, h hidden_size, i intermediate_size,
n num_heads, n_kv num_kv_heads, d head_dim, nd = n x d, n_kv_d = n_kv x d, v vocab_size,
m number of Medusa heads.

Corrected against the paper's print: the value cache is (b, n, s, d), not (b, n, 1, d); the QK^T
outputs are (b, n, 1, s) and (b, n, q, s); blank PV and W_d cells mean the row above.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Any

from medusa_bench.base.errors import UnknownNameError
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import ModelShape
from medusa_bench.specs.products import Product
from medusa_bench.specs.settings import Phase, Setting


class Family(StrEnum):
    """What an operator is part of. The last two stand outside the paper's block."""

    QKV = "qkv"
    ATTENTION = "attention"
    MLP = "mlp"
    OUTPUT = "output"
    HEADS = "heads"


SYMBOLS = frozenset("b s q h i n n_kv d nd n_kv_d v m mh".split())


class OperatorError(ValueError):
    """A row of the table that is no matrix product. Raised when the table is imported."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One matrix product of a transformer block: lhs x rhs -> out, dimensions as symbols.

    `series` names it in figures, where operators that coincide or nearly do share one. Every
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
            prod(size[symbol] for symbol in lhs) // (batch * k),
            prod(size[symbol] for symbol in rhs) // (batch * k),
            k,
        )


OPERATORS = (  # in the order a block runs them
    #        name    family            title   series          lhs        rhs           out
    Operator("q",    Family.QKV,       "XW_Q", "qkv mlp",      "b q h",   "h nd",       "b q nd"),
    Operator("k",    Family.QKV,       "XW_K", "qkv mlp",      "b q h",   "h n_kv_d", "b q n_kv_d"),
    Operator("v",    Family.QKV,       "XW_V", "qkv mlp",      "b q h",   "h n_kv_d", "b q n_kv_d"),
    Operator("qk",   Family.ATTENTION, "QK^T", "qk/pv",        "b n q d", "b n_kv s d", "b n q s"),
    Operator("pv",   Family.ATTENTION, "PV",   "qk/pv",        "b n q s", "b n_kv s d", "b n q d"),
    Operator("up",   Family.MLP,       "XW_u", "up/gate/down", "b q h",   "h i",        "b q i"),
    Operator("gate", Family.MLP,       "XW_g", "up/gate/down", "b q h",   "h i",        "b q i"),
    Operator("down", Family.MLP,       "XW_d", "up/gate/down", "b q i",   "i h",        "b q h"),
)  # fmt: skip

OUTSIDE_THE_BLOCK = (  # what the paper's block leaves out of a decoding step
    Operator("o",            Family.OUTPUT, "XW_O",  "o",            "b q nd",  "nd h",  "b q h"),
    Operator("lm_head",      Family.HEADS,  "XW_LM", "lm head",      "b q h",   "h v",   "b q v"),
    Operator("medusa_block", Family.HEADS,  "XW_1",  "Medusa heads", "b q h",   "h mh",  "b q mh"),
    Operator("medusa_head",  Family.HEADS,  "XW_2",  "Medusa heads", "m b q h", "m h v", "m b q v"),
)  # fmt: skip

BY_NAME: Mapping[str, Operator] = {op.name: op for op in OPERATORS + OUTSIDE_THE_BLOCK}

FAMILIES: Mapping[str, tuple[Operator, ...]] = {
    family.value: tuple(op for op in BY_NAME.values() if op.family is family) for family in Family
}


# By the table's order, which a new row goes to the end of; and as figures list them, the paper's.
SERIES = tuple(dict.fromkeys(op.series for op in BY_NAME.values()))
FIGURE_SERIES = tuple(
    dict.fromkeys(
        op.series
        for family in (Family.QKV, Family.MLP, Family.ATTENTION, Family.OUTPUT, Family.HEADS)
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


def dimensions(shape: ModelShape, setting: Setting) -> dict[str, int]:
    """The table's symbols as numbers."""
    return symbols(shape, setting.batch_size, setting.seq_len, setting.query_len)


def symbols(shape: ModelShape, batch_size: Any, seq_len: Any, query_len: Any) -> dict[str, Any]:
    """The table's symbols for many settings at once: the three may be NumPy arrays of integers."""
    return {
        "b": batch_size,
        "s": seq_len,
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


def heads_weight_share(shape: ModelShape) -> float:
    """Weights of the Medusa heads over those of the layers and the LM head together."""
    one_token = Setting(Phase.DECODE, batch_size=1, seq_len=1)

    def weights(names: str) -> int:
        products = [find(name).product(shape, one_token) for name in names.split()]
        return sum(product.batch * product.k * product.n for product in products)

    model = shape.num_layers * weights("q k v o up gate down") + weights("lm_head")
    return weights("medusa_block medusa_head") / model


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
    """The logical points of a grid: model by model, operator by operator, setting by setting."""
    operators, settings, dtypes = list(operators), list(settings), list(dtypes)
    return [
        Point(shape, operator, setting, dtype)
        for shape in shapes
        for operator in operators
        for setting in settings
        for dtype in dtypes
    ]
