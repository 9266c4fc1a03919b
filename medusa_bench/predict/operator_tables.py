"""Published latencies of operators that are no plain product: read as they are, and scored.

The tables of aiconfigurator as ../shared/reference/modern has them: decode attention, experts, sums
over a group, latent attention, delta nets, quantised products. Cold rows are scored: what crosses
memory is more than twice the L2, as in a step whose other layers flush it. Of GPUs whose kernels
are fitted to such rows, one half of the settings was left out of the fit (`held_out`) and is
scored; of others, every cold row.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medusa_bench.base import ranges
from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.predict import allreduce, calibration_files, operator_laws, scoring
from medusa_bench.predict.calibration import DeviceCeilings
from medusa_bench.predict.operator_laws import (
    Asked,
    Attention,
    DeltaStep,
    ExpertProducts,
    Kind,
    Latent,
)
from medusa_bench.predict.scoring import Scored
from medusa_bench.results import tables
from medusa_bench.results.tables import Labels, Observations
from medusa_bench.specs.columns import FloatArray, Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.profiles import DeviceProfile, profile_of

Flags = NDArray[np.bool_]


class Table(StrEnum):
    """The tables that are read."""

    ATTENTION = "attention"
    MOE = "moe"
    ALLREDUCE = "allreduce"
    GEMM = "gemm"
    MLA = "mla"
    DELTA = "delta"


_COLD_OVER_L2 = 2.0
_MLA_RANK, _MLA_ROPE = 512.0, 64.0  # of the table's latent
_WINDOW_TILE = 128.0

_COUNTS: Mapping[Table, Sequence[str]] = {
    Table.ATTENTION: (
        "batch_size", "cached_tokens", "num_heads", "num_kv_heads", "head_dim", "window_tokens",
    ),
    Table.MOE: (
        "hidden_size", "moe_intermediate_size", "num_experts", "experts_per_token",
        "tensor_parallel", "num_tokens", "experts_touched_mean",
    ),
    Table.ALLREDUCE: ("num_gpus", "message_bytes"),
    Table.MLA: ("num_heads", "batch_size", "cached_tokens"),
    Table.DELTA: ("batch_size", "num_k_heads", "head_k_dim", "num_v_heads", "head_v_dim"),
}  # fmt: skip
_WORDS: Mapping[Table, Sequence[str]] = {
    Table.ATTENTION: ("gpu", "framework", "kernel", "kv_dtype"),
    Table.MOE: ("gpu", "framework", "kernel", "weight_dtype", "model", "gated", "distribution"),
    Table.ALLREDUCE: ("gpu", "framework", "kernel"),
    Table.MLA: ("gpu", "framework", "kernel", "op", "kv_dtype"),
    Table.DELTA: ("gpu", "framework", "kernel"),
}
KINDS: Mapping[Table, Kind] = {
    Table.ATTENTION: Kind.ATTENTION,
    Table.MOE: Kind.EXPERTS,
    Table.MLA: Kind.LATENT,
    Table.DELTA: Kind.DELTA,
}
# Bytes of a weight with its scales: block scales of fp8, groups of 32 of int4 and mxfp4.
_WEIGHT_BYTES = {
    "bfloat16": 2.0,
    "fp8_block": 8.002 / 8,
    "int4_wo": 4.5 / 8,
    "w4a16_mxfp4": 4.25 / 8,
}
_CACHE_BYTES = {"bfloat16": 2.0, "float16": 2.0, "fp8": 1.0}


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one table as columns of shape (rows,); cells are what they say beside."""

    table: Table
    latency_s: FloatArray
    counts: Mapping[str, FloatArray]
    words: Mapping[str, Labels]
    held_out: Flags = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def __len__(self) -> int:
        return len(self.latency_s)

    def __getitem__(self, chosen: NDArray[np.generic]) -> "Rows":
        return Rows(
            self.table,
            self.latency_s[chosen],
            {name: values[chosen] for name, values in self.counts.items()},
            {name: values[chosen] for name, values in self.words.items()},
            self.held_out[chosen],
        )

    @property
    def dtype(self) -> Labels:
        """Of the cache, or of the weights."""
        for name in ("kv_dtype", "weight_dtype"):
            if name in self.words:
                return self.words[name]
        return np.full(len(self), "bfloat16")

    def groups(self) -> list[NDArray[np.int64]]:
        """The rows of each GPU, framework, kernel and dtype."""
        keys = np.stack([self.words["gpu"], self.words["framework"], self.words["kernel"]])
        keys = np.concatenate([keys, self.dtype[None]])
        _, code = np.unique(keys, axis=1, return_inverse=True)
        return [np.flatnonzero(code.reshape(-1) == each) for each in range(code.max() + 1)]

    def asked(self) -> Asked:
        """What rows of one dtype ask."""
        c, dtype = self.counts, str(self.dtype[0])
        match self.table:
            case Table.ATTENTION:
                return _attention(c, _CACHE_BYTES[dtype])
            case Table.MLA:
                keys = c["cached_tokens"] + 1
                one = np.ones(len(self))
                bytes_ = _CACHE_BYTES[dtype]
                return Latent(c["batch_size"], one, keys, c["num_heads"],
                              _MLA_RANK, _MLA_ROPE, bytes_)  # fmt: skip
            case Table.DELTA:
                return DeltaStep(c["batch_size"], c["num_k_heads"], c["num_v_heads"],
                                 c["head_k_dim"], c["head_v_dim"])  # fmt: skip
            case Table.MOE:
                is_gated = np.char.lower(self.words["gated"]) == "true"
                return ExpertProducts(
                    c["num_tokens"],
                    c["experts_touched_mean"],
                    c["experts_per_token"],
                    c["hidden_size"],
                    c["moe_intermediate_size"] / c["tensor_parallel"],
                    np.where(is_gated, 3.0, 2.0),
                    _WEIGHT_BYTES[dtype],
                )
            case Table.ALLREDUCE | Table.GEMM:
                raise AssertionError(self.table)

    def cold(self, profile: DeviceProfile) -> Flags:
        """Whether what rows of one dtype read is more than caches hold."""
        found: Flags = self.asked().read_bytes > _COLD_OVER_L2 * profile.l2_bytes
        return found

    def observations(self) -> Observations:
        """The labels and latencies under which they are scored; no products stand for them."""
        one, words = np.ones(len(self)), self.words
        return Observations(
            Products(one, one, one, one),
            self.dtype,
            self.latency_s,
            words["gpu"],
            words["framework"],
            words.get("model", np.full(len(self), "")),
            words["kernel"],
        )


