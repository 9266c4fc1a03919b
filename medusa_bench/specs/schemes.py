"""Quantised weights: one table of schemes, and which operators of a model have them.

A scheme says how many bits a weight takes with its scales, and in which format its activations are
multiplied. Only weights of linear layers are quantised: scores, norms and states are not, and the
LM head, the router and the heads and layers that draft are not unless a model's own config says so.
Knows no GPU; how fast the kernels are stands in predict/quantised.py.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from medusa_bench.base.errors import UnknownNameError
from medusa_bench.specs.dtypes import Dtype


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the weights of an operator are stored.

    kernel: a row of SCHEMES, whose kernels read it. bits: of a weight with its share of scales and
    zero points. activations: what they are quantised to before the product, on GPUs that have that
    format; None where they stay as they are.
    """

    kernel: str
    bits: float
    activations: Dtype | None = None

    @property
    def bytes_per_weight(self) -> float:
        return self.bits / 8

    def __str__(self) -> str:
        return f"{self.kernel} ({self.bits:.4g} bits a weight)"


def _grouped(kernel: str, bits: float, scale_bits: float, group: int) -> Scheme:
    return Scheme(kernel, bits + scale_bits / group)


# A scale of 16 bits and a zero point as wide as a weight for each group of 128 (AWQ, GPTQ as it is
# stored); nf4: an absolute maximum of 32 bits for each 64, or quantised again: 8 + 32/256.
SCHEMES: Mapping[str, Scheme] = {
    "int8": Scheme("int8", 8.0),  # a scale a column, which is too few to count
    "int4": _grouped("int4", 4, 16 + 4, 128),
    "fp8": Scheme("fp8", 8.0, Dtype.FLOAT8),  # a scale a tensor or a column
    "fp8-block": Scheme("fp8-block", 8 + 32 / 128**2, Dtype.FLOAT8),
    "mxfp4": _grouped("mxfp4", 4, 8, 32),
    "nvfp4": _grouped("nvfp4", 4, 8, 16),
    "nf4": _grouped("nf4", 4, 32, 64),
}
AS_NAMED = "none"  # no scheme: all weights in the dtype that is named

# Operators whose weights stay in 16 bits whatever the scheme, unless a config quantises the head:
# the up-projections of latent attention, absorbed, are taken apart from their quantised form.
NEVER = frozenset(
    {"router", "absorb_q", "absorb_o", "medusa_block", "medusa_head", "lm_head"} | {"state_conv"}
)
_OF_EXPERTS = ("expert_up", "expert_gate", "expert_down")


def integer(bits: int, group_size: int, *, zero_point: bool) -> Scheme:
    """Integers of so many bits with a scale of 16 for each group; group_size 0: for each column."""
    kernel = "int8" if bits > 4 else "int4"
    if not group_size:
        return Scheme(kernel, bits)
    return _grouped(kernel, bits, 16 + (bits if zero_point else 0), group_size)


# A state of a layer, which is kept in 32 bits: read as the right operand, written as the result.
# Source: mamba_ssm_dtype and mamba_ssm_cache_dtype of the published configs.
STATE, NEW_STATE = Scheme("state", 32.0), Scheme("new state", 32.0)
CONVOLUTION = Scheme("convolution", 16.0)  # one filter a channel, which no matrix unit runs
CACHE = "cache"  # of cached keys and values: no weights, and no kernel of SCHEMES


def cached(bits: int) -> Scheme:
    """How cached keys and values of so many bits are stored; scales of a tensor are too few."""
    return Scheme(CACHE, float(bits))


FUSED = "fused attention"  # its result is as large as its left operand: scores stay on the chip


def fused(bits: int) -> Scheme:
    """Cached keys and values of so many bits, as one kernel reads them."""
    return Scheme(FUSED, float(bits))


@dataclass(frozen=True, slots=True)
class Part:
    """In which scheme a share of the layers of an operator stands."""

    operator: str
    scheme: Scheme
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Quantisation:
    """What of a model is quantised: parts by operator, everything else is not.

    name: as people call it. cache_bits: of an element of cached keys and values; None where they
    are in the dtype of the activations.
    """

    name: str
    parts: tuple[Part, ...] = ()
    cache_bits: int | None = None

    def of(self, operator: str) -> Iterator[tuple[Scheme | None, float]]:
        """The schemes of an operator's weights, and for which share of its layers; None: none."""
        left = 1.0
        for part in self.parts:
            if part.operator == operator:
                left -= part.share
                yield part.scheme, part.share
        if left > _NOTHING:
            yield None, left

    def with_cache(self, bits: int | None) -> "Quantisation":
        return replace(self, cache_bits=bits)


_NOTHING = 1e-9


def uniform(name: str, operators: Iterable[str], *, of_experts: bool) -> Quantisation:
    """A scheme by its name on all of these operators that it usually quantises.

    of_experts: whether the model has experts, of which mxfp4 quantises nothing else (gpt-oss).
    Raises UnknownNameError.
    """
    if name not in SCHEMES:
        raise UnknownNameError("scheme", name, [*SCHEMES, AS_NAMED])
    chosen = [each for each in operators if each not in NEVER]
    if name == "mxfp4" and of_experts:
        chosen = [each for each in chosen if each in _OF_EXPERTS]
    return Quantisation(name, tuple(Part(each, SCHEMES[name]) for each in chosen))
