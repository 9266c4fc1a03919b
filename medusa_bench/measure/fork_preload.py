"""Loaded once by the process that workers are forked from, so that a new worker costs 50 ms.

Nothing here may touch CUDA: a context does not survive a fork.
"""

import os

# Read when torch's thread library is loaded. Threads that spin without end while they wait made a
# 256^3 product 30 times slower when others were busy; threads that sleep at once take 90 us to
# wake, which tripled what short products take. So they spin for about a tenth of a millisecond.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "100000")
os.environ.setdefault("KMP_BLOCKTIME", "1")

from medusa_bench.measure import cpu, measurer  # noqa: F401  after the lines above
