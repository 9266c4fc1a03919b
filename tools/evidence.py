"""`make evidence`: all that one machine can show in 15 minutes, each number beside its command.

    python -m tools.evidence results/h100-sxm --budget 15min
    python -m tools.evidence results/h100-sxm --figures

A short part (smoke) shows whether the machine can be measured; the main one is the paper's grid,
kernel and eager, steps of a 7B with random weights, the grid again, a calibration, and the grid's
second round for as long as time is left. On a CPU: a quick grid and a small model. Every step has a
limit. One that fails or is cut keeps its reason and the others go on; what is done is not done
again. After each step all is packed into one archive beside the folder. What needs no GPU is made
from the folders afterwards, by --figures.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medusa_bench.measure.client import pick_device
from tools.readme import ROOT

MEDUSA_BENCH = "medusa-bench"
BUDGET_S = 900.0
_FIGURES = (9, 12, 15, 18, 19, 20)
_GENERATED = "--weights random --seq-len 1024 --dtype float16 --device cuda --json"
_UNITS_S = {"min": 60.0, "s": 1.0}
# A sweep stops by itself this long before its limit: start, roofs and their last look.
_ROOFS_S = 25.0
_PACKING_S = 3.0  # kept of what is left, for the archive and for ending a step that hangs
_SHORTEST_S = 8.0
# Points that failed, a sweep stopped in time, points that differ: results all the same.
_GOOD_CODES = {"sweep": {0, 3, 4}, "results": {0, 7}}


@dataclass(frozen=True, slots=True)
class Step:
    """A command whose stdout is kept as `{name}.txt`, or .json where it prints JSON.

    `{max_time}` in it stands for the time that a sweep may take, of the limit that is left.
    """

    name: str
    command: str
    limit_s: float

    def file(self, folder: Path) -> Path:
        return folder / f"{self.name}.{'json' if self.command.endswith('--json') else 'txt'}"

    def arguments(self, limit_s: float) -> list[str]:
        return shlex.split(self.command.replace("{max_time}", f"{max(limit_s - _ROOFS_S, 1):.0f}s"))

    def is_good(self, exit_code: int) -> bool:
        return exit_code in _GOOD_CODES.get(self.command.split()[1], {0})


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended; cut: its limit was over."""

    exit_code: int
    stdout: str
    stderr: str
    cut: bool = False


Execute = Callable[[list[str], float], Ended]


def ours(name: str, limit_s: float, arguments: str) -> Step:
    return Step(name, f"{MEDUSA_BENCH} {arguments}", limit_s)


def smoke(folder: Path, *, on_cpu: bool) -> Iterator[Step]:
    """Whether this machine can be measured: a small grid, and the two largest products."""
    tiny, huge = (shlex.quote(str(folder / name)) for name in ("tiny", "huge"))
    timing = "--rounds 1 --max-time {max_time}"
    yield ours("doctor", 30, "doctor --json")
    if on_cpu:
        yield ours("tiny-log", 40, f"sweep -m llama-160m -b 1 -s 128 -q 1,16 {timing} -o {tiny}")
        return
    timing += " --timing both"
    yield ours("tiny-log", 42, f"sweep -m llama-7b -b 1 -s 1024 -q 1,64 {timing} -o {tiny}")
    yield ours(
        "huge-log",
        42,
        f"sweep -m llama-7b -b 64 -s 4096 --phase prefill --operator qk,pv {timing} -o {huge}",
    )


def main_part(folder: Path, *, on_cpu: bool) -> Iterator[Step]:
    """The numbers, in the order of what they are worth."""
    grid, again = (shlex.quote(str(folder / name)) for name in ("grid", "grid-again"))
    calibration = shlex.quote(str(folder / "calibration"))
    both = "" if on_cpu else "--timing both "
    kernel = "" if on_cpu else "--timing kernel "
    yield ours("grid-log", 215, f"sweep {both}--rounds 1 --max-time {{max_time}} -o {grid}")
    if on_cpu:
        yield ours("steps", 120, "generate llama-160m --weights random --json")
    else:
        for batch_size in (1, 4, 16):
            name = f"steps-b{batch_size}"
            yield ours(name, 60, f"generate llama-7b -b {batch_size} {_GENERATED}")
    yield ours("again-log", 125, f"sweep {kernel}--rounds 1 --max-time {{max_time}} -o {again}")
    yield ours("calibrate-log", 75, f"calibrate -o {calibration}")
    # In shuffled order: any part of the second round is a sample.
    yield ours(
        "second-round-log",
        BUDGET_S,
        f"sweep {both}--rounds 2 --max-time {{max_time}} -o {grid}",
    )


