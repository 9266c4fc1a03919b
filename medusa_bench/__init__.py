"""medusa-bench: does parallel decoding pay on this GPU, for this model and workload?"""

__version__ = "0.1.0"
