"""`make evidence`: all that one machine can show, each number in a file with the command it is of.

    python -m tools.evidence results/h100-sxm

On a GPU the paper's whole grid, twice, kernel and eager; rivals; predictions before and after
calibrating; steps of a 7B with random weights, eager and compiled. On a CPU the same with a quick
grid and a small model. A step that fails is kept with its reason and the others go on; the same
command does what is still missing.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medusa_bench.measure.client import pick_device
from tools.readme import ROOT

MEDUSA_BENCH = "medusa-bench"
_FIGURES = (9, 12, 15, 18, 19, 20)
_GENERATED = "--weights random --seq-len 1024 --dtype float16 --device cuda --json"


@dataclass(frozen=True, slots=True)
class Step:
    """A command whose stdout is kept as `{name}.txt`, or .json where it prints JSON."""

    name: str
    command: str

    def file(self, folder: Path) -> Path:
        return folder / f"{self.name}.{'json' if self.command.endswith('--json') else 'txt'}"


def ours(name: str, arguments: str) -> Step:
    return Step(name, f"{MEDUSA_BENCH} {arguments}")


def steps(folder: Path, *, on_cpu: bool) -> Iterator[Step]:
    """What is run, in order; later steps read what earlier ones wrote."""
    sweep = shlex.quote(str(folder / "sweep"))
    again = shlex.quote(str(folder / "sweep-again"))
    timing = "" if on_cpu else "--timing both "
    yield ours("doctor", "doctor")
    yield ours("sweep-log", f"sweep {timing}-o {sweep}")
    yield Step("bench", "python -m tools.bench")
    yield ours("sweep-again-log", f"sweep {timing}-o {again}")
    yield ours("agreement", f"results diff {sweep} {again}")
    if on_cpu:
        yield ours("roofline", f"roofline {sweep}")
    else:
        yield Step("gpu-tests", "python -m pytest -m gpu tests")
        for number in _FIGURES:
            figure = shlex.quote(str(folder / f"figure-{number}.png"))
            yield ours(f"figure-{number}", f"roofline {sweep} --figure {number} -o {figure}")
        yield ours("predicted-before", f"predict --against {sweep}")
        yield ours("predicted-after", f"predict --against {sweep} --calibrate-on 24 --seeds 20")
    calibration = shlex.quote(str(folder / "calibration"))
    yield ours("calibrate-log", f"calibrate -o {calibration}")
    yield ours("explain", f"explain {sweep}")
    if on_cpu:
        yield ours("overheads", "generate llama-160m --weights random --json")
        return
    for batch_size in (1, 4, 16):
        for compiled in ("", "--compile "):
            name = f"overheads-b{batch_size}{'-compiled' if compiled else ''}"
            yield ours(name, f"generate llama-7b -b {batch_size} {compiled}{_GENERATED}")


def run(step: Step, folder: Path) -> bool:
    """Whether the step's file holds what it printed, now or from before."""
    file = step.file(folder)
    if file.exists():
        return True
    program, *arguments = shlex.split(step.command)
    if program == MEDUSA_BENCH:
        arguments = ["-m", "medusa_bench", *arguments]
    start_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    # 7: points differ, which is what `results diff` is asked.
    good = done.returncode in {0, 7}
    sys.stdout.write(
        f"{'done  ' if good else 'FAILED'} {time.monotonic() - start_s:6.1f} s  {step.command}\n"
    )
    if good and file.suffix == ".json":  # the document names its command itself
        file.write_text(done.stdout)
        return True
    text = f"$ {step.command}\n{done.stdout}"
    if not good:
        text += f"exit code {done.returncode}\n{done.stderr}"
    (file if good else file.with_suffix(".failed")).write_text(text)
    return good


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    on_cpu = pick_device(None) == "cpu"
    good = [run(step, folder) for step in steps(folder, on_cpu=on_cpu)]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
