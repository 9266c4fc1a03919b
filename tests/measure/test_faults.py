"""Real sweeps on the CPU, killed at random moments: nothing acknowledged is lost or doubled.

MEDUSA_BENCH_KILLS sets how often (3; 200 takes about half an hour).
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from medusa_bench.base.errors import ExitCode
from medusa_bench.results import folders
from medusa_bench.results.reading import Results
from medusa_bench.results.rows import Measurement

KILLS = int(os.environ.get("MEDUSA_BENCH_KILLS", "3"))
SWEEP = "-m smollm2-135m -b 1,2 -s 128 -q 1,16 --device cpu --rounds 40 --point-budget 2ms".split()


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "medusa_bench", "sweep", *SWEEP, "-o", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def children(pid: int) -> list[int]:
    """Every process below pid, the worker last."""
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in map(int, below) for each in (child, *children(child))]


def running(pid: int) -> str:
    """The command line of a process; nothing where it has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def rows_on_disk(folder: Path) -> int:
    path = folder / folders.POINTS_FILE
    return path.read_bytes().count(b"\n") if path.exists() else 0


def assert_nothing_doubled(results: Results) -> None:
    keys = Counter((row.task.key, row.round_index) for row in results.rows)
    assert set(keys.values()) <= {1}
    assert results.damages == ()


def test_killed_sweeps_lose_no_row_and_resume(tmp_path: Path) -> None:
    chance = random.Random(20)
    folder = tmp_path / "killed"
    acknowledged = 0
    for turn in range(KILLS):
        process = start(folder)
        deadline_s = time.monotonic() + 120
        target = acknowledged + chance.randrange(4) if turn else 1
        while rows_on_disk(folder) < target and process.poll() is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.002)
        time.sleep(chance.random() * 0.02)
        before = rows_on_disk(folder)
        victim = chance.choice(["parent", "worker", "both"])
        workers = children(process.pid)
        if victim != "worker":
            kill([process.pid])
        if victim != "parent":
            kill(workers[-1:])
        if victim == "worker":
            time.sleep(0.2)
            kill([process.pid, *children(process.pid)])
        process.wait()
        for pid in workers:  # no orphan goes on measuring
            end_s = time.monotonic() + 60
            while (command := running(pid)) and time.monotonic() < end_s:
                time.sleep(0.01)
            assert not command
        results = folders.load(folder)
        assert_nothing_doubled(results)
        assert len(results.rows) >= before >= acknowledged
        acknowledged = len(results.rows)
    earlier = {(row.task.key, row.round_index): row for row in folders.load(folder).rows}
    process = start(folder)
    while rows_on_disk(folder) < acknowledged + 5 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) in (ExitCode.INTERRUPTED, ExitCode.OK, ExitCode.POINTS_FAILED)
    after = {(row.task.key, row.round_index): row for row in folders.load(folder).rows}
    assert len(after) > len(earlier)
    measured = {key: row for key, row in earlier.items() if isinstance(row, Measurement)}
    assert measured.items() <= after.items()
