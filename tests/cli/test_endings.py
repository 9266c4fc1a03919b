"""How a command ends: interrupted early or late, its reader gone, its streams closed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTS = int(os.environ.get("MEDUSA_BENCH_INTERRUPTS", "4"))
SWEEP = ["sweep", "-m", "llama-68m", "--operator", "q", "-b", "1..64", "-s", "128..1024"]


def _hearing() -> None:
    """Tests may run in the background, where a shell has signals ignored."""
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)


def started(*arguments: str, **more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "medusa_bench", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        text=True,
        start_new_session=True,
        preexec_fn=_hearing,  # noqa: PLW1509  # no threads here
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},  # type: ignore[call-overload]
    )


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups here")
@pytest.mark.parametrize("number", range(INTERRUPTS))
def test_ctrl_c_at_any_time_is_130_and_no_traceback(tmp_path: Path, number: int) -> None:
    """From when the command line is there on: before that the interpreter itself ends."""
    kind = signal.SIGHUP if number % 4 == 3 else signal.SIGINT
    sweep = started(*SWEEP, "-o", str(tmp_path / "results"), "--json")
    time.sleep(0.4 + 12 * number / max(INTERRUPTS, 15))
    os.killpg(sweep.pid, kind)  # as a terminal does: to all that it started
    out, err = sweep.communicate(timeout=30)
    assert sweep.returncode == 130, (out, err)
    assert "Traceback" not in err


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_changes_no_exit_code(closed: str) -> None:
    redirect = {"stdout": ">&-", "stderr": "2>&-"}[closed]
    command = f"'{sys.executable}' -m medusa_bench operators -m llama-7b {redirect}"
    result = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("folders", ["results/paper", " ".join(["results/paper"] * 4)])
def test_a_reader_that_leaves_is_no_error(folders: str) -> None:
    command = f"'{sys.executable}' -m medusa_bench results export {folders} --format csv | head -1"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("device,")
    assert result.stderr == ""
