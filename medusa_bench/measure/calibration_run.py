"""At most 24 products, in at most a minute: what a device's calibration is fitted to.

A tiny product tells the launch time, weights read for one row the bandwidth, growing rows where
compute takes over and what it reaches, and a batch of small products how attention fares.
"""

import time
from collections.abc import Callable, Iterator

from medusa_bench.measure.sweep import Backend, Rows
from medusa_bench.results.rows import Failure, Measurement, Roofs, Task, Timing
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

MAX_TASKS = 24
MAX_TIME_S = 60.0
_BUDGET_S = 0.3  # timed for each product
_LONGEST_CALL_S = 0.25  # a product that takes longer at half of its roof is left out
_USABLE_MEMORY = 0.5

# In the order of what they tell, so that a run cut short keeps the most telling ones.
_PRODUCTS = (
    Product(1, 16, 64, 64),
    Product(1, 1, 4096, 4096), Product(1, 1, 11008, 4096), Product(1, 1, 28672, 8192),
    Product(1, 4096, 4096, 4096), Product(1, 64, 11008, 4096), Product(1, 512, 11008, 4096),
    Product(1, 128, 4096, 4096), Product(1, 2048, 11008, 4096), Product(32, 1, 1024, 128),
    Product(256, 64, 1024, 128), Product(1, 256, 4096, 11008), Product(1, 1024, 4096, 4096),
    Product(1, 16, 4096, 4096), Product(512, 16, 2048, 128), Product(1, 192, 11008, 4096),
    Product(1, 384, 4096, 4096), Product(1, 1, 1024, 1024), Product(1, 64, 1024, 1024),
    Product(1, 1, 2048, 2048), Product(1, 512, 1024, 1024), Product(8, 128, 512, 64),
    Product(1, 256, 2048, 2048), Product(1, 32, 512, 512),
)  # fmt: skip


def tasks(dtype: Dtype, timing: Timing, roofs: Roofs, memory_bytes: int) -> list[Task]:
    """The products that this device does in time and has the memory for, the most telling first."""
    chosen = []
    for product in _PRODUCTS[:MAX_TASKS]:
        intensity = product.operational_intensity(dtype)
        call_s = 2 * product.flops / roofs.attainable_flops_per_s(intensity, dtype)
        fits = product.bytes_moved(dtype) <= _USABLE_MEMORY * memory_bytes
        if fits and call_s <= _LONGEST_CALL_S:
            chosen.append(Task(product, dtype, timing))
    return chosen


def run(
    backend: Backend,
    rows: Rows,
    chosen: list[Task],
    *,
    clock: Callable[[], float] = time.monotonic,
    started_s: float | None = None,
    max_time_s: float = MAX_TIME_S,
) -> Iterator[Measurement | Failure]:
    """Measure the tasks in order and keep each row, until max_time_s is over."""
    start_s = clock() if started_s is None else started_s
    for task in chosen:
        if clock() - start_s + 2 * _BUDGET_S > max_time_s:
            return
        row = backend.measure(task, 0, _BUDGET_S)
        rows.append(row)
        yield row
