"""Print the table of predict/quantised.py: what kernels of each scheme reach, from published rows.

Fitted on one half of the shapes (n, k), drawn with seed 0, and judged on the other.

    python -m tools.fit_quantised ../shared/reference/modern/gemm_quantised.parquet
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medusa_bench.predict import fitting
from medusa_bench.predict.calibration import DeviceCeilings, Parameters
from medusa_bench.predict.fitting import Prior
from medusa_bench.predict.operator_tables import fitted_half
from medusa_bench.predict.quantised import Kernels, work_of
from medusa_bench.results import tables
from medusa_bench.results.tables import Observations
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.profiles import profile_of
from medusa_bench.specs.schemes import SCHEMES, Scheme, integer

_PRIOR = Prior(Parameters(6e-6, 0.7, 0.5))


def scheme_of(label: str) -> Scheme:
    """The scheme of a row's dtype; the integers of these rows have a scale a column."""
    return integer(4, 0, zero_point=False) if label == "int4" else SCHEMES[label]


def fit(rows: Observations, device: str, scheme: Scheme) -> Kernels:
    """The kernels of one scheme on one GPU: parameters of one half, error of the other."""
    profile = profile_of(device)
    ceilings = DeviceCeilings.of(profile)
    half = np.flatnonzero(fitted_half(rows.shape_ids))
    others = np.flatnonzero(~fitted_half(rows.shape_ids))
    work, unseen = (
        work_of(rows[each].products, scheme, Dtype.BFLOAT16, ceilings) for each in (half, others)
    )
    parameters = fitting.fit_parameters(work, rows.latency_s[half], _PRIOR)
    errors = np.log(rows.latency_s[others] / unseen.latency_s(parameters))
    return Kernels(
        profile.name,
        parameters,
        fitting.interval(errors, unseen.parts(parameters).bound),
        float(np.abs(np.expm1(-errors)).mean()),
        ceilings.clock_hz,
    )


def fits(path: Path) -> Iterator[tuple[str, Kernels, int]]:
    """Each scheme and GPU of a table, and its number of rows."""
    rows = tables.read(path)
    for gpu in np.unique(rows.gpu):
        here = rows[np.flatnonzero(rows.gpu == gpu)]
        for label in np.unique(here.dtype):
            name = "fp8" if label == Dtype.FLOAT8 else str(label)
            if name in SCHEMES:
                mine = here[np.flatnonzero(here.dtype == label)]
                yield name, fit(mine, str(gpu), scheme_of(name)), len(mine)


def main(arguments: list[str]) -> None:
    for label, kernels, count in fits(Path(arguments[0])):
        p, interval = kernels.parameters, kernels.interval
        sys.stdout.write(
            f'    ("{kernels.device}", "{label}"): Kernels(  # {count:,} rows\n'
            f'        "{kernels.device}",\n'
            f"        Parameters({p.launch_s:.3g}, {p.bandwidth_efficiency:.3g}, "
            f"{p.compute_efficiency:.3g}),\n"
            f"        Interval({_ends(interval.low)}, {_ends(interval.high)}),\n"
            f"        {kernels.error:.3f},\n        {kernels.clock_hz:.4g},\n    ),\n"
        )


def _ends(ends: tuple[float, ...]) -> str:
    return f"({', '.join(f'{each:.2f}' for each in ends)})"


if __name__ == "__main__":
    main(sys.argv[1:])
