"""GPU profiles: vendor facts from profiles/, and the roof they make. Never a near match."""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medusa_bench.base import limits
from medusa_bench.base.errors import InvalidFileError, MedusaBenchError, UnknownNameError
from medusa_bench.base.files import read_bytes, shipped
from medusa_bench.specs.ceilings import Ceilings
from medusa_bench.specs.dtypes import Dtype

_GIB = 1 << 30
_MIB = 1 << 20
_MAX_DOTS_IN_LINE = 64  # tomllib takes time quadratic in the parts of a dotted key

# Drivers report less than the nominal memory: ECC on GDDR6 takes 1/16, the driver some more
# (an L4 shows 22.0 of 24 GiB). An A100-40GB stays far from an A100-80GB.
_REPORTED_SHARE_OF_MEMORY = (0.90, 1.01)

# What the stated figures may differ from the recomputed ones: rounding, and clocks that
# datasheets do not state (L40S 1.2 %).
_TOLERANCE = 0.02
_VENDOR = "NVIDIA "

# Dense float16 FLOPs per clock of one SM (compute unit), the full-rate part of each architecture;
# GeForce parts do half. Sources: the vendors' architecture whitepapers.
_DENSE_FLOAT16_FLOPS_PER_CLOCK: Mapping[str, int] = {
    "sm_70": 1024,
    "sm_75": 1024,
    "sm_80": 2048,
    "sm_86": 1024,
    "sm_89": 1024,
    "sm_90": 4096,
    "sm_100": 8192,
    "sm_103": 8192,
    "sm_120": 1024,
    "sm_121": 1024,
    "gfx90a": 1024,
    "gfx942": 2048,
    "gfx950": 4096,
}
_RATE_OVER_FLOAT16: Mapping[Dtype, float] = {
    Dtype.TF32: 0.5,
    Dtype.FLOAT16: 1,
    Dtype.BFLOAT16: 1,
    Dtype.FLOAT8: 2,
}


# Names that the published tables use (aiconfigurator's systems, Vidur's folders).
_PUBLISHED_NAMES: Mapping[str, str] = {
    "a100_sxm": "a100-80gb-sxm",
    "a100_pcie": "a100-80gb-pcie",
    "h200": "h200-sxm",
    "b200_sxm": "b200",
    "rtx_a6000": "a6000",
}


@dataclass(frozen=True, slots=True)
class DeviceProfile(Ceilings):
    """Datasheet ceilings of one GPU, all dense, in SI units.

    device_names are the exact names drivers give; memory tells apart cards that share one.
    """

    name: str
    title: str
    device_names: tuple[str, ...]
    peak_flops_per_s: Mapping[Dtype, float]
    memory_bandwidth_bytes_per_s: float
    memory_bytes: int
    l2_bytes: int
    num_sms: int
    clock_hz: float  # the clock the datasheet's tensor peak is computed at
    flops_per_clock_per_sm: Mapping[Dtype, int]
    memory_bus_bits: int
    memory_data_rate_bits_per_s: float  # per pin
    power_w: float
    family: str  # "ampere", "ada", "hopper", "blackwell", "cdna3" and their like
    source: str
    architecture: str = ""  # "sm_80", "gfx942": tells what an SM does per clock
    vector_clock_hz: float | None = None  # of the float32 peak, where it is another
    nvlink_bytes_per_s: float | None = None  # one way, to all other GPUs of a node together
    has_ecc: bool = True  # in use as it is delivered; in GDDR memory it takes bandwidth

    @property
    def has_halved_tensor_rate(self) -> bool:
        """Whether its tensor cores do half of what the chip's do in a card for data centres.

        So do GeForce cards where they accumulate in float32, and an L40, an L20 and an A10G.
        """
        dense = _DENSE_FLOAT16_FLOPS_PER_CLOCK.get(self.architecture)
        own = self.flops_per_clock_per_sm.get(Dtype.FLOAT16)
        return bool(dense and own) and 2 * (own or 0) == dense


@dataclass(frozen=True, slots=True)
class ProfileError:
    """One figure of a profile that cannot be right: where it stands, and why."""

    field: str
    message: str


def names() -> list[str]:
    """The names of the shipped profiles."""
    return sorted(path.stem for path in shipped("profiles").glob("*.toml"))


def all_profiles() -> list[DeviceProfile]:
    """Every shipped profile, by name."""
    return [load(name) for name in names()]


@cache
def load(name_or_path: str) -> DeviceProfile:
    """A shipped profile by name, or a user's by path, with figures that hold together.

    Read once a process.

    Raises UnknownNameError, or InvalidFileError for a file that does not parse or that `check`
    finds wrong: a roof from a sparse figure would make every point look half as good.
    """
    profile = read(name_or_path)
    if findings := check(profile):
        raise InvalidFileError(
            f"The profile {name_or_path} is refused: {findings[0].field}: {findings[0].message}",
            hint=f"`medusa-bench profiles check {name_or_path}` lists all findings.",
        )
    return profile


