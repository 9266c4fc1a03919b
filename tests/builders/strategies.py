"""Any row a results folder can hold, for hypothesis."""

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
numbers = st.floats(allow_nan=False, allow_infinity=False)
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
measurements = st.builds(
    Measurement,
    any_task,
    st.integers(0, 99),
    seconds,
    seconds,
    seconds,
    seconds,
    st.integers(1, 1 << 40),
    st.lists(seconds, max_size=MAX_SAMPLES).map(tuple),
    st.lists(st.sampled_from(QualityFlag), max_size=3, unique=True).map(tuple),
    st.none() | telemetry,
    numbers,
)
failures = st.builds(
    Failure, any_task, st.integers(0, 99), st.sampled_from(FailureKind), words, numbers
)
estimates = st.builds(Estimate, any_task, seconds, seconds, seconds, words)
rows = measurements | failures | estimates
