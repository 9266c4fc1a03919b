"""Logical points joined to what is known of their products: what tables and figures are made of.

Many points share a product, so numbers stand once, in `Known`, and a point says where.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from medusa_bench.results.asked import PHASES, TASK, Asked, distinct, of_points
from medusa_bench.results.columns import (
    DTYPES,
    FLAGS,
    TIMINGS,
    Array,
    Tasks,
    flags_of,
    mask_of,
)
from medusa_bench.results.rows import (
    ABOVE_ROOF,
    Provenance,
    QualityFlag,
    ResultPoint,
    Roofs,
    Summary,
)
from medusa_bench.specs.ceilings import Bound
from medusa_bench.specs.products import Product

if TYPE_CHECKING:
    import pandas as pd

EXPORT_COLUMNS = (
    "device", "model", "operator", "phase", "batch_size", "seq_len", "num_candidates", "dtype",
    "timing", "latency_s", "spread", "flops", "bytes_moved", "operational_intensity",
    "flops_per_s", "roof_fraction", "bound", "flags", "provenance", "reason",
)  # fmt: skip
_BYTES = np.array([dtype.bytes_per_element for dtype in DTYPES])
_EXACT = float(1 << 53)  # whole numbers that a float holds


@dataclass(frozen=True, slots=True)
class Words:
    """A column of words: the index of each in their names, of which none stands twice."""

    codes: Array
    names: tuple[str, ...]

    @classmethod
    def of(cls, codes: Array, names: Sequence[str]) -> Words:
        """Of names that may stand twice."""
        index = {str(name): place for place, name in enumerate(dict.fromkeys(map(str, names)))}
        places = np.array([index[str(name)] for name in names], dtype=np.int32)
        return cls(places[codes], tuple(index))

    def __getitem__(self, which: Array | slice) -> Words:
        return Words(self.codes[which], self.names)

    @property
    def words(self) -> Array:
        """The word of each, of Python's texts."""
        found: Array = np.array(self.names, dtype=object)[self.codes]
        return found

    def tolist(self) -> list[str]:
        return [self.names[code] for code in self.codes.tolist()]


@dataclass(frozen=True)
class Known:
    """What is known of each product in a dtype by a timing, as columns of shape (products,).

    latency_s, low_s and high_s in seconds are NaN, and num_rounds 0, where there is no number;
    `reason` says why then. roof_fraction is NaN, and bound "", without a roof.
    """

    batch: Array
    m: Array
    n: Array
    k: Array
    dtype: Array  # index in DTYPES
    timing: Array  # index in TIMINGS
    latency_s: Array
    low_s: Array
    high_s: Array
    num_rounds: Array
    flags: Array  # a bit for each of FLAGS
    source: Array  # index in words
    reason: Array  # index in words
    words: tuple[str, ...]  # the first is ""
    roof: Roofs | None

    @classmethod
    def of(cls, tasks: Mapping[str, Array], *columns: Any) -> Known:
        """Of the columns TASK, and the others in their order."""
        names = [each.name for each in fields(cls)][len(TASK) :]
        found: dict[str, Any] = dict(zip(names, columns, strict=True))
        found.update((name, tasks[name]) for name in TASK)
        return cls(**found)

    def __len__(self) -> int:
        return len(self.batch)

    @cached_property
    def has_number(self) -> Array:
        return self.num_rounds > 0

    @cached_property
    def _products(self) -> Any:
        """Columns under the formulas of one; of Python's whole numbers where int64 may not do."""
        sizes: Any = (self.batch, self.m, self.n, self.k)
        floats: Any = Product(*(each.astype(float) for each in sizes))
        if max(floats.flops.max(initial=0), 8 * floats.num_elements.max(initial=0)) < _EXACT:
            return Product(*sizes)
        return Product(*(each.astype(object) for each in sizes))

    @cached_property
    def flops(self) -> Array:
        flops: Array = self._products.flops
        return flops

    @cached_property
    def bytes_moved(self) -> Array:
        moved: Array = self._products.num_elements * _BYTES[self.dtype]
        return moved

    @cached_property
    def operational_intensity(self) -> Array:
        return (self.flops / self.bytes_moved).astype(float)

    @cached_property
    def flops_per_s(self) -> Array:
        return (self.flops / self.latency_s).astype(float)

    @cached_property
    def spread(self) -> Array:
        return (self.high_s - self.low_s) / self.latency_s

    def _peaks(self) -> tuple[Array, float]:
        """The roof's peak of each one's dtype, NaN where there is none, and its bandwidth."""
        peaks = self.roof.peak_flops_per_s if self.roof else {}
        by_dtype = np.array([peaks.get(dtype, np.nan) for dtype in DTYPES])
        return by_dtype[self.dtype], self.roof.memory_bandwidth_bytes_per_s if self.roof else 1.0

    @cached_property
    def roof_fraction(self) -> Array:
        peak, bandwidth = self._peaks()
        attainable = np.minimum(peak, self.operational_intensity * bandwidth)
        return self.flops_per_s / attainable

    @cached_property
    def bound(self) -> Array:
        peak, bandwidth = self._peaks()
        sides = np.where(self.operational_intensity < peak / bandwidth, 1, 2)
        return np.where(np.isnan(peak), 0, sides)

    @cached_property
    def is_above_roof(self) -> Array:
        return self.roof_fraction > ABOVE_ROOF

    def flags_at(self, place: int) -> tuple[QualityFlag, ...]:
        """The flags of one: of its rounds, then what follows from the roof."""
        above = (QualityFlag.ABOVE_ROOF,) if self.is_above_roof[place] else ()
        return (*flags_of(int(self.flags[place])), *above)

    def summaries(self) -> list[Summary | None]:
        columns = (self.latency_s, self.low_s, self.high_s, self.num_rounds, self.flags)
        numbers = zip(*(each.tolist() for each in (*columns, self.source)), strict=True)
        flags = {mask: flags_of(mask) for mask in np.unique(self.flags).tolist()}
        return [
            Summary(latency_s, low_s, high_s, num_rounds, flags[mask], self.words[source])
            if num_rounds
            else None
            for latency_s, low_s, high_s, num_rounds, mask, source in numbers
        ]


