"""How long operators take that are no plain product: attention, experts, latent attention, states.

One law for all of them, of what an operator asks of a device at its ceilings (`Demand`):

    latency = launch + beside / beside_share
              + ((memory / bandwidth_share)^3 + (compute / compute_share)^3
                 + (items x item_s)^3 + (alone / alone_share)^3)^(1/3)

items: blocks of work over the GPU's processors. alone: what one processor reads by itself where a
kernel does not divide a sequence. beside: traffic of small kernels before and after. What a kernel
reaches is data (operator_laws.toml, made by tools/fit_operators), with its source and its 90 %
interval. A GPU without rows takes its nearest relative's kernel, its launch scaled by the clock and
its interval widened, and the source says "prior".
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from medusa_bench.predict.calibration import DeviceCeilings, Interval, Parts
from medusa_bench.predict.latency import Predictions
from medusa_bench.specs.columns import FloatArray
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.profiles import DeviceProfile, profile_of

FILE = "operator_laws.toml"
_OVERLAP = 3.0
_TILE_ROWS = 64  # query rows of a block of attention; fewer are padded
_WIDTH_UNIT = 128  # columns of a tile of an expert's product
_ALIGNED = 16  # widths that are no multiple are loaded element by element
# Half width of ln(latency) that is added where another GPU's kernel stands for one without rows.
_PRIOR_HALF_WIDTH = 0.10
_LIKE_AMPERE = frozenset({"volta", "turing", "ampere", "ada"})


class Kind(StrEnum):
    """The operators that have laws here."""

    ATTENTION = "attention"
    EXPERTS = "experts"
    LATENT = "latent"
    DELTA = "delta"


@dataclass(frozen=True, slots=True)
class Demand:
    """What operators ask of a device at its ceilings; columns of shape (rows,), items a count."""

    memory_s: FloatArray
    compute_s: FloatArray
    items: FloatArray
    alone_s: FloatArray
    beside_s: FloatArray

    @property
    def roofline_s(self) -> FloatArray:
        """The bare roofline: everything crosses memory once, nothing is padded in time."""
        roof: FloatArray = np.maximum(self.memory_s + self.beside_s, self.compute_s)
        return roof


@dataclass(frozen=True, slots=True)
class Shares:
    """What a kernel reaches: seconds, and shares of the ceilings.

    padded_rows: rows by which the group of an expert is padded on average; padded_width: the share
    of a tile by which its width is; unaligned: times more where its width is no multiple of 16.
    """

    launch_s: float
    bandwidth_share: float
    compute_share: float = 1.0
    item_s: float = 0.0
    alone_share: float = 1.0
    beside_share: float = 1.0
    padded_rows: float = 0.0
    padded_width: float = 0.0
    unaligned: float = 1.0

    def latency_s(self, demand: Demand) -> FloatArray:
        """The law, of shape (rows,)."""
        return self.launch_s + demand.beside_s / self.beside_share + self._overlapped(demand)

    def _overlapped(self, demand: Demand) -> FloatArray:
        cubes = [each**_OVERLAP for each in self._terms(demand)]
        overlapped: FloatArray = np.sum(cubes, axis=0) ** (1 / _OVERLAP)
        return overlapped

    def _terms(self, demand: Demand) -> Sequence[FloatArray]:
        return (
            demand.memory_s / self.bandwidth_share,
            demand.alone_s / self.alone_share,
            demand.compute_s / self.compute_share,
            demand.items * self.item_s,
        )

    def parts(self, demand: Demand) -> Parts:
        """The latency split as of products; waves of blocks count as tiles."""
        overlapped = self._overlapped(demand)
        cubes = [each**_OVERLAP for each in self._terms(demand)]
        total = np.maximum(np.sum(cubes, axis=0), 1e-300)
        memory, alone, compute, items = (overlapped * each / total for each in cubes)
        return Parts(
            launch_s=np.full_like(memory, self.launch_s),
            bandwidth_s=memory + alone + demand.beside_s / self.beside_share,
            compute_s=compute,
            tile_s=items,
            unexplained_s=np.zeros_like(memory),
        )


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel on one GPU: where its rows come from, and what it reaches.

    dtype: of the cache or of the weights. whole_ungrouped: one processor reads a sequence where
    each head has its own keys; whole_parts: all sequences are read in that many parts, 0 for as
    many as fill the GPU. heads_a_block: query heads that share one reading of a latent cache, 0 for
    all. error: mean absolute, a share, on rows that were not fitted.
    """

    kind: Kind
    device: str
    framework: str
    kernel: str
    dtype: str
    shares: Shares
    interval: Interval
    num_rows: int
    error: float
    clock_hz: float
    whole_ungrouped: bool = False
    whole_parts: int = 0
    heads_a_block: int = 0

    def predict(self, demand: Demand, source: str) -> Predictions:
        """Latencies with their interval and parts."""
        latency_s, parts = self.shares.latency_s(demand), self.shares.parts(demand)
        low_s, high_s = self.interval.around(latency_s, parts.bound)
        names = np.full(len(latency_s), source)
        return Predictions(latency_s, low_s, high_s, parts.bound, names, parts)


