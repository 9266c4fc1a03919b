"""Loaded once by the process that workers are forked from, so that a new worker costs 50 ms.

Nothing here may touch CUDA: a context does not survive a fork.
"""

import os

# Read when torch's thread library is loaded. Threads that spin while they wait made a 256^3
# product 30 times slower when others were busy.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

from medusa_bench.measure import cpu, measurer  # noqa: F401  after the lines above
