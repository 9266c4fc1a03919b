"""Write predict/operator_laws.toml: what kernels of attention, experts and states reach.

Fitted robustly (scipy.optimize.least_squares, soft L1 of ln(latency)) to the cold rows of one half
of the settings of published tables, as is the interval; the error is of the other half, so that
what `predict --table` scores, of error and of coverage, was seen by no fit.

    python -m tools.fit_operators ../shared/reference/modern
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from medusa_bench.predict import fitting, operator_laws
from medusa_bench.predict.calibration import DeviceCeilings, Interval
from medusa_bench.predict.operator_laws import Kernel, Kind, Shares
from medusa_bench.predict.operator_tables import KINDS, Rows, Table, read
from medusa_bench.specs.columns import FloatArray
from medusa_bench.specs.profiles import profile_of

FILES: Mapping[Table, str] = {
    Table.ATTENTION: "attention_decode.parquet",
    Table.MOE: "moe.parquet",
    Table.MLA: "mla_decode.parquet",
    Table.DELTA: "gated_delta_net_decode.parquet",
}
_HEAD = """\
# What kernels reach, by GPU (predict/operator_laws.py has the law). Fitted to public tables of
# aiconfigurator (Apache-2.0, commit 095f58a51c4ca8e61b66ec108d86f223f8d559ce): cold rows of one
# half of the settings, as is the interval (low, high: 5 % and 95 % of ln(true / predicted), for
# rows bound by launch, memory, compute); error is of the other half. The tables are not copied.
# Made by `python -m tools.fit_operators`; the first kernel of a kind and GPU is the usual one.
"""
_MOST = 0.95  # a share of a ceiling is less than all of it
_MIN_ROWS = 40


@dataclass(frozen=True, slots=True)
class Start:
    """Where a fit starts, and what it may change: names of Shares, the least and the most."""

    shares: Shares
    free: Mapping[str, tuple[float, float]]


_SHARE = (0.02, _MOST)
_STARTS: Mapping[Kind, Start] = {
    Kind.ATTENTION: Start(
        Shares(2e-5, 0.8, 0.5, 3e-6),
        {"launch_s": (1e-6, 1e-3), "bandwidth_share": _SHARE, "compute_share": _SHARE,
         "item_s": (1e-8, 1e-4), "alone_share": (0.1, 4.0)},
    ),
    Kind.LATENT: Start(
        Shares(2e-5, 0.9, 0.6, 7e-6),
        {"launch_s": (1e-6, 1e-3), "bandwidth_share": (0.02, 4.0), "compute_share": _SHARE,
         "item_s": (1e-9, 1e-4), "alone_share": (0.1, 4.0)},
    ),
    Kind.EXPERTS: Start(
        Shares(4e-5, 0.86, 0.5, beside_share=0.5, padded_rows=16.0, padded_width=0.1,
               unaligned=2.0),
        {"launch_s": (1e-6, 1e-3), "bandwidth_share": _SHARE, "compute_share": _SHARE,
         "beside_share": (0.05, 4.0), "padded_rows": (1.0, 256.0), "padded_width": (1e-3, 1.0),
         "unaligned": (1.0, 10.0)},
    ),
    Kind.DELTA: Start(
        Shares(4e-6, 0.9), {"launch_s": (1e-7, 1e-4), "bandwidth_share": _SHARE}
    ),
}  # fmt: skip

# The kernels that are usual, first; others follow by name.
_USUAL = ("vllm_flash_attn_fa3", "vllm_flash_attn", "flash_attention", "vllm_")


def kernels(folder: Path) -> Iterator[Kernel]:
    """Each kernel with rows enough, of every table."""
    for table, name in FILES.items():
        rows = read(folder / name, table)
        found = [fit(rows[group]) for group in rows.groups()]
        yield from sorted((each for each in found if each), key=_order)


def _order(kernel: Kernel) -> tuple[str, str, int, str]:
    usual = next((place for place, name in enumerate(_USUAL) if kernel.kernel.startswith(name)), 9)
    if kernel.kind is Kind.LATENT:  # the youngest release of an engine
        usual = 0 if kernel.framework.startswith("sglang 0.5.14") else 1
    return kernel.device, kernel.dtype, usual, kernel.kernel


def fit(rows: Rows) -> Kernel | None:
    """The kernel of one group of rows; None for fewer cold ones than tell."""
    profile = profile_of(str(rows.words["gpu"][0]))
    rows = rows[np.flatnonzero(rows.cold(profile))]
    if len(rows) < _MIN_ROWS:
        return None
    kind, name = KINDS[rows.table], str(rows.words["kernel"][0])
    start = _STARTS[kind]
    kernel = Kernel(
        kind,
        profile.name,
        str(rows.words["framework"][0]),
        name,
        str(rows.dtype[0]),
        start.shares,
        Interval(),
        len(rows),
        0.0,
        profile.clock_hz,
        # FlashAttention 2 divides a sequence only where heads share keys (its ngroups are swapped);
        # Triton's latent attention always in 4 parts, 16 heads a block.
        whole_ungrouped=name == "vllm_flash_attn",
        whole_parts=4 if name == "vllm_triton_mla" else 0,
        heads_a_block=16 if name == "vllm_triton_mla" else 0,
    )
    ceilings = DeviceCeilings.of(profile)
    seen, unseen = rows[np.flatnonzero(~rows.held_out)], rows[np.flatnonzero(rows.held_out)]
    kernel = replace(kernel, shares=_fitted(seen, kernel, ceilings, start.free))
    demand = seen.asked().demand(ceilings, kernel)
    return replace(
        kernel,
        interval=fitting.interval(
            _log_errors(seen, kernel, ceilings), kernel.shares.parts(demand).bound
        ),
        error=float(np.abs(np.expm1(-_log_errors(unseen, kernel, ceilings))).mean()),
    )


def _log_errors(rows: Rows, kernel: Kernel, ceilings: DeviceCeilings) -> FloatArray:
    """ln(true / predicted) of each row."""
    demand = rows.asked().demand(ceilings, kernel)
    errors: FloatArray = np.log(rows.latency_s / kernel.shares.latency_s(demand))
    return errors


def _fitted(
    rows: Rows, kernel: Kernel, ceilings: DeviceCeilings, free: Mapping[str, tuple[float, float]]
) -> Shares:
    from scipy.optimize import least_squares

    asked = rows.asked()

    def shares(logs: FloatArray) -> Shares:
        return replace(kernel.shares, **dict(zip(free, np.exp(logs).tolist(), strict=True)))

    def errors(logs: FloatArray) -> FloatArray:
        tried = replace(kernel, shares=shares(logs))
        predicted = tried.shares.latency_s(asked.demand(ceilings, tried))
        return np.log(predicted / rows.latency_s)

    first = np.log([getattr(kernel.shares, name) for name in free])
    bounds = np.log(np.array(list(free.values()))).T
    found = least_squares(errors, first, bounds=tuple(bounds), loss="soft_l1", f_scale=0.1)
    return shares(found.x)


def as_toml(found: Sequence[Kernel]) -> str:
    """The file, a field a line; what is at its default is left out."""
    lines = [_HEAD]
    plain = Shares(0.0, 0.0)
    for each in found:
        lines.append("[[kernel]]")
        names = ("kind", "device", "framework", "kernel", "dtype")
        lines += [f'{name} = "{getattr(each, name)}"' for name in names]
        lines += [
            f"{name} = {str(value).lower()}"
            for name in ("whole_ungrouped", "whole_parts", "heads_a_block")
            if (value := getattr(each, name))
        ]
        for one in fields(Shares):
            value = getattr(each.shares, one.name)
            if value != getattr(plain, one.name):
                lines.append(f"{one.name} = {value:.4g}")
        for end in ("low", "high"):
            ends = ", ".join(f"{value:.3f}" for value in getattr(each.interval, end))
            lines.append(f"{end} = [{ends}]")
        lines.append(f"num_rows = {each.num_rows}")
        lines.append(f"error = {each.error:.4f}")
        lines.append(f"clock_hz = {each.clock_hz:.6g}\n")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", type=Path, help="the folder of the tables")
    folder = parser.parse_args(arguments).tables
    found = list(kernels(folder))
    (Path(operator_laws.__file__).parent / operator_laws.FILE).write_text(as_toml(found))
    for each in found:
        sys.stdout.write(
            f"{each.kind:<10} {each.device:<14} {each.kernel:<50} {each.dtype:<12} "
            f"{each.num_rows:>5} {100 * each.error:5.1f} %\n"
        )


if __name__ == "__main__":
    main()