# -- what operators ask ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attention:
    """Fused attention of query_len tokens a sequence over keys cached ones; columns of counts."""

    batch_size: FloatArray
    query_len: FloatArray
    keys: FloatArray
    num_heads: FloatArray
    num_kv_heads: FloatArray
    head_dim: FloatArray
    cache_bytes: float  # of one element

    @property
    def read_bytes(self) -> FloatArray:
        """The keys and values, read once."""
        values = 2 * self.num_kv_heads * self.head_dim * self.cache_bytes
        return self.batch_size * self.keys * values

    def demand(self, ceilings: DeviceCeilings, kernel: Kernel) -> Demand:
        b, q, n, d = self.batch_size, self.query_len, self.num_heads, self.head_dim
        group = n / self.num_kv_heads
        rows = 2 * b * q * n * d * 2  # queries and outputs, 16 bits
        blocks = b * self.num_kv_heads * np.ceil(group * q / _TILE_ROWS)
        bandwidth = ceilings.memory_bandwidth_bytes_per_s
        one = self.keys * 2 * d * self.cache_bytes
        is_whole = kernel.whole_ungrouped & (group == 1)
        return Demand(
            (self.read_bytes + rows) / bandwidth,
            4 * b * n * q * self.keys * d / ceilings.peak(Dtype.BFLOAT16),
            blocks / ceilings.num_sms,
            np.where(is_whole, one * ceilings.num_sms / bandwidth, 0.0),
            np.zeros_like(one),
        )


@dataclass(frozen=True, slots=True)
class Latent:
    """Absorbed latent attention, keys and values one vector a token; columns of counts."""

    batch_size: FloatArray
    query_len: FloatArray
    keys: FloatArray
    num_heads: FloatArray
    kv_rank: float
    rope_dim: float
    cache_bytes: float

    @property
    def read_bytes(self) -> FloatArray:
        return self.batch_size * self.keys * (self.kv_rank + self.rope_dim) * self.cache_bytes

    def demand(self, ceilings: DeviceCeilings, kernel: Kernel) -> Demand:
        b, width = self.batch_size, 2 * self.kv_rank + self.rope_dim
        heads = self.num_heads * self.query_len
        bandwidth = ceilings.memory_bandwidth_bytes_per_s
        peak = ceilings.peak(Dtype.BFLOAT16) * (2 / self.cache_bytes)
        reads = np.ceil(heads / kernel.heads_a_block) if kernel.heads_a_block else 1.0
        one = self.read_bytes / b
        parts = kernel.whole_parts
        return Demand(
            (reads * self.read_bytes + 2 * b * heads * width) / bandwidth,
            2 * b * np.maximum(_TILE_ROWS, heads) * self.keys * width / peak,
            b / ceilings.num_sms,
            one * ceilings.num_sms / bandwidth / parts if parts else np.zeros_like(one),
            np.zeros_like(one),
        )


@dataclass(frozen=True, slots=True)
class ExpertProducts:
    """The grouped products of routed experts, with routing and summing; columns of counts.

    touched: distinct experts of a pass. num_products: 3, or 2 without a gate.
    """

    num_tokens: FloatArray
    touched: FloatArray
    experts_per_token: FloatArray
    hidden_size: FloatArray
    width: FloatArray
    num_products: FloatArray
    weight_bytes: float  # of one weight, with its scales

    @property
    def read_bytes(self) -> FloatArray:
        """The weights of the experts that are touched."""
        size = self.num_products * self.hidden_size * self.width
        return self.touched * size * self.weight_bytes

    def demand(self, ceilings: DeviceCeilings, kernel: Kernel) -> Demand:
        shares = kernel.shares
        pairs = self.num_tokens * self.experts_per_token
        width = self.width + shares.padded_width * _WIDTH_UNIT
        more = np.where(self.width % _ALIGNED == 0, 1.0, shares.unaligned)
        rows = self.touched * (pairs / self.touched + shares.padded_rows)
        h = self.hidden_size
        beside = 4 * self.num_tokens * h + 2 * pairs * (self.num_products * self.width + 2 * h)
        bandwidth = ceilings.memory_bandwidth_bytes_per_s
        zero = np.zeros_like(pairs)
        return Demand(
            self.read_bytes * width / self.width * more / bandwidth,
            2 * rows * self.num_products * h * width * more / self._peak(ceilings, kernel.dtype),
            zero,
            zero,
            beside / bandwidth,
        )

    @staticmethod
    def _peak(ceilings: DeviceCeilings, dtype: str) -> float:
        is_float8 = dtype.startswith("fp8") and Dtype.FLOAT8 in ceilings.peak_flops_per_s
        return ceilings.peak(Dtype.FLOAT8 if is_float8 else Dtype.BFLOAT16)