def _attention(c: Mapping[str, FloatArray], cache_bytes: float) -> Attention:
    """Windows end on whole tiles of keys."""
    keys, window = c["cached_tokens"] + 1, c["window_tokens"]
    tiled = np.ceil(window / _WINDOW_TILE) * _WINDOW_TILE
    keys = np.where(window > 0, np.minimum(keys, tiled), keys)
    return Attention(
        c["batch_size"],
        np.ones(len(keys)),
        keys,
        c["num_heads"],
        c["num_kv_heads"],
        c["head_dim"],
        cache_bytes,
    )


# -- reading --------------------------------------------------------------------------------------


def read(path: Path, table: Table) -> Rows:
    """The rows of a table that the laws are of. Raises InvalidFileError, naming what is wrong."""
    columns = tables.columns_of(path)
    counts_of, words_of = _COUNTS[table], _WORDS[table]
    missing = [name for name in (*counts_of, *words_of, "latency_us") if name not in columns]
    if missing:
        raise InvalidFileError(
            f"{path} has no column {missing[0]!r}, so it is no table of {table}.",
            hint=f"--table {table} reads {', '.join((*words_of, *counts_of))} and latency_us.",
        )
    counts = {name: _numbers(columns[name], name, path) for name in counts_of}
    words = {name: np.array(columns[name]).astype(str) for name in words_of}
    latency_s = 1e-6 * _numbers(columns["latency_us"], "latency_us", path)
    if not len(latency_s):
        raise InvalidFileError(f"{path} has no rows.")
    rows = Rows(table, latency_s, counts, words, _held_out([*counts.values(), *words.values()]))
    return _supported(rows, path)


def _numbers(values: Any, name: str, path: Path) -> FloatArray:
    try:
        numbers = np.asarray(values).astype(np.float64)
    except (TypeError, ValueError):
        raise InvalidFileError(f"{path}: {name} is not a column of numbers.") from None
    least = 0.0 if name in _MAY_BE_NONE else _SMALLEST
    wrong = np.flatnonzero(~((numbers >= least) & (numbers <= _LARGEST)))
    if wrong.size:
        value = ranges.shortly(numbers[wrong[0]].item())
        raise InvalidFileError(f"{path}, row {wrong[0] + 1}: {name} is {value}.")
    return numbers