def read(name_or_path: str) -> DeviceProfile:
    """The same without `check`."""
    known = names()
    if name_or_path.lower() in known:
        path = shipped("profiles") / f"{name_or_path.lower()}.toml"
    else:
        path = Path(name_or_path)
        if path.suffix.lower() != ".toml" and len(path.parts) < 2:
            raise UnknownNameError(
                "profile",
                name_or_path,
                known,
                see=f"`medusa-bench profiles` lists all {len(known)}.",
            )
    raw = read_bytes(
        path,
        limits.PROFILE_BYTES,
        hint="give the name of a shipped profile or the path of a .toml file.",
    )
    return parse(raw, name=path.stem, where=str(path))


def match(device_name: str, memory_bytes: int) -> DeviceProfile | None:
    """The shipped profile of exactly this device name and memory, or None: never a near match.

    memory_bytes is the total that the driver (or torch) reports.
    """
    low, high = _REPORTED_SHARE_OF_MEMORY
    for profile in all_profiles():
        share = memory_bytes / profile.memory_bytes
        if _is_named(profile, device_name) and low <= share <= high:
            return profile
    return None


def _is_named(profile: DeviceProfile, device_name: str) -> bool:
    """Drivers before 2021 and some tools leave out the vendor: "A100-SXM4-40GB"."""
    wanted = device_name.removeprefix(_VENDOR)
    return any(each.removeprefix(_VENDOR) == wanted for each in profile.device_names)


