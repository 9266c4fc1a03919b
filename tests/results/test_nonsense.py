"""What no measurement can say is refused in the file that says it, with the field's kind."""

from dataclasses import replace
from pathlib import Path

import pytest

from medusa_bench.base.errors import InvalidFileError
from medusa_bench.results.codec import Run, decode_row, decode_run, encode_row, encode_run
from medusa_bench.results.rows import Estimate, Provenance, Roofs
from tests.builders.samples import ENVIRONMENT, ROOFS, measured, tasks

TASK = tasks()[0]
ROW = measured(TASK)


@pytest.mark.parametrize(
    "row",
    [
        replace(ROW, latency_s=5e-324, min_s=5e-324),
        replace(ROW, latency_s=1e308),
        replace(ROW, min_s=2 * ROW.latency_s),
        replace(ROW, p25_s=2 * ROW.p75_s),
        replace(ROW, samples_s=(-1.0,)),
        replace(ROW, started_at_s=-1.0),
        Estimate(TASK, 1.0, 2.0, 3.0, "a model"),
        Estimate(TASK, 1e308, 1e308, 1e308, "a model"),
    ],
)
def test_a_row_that_no_measurement_can_give_is_refused(row: object) -> None:
    with pytest.raises(InvalidFileError, match=r"is not a|do not rise"):
        decode_row(encode_row(row)[:-1])  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.0, -1e12, 1e308])
def test_a_roof_that_no_device_has_is_refused(rate: float) -> None:
    for roofs in (
        Roofs(ROOFS.peak_flops_per_s, rate),
        Roofs(dict.fromkeys(ROOFS.peak_flops_per_s, rate), 1e12),
    ):
        run = Run(Provenance.MEASURED, ENVIRONMENT, roofs=(roofs,))
        with pytest.raises(InvalidFileError, match="is not a"):
            decode_run(encode_run(run), where=str(Path("run.json")))