BOUNDS = (None, Bound.MEMORY, Bound.COMPUTE)


@dataclass(frozen=True)
class Points(Sequence[ResultPoint]):
    """Logical points of one folder: columns, and each as an object when asked for."""

    asked: Asked
    place: Array  # of each point in `known`
    known: Known
    provenance: Provenance
    device: str

    @classmethod
    def of(cls, points: Sequence[ResultPoint]) -> Points:
        """The columns of points of one device and provenance that belong to no folder."""
        words: dict[str, int] = {"": 0}
        summaries = [each.summary for each in points]
        asked = of_points([(each.point, each.timing) for each in points])
        numbers = np.array(
            [(s.latency_s, s.low_s, s.high_s, s.num_rounds) if s else (np.nan,) * 3 + (0,)
             for s in summaries], dtype=float,
        ).reshape(-1, 4).T  # fmt: skip
        known = Known.of(
            asked.columns,
            *numbers[:3],
            numbers[3].astype(np.int64),
            np.array([mask_of(each.flags) for each in points], dtype=np.int16),
            np.array([words.setdefault(s.source if s else "", len(words)) for s in summaries]),
            np.array([words.setdefault(each.reason, len(words)) for each in points]),
            tuple(words),
            None,
        )
        return cls(
            asked, np.arange(len(points)), known, points[0].provenance, points[0].device
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._objects(np.arange(len(self))[index])
        return self._objects(np.array([range(len(self))[index]]))[0]

    def __iter__(self) -> Iterator[ResultPoint]:
        return iter(self._all)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._all == list(other)

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def _all(self) -> list[ResultPoint]:
        return self._objects(np.arange(len(self)))

    def _objects(self, which: Array) -> list[ResultPoint]:
        known, places = self.known, self.place[which].tolist()
        summaries = known.summaries()
        numbers = zip(
            self.asked.points(which),
            places,
            self.asked.columns["timing"][which].tolist(),
            known.roof_fraction[self.place[which]].tolist(),
            known.bound[self.place[which]].tolist(),
            known.reason[self.place[which]].tolist(),
            strict=True,
        )
        return [
            ResultPoint(
                point,
                TIMINGS[timing],
                self.provenance,
                self.device,
                summaries[place],
                known.words[reason],
                None if fraction != fraction else fraction,  # noqa: PLR0124 -- NaN
                BOUNDS[bound],
                known.flags_at(place),
            )
            for point, place, timing, fraction, bound, reason in numbers
        ]

    @cached_property
    def has_number(self) -> Array:
        """Which points have a number."""
        return self.known.has_number[self.place]

    def count_reasons(self) -> Counter[str]:
        """Why points have no number, and of how many that holds, in the order met."""
        codes = self.known.reason[self.place[~self.has_number]]
        found, first, counts = np.unique(codes, return_index=True, return_counts=True)
        order = np.argsort(first)
        return Counter(
            {self.known.words[found[each]]: int(counts[each]) for each in order.tolist()}
        )

    def count_flags(self) -> Counter[QualityFlag]:
        """Of how many points each flag is doubted, in the order met."""
        known, met = self.known, []
        for bit, flag in enumerate(FLAGS):
            told = (known.flags >> bit & 1).astype(bool)
            derived = flag is QualityFlag.ABOVE_ROOF
            times = told.astype(int) + known.is_above_roof if derived else told.astype(int)
            at_points = times[self.place]
            if count := int(at_points.sum()):
                late = derived and not told[self.place].any()
                met.append((int(at_points.argmax()), len(FLAGS) if late else bit, flag, count))
        return Counter({flag: count for _, _, flag, count in sorted(met)})

    def grouped(self, by: Sequence[str]) -> Iterator[tuple[tuple[str, ...], dict[str, Array]]]:
        """The points with a number by columns of words, groups in the order met.

        Each with its latency_s, flops_per_s, roof_fraction and bound (an index in BOUNDS).
        """
        which = np.flatnonzero(self.has_number)
        words = [column[which] for name in by if isinstance(column := self.column(name), Words)]
        first, group = distinct([each.codes for each in words])
        order = np.argsort(group, kind="stable")
        members = dict(enumerate(np.split(order, np.cumsum(np.bincount(group))[:-1])))
        for index in np.argsort(first).tolist():
            places = self.place[which[members[index]]]
            names = tuple(each.names[each.codes[first[index]]] for each in words)
            yield (
                names,
                {
                    name: getattr(self.known, name)[places]
                    for name in ("latency_s", "flops_per_s", "roof_fraction", "bound")
                },
            )

    def column(self, name: str) -> Array | Words:
        """One of EXPORT_COLUMNS, of shape (points,): NaN and "" where nothing is known."""
        asked = self.asked.columns
        match name:
            case "device" | "provenance":
                return Words.of(np.zeros(len(self), dtype=np.int8), [getattr(self, name)])
            case "model":
                return Words.of(asked["shape"], [shape.name for shape in self.asked.shapes])
            case "operator" | "family":  # the family is not exported: tables are grouped by it
                of = "name" if name == "operator" else name
                words = [getattr(each, of) for each in self.asked.operators]
                return Words.of(asked["operator"], words)
            case "phase":
                return Words.of(asked["phase"], PHASES)
            case "batch_size" | "seq_len" | "num_candidates":
                return asked[name]
            case _:
                return product_column(self.known, name)[self.place]

    @property
    def columns(self) -> dict[str, Array | Words]:
        """All of EXPORT_COLUMNS."""
        return {name: self.column(name) for name in EXPORT_COLUMNS}

    def to_frame(self) -> pd.DataFrame:
        """EXPORT_COLUMNS as a pandas frame: NaN and "" where nothing is known."""
        import pandas as pd

        columns = {
            name: column.words if isinstance(column, Words) else column
            for name, column in self.columns.items()
        }
        return pd.DataFrame(columns, copy=False)


def product_column(known: Known, name: str) -> Array | Words:
    """What one of EXPORT_COLUMNS says of a product, one for each product."""
    match name:
        case "dtype":
            return Words.of(known.dtype, DTYPES)
        case "timing":
            return Words.of(known.timing, TIMINGS)
        case "bound":
            return Words.of(known.bound, [bound or "" for bound in BOUNDS])
        case "reason":
            return Words.of(known.reason, known.words)
        case "flags":
            mask = known.flags.astype(np.int64) * 2 + known.is_above_roof
            masks, which = np.unique(mask, return_inverse=True)
            derived = (QualityFlag.ABOVE_ROOF,)
            flags = [(*flags_of(each >> 1), *(derived if each & 1 else ())) for each in masks]
            return Words.of(which.reshape(-1), [" ".join(each) for each in flags])
        case _:
            found: Array = getattr(known, name)
            return found


def joined(asked: Asked, tasks: Tasks) -> tuple[Tasks, Array]:
    """The tasks, those asked for and not among them behind, and each point's place in them."""
    both = [
        np.concatenate([getattr(tasks, name).astype(np.int64), asked.columns[name]])
        for name in TASK
    ]
    first, which = distinct(both)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    columns = [column[first[order]] for column in both]
    return Tasks(np.zeros(len(first), dtype=np.uint64), *columns), rank[which][len(tasks) :]