def profile_of(name: str) -> DeviceProfile:
    """The profile of a profile's name or path, an exact device name, or a published table's name.

    Raises UnknownNameError, or MedusaBenchError where a device name stands for several cards.
    """
    name = _PUBLISHED_NAMES.get(name.lower(), name)
    spelled = name.lower().replace("_", "-")
    if spelled in names():
        return load(spelled)
    found = [each for each in all_profiles() if _is_named(each, name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise MedusaBenchError(
            f"{name!r} stands for {' and '.join(each.name for each in found)}.",
            hint="say which with --gpu.",
        )
    return load(name)


def check(profile: DeviceProfile) -> list[ProfileError]:
    """What in a profile contradicts itself or its architecture; empty where all holds.

    Recomputes each peak from SMs x clock x FLOPs per clock and SM, and the bandwidth from bus
    width x data rate.
    """
    findings = []
    dense_float16 = _DENSE_FLOAT16_FLOPS_PER_CLOCK.get(profile.architecture)
    for dtype, peak in profile.peak_flops_per_s.items():
        per_clock = profile.flops_per_clock_per_sm[dtype]
        dense = dense_float16 and _RATE_OVER_FLOAT16.get(dtype, math.inf) * dense_float16
        if dense and per_clock > dense:
            findings.append(
                ProfileError(
                    f"flops_per_clock_per_sm.{dtype}",
                    f"{per_clock} is more than the {dense:.0f} dense FLOPs that an SM of "
                    f"{profile.architecture} does per clock"
                    + (_SPARSE if per_clock == 2 * dense else "."),
                )
            )
        clock_hz = profile.clock_hz
        if dtype is Dtype.FLOAT32 and profile.vector_clock_hz:
            clock_hz = profile.vector_clock_hz
        computed = profile.num_sms * clock_hz * per_clock
        if abs(peak / computed - 1) > _TOLERANCE:
            findings.append(
                ProfileError(
                    f"peak_tflop_per_s.{dtype}",
                    f"{peak / 1e12:.1f} is stated, but {profile.num_sms} SMs x "
                    f"{clock_hz / 1e6:.0f} MHz x {per_clock} FLOPs make {computed / 1e12:.1f}"
                    + (_SPARSE if abs(peak / computed / 2 - 1) <= _TOLERANCE else "."),
                )
            )
    bandwidth = profile.memory_bus_bits * profile.memory_data_rate_bits_per_s / 8
    if abs(profile.memory_bandwidth_bytes_per_s / bandwidth - 1) > _TOLERANCE:
        findings.append(
            ProfileError(
                "memory.bandwidth_gb_per_s",
                f"{profile.memory_bandwidth_bytes_per_s / 1e9:.0f} is stated, but "
                f"{profile.memory_bus_bits} bits x "
                f"{profile.memory_data_rate_bits_per_s / 1e9:g} Gbit/s make {bandwidth / 1e9:.0f}.",
            )
        )
    return findings


_SPARSE = (
    ": twice as much is the figure with 2:4 structured sparsity, which no dense product reaches. "
    "Give the dense one."
)


def parse(raw: bytes, *, name: str, where: str) -> DeviceProfile:
    """The profile that a TOML text holds.

    Raises InvalidFileError, naming `where` and the field, for anything that is not one: damaged
    text, an unknown or missing key, a number that is not finite or out of range, sparse figures.
    """
    table = _Table(_parse_toml(raw, where), where)
    density = table.text("density")
    if density != "dense":
        raise InvalidFileError(
            f"{where}: density is {density[:40]!r}; only dense figures make a roof.",
            hint='halve figures "with sparsity" and write density = "dense".',
        )
    peaks, per_clock = table.table("peak_tflop_per_s"), table.table("flops_per_clock_per_sm")
    memory = table.table("memory")
    dtypes = [dtype for dtype in Dtype if dtype in peaks.values]
    if not dtypes:
        raise InvalidFileError(f"{where}: peak_tflop_per_s names no dtype.")
    profile = DeviceProfile(
        name=name,
        title=table.text("title"),
        device_names=table.texts("device_names"),
        peak_flops_per_s={d: peaks.number(d, 1e-3, 1e6) * 1e12 for d in dtypes},
        memory_bandwidth_bytes_per_s=memory.number("bandwidth_gb_per_s", 1, 1e6) * 1e9,
        memory_bytes=round(memory.number("size_gib", 0.1, 1e5) * _GIB),
        l2_bytes=round(table.number("l2_mib", 0.01, 1e5) * _MIB),
        num_sms=table.count("num_sms", 1, 100_000),
        clock_hz=table.number("tensor_clock_mhz", 1, 1e5) * 1e6,
        flops_per_clock_per_sm={d: per_clock.count(d, 1, 1 << 20) for d in dtypes},
        memory_bus_bits=memory.count("bus_bits", 1, 1 << 20),
        memory_data_rate_bits_per_s=memory.number("data_rate_gbit_per_s", 0.01, 1e4) * 1e9,
        power_w=table.number("power_w", 1, 1e5),
        family=table.text("family"),
        source=table.text("source"),
        architecture=table.text("architecture"),
        vector_clock_hz=(
            table.number("vector_clock_mhz", 1, 1e5) * 1e6
            if "vector_clock_mhz" in table.values
            else None
        ),
        nvlink_bytes_per_s=(
            table.number("nvlink_gb_per_s", 1, 1e5) * 1e9
            if "nvlink_gb_per_s" in table.values
            else None
        ),
        has_ecc=table.flag("ecc", default=True),
    )
    for part in (table, peaks, per_clock, memory):
        part.refuse_unknown()
    return profile


def _parse_toml(raw: bytes, where: str) -> dict[str, Any]:
    if any(line.count(b".") > _MAX_DOTS_IN_LINE for line in raw.splitlines()):
        raise InvalidFileError(f"{where} has a line of over {_MAX_DOTS_IN_LINE} dots.")
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidFileError(f"{where} is not valid UTF-8 text.") from None
    except RecursionError:
        raise InvalidFileError(f"{where} is nested too deeply.") from None
    except ValueError as error:
        raise InvalidFileError(f"{where} is not valid TOML: {str(error)[:200]}.") from None


class _Table:
    """A TOML table that remembers which of its keys were asked for, to refuse the others."""

    def __init__(self, values: dict[str, Any], where: str, prefix: str = "") -> None:
        self.values = values
        self._where = where
        self._prefix = prefix
        self._known: set[str] = set()

    def table(self, key: str) -> "_Table":
        value = self._get(key, dict, "a table")
        return _Table(value, self._where, f"{key}.")

    def text(self, key: str) -> str:
        return self._printable(key, self._get(key, str, "text"))

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._get(key, list, "a list of texts")
        if not values or not all(isinstance(value, str) for value in values):
            raise self._error(key, "must be a list of one or more texts")
        return tuple(self._printable(key, value) for value in values)

    def number(self, key: str, low: float, high: float) -> float:
        value = self._get(key, int | float, "a number")
        if isinstance(value, bool) or not low <= value <= high:  # nan fails both
            raise self._error(key, f"is {str(value)[:40]}; it must be {low:g} to {high:g}")
        return float(value)

    def count(self, key: str, low: int, high: int) -> int:
        value = self._get(key, int, "a whole number")
        if isinstance(value, bool) or not low <= value <= high:
            raise self._error(key, f"is {_short(value)}; it must be a whole number {low} to {high}")
        return int(value)

    def flag(self, key: str, *, default: bool) -> bool:
        self._known.add(key)
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self._error(key, f"is {_short(value)}; it must be true or false")
        return value

    def refuse_unknown(self) -> None:
        for key in self.values:
            if key not in self._known:
                near = difflib.get_close_matches(key[:80], self._known, n=1)
                raise InvalidFileError(
                    f"{self._where}: there is no field {self._prefix}{_short(key)}.",
                    hint=f"did you mean {near[0]}?"
                    if near
                    else f"known: {', '.join(sorted(self._known))}.",
                )

    def _get(self, key: str, kind: Any, words: str) -> Any:
        self._known.add(key)
        if key not in self.values:
            raise self._error(key, "is missing")
        value = self.values[key]
        if not isinstance(value, kind):
            raise self._error(key, f"is {_short(value)}; it must be {words}")
        return value

    def _printable(self, key: str, value: str) -> str:
        if not (value.strip() and value.isprintable() and len(value) <= 300):
            raise self._error(key, "must be one line of 1 to 300 printable characters")
        return value

    def _error(self, key: str, what: str) -> InvalidFileError:
        return InvalidFileError(f"{self._where}: {self._prefix}{key} {what}.")


def _short(value: object) -> str:
    try:
        return repr(value)[:60]
    except ValueError:  # an integer of more than 4300 digits has no decimal form
        return "a huge number"
