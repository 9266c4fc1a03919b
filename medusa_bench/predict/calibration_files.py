"""Calibrations as JSON: those that ship in profiles/calibrations, and one beside a sweep's results.

Whatever is read is checked; nothing is mended.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from medusa_bench.base import limits, ranges
from medusa_bench.base.documents import JsonObject, parse_object
from medusa_bench.base.errors import InvalidFileError
from medusa_bench.base.files import read_bytes, shipped, write_whole
from medusa_bench.predict.boosting import Forest
from medusa_bench.predict.calibration import (
    BOUNDS,
    NUM_FEATURES,
    Calibration,
    DeviceCeilings,
    Interval,
    Parameters,
    Residual,
)
from medusa_bench.predict.gaussian_process import GaussianProcess
from medusa_bench.results.rows import MAX_SIZE, Timing
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

SCHEMA = 1
FILE = "calibration.json"  # beside the results it was fitted to
SHIPPED = "profiles/calibrations"

Part = TypeVar("Part")


def shipped_calibrations() -> list[Calibration]:
    """Every calibration that ships, in order of file names."""
    return [read(path) for path in sorted(shipped(SHIPPED).glob("*.json"))]


@lru_cache
def read(path: Path) -> Calibration:
    """Raises InvalidFileError, naming the file, for anything that is no calibration."""
    return decode(
        parse_object(read_bytes(path, limits.CALIBRATION_BYTES), where=str(path)), where=str(path)
    )


def write(calibration: Calibration, path: Path) -> None:
    """Replace the file as a whole. Raises StorageError."""
    write_whole(path, _lines(encode(calibration)).encode())


def encode(calibration: Calibration) -> JsonObject:
    ceilings, parameters = calibration.ceilings, calibration.parameters
    return {
        "schema": SCHEMA,
        "device": calibration.device,
        "timing": calibration.timing,
        "source": calibration.source,
        "command": calibration.command,
        "num_points": calibration.num_points,
        "error": _rounded(calibration.error),
        "evidence": calibration.evidence,
        "parameters": {
            "launch_s": _rounded(parameters.launch_s),
            "bandwidth_efficiency": _rounded(parameters.bandwidth_efficiency),
            "compute_efficiency": _rounded(parameters.compute_efficiency),
        },
        "interval": {
            "low": [_rounded(x) for x in calibration.interval.low],
            "high": [_rounded(x) for x in calibration.interval.high],
        },
        "ceilings": {
            "peak_flops_per_s": dict(ceilings.peak_flops_per_s),
            "memory_bandwidth_bytes_per_s": ceilings.memory_bandwidth_bytes_per_s,
            "num_sms": ceilings.num_sms,
            "l2_bytes": ceilings.l2_bytes,
            "clock_hz": ceilings.clock_hz,
        },
        "forest": calibration.forest and calibration.forest.to_json(),
        "process": calibration.process and calibration.process.to_json(),
        "residuals": [
            {
                "batch": each.product.batch,
                "m": each.product.m,
                "n": each.product.n,
                "k": each.product.k,
                "dtype": each.dtype,
                "latency_s": _rounded(each.latency_s),
                "fitted_s": _rounded(each.fitted_s),
            }
            for each in calibration.residuals
        ],
    }


def decode(value: JsonObject, *, where: str) -> Calibration:
    """Raises InvalidFileError for a missing field, another type, or a senseless number."""
    if value.get("schema") != SCHEMA:
        raise InvalidFileError(f"{where} is no calibration of schema {SCHEMA}.")
    try:
        parameters, ceilings = value["parameters"], value["ceilings"]
        calibration = Calibration(
            device=_text(value["device"]),
            timing=Timing(value["timing"]),
            ceilings=DeviceCeilings(
                {
                    Dtype(d): ranges.FLOPS_PER_S.of(peak)
                    for d, peak in ceilings["peak_flops_per_s"].items()
                },
                ranges.BYTES_PER_S.of(ceilings["memory_bandwidth_bytes_per_s"]),
                ranges.whole(ceilings["num_sms"], 0, 1 << 16),
                ranges.POSITIVE.of(ceilings["l2_bytes"]),
                ranges.CLOCK_HZ.of(ceilings["clock_hz"]),
            ),
            parameters=Parameters(
                ranges.LATENCY_S.of(parameters["launch_s"]),
                ranges.FACTOR.of(parameters["bandwidth_efficiency"]),
                ranges.FACTOR.of(parameters["compute_efficiency"]),
            ),
            interval=_interval(value["interval"]),
            source=_text(value["source"]),
            command=_text(value["command"]),
            num_points=ranges.whole(value["num_points"], 0, limits.POINTS),
            error=ranges.NUMBER.of(value["error"]),
            evidence=_text(value["evidence"]),
            forest=_optional(value["forest"], Forest.from_json),
            process=_optional(value["process"], GaussianProcess.from_json),
            residuals=tuple(map(_residual, value["residuals"])),
        )
    except KeyError as error:
        raise InvalidFileError(f"{where} has no field {error}.") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidFileError(f"{where} is no calibration: {str(error)[:200]}.") from None
    forest, process = calibration.forest, calibration.process
    if (
        forest is not None and not 0 <= forest.columns.min() <= forest.columns.max() < NUM_FEATURES
    ) or (process is not None and process.points.shape[1] != NUM_FEATURES):
        raise InvalidFileError(f"{where}: its correction asks for features that there are not.")
    return calibration


def _optional(value: Any, build: Callable[[dict[str, Any]], Part]) -> Part | None:
    return None if value is None else build(value)


def _residual(value: dict[str, Any]) -> Residual:
    sizes = (ranges.whole(value[name], 1, MAX_SIZE) for name in ("batch", "m", "n", "k"))
    latency_s, fitted_s = (ranges.LATENCY_S.of(value[name]) for name in ("latency_s", "fitted_s"))
    return Residual(Product(*sizes), Dtype(value["dtype"]), latency_s, fitted_s)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{ranges.shortly(value)} is no text")
    return value


def _interval(value: dict[str, Any]) -> Interval:
    (low, high), bounds = (_LOGS.all_of(value[end]) for end in ("low", "high")), len(BOUNDS)
    if not low.shape == high.shape == (bounds,):
        raise ValueError(f"an interval has {bounds} ends")
    for ends in zip(low, high, strict=True):
        ranges.ordered(ends, "low and high")
    return Interval(tuple(low.tolist()), tuple(high.tolist()))


_LOGS = ranges.Range("a logarithm of a factor", -14.0, 14.0)


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _lines(value: JsonObject) -> str:
    """A field a line, and a tree a line: readable, and small differences stay small."""
    lines = []
    for key, content in value.items():
        text = json.dumps(content, separators=(",", ":") if key in ("forest", "process") else None)
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines).replace("],[", "],\n  [") + "\n}\n"
