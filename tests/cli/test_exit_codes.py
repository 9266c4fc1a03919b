"""Every documented exit code, of the program itself."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medusa_bench.base.errors import ExitCode
from medusa_bench.results import folders
from tests.builders.samples import ENVIRONMENT, GRID, measured, tasks
from tools import kills

ROOT = Path(__file__).resolve().parents[2]
SWEEP = (
    "sweep", "--device", "cpu", "-m", "llama-68m", "--operator", "q", "--phase", "decode",
    "-b", "1,2,4", "-s", "128", "--rounds", "1",
)  # fmt: skip
LONG = (*SWEEP, "-b", "1..64", "--point-budget", "2s")


def started(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "medusa_bench", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # In the background a shell has it ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def ended(*arguments: object) -> int:
    program = started(*arguments)
    program.communicate(timeout=120)
    return program.returncode


def waited_for(happened: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def a_worker_is_killed_under_a_point(tmp_path: Path) -> int:
    points = tmp_path / "results" / folders.POINTS_FILE
    sweep = started(*SWEEP, "--point-budget", "1s", "-o", points.parent)
    waited_for(lambda: points.exists() and points.stat().st_size > 0)
    for pid in kills.workers(sweep.pid):
        os.kill(pid, signal.SIGKILL)
    sweep.communicate(timeout=120)
    assert b'"killed"' in points.read_bytes()
    return sweep.returncode


def another_one_writes(tmp_path: Path) -> int:
    with folders.Writer(tmp_path / "results", ENVIRONMENT):
        return ended(*SWEEP, "-o", tmp_path / "results")


def slower(tmp_path: Path) -> int:
    for name, latency_s in (("before", 1e-4), ("after", 2e-4)):
        with folders.Writer(tmp_path / name, ENVIRONMENT, GRID) as writer:
            writer.extend(
                replace(measured(task, index, latency_s), started_at_s=float(index))
                for task in tasks()
                for index in range(2)
            )
    return ended("results", "diff", tmp_path / "before", tmp_path / "after")


def interrupted(tmp_path: Path) -> int:
    sweep = started(*LONG, "-o", tmp_path / "results")
    waited_for((tmp_path / "results" / folders.RUN_FILE).exists)
    os.killpg(sweep.pid, signal.SIGINT)
    sweep.communicate(timeout=60)
    return sweep.returncode


PRODUCED_BY: dict[ExitCode, Callable[[Path], int]] = {
    ExitCode.OK: lambda _: ended("profiles", "list"),
    ExitCode.ERROR: lambda _: ended("operators", "-m", "no-such-model"),
    ExitCode.USAGE: lambda _: ended("operators", "--no-such-option"),
    ExitCode.POINTS_FAILED: a_worker_is_killed_under_a_point,
    ExitCode.UNFINISHED: lambda path: ended(*SWEEP, "--max-time", "1ms", "-o", path / "results"),
    ExitCode.BUSY: another_one_writes,
    ExitCode.STORAGE: lambda _: ended(*SWEEP, "-o", "/dev/null/results"),
    ExitCode.SLOWER: slower,
    ExitCode.INTERRUPTED: interrupted,
}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
@pytest.mark.parametrize("code", ExitCode, ids=lambda code: code.name.lower())
def test_the_program_ends_with(code: ExitCode, tmp_path: Path) -> None:
    assert PRODUCED_BY[code](tmp_path) == code
