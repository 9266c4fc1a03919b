"""The numbers of a page as columns: names once, one row a task, and points that refer to them.

A sweep's 11,760 logical points are 2,835 tasks, so a page of a hundred thousand points stays
small. What a reader of the page downloads as CSV is `results.exports.rows`, put together again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medusa_bench.predict.latency import LatencyModel
from medusa_bench.results.points import EXPORT_COLUMNS
from medusa_bench.results.reading import Results
from medusa_bench.results.rows import ResultPoint
from medusa_bench.specs import profiles
from medusa_bench.specs.ceilings import Bound
from medusa_bench.specs.columns import Products
from medusa_bench.specs.profiles import DeviceProfile

Json = dict[str, Any]
MAX_POINTS = 30_000  # on one page: more take a browser seconds, and megabytes


@dataclass(frozen=True)
class Folder:
    """A results folder as a page shows it: with its points read once, and its datasheet."""

    results: Results
    points: Sequence[ResultPoint]
    profile: DeviceProfile | None

    @classmethod
    def of(cls, results: Results) -> "Folder":
        environment = results.environment
        profile = profiles.match(environment.device, environment.memory_bytes)
        return cls(results, results.points(), profile)

    @property
    def title(self) -> str:
        """The device and where its numbers come from, which are never shown apart."""
        return f"{self.results.environment.device} ({self.results.provenance})"


def titles(folders: Sequence[Folder]) -> list[str]:
    """One for each folder, none twice: the path tells apart what would read the same."""
    plain = [folder.title for folder in folders]
    return [
        title if plain.count(title) == 1 else f"{title}, {folder.results.path}"
        for title, folder in zip(plain, folders, strict=True)
    ]


def thinned(points: Sequence[ResultPoint], limit: int = MAX_POINTS) -> Sequence[ResultPoint]:
    """At most that many points: every second value of the setting with most values left out, again
    and again, so that what is left can still be followed along each setting."""
    while len(points) > limit:
        values = {name: _values(points, name) for name in _THINNED}
        name = max(_THINNED, key=lambda each: len(values[each]))
        if len(values[name]) < 3:
            return points[:: -(-len(points) // limit)]
        kept = {*values[name][::2], values[name][-1]}
        points = [each for each in points if getattr(each.point.setting, name) in kept]
    return points


_THINNED = ("batch_size", "seq_len", "num_candidates")


def _values(points: Sequence[ResultPoint], name: str) -> list[int]:
    return sorted({getattr(each.point.setting, name) for each in points})


def columns(folders: Sequence[Folder]) -> Json:
    """The logical points of the folders, with a number or the reason why there is none, thinned
    where they are many; `num_points` counts them all."""
    names = _Names()
    tasks = _Tasks()
    points: dict[str, list[int]] = {name: [] for name in _POINT_COLUMNS}
    shown = [thinned(folder.points, MAX_POINTS // len(folders)) for folder in folders]
    for index, (folder, of_folder) in enumerate(zip(folders, shown, strict=True)):
        for each in of_folder:
            setting = each.point.setting
            row = (
                index,
                tasks.index(index, folder, each),
                names.index("model", each.point.shape.name),
                names.index("operator", each.point.operator.name),
                names.index("phase", setting.phase),
                setting.batch_size,
                setting.seq_len,
                setting.num_candidates,
            )
            for name, value in zip(_POINT_COLUMNS, row, strict=True):
                points[name].append(value)
    return {
        "export": EXPORT_COLUMNS,
        "folders": [
            {
                "title": title,
                "device": folder.results.environment.device,
                "provenance": folder.results.provenance,
                "roofs": _roofs(folder),
            }
            for title, folder in zip(titles(folders), folders, strict=True)
        ],
        "names": names.by_column,
        "families": {
            each.point.operator.name: each.point.operator.family
            for of_folder in shown
            for each in of_folder
        },
        "num_points": sum(len(folder.points) for folder in folders),
        "tasks": tasks.columns,
        "points": points,
    }


_POINT_COLUMNS = (
    "folder", "task", "model", "operator", "phase", "batch_size", "seq_len", "num_candidates",
)  # fmt: skip


class _Names:
    """Words by column, each once; points hold their index."""

    def __init__(self) -> None:
        self.by_column: dict[str, list[str]] = {}
        self._indices: dict[tuple[str, str], int] = {}

    def index(self, column: str, word: str) -> int:
        words = self.by_column.setdefault(column, [])
        found = self._indices.setdefault((column, word), len(words))
        if found == len(words):
            words.append(word)
        return found


class _Tasks:
    """What the points of one product, dtype and timing share; one row for each."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {}
        self._indices: dict[tuple[object, ...], int] = {}

    def index(self, folder_index: int, folder: Folder, each: ResultPoint) -> int:
        point, summary = each.point, each.summary
        product = point.product
        # Printed tables may give one product two rates, so the number is part of the key.
        key = (folder_index, product, point.dtype, each.timing, summary, each.reason)
        if (found := self._indices.get(key)) is not None:
            return found
        share, bound = of_datasheet(folder.profile, each)
        row: Json = {
            "dtype": point.dtype,
            "timing": each.timing,
            "latency_s": summary.latency_s if summary else None,
            "spread": summary.spread if summary else None,
            "flops": product.flops,
            "bytes_moved": product.bytes_moved(point.dtype),
            "operational_intensity": product.operational_intensity(point.dtype),
            "flops_per_s": each.flops_per_s,
            "roof_fraction": each.roof_fraction,
            "bound": each.bound or "",
            "datasheet_fraction": share,
            "datasheet_bound": bound,
            "flags": " ".join(each.flags),
            "reason": each.reason,
            "source": summary.source if summary else "",
        }
        for name, value in row.items():
            self.columns.setdefault(name, []).append(value)
        self._indices[key] = len(self._indices)
        return self._indices[key]


