"""`medusa-bench sweep`: measure this machine's operators; stop and resume at will."""

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import click

from medusa_bench.base.errors import ExitCode
from medusa_bench.cli import console
from medusa_bench.cli.grids import NAMES_A_GRID, grid, grid_options
from medusa_bench.cli.options import DURATION, SHARD, Whole
from medusa_bench.cli.progress import progress
from medusa_bench.cli.results import print_folder
from medusa_bench.measure import sweep
from medusa_bench.measure.client import WorkerBackend, device_name, pick_device
from medusa_bench.measure.sweep import Plan
from medusa_bench.results import folders
from medusa_bench.results.rows import Failure, Grid, Roofs, Task
from medusa_bench.specs import profiles
from medusa_bench.specs.operators import Point
from medusa_bench.specs.profiles import DeviceProfile


@click.command(
    epilog="""\b
Examples:
  medusa-bench sweep
  medusa-bench sweep -m llama-7b -b 1..16 -s 1024 -q 1..128 --phase medusa
  medusa-bench sweep --dry-run --device a100-80gb-pcie

\b
Exit codes: 0 done, 1 error, 2 usage, 3 some points failed, 4 stopped at
--max-time, 5 another sweep writes there, 6 disk full or read-only, 130 Ctrl-C.
"""
)
@grid_options
@click.option("--device", help="cuda, cuda:1 or cpu; for a dry run also a profile's name.")
@click.option("--rounds", type=Whole(1, 100), help="Default: 2 on a GPU, 3 on a CPU.")
@click.option(
    "--point-budget", type=DURATION, default="50ms", show_default=True, help="Timed a round."
)
@click.option("--max-time", type=DURATION, help="Stop after this long: 90s, 10min, 2h.")
@click.option("--quick", is_flag=True, help="A small grid: half a minute.")
@click.option("--dry-run", is_flag=True, help="Print the plan and measure nothing.")
@click.option("--retry-failed", is_flag=True, help="Measure again what failed before.")
@click.option("--shard", type=SHARD, default="1/1", help="i/N; `results merge` joins the parts.")
@click.option("--share-gpu", is_flag=True, help="Measure although others use the GPU.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder; default under results/."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(**options: Any) -> int:
    """Measure FLOP/s of a transformer block's products, and keep each number.

    Prints the plan, measures this device's roofs and then every distinct product. Ctrl-C loses
    nothing: the same command goes on. The grid is the paper's (7B, 13B and 33B, 49 settings,
    three phases). On a CPU, and with no grid of your own, it is a quick one that says what it
    leaves out.
    """
    request = _request(options)
    return _dry_run(request, options) if options["dry_run"] else _sweep(request, options)


@dataclass(frozen=True, slots=True)
class _Request:
    """What the options ask for, resolved."""

    device: str | None  # None: a dry run for no device in particular
    profile: DeviceProfile | None  # of a dry run
    grid: Grid
    num_rounds: int
    budget_s: float
    left_out: str  # what a quick grid leaves out, in words


def _request(options: dict[str, Any]) -> _Request:
    device, profile = _device(options["device"], dry_run=options["dry_run"])
    names_a_grid = any(options[name] for name in NAMES_A_GRID)
    if device == "cpu" and options["dry_run"] and options["device"] is None and names_a_grid:
        device = None  # a grid is planned for a GPU, at its two bytes an element, unless said so
    on_cpu = device == "cpu"
    quick = options["quick"] or (on_cpu and not names_a_grid)
    default = sweep.defaults(on_cpu=on_cpu, quick=quick)
    asked = grid(options, default)
    return _Request(
        device=device,
        profile=profile,
        grid=asked,
        num_rounds=options["rounds"] or default.num_rounds,
        budget_s=options["point_budget"],
        left_out=_left_out(asked) if quick else "",
    )


def _device(requested: str | None, *, dry_run: bool) -> tuple[str | None, DeviceProfile | None]:
    """The device to measure, or for a dry run the profile to plan for, or neither."""
    if dry_run and requested and not re.fullmatch(r"cpu|cuda(:\d+)?", requested):
        return None, profiles.load(requested)
    if dry_run and requested and requested != "cpu":
        return None, None
    return pick_device(requested), None


def _left_out(quick: Grid) -> str:
    """What the paper's grid has and a quick one has not, in words."""
    paper = sweep.PAPER_ON_GPU

    def missing(whole: Sequence[object], part: Sequence[object]) -> str:
        return ", ".join(str(each) for each in whole if each not in part)

    parts = {
        "models": missing(paper.models, [shape.name for shape in quick.shapes]),
        "batch sizes": missing(paper.batch_sizes, quick.batch_sizes),
        "sequences": missing(paper.seq_lens, quick.seq_lens),
        "candidates": missing(paper.num_candidates, quick.num_candidates),
        "timings": missing(paper.timings, quick.timings),
    }
    return "; ".join(f"{name} {values}" for name, values in parts.items() if values)


# -- the plan -----------------------------------------------------------------------------------


def _dry_run(request: _Request, options: dict[str, Any]) -> int:
    profile = request.profile
    plan = sweep.plan(request.grid, profile.memory_bytes if profile else None)
    plan = plan.shard(*options["shard"])
    roofs = None
    if profile:
        roofs = Roofs(profile.peak_flops_per_s, profile.memory_bandwidth_bytes_per_s)
    name = profile.title if profile else request.device or "a GPU"
    if options["as_json"]:
        reasons = {skip.task: skip.reason for skip in plan.skips}
        document = {
            "device": name,
            "num_points": plan.num_points,
            "num_distinct": plan.num_distinct,
            "num_rounds": request.num_rounds,
            "predicted_time_s": _predicted_time_s(plan.tasks, roofs, request),
            "left_out": request.left_out,
            "notes": request.grid.notes,
            "points": [_planned(point, request.grid, reasons) for point in request.grid.points()],
        }
        console.print_json(document)
    else:
        for line in _plan_lines(request, plan, name, roofs, options["shard"]):
            console.say(line)
    return ExitCode.OK


def _planned(point: Point, asked: Grid, reasons: Mapping[Task, str]) -> dict[str, object]:
    """One logical point as a JSON row."""
    product = point.product
    return {
        **point.as_dict(),
        "flops": product.flops,
        "bytes_moved": product.bytes_moved(point.dtype),
        "operational_intensity": product.operational_intensity(point.dtype),
        "skipped": reasons.get(Task(product, point.dtype, asked.timings[0])),
    }


def _predicted_time_s(tasks: Sequence[Task], roofs: Roofs | None, request: _Request) -> float:
    one_round_s = sum(sweep.predicted_time_s(task, roofs, request.budget_s) for task in tasks)
    return request.num_rounds * one_round_s


def _plan_lines(
    request: _Request, plan: Plan, device: str, roofs: Roofs | None, shard: tuple[int, int]
) -> list[str]:
    asked = request.grid
    points = f"{plan.num_points:,} logical, {plan.num_distinct:,} distinct"
    if shard != (1, 1):
        points += f"; part {shard[0]} of {shard[1]} is {len(plan.tasks):,} tasks"
    seconds = _predicted_time_s(plan.tasks, roofs, request)
    lines = [
        f"Plan for {device}",
        f"  models      {', '.join(shape.name for shape in asked.shapes)}",
        f"  operators   {', '.join(operator.name for operator in asked.operators)}",
        f"  phases      {', '.join(asked.phases)}",
        f"  grid        batch {_span(asked.batch_sizes)}; sequence {_span(asked.seq_lens)}; "
        f"candidates {_span(asked.num_candidates)}",
        f"  measured    {', '.join(asked.dtypes)}, {' and '.join(asked.timings)} times, "
        f"{request.num_rounds} rounds of {console.duration(request.budget_s)}",
        f"  points      {points}",
        f"  takes       {'about' if roofs else 'at least'} {console.duration(seconds)}",
    ]
    reasons = Counter(skip.reason for skip in plan.skips)
    lines += [f"  not fitting {count} x {reason}" for reason, count in reasons.most_common(3)]
    if len(reasons) > 3:
        lines.append(f"  not fitting {len(plan.skips)} tasks in all; --json lists them")
    if request.left_out:
        lines.append(f"  left out    {request.left_out}")
    lines += [f"  not counted {note}" for note in asked.notes]
    return lines


def _span(values: Sequence[int]) -> str:
    if len(values) > 3:
        return f"{values[0]}..{values[-1]} ({len(values)})"
    return ",".join(map(str, values))


# -- the sweep ----------------------------------------------------------------------------------


def _sweep(request: _Request, options: dict[str, Any]) -> int:
    backend, path = _open(request, options)
    with closing(backend):
        environment = backend.environment
        plan = sweep.plan(request.grid, environment.memory_bytes).shard(*options["shard"])
        arguments = click.get_current_context().obj
        with folders.Writer(
            path,
            environment,
            request.grid,
            shlex.join(["medusa-bench", *arguments]),
            skips=plan.skips,
        ) as writer:
            code = _Sweep(request, options, plan, backend, writer).run()
    for death in backend.deaths:
        console.say(f"A worker died {death}; another one went on.", err=True)
    print_folder(str(path), as_json=options["as_json"])
    if code in (ExitCode.INTERRUPTED, ExitCode.UNFINISHED):
        same = [a for a in arguments if a != "--retry-failed"]
        if options["output"] is None:
            same += ["-o", str(path)]
        console.say(f"Go on with: {shlex.join(['medusa-bench', *same])}", err=True)
    return code


def _open(request: _Request, options: dict[str, Any]) -> tuple[WorkerBackend, Path]:
    """The device and the folder. A folder's sweep goes on with the threads it began with."""
    assert request.device is not None
    path: Path | None = options["output"]
    if path is None and (name := device_name(request.device)):
        path = _default_folder(name)
    num_threads = None
    if path is not None:
        folders.refuse_if_busy(path)
        folders.refuse_if_unwritable(path)
        if run := folders.read_run(path):
            num_threads = run.environment.num_threads
    backend = WorkerBackend(request.device, num_threads=num_threads, share_gpu=options["share_gpu"])
    return backend, path or _default_folder(backend.environment.device)


def _default_folder(device: str) -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") or "device"
    return Path("results") / f"{slug}-{date.today().isoformat()}"


@dataclass(slots=True)
class _Sweep:
    """One sweep into one folder, from the plan to the exit code."""

    request: _Request
    options: dict[str, Any]
    plan: Plan
    backend: WorkerBackend
    writer: folders.Writer

    def run(self) -> ExitCode:
        left = self._left(retry_failed=self.options["retry_failed"])
        if not left:
            console.say(f"Nothing is left to measure in {self.writer.path}.", err=True)
            return self._outcome()
        console.say("Measuring the roofs ...", err=True)
        roofs = self.backend.roofs(self.request.grid.dtypes)
        self.writer.add_roofs(roofs)
        device = self.backend.environment.device
        for line in _plan_lines(self.request, self.plan, device, roofs, self.options["shard"]):
            console.say(line, err=True)
        num_done = self.request.num_rounds * len(self.plan.tasks) - len(left)
        resumed = f" ({num_done:,} rounds are there)" if num_done else ""
        console.say(f"  into        {self.writer.path}{resumed}", err=True)
        try:
            self._measure(left, roofs)
        except KeyboardInterrupt:
            console.say("Stopped; nothing measured is lost.", err=True)
            return ExitCode.INTERRUPTED
        return self._outcome()

    def _left(self, *, retry_failed: bool) -> list[sweep.Work]:
        """The rounds left. A task that failed is done, unless failures are to be tried again."""
        done = self.writer.done
        failed = {row.task for row in done.failures}
        tasks = [task for task in self.plan.tasks if retry_failed or task not in failed]
        return sweep.work(tasks, self.request.num_rounds, done.measured)

    def _measure(self, left: list[sweep.Work], roofs: Roofs) -> None:
        budget_s = self.request.budget_s
        weight_s = {task: sweep.predicted_time_s(task, roofs, budget_s) for _, task in left}
        rows = sweep.run(
            left,
            self.backend,
            self.writer,
            budget_s=budget_s,
            roofs=roofs,
            next_round=1 + max(self.request.num_rounds - 1, *(i for _, i in self.writer.done), 0),
            max_time_s=self.options["max_time"],
        )
        with progress("Measuring", sum(weight_s[task] for _, task in left)) as advance:
            for row in rows:
                advance(weight_s[row.task])
                if isinstance(row, Failure):
                    p = row.task.product
                    name = f"{p.batch} x ({p.m}, {p.k}) x ({p.k}, {p.n}) {row.task.dtype}"
                    advance.say(f"{name} failed: {row.kind}, {row.reason}")

    def _outcome(self) -> ExitCode:
        if self._left(retry_failed=False):
            console.say("The time is up; nothing measured is lost.", err=True)
            return ExitCode.UNFINISHED
        tasks = set(self.plan.tasks)
        if any(row.task in tasks for row in self.writer.done.failures):
            return ExitCode.POINTS_FAILED
        return ExitCode.OK