def afterwards(folder: Path) -> Iterator[Step]:
    """What is made from the folders, on any machine."""
    grid, again = (shlex.quote(str(folder / name)) for name in ("grid", "grid-again"))
    yield ours("agreement", 120, f"results diff {grid} {again}")
    for number in _FIGURES:
        figure = shlex.quote(str(folder / f"figure-{number}.png"))
        yield ours(f"figure-{number}", 120, f"roofline {grid} --figure {number} -o {figure}")
    yield ours("predicted-before", 300, f"predict --against {grid}")
    yield ours("predicted-after", 600, f"predict --against {grid} --calibrate-on 24 --seeds 20")
    yield ours("explain", 300, f"explain {grid}")


def execute(arguments: list[str], limit_s: float) -> Ended:
    """Run a command in a process group of its own; ask it to end at its limit, then make it."""
    program, *rest = arguments
    if program == MEDUSA_BENCH:
        rest = ["-m", "medusa_bench", *rest]
    process = subprocess.Popen(
        [sys.executable, *rest],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
        return Ended(process.returncode, stdout, stderr)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
    try:
        stdout, stderr = process.communicate(timeout=_PACKING_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
    return Ended(process.returncode, stdout, stderr, cut=True)


def run(step: Step, folder: Path, limit_s: float, execute: Execute = execute) -> bool:
    """Whether the step's file holds what it printed; its .failed what it printed and why, else."""
    file, failed = step.file(folder), step.file(folder).with_suffix(".failed")
    failed.unlink(missing_ok=True)
    start_s = time.monotonic()
    arguments = step.arguments(limit_s)
    ended = execute(arguments, limit_s)
    good = not ended.cut and step.is_good(ended.exit_code)
    command = shlex.join(arguments)
    sys.stdout.write(
        f"{'done  ' if good else 'FAILED'} {time.monotonic() - start_s:6.1f} s  {command}\n"
    )
    if good and file.suffix == ".json":  # the document names its command itself
        file.write_text(ended.stdout)
        return True
    text = f"$ {command}\n{ended.stdout}"
    if not good:
        why = f"cut after {limit_s:.0f} s" if ended.cut else f"exit code {ended.exit_code}"
        text += f"{why}\n{ended.stderr}"
    (file if good else failed).write_text(text)
    return good


def run_all(
    steps: Iterable[Step],
    folder: Path,
    budget_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    execute: Execute = execute,
) -> bool:
    """Whether every step is done, now or before. None begins that the budget has no time for."""
    end_s = clock() + budget_s
    all_good = True
    for step in steps:
        if step.file(folder).exists():
            continue
        start_s = clock()
        limit_s = min(step.limit_s, end_s - start_s - 2 * _PACKING_S)
        if limit_s < _SHORTEST_S:
            sys.stdout.write(f"left       {max(end_s - start_s, 0):4.0f} s left for {step.name}\n")
            all_good = False
            continue
        good = run(step, folder, limit_s, execute)
        all_good &= good
        _note(folder, step.name, good=good, elapsed_s=clock() - start_s, limit_s=limit_s)
        _pack(folder)
    return all_good


def _note(folder: Path, name: str, *, good: bool, elapsed_s: float, limit_s: float) -> None:
    row = {"step": name, "done": good, "elapsed_s": elapsed_s, "limit_s": limit_s}
    with (folder / "steps.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def _pack(folder: Path) -> None:
    """The folder as one archive beside it, whole at any time."""
    archive = folder.with_name(folder.name + ".tar.gz")
    part = archive.with_name(archive.name + ".part")
    with tarfile.open(part, "w:gz", compresslevel=1) as file:
        file.add(folder, arcname=folder.name)
    part.replace(archive)


def seconds(text: str) -> float:
    """`15min` or `90s` in seconds."""
    for unit, unit_s in _UNITS_S.items():
        if text.endswith(unit) and text.removesuffix(unit).isdecimal():
            return int(text.removesuffix(unit)) * unit_s
    raise argparse.ArgumentTypeError(f"{text!r} is no time; 15min or 90s is")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.evidence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget", type=seconds, default=BUDGET_S, metavar="TIME")
    parser.add_argument("--part", choices=["smoke", "main", "all"], default="all")
    parser.add_argument("--dry-run", action="store_true", help="print the steps and their limits")
    parser.add_argument("--figures", action="store_true", help="what needs no GPU, afterwards")
    options = parser.parse_args()
    folder: Path = options.folder
    budget_s: float = options.budget
    if options.figures:
        steps = list(afterwards(folder))
        budget_s = sum(step.limit_s + 2 * _PACKING_S for step in steps)
    else:
        on_cpu = pick_device(None) == "cpu"
        parts = {"smoke": smoke, "main": main_part}
        chosen = list(parts) if options.part == "all" else [options.part]
        steps = [step for name in chosen for step in parts[name](folder, on_cpu=on_cpu)]
    if options.dry_run:
        for step in steps:
            sys.stdout.write(f"{step.limit_s:5.0f} s  {shlex.join(step.arguments(step.limit_s))}\n")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    return 0 if run_all(steps, folder, budget_s) else 1


if __name__ == "__main__":
    sys.exit(main())