@dataclass(frozen=True, slots=True)
class DeltaStep:
    """One recurrent step of a gated delta net: its float32 state is read and written."""

    batch_size: FloatArray
    num_k_heads: FloatArray
    num_v_heads: FloatArray
    k_dim: FloatArray
    v_dim: FloatArray

    @property
    def read_bytes(self) -> FloatArray:
        """The state, read once."""
        return 4 * self.batch_size * self.num_v_heads * self.k_dim * self.v_dim

    def demand(self, ceilings: DeviceCeilings, kernel: Kernel) -> Demand:
        channels = 2 * self.num_k_heads * self.k_dim + self.num_v_heads * self.v_dim
        moved = 2 * self.read_bytes + 2 * self.batch_size * channels
        zero = np.zeros_like(moved)
        memory_s = moved / ceilings.memory_bandwidth_bytes_per_s
        return Demand(memory_s, zero, zero, zero, zero)


Asked = Attention | Latent | ExpertProducts | DeltaStep


# -- the kernels that ship ------------------------------------------------------------------------


@cache
def shipped() -> tuple[Kernel, ...]:
    """Every kernel of operator_laws.toml; of one kind and GPU, the first is the usual one."""
    text = resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8")
    return tuple(map(_decode, tomllib.loads(text)["kernel"]))


def _decode(value: Mapping[str, Any]) -> Kernel:
    named = dict(value)
    shares = Shares(**{each.name: named.pop(each.name) for each in fields(Shares)
                       if each.name in named})  # fmt: skip
    interval = Interval(_ends(named.pop("low")), _ends(named.pop("high")))
    return Kernel(**{**named, "kind": Kind(named["kind"]), "shares": shares, "interval": interval})


def _ends(values: Sequence[float]) -> tuple[float, float, float]:
    """In the order of calibration.BOUNDS: launch, memory, compute."""
    launch, memory, compute = values
    return launch, memory, compute


def kernel_for(
    kind: Kind, profile: DeviceProfile, dtype: str, *, name: str = ""
) -> tuple[Kernel, str] | None:
    """The kernel for a GPU and its source in words: its own, or else its nearest relative's.

    name: of the kernel, where it is known; another stands for one without rows. None where the kind
    has no rows for the dtype.
    """
    there = [each for each in shipped() if each.kind is kind and each.dtype == dtype]
    if not there:
        return None
    nearest = "a100-80gb-sxm" if profile.family in _LIKE_AMPERE else "h100-sxm"

    def distance(each: Kernel) -> tuple[bool, ...]:
        is_near = each.device in (profile.name, nearest)
        return (each.device != profile.name, not is_near, each.kernel != name)

    found = min(there, key=distance)
    words = f"{found.device}, {found.framework} (aiconfigurator)"
    if found.device == profile.name:
        return found, f"{kind}: calibrated, {words}"
    return _lent(found, profile), f"{kind}: prior, {words}"


def _lent(kernel: Kernel, profile: DeviceProfile) -> Kernel:
    """A kernel as it is expected on a GPU without rows."""
    scale = kernel.clock_hz / profile.clock_hz
    wider = Interval(
        _ends([end - _PRIOR_HALF_WIDTH for end in kernel.interval.low]),
        _ends([end + _PRIOR_HALF_WIDTH for end in kernel.interval.high]),
    )
    shares = {each.name: getattr(kernel.shares, each.name) for each in fields(Shares)}
    for seconds in ("launch_s", "item_s"):
        shares[seconds] *= scale
    own = {each.name: getattr(kernel, each.name) for each in fields(Kernel)}
    return Kernel(**{**own, "shares": Shares(**shares), "interval": wider})


def is_calibrated(kind: Kind, device: str) -> bool:
    """Whether rows of this GPU stand behind a kernel of the kind."""
    return any(each.kind is kind and each.device == device for each in shipped())


def predict(kind: Kind, asked: Asked, device: str, dtype: str) -> Predictions | None:
    """Latencies of an operator's settings on a GPU; None where no rows tell."""
    profile = profile_of(device)
    if (found := kernel_for(kind, profile, dtype)) is None:
        return None
    kernel, source = found
    return kernel.predict(asked.demand(DeviceCeilings.of(profile), kernel), source)
