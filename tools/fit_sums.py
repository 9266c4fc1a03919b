"""Print the parameters of predict/allreduce.py: sums over the GPUs of a group, from published rows.

Fitted robustly (scipy.optimize.least_squares, soft L1 of ln(latency)) to the half of the settings
that operator_tables does not hold out; the error is of the other half.

    python -m tools.fit_sums ../shared/reference/modern/allreduce.parquet
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medusa_bench.predict.allreduce import NCCL, all_reduce, quicker
from medusa_bench.predict.operator_tables import Rows, Table, read
from medusa_bench.specs.columns import FloatArray
from medusa_bench.specs.profiles import profile_of

Law = Callable[[FloatArray], FloatArray]  # parameters -> seconds of every row
_LEAST, _MOST = 1e-9, 0.97  # seconds, and shares of a link


def fit(rows: Rows, law: Law, first: list[float]) -> tuple[FloatArray, float]:
    """The parameters of one half of the rows, and the mean absolute error of the other, a share."""
    from scipy.optimize import least_squares

    seen = ~rows.held_out

    def errors(logs: FloatArray) -> FloatArray:
        found: FloatArray = np.log(law(np.exp(logs))[seen] / rows.latency_s[seen])
        return found

    bounds = (np.log(_LEAST), np.log(_MOST))
    found = np.exp(least_squares(errors, np.log(first), bounds=bounds, loss="soft_l1",
                                 f_scale=0.1).x)  # fmt: skip
    unseen = np.abs(law(found) / rows.latency_s - 1)[rows.held_out]
    return found, float(unseen.mean())


def nvlink(rows: Rows) -> tuple[FloatArray, float]:
    """Seconds, seconds a GPU and the share of the link, of the one kernel and of the other."""
    tp, message = rows.counts["num_gpus"], rows.counts["message_bytes"]
    link = profile_of(str(rows.words["gpu"][0])).nvlink_bytes_per_s or 0.0
    ring = 2 * message * (tp - 1) / tp
    is_nccl = str(rows.words["framework"][0]).startswith(NCCL)
    first = ring if is_nccl else message * (tp - 1)

    def law(p: FloatArray) -> FloatArray:
        one = p[0] + p[1] * tp + first / (p[2] * link)
        return quicker(one, p[3] + p[4] * tp + ring / (p[5] * link))

    start = [4e-6, 1e-6, 0.3, 2e-5, 1e-6, 0.8] if is_nccl else [4e-6, 1e-7, 0.5, 8e-6, 5e-7, 0.6]
    return fit(rows, law, start)


def pcie(rows: Rows) -> tuple[FloatArray, float]:
    """Of one size of a group: seconds and the share of the link, twice."""
    profile, tp = profile_of(str(rows.words["gpu"][0])), int(rows.counts["num_gpus"][0])
    least_s = all_reduce(profile, tp).roofline_s(rows.counts["message_bytes"])

    def law(p: FloatArray) -> FloatArray:
        return quicker(p[0] + least_s / p[1], p[2] + least_s / p[3])

    return fit(rows, law, [8e-6, 0.2 / tp, 5e-5, 0.8 / tp])


def main(arguments: list[str]) -> None:
    rows = read(Path(arguments[0]), Table.ALLREDUCE)
    for group in rows.groups():
        mine = rows[group]
        label = f"{mine.words['gpu'][0]} {mine.words['framework'][0]}"
        if profile_of(str(mine.words["gpu"][0])).nvlink_bytes_per_s:
            _say(label, *nvlink(mine))
            continue
        for tp in np.unique(mine.counts["num_gpus"]):
            chosen = np.flatnonzero(mine.counts["num_gpus"] == tp)
            _say(f"{label}, {tp:.0f} GPUs", *pcie(mine[chosen]))


def _say(label: str, parameters: FloatArray, error: float) -> None:
    numbers = ", ".join(f"{value:.3g}" for value in parameters)
    sys.stdout.write(f"{label:<32} {numbers}  {100 * error:.1f} %\n")


if __name__ == "__main__":
    main(sys.argv[1:])