def slowest(folder: Folder, latency: LatencyModel, count: int = 12) -> Json:
    """The slowest distinct tasks of a folder, their latency split as the model does.

    What the model does not explain is the rest, and may be negative.
    """
    by_summary: dict[int, list[ResultPoint]] = {}
    for each in folder.points:
        if each.summary:
            by_summary.setdefault(id(each.summary), []).append(each)
    by_task: dict[object, list[ResultPoint]] = {}
    for group in by_summary.values():
        key = (group[0].point.product, group[0].point.dtype, group[0].timing)
        by_task.setdefault(key, []).extend(group)
    alike = sorted(by_task.values(), key=lambda group: -_latency_s(group[0]))[:count]
    columns: Json = {"label": [], "latency_s": []} | {name: [] for name in _PARTS}
    for group in alike:
        first = group[0].point
        setting = first.setting
        names = "/".join(dict.fromkeys(each.point.operator.name for each in group))
        candidates = f" q{setting.num_candidates}" if setting.num_candidates > 1 else ""
        columns["label"].append(
            f"{first.shape.name} {names} {setting.phase} b{setting.batch_size} "
            f"s{setting.seq_len}{candidates}"
        )
        columns["latency_s"].append(_latency_s(group[0]))
        split = latency.predict(Products.of([first.product]), first.dtype).parts
        split = split.against(np.array([_latency_s(group[0])]))
        for name in _PARTS:
            columns[name].append(float(getattr(split, name)[0]))
    return {"latency_source": latency.name, "columns": columns}


_PARTS = ("launch_s", "bandwidth_s", "compute_s", "tile_s", "unexplained_s")


def _latency_s(each: ResultPoint) -> float:
    return each.summary.latency_s if each.summary else 0.0


def of_datasheet(
    profile: DeviceProfile | None, each: ResultPoint
) -> tuple[float | None, Bound | None]:
    """The share of the datasheet's roof, and the side of its ridge."""
    dtype = each.point.dtype
    if profile is None or dtype not in profile.peak_flops_per_s:
        return None, None
    intensity = each.point.product.operational_intensity(dtype)
    bound = profile.bound(intensity, dtype)
    if each.flops_per_s is None:
        return None, bound
    return each.flops_per_s / profile.attainable_flops_per_s(intensity, dtype), bound


def _roofs(folder: Folder) -> list[Json]:
    """Ceilings to draw, one for each dtype: measured first, then the datasheet's."""
    found: list[Json] = []
    if roof := folder.results.roof:
        found += [
            _ceiling("measured", "measured", dtype, peak, roof.memory_bandwidth_bytes_per_s)
            for dtype, peak in roof.peak_flops_per_s.items()
        ]
    if profile := folder.profile:
        found += [
            _ceiling("datasheet", profile.name, dtype, peak, profile.memory_bandwidth_bytes_per_s)
            for dtype, peak in profile.peak_flops_per_s.items()
        ]
    return found


def _ceiling(kind: str, name: str, dtype: str, peak: float, bandwidth: float) -> Json:
    return {
        "kind": kind,
        "name": name,
        "dtype": dtype,
        "peak_flops_per_s": peak,
        "memory_bandwidth_bytes_per_s": bandwidth,
    }