_MAY_BE_NONE = frozenset({"cached_tokens", "window_tokens"})
_SMALLEST, _LARGEST = 1e-3, float(1 << 40)  # microseconds, or counts


def _supported(rows: Rows, path: Path) -> Rows:
    """Without rows that no law here is of: absorbing products, convolutions, eager sums."""
    match rows.table:
        case Table.MLA:
            chosen = rows.words["op"] == "attention"
        case Table.DELTA:
            chosen = np.char.find(rows.words["kernel"], "delta_rule") >= 0
        case Table.ALLREDUCE:
            is_eager = np.char.endswith(rows.words["kernel"], "eager")
            is_large = rows.counts["message_bytes"] > allreduce.NCCL_FROM_BYTES
            is_nccl = np.char.startswith(rows.words["framework"], "nccl")
            chosen = (rows.counts["num_gpus"] > 1) & ~is_eager & (is_nccl | ~is_large)
        case _:
            known = _WEIGHT_BYTES if rows.table is Table.MOE else _CACHE_BYTES
            chosen = np.isin(rows.dtype, list(known))
    if not chosen.any():
        raise InvalidFileError(f"{path} has no row that --table {rows.table} can be scored on.")
    return rows[np.flatnonzero(chosen)]


def _held_out(columns: Sequence[NDArray[Any]]) -> Flags:
    """One half of the settings, drawn by a hash of what a row says but its latency: the same half
    whichever rows stand beside."""
    texts = zip(*(column.tolist() for column in columns), strict=True)
    return np.array([zlib.crc32(repr(each).encode()) & 64 > 0 for each in texts], dtype=bool)


# -- scoring --------------------------------------------------------------------------------------


def scored(path: Path, table: Table, gpu: str | None = None) -> Scored:
    """A table's rows beside what ships. gpu: only its rows.

    Raises InvalidFileError for a file that is no such table or has no row to score, and
    MedusaBenchError where none is of that GPU.
    """
    if table is Table.GEMM:
        return _gemm(path, gpu)
    rows = read(path, table)
    if gpu is not None:
        rows = _of_gpu(rows, profile_of(gpu).name)
    predict = _sums if table is Table.ALLREDUCE else _operators
    parts = [each for group in rows.groups() if (each := predict(rows[group])) is not None]
    if not parts:
        raise InvalidFileError(
            f"{path} has no cold row of {table}: all of them fit the L2 twice over.",
            hint="rows that read more than two L2s are scored.",
        )
    return scoring.joined(parts)


def _of_gpu(rows: Rows, name: str) -> Rows:
    there = {str(each): profile_of(str(each)).name for each in np.unique(rows.words["gpu"])}
    mine = [theirs for theirs, ours in there.items() if ours == name]
    if not mine:
        raise MedusaBenchError(
            f"None of the rows is of {name}.", hint=f"they are of {', '.join(there)}."
        )
    return rows[np.flatnonzero(np.isin(rows.words["gpu"], mine))]


def _operators(rows: Rows) -> Scored | None:
    """Rows of one kernel and dtype."""
    profile = profile_of(str(rows.words["gpu"][0]))
    rows = rows[np.flatnonzero(rows.cold(profile))]
    kind = KINDS[rows.table]
    if operator_laws.is_calibrated(kind, profile.name):
        rows = rows[np.flatnonzero(rows.held_out)]
    if not len(rows):
        return None
    dtype, name = str(rows.dtype[0]), str(rows.words["kernel"][0])
    found = operator_laws.kernel_for(kind, profile, dtype, name=name)
    if found is None:
        return None
    kernel, source = found
    demand = rows.asked().demand(DeviceCeilings.of(profile), kernel)
    plain = replace(kernel, shares=operator_laws.Shares(0.0, 1.0), heads_a_block=0)
    roofline_s = rows.asked().demand(DeviceCeilings.of(profile), plain).roofline_s
    predicted = kernel.predict(demand, source)
    return Scored(
        rows.observations(),
        predicted.latency_s,
        predicted.low_s,
        predicted.high_s,
        roofline_s,
        predicted.bound,
        predicted.source,
    )


def ratio_errors(path: Path, gpu: str | None = None) -> tuple[Observations, FloatArray]:
    """Of experts, absolute errors of T(t) / T(1) relative to the observed, shares of shape (rows,).

    Of the rows that `scored` scores beyond one token, where the row of one token is cold, too.
    """
    rows = read(path, Table.MOE)
    found = [
        each
        for group in rows.groups()
        if gpu is None or profile_of(str(rows.words["gpu"][group[0]])).name == profile_of(gpu).name
        if (each := _ratio_errors(rows[group])) is not None
    ]
    none = rows[np.zeros(0, dtype=np.int64)].observations()
    observations = tables.joined([none, *(each for each, _ in found)])
    return observations, np.concatenate([np.zeros(0), *(errors for _, errors in found)])


