"""Any row a results folder can hold, for hypothesis."""

from typing import Any

from hypothesis import strategies as st

from medusa_bench.results.rows import (
    MAX_SAMPLES,
    Estimate,
    Failure,
    FailureKind,
    Measurement,
    QualityFlag,
    Task,
    Telemetry,
    Timing,
)
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

sizes = st.integers(1, 1 << 24)
seconds = st.floats(1e-9, 1e6)
numbers = st.floats(0, 1e12)
words = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=100)
any_task = st.builds(
    Task,
    st.builds(Product, sizes, sizes, sizes, sizes),
    st.sampled_from(Dtype),
    st.sampled_from(Timing),
)
telemetry = st.builds(
    Telemetry,
    *[st.none() | numbers] * 5,
    st.lists(words, max_size=3).map(tuple),
)


def _measurement(task: Task, round_index: int, rising_s: list[float], *rest: Any) -> Measurement:
    min_s, p25_s, latency_s, p75_s = rising_s
    return Measurement(task, round_index, latency_s, min_s, p25_s, p75_s, *rest)


def _estimate(task: Task, rising_s: list[float], source: str) -> Estimate:
    low_s, latency_s, high_s = rising_s
    return Estimate(task, latency_s, low_s, high_s, source)


def _rising(count: int) -> st.SearchStrategy[list[float]]:
    return st.lists(seconds, min_size=count, max_size=count).map(sorted)


measurements = st.builds(
    _measurement,
    any_task,
    st.integers(0, 99),
    _rising(4),
    st.integers(1, 1 << 40),
    st.lists(seconds, max_size=MAX_SAMPLES).map(tuple),
    st.lists(st.sampled_from(QualityFlag), max_size=3, unique=True).map(tuple),
    st.none() | telemetry,
    numbers,
)
failures = st.builds(
    Failure, any_task, st.integers(0, 99), st.sampled_from(FailureKind), words, numbers
)
estimates = st.builds(_estimate, any_task, _rising(3), words)
rows = measurements | failures | estimates
