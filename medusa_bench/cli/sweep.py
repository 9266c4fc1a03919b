"""`medusa-bench sweep`: measure this machine's operators; stop and resume at will."""

import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import click

from medusa_bench.cli import console
from medusa_bench.cli.options import COUNTS, DURATION, SHARD, WORDS
from medusa_bench.errors import ExitCode, MedusaBenchError


@click.command(
    epilog="""\b
Examples:
  medusa-bench sweep                                    # the paper's grid on a GPU, a quick one on a CPU
  medusa-bench sweep -m llama-7b -b 1..16 -s 1024 -q 1..128 --phase medusa,decode
  medusa-bench sweep --dry-run --device a100-80gb-pcie  # what would be measured there, and what would not fit

\b
Exit codes: 0 done, 1 error, 2 usage, 3 some points failed, 4 stopped at --max-time,
5 another sweep writes there, 6 disk full or read-only, 130 Ctrl-C.
"""
)
@click.option("-m", "--model", "models", type=WORDS, help="Presets, config.json files or folders.")
@click.option("--operator", "operators", type=WORDS, help="q,k,v,qk,pv,up,gate,down,o,lm_head,...")
@click.option("--phase", "phases", type=WORDS, help="prefill,decode,medusa")
@click.option("-b", "--batch-size", "batch_sizes", type=COUNTS, help="Sequences in a pass.")
@click.option("-s", "--seq-len", "seq_lens", type=COUNTS, help="Cached tokens of a sequence.")
@click.option("-q", "--num-candidates", type=COUNTS, help="Tokens of a Medusa pass, with the root.")
@click.option("--dtype", "dtypes", type=WORDS, help="float16,bfloat16,float32,tf32,float8")
@click.option("--device", help="cuda, cuda:1, cpu; for a dry run also a profile's name.")
@click.option(
    "--timing", type=click.Choice(["kernel", "eager", "both"]), help="See `how we measure`."
)
@click.option("--rounds", type=click.IntRange(1, 100), help="Default: 2 on a GPU, 3 on a CPU.")
@click.option("--point-budget", type=DURATION, default=0.05, help="Timed a round: 50ms, 0.2s.")
@click.option("--max-time", type=DURATION, help="Stop after this long: 90s, 10min, 2h.")
@click.option("--quick", is_flag=True, help="A small grid: half a minute. The default on a CPU.")
@click.option("--dry-run", is_flag=True, help="Print the plan and measure nothing.")
@click.option("--retry-failed", is_flag=True, help="Measure again what failed before.")
@click.option("--shard", type=SHARD, help="i/N: only part i of N; `results merge` joins them.")
@click.option("--share-gpu", is_flag=True, help="Measure although other processes use the GPU.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder; default under results/."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(**options: Any) -> int:
    """Measure FLOP/s of a transformer block's matrix products, and keep every number.

    Prints the plan first, then measures this device's roofs and every distinct product. Ctrl-C
    loses nothing; the same command goes on where it stopped.
    """
