"""Real sweeps, killed at any moment: `make kills`. Nothing that is written may be lost or doubled.

A sweep runs on this machine's processor into a folder; after a random time its parent, its worker
or both get SIGKILL. Afterwards every row that stood in the folder must stand there still, once; no
process of the sweep may be left after 15 s; where the worker alone died the sweep must go on to its
end. The next kill hits the sweep that goes on in the same folder, until that is done.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import click

from medusa_bench.base.errors import ExitCode
from medusa_bench.results import folders

ROOT = Path(__file__).resolve().parents[1]
SWEEP = (
    "sweep", "--device", "cpu", "-m", "llama-68m", "--operator", "q,gate", "--phase", "decode",
    "-b", "1,2,3,4,6,8,12,16", "-s", "128", "--rounds", "2", "--point-budget", "20ms",
)  # fmt: skip
ENDED_WITHIN_S = 15
_PROC = Path("/proc")

Key = tuple[str, int]


class Victim(StrEnum):
    PARENT = "parent"
    WORKER = "worker"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Killed:
    """One sweep that was killed: when, whom, and what was wrong afterwards ("" where nothing)."""

    victim: Victim
    after_s: float
    rows: int
    wrong: str = ""


def processes(session: int) -> list[tuple[int, int]]:
    """Process and parent ids of a session, the leader's not among them. From Linux's /proc."""
    found = []
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The command's name stands in parentheses, and may hold spaces.
            state, parent, _, its_session = (
                (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            )
        except (OSError, ValueError):
            continue  # it ended meanwhile
        if int(its_session) == session and state != "Z" and int(folder.name) != session:
            found.append((int(folder.name), int(parent)))
    return found


def workers(session: int) -> list[int]:
    """Those that a fork server of the sweep forked: they hold the device."""
    found = processes(session)
    helpers = {pid for pid, parent in found if parent == session}
    return [pid for pid, parent in found if parent in helpers]


def rows_of(folder: Path) -> dict[Key, str]:
    """Every intact row, by task and round. Raises ValueError where one stands twice."""
    if not (folder / folders.RUN_FILE).exists():
        return {}
    results = folders.load(folder)
    content = (folder / folders.POINTS_FILE).read_bytes()
    if content.count(b"\n") != len(results.rows) + len(results.damages):
        raise ValueError("a row stands twice")
    if results.damages:
        raise ValueError(f"line {results.damages[0].line_number}: {results.damages[0].reason}")
    return {(row.task.key, row.round_index): repr(row) for row in results.rows}


def kill_one(folder: Path, victim: Victim, after_s: float) -> tuple[Killed, bool]:
    """Start a sweep into the folder, kill the victim, judge; whether the folder's sweep is done."""
    before = rows_of(folder)
    with tempfile.TemporaryFile("w+") as said:
        sweep = subprocess.Popen(
            [sys.executable, "-m", "medusa_bench", *SWEEP, "-o", str(folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        time.sleep(after_s)
        written = rows_of(folder) if sweep.poll() is None else before
        # What is written between this look and the kill is only more than what must be kept.
        _kill(sweep.pid, victim)
        code = _ended(sweep, wait_s=120 if victim is Victim.WORKER else ENDED_WITHIN_S)
        left = _left(sweep.pid)
        said.seek(0)
        text = said.read()
    wrong = _lost({**before, **written}, folder) or _ended_wrong(victim, code, left, text)
    return Killed(victim, after_s, len(written), wrong), code == ExitCode.OK


def _kill(session: int, victim: Victim) -> None:
    pids = [] if victim is Victim.PARENT else workers(session)
    if victim is not Victim.WORKER:
        pids.append(session)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _ended(sweep: subprocess.Popen[bytes], wait_s: float) -> int | None:
    try:
        return sweep.wait(wait_s)
    except subprocess.TimeoutExpired:
        os.killpg(sweep.pid, signal.SIGKILL)
        sweep.wait()
        return None


def _left(session: int) -> list[int]:
    """Processes of the sweep that are still there after ENDED_WITHIN_S."""
    until_s = time.monotonic() + ENDED_WITHIN_S
    while (left := processes(session)) and time.monotonic() < until_s:
        time.sleep(0.1)
    for pid, _ in left:
        os.kill(pid, signal.SIGKILL)
    return [pid for pid, _ in left]


def _lost(kept: dict[Key, str], folder: Path) -> str:
    try:
        now = rows_of(folder)
    except ValueError as error:
        return str(error)
    lost = [key for key, row in kept.items() if now.get(key) != row]
    return f"{len(lost)} rows lost" if lost else ""


def _ended_wrong(victim: Victim, code: int | None, left: Sequence[int], text: str) -> str:
    if left:
        return f"{len(left)} processes left"
    if code is None:
        return "it did not end"
    if "Traceback" in text:
        return f"a traceback: {text[-300:]}"
    # A point whose worker was killed under it is a failure of that point, recorded.
    allowed = {int(ExitCode.OK), int(ExitCode.POINTS_FAILED)}
    if victim is not Victim.WORKER:
        allowed.add(-signal.SIGKILL)
    return "" if code in allowed else f"exit code {code}: {text[-300:]}"


@click.command()
@click.option("--count", default=500, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--within", default=9.0, show_default=True, help="Seconds in which a kill falls.")
def main(count: int, seed: int, within: float) -> None:
    """Kill COUNT sweeps, and say what was lost. Needs Linux, and takes about 8 s a kill."""
    chance = random.Random(seed)
    killed: list[Killed] = []
    with tempfile.TemporaryDirectory() as scratch:
        number = 0
        for _ in range(count):
            folder = Path(scratch, f"sweep-{number}")
            one, done = kill_one(folder, chance.choice(list(Victim)), chance.uniform(0.1, within))
            killed.append(one)
            number += done
            if one.wrong:
                click.echo(f"{one.victim} after {one.after_s:.2f} s: {one.wrong}")
    wrong = [each for each in killed if each.wrong]
    victims = ", ".join(
        f"{number} {victim}" for victim, number in Counter(each.victim for each in killed).items()
    )
    click.echo(
        f"{len(killed)} kills ({victims}; {sum(each.rows > 0 for each in killed)} with rows "
        f"written), {number} sweeps done, {len(wrong)} kills lost or left something"
    )
    sys.exit(ExitCode.ERROR if wrong else ExitCode.OK)


if __name__ == "__main__":
    main()
