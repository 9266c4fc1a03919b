"""Quality flags in words: what is doubtful about a number, and what to do about it."""

from collections.abc import Mapping

from medusa_bench.results.rows import QualityFlag

WORDS: Mapping[QualityFlag, tuple[str, str]] = {
    QualityFlag.UNSTABLE: (
        "the point's time budget ended before its interval closed",
        "give points more time (--point-budget), or stop what else uses the device",
    ),
    QualityFlag.FEW_CALLS: (
        "so long that only a few calls were made",
        "take the median as good to a few per cent; more --rounds narrow it",
    ),
    QualityFlag.THROTTLED: (
        "the device was hot, or its clock under 75 %, in every try",
        "let it cool, mend the airflow, and measure again",
    ),
    QualityFlag.CONTENDED: (
        "other processes used the CPU meanwhile",
        "measure on a quiet machine; `medusa-bench doctor` says what runs",
    ),
    QualityFlag.DRIFTED: (
        "the device's speed moved around this point (a GPU's by over 3 %, a CPU's by over 25 %)",
        "let it warm up, and measure again",
    ),
    QualityFlag.INACCURATE: (
        "the result missed its check against float64",
        "do not use the number; check the device's memory and the library's version",
    ),
    QualityFlag.ABOVE_ROOF: (
        "over 5 % faster than the measured roof allows",
        "operands may have stayed in cache, or the clock was lower when the roof was measured: "
        "measure both again",
    ),
}