def _ratio_errors(rows: Rows) -> tuple[Observations, FloatArray] | None:
    profile = profile_of(str(rows.words["gpu"][0]))
    rows = rows[np.flatnonzero(rows.cold(profile))]
    dtype, name = (str(labels[0]) if len(rows) else "" for labels in
                   (rows.dtype, rows.words["kernel"]))  # fmt: skip
    found = operator_laws.kernel_for(Kind.EXPERTS, profile, dtype, name=name)
    if found is None:
        return None
    kernel, _ = found
    demand = rows.asked().demand(DeviceCeilings.of(profile), kernel)
    log_error = np.log(kernel.shares.latency_s(demand) / rows.latency_s)
    labels = (rows.words["model"], rows.words["distribution"], rows.counts["tensor_parallel"])
    keys = list(zip(*(label.tolist() for label in labels), strict=True))
    tokens = rows.counts["num_tokens"]
    of_one = {keys[index]: log_error[index] for index in np.flatnonzero(tokens == 1)}
    is_scored = tokens > 1
    if kernel.device == profile.name:
        is_scored = is_scored & rows.held_out
    chosen = np.array([i for i in np.flatnonzero(is_scored) if keys[i] in of_one], dtype=np.int64)
    base = np.array([of_one[keys[i]] for i in chosen])
    return rows[chosen].observations(), np.abs(np.expm1(log_error[chosen] - base))


def _sums(rows: Rows) -> Scored | None:
    """Rows of one engine's sums; every size of them is judged."""
    profile = profile_of(str(rows.words["gpu"][0]))
    engine = str(rows.words["framework"][0]).partition(" ")[0]
    if allreduce.is_fitted(profile, engine):
        rows = rows[np.flatnonzero(rows.held_out)]
    if not len(rows):
        return None
    latency_s, roofline_s = np.zeros((2, len(rows)))
    for num_gpus in np.unique(rows.counts["num_gpus"]):
        here = rows.counts["num_gpus"] == num_gpus
        message = rows.counts["message_bytes"][here]
        group = allreduce.all_reduce(profile, int(num_gpus), engine=engine)
        latency_s[here] = group.latency_s(message)
        roofline_s[here] = group.roofline_s(message)
    width = np.exp(allreduce.SPREAD)
    source = np.full(len(rows), f"sums: {engine}, {profile.name}")
    bound = np.full(len(rows), "communication")
    return Scored(
        rows.observations(), latency_s, latency_s / width, latency_s * width, roofline_s, bound,
        source,
    )  # fmt: skip


def fitted_half(shape_ids: NDArray[np.int64]) -> Flags:
    """Which rows of one GPU and scheme its kernels were fitted to, by n and k, with seed 0."""
    order = np.random.default_rng(0).permutation(shape_ids.max() + 1)
    half: Flags = np.isin(shape_ids, order[: len(order) // 2])
    return half


def _gemm(path: Path, gpu: str | None) -> Scored:
    """Products with quantised weights: cold ones of the shapes that were not fitted."""
    rows = tables.with_gpu(tables.read(path), gpu)
    chosen = []
    for name in np.unique(rows.gpu):
        l2_bytes = profile_of(str(name)).l2_bytes
        for label in np.unique(rows.dtype):
            here = np.flatnonzero((rows.gpu == name) & (rows.dtype == label))
            if not len(here) or label in (Dtype.BFLOAT16, Dtype.FLOAT16):
                continue
            mine = rows[here]
            _, scheme = scoring.stored(str(label))
            wide = scheme.bytes_per_weight if scheme else Dtype(str(label)).bytes_per_element
            weights = mine.products.batch * mine.products.n * mine.products.k * wide
            is_cold = _TABLE_COPIES * weights > _COLD_OVER_L2 * l2_bytes
            chosen.append(here[is_cold & ~fitted_half(mine.shape_ids)])
    if not chosen or not sum(map(len, chosen)):
        raise InvalidFileError(f"{path} has no cold row of quantised weights.")
    return scoring.as_shipped(
        rows[np.concatenate(chosen)], calibration_files.shipped_calibrations()
    )


# The collector of these tables rotates so many copies of a weight.
_TABLE_COPIES = 6
