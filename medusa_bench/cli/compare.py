"""`medusa-bench compare`: where does parallel decoding pay, and with how many candidates?"""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from medusa_bench.cli import against as scores
from medusa_bench.cli import completion, console, here, hub, simulation
from medusa_bench.cli import generate as generating
from medusa_bench.cli.options import COUNTS, JSON, MODELS, Number
from medusa_bench.compare.methods import METHODS, Asked

if TYPE_CHECKING:
    from medusa_bench.compare.break_even import BreakEven
    from medusa_bench.compare.comparisons import Comparison
    from medusa_bench.compare.simulation import Variant
    from medusa_bench.predict.latency import LatencyModel
    from medusa_bench.specs.shapes import ModelShape

_FIGURE = click.Path(dir_okay=False, writable=True, path_type=Path)


def _hidden(option: simulation.Decorator) -> simulation.Decorator:
    """The same option without a line in the help: it is another command's."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        function = option(function)
        made = function.__click_params__[-1]  # type: ignore[attr-defined]  # click's own
        made.hidden = made.name != "offline"
        return function

    return apply


_GENERATE = simulation.stack(
    click.option("--generate", metavar="MODEL", hidden=True),
    *map(_hidden, generating.OPTIONS),
)


@click.command(epilog="Example: medusa-bench compare --seq-len 128..8192 --map map.png")
@simulation.GPUS
@simulation.MODEL
@click.option(
    "--method",
    type=MODELS,
    metavar="NAMES",
    default=(),
    show_default="medusa,draft-model",
    shell_complete=completion.METHODS,
    help=f"{', '.join(METHODS)}.",
)
@click.option(
    "-b",
    "--batch-size",
    type=COUNTS,
    default=(1, 2, 4, 8, 16, 32, 64),
    show_default="1..64",
    help="Sequences decoded together.",
)
@click.option(
    "-s",
    "--seq-len",
    type=COUNTS,
    default=(1024,),
    show_default="1024",
    help="Cached tokens of each sequence; several draw a map.",
)
@click.option(
    "-q",
    "--num-candidates",
    type=COUNTS,
    help="Tokens verified at once, the root included.  [default: 1, 2, 3, 4, 6, ..., 128; --gpu "
    "paper: the paper's 1, 16, ..., 112]",
)
@simulation.DRAFT
@simulation.DRAFT_LEN
@simulation.ACCEPTANCE
@simulation.TASK
@simulation.COST
@simulation.STORED
@simulation.GROUP
@simulation.ROUTING
@simulation.ENGINE
@click.option(
    "--heads",
    metavar="[PATH]",
    is_flag=False,
    flag_value="",
    help="Count what Medusa's heads themselves cost.",
)
@click.option(
    "--lock-step",
    is_flag=True,
    help="All sequences of a batch advance by the shortest acceptance among them.",
)
@click.option(
    "--solve",
    type=click.Choice(["acceptance"]),
    help="Print what acceptance must be to break even, of methods whose own is not known too.",
)
@click.option(
    "--reported-speedup",
    type=Number(0, 1000, above=True),
    help="Of the smallest batch size: turned round into the acceptance that it takes.",
)
@click.option("--why", is_flag=True, help="What the answer stands on, and where each stops paying.")
@click.option(
    "--all", "all_sizes", is_flag=True, help="Every size and column, not the best sizes alone."
)
@click.option("--map", "map_file", type=_FIGURE, help="Write the break-even map (PNG, SVG, PDF).")
@click.option(
    "--curves", type=_FIGURE, help="Write the curves over candidates (the paper's figures 21-23)."
)
@click.option(
    "--draft-grid", type=_FIGURE, help="Write speedup over draft length (the paper's figure 7)."
)
@scores.OPTIONS
@_GENERATE
@JSON
@simulation.asking
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    gpu: tuple[str, ...],
    model: str,
    assume_block: str | None,
    method: tuple[str, ...],
    batch_size: tuple[int, ...],
    seq_len: tuple[int, ...],
    draft: tuple[str, ...],
    asked: Asked,
    acceptance: tuple[str, ...],
    task: str | None,
    timing: str | None,
    by: str,
    dtype: str | None,
    weights: str | None,
    kv_dtype: str | None,
    block: str | None,
    host_s: float | None,
    tp: int,
    interconnect: str | None,
    ep: int,
    expert_skew: float,
    expert_locality: float,
    engine: str | None,
    engine_version: str | None,
    lock_step: bool,
    solve: str | None,
    reported_speedup: float | None,
    why: bool,
    all_sizes: bool,
    map_file: Path | None,
    curves: Path | None,
    draft_grid: Path | None,
    against: Path | None,
    fit_on: Path | None,
    leave_out: str | None,
    as_json: bool,
    **generation: Any,
) -> None:
    """Where a decoding method pays: its best size, its speedup, and the batch where it stops.

    Simulated: the latencies of a step's matrix products on a GPU, and an acceptance model for the
    tokens a step yields. speedup = acceleration rate / overhead. Last, a verdict in plain words.
    """
    from medusa_bench.compare import named

    if against or fit_on or leave_out:
        scores.run(against, fit_on=fit_on, leave_out=leave_out, as_json=as_json)
        return
    if generation["generate"]:
        _generate(context)
        return
    from medusa_bench.compare import choosing
    from medusa_bench.compare.break_even import break_even
    from medusa_bench.compare.simulation import simulate
    from medusa_bench.compare.verdicts import of_stored_weights, reasons, verdict
    from medusa_bench.specs import models
    from medusa_bench.specs.dtypes import Dtype
    from medusa_bench.specs.schemes import AS_NAMED

    offline = generation["offline"]
    target = hub.load(
        model, assume_block=assume_block, offline=offline, weights=weights, cache=kv_dtype
    )
    target = simulation.routed(target, expert_skew, expert_locality, ep)
    gpu = here.gpus(gpu)
    request = choosing.Request(
        method,
        tuple(hub.located(name, offline=offline) for name in draft),
        acceptance,
        asked=asked,
        task=task or "",
        temperature=f"{generation['temperature']:g}" if _was_given(context, "temperature") else "",
        engine=named.engine_name(engine, gpu=gpu[0]),
        solve=bool(solve or reported_speedup),
        papers=all(map(named.is_papers, gpu)),
    )
    simulation.refuse_without_effect(request, target)
    variants = choosing.variants(request, target)
    warnings = _warnings(variants, target)
    settings = [(b, s) for s in seq_len for b in batch_size]
    studies = []
    models_of = named.latency_models(gpu, timing=timing, by=by)
    for name, latency in zip(gpu, models_of, strict=True):
        counted = named.counted_block(block, gpu=name)
        at = partial(
            simulate,
            variants,
            target,
            latency,
            Dtype(here.dtype(dtype, name)),
            engine=named.engine_cost(engine, engine_version, host_s, gpu=name),
            block=counted,
            lock_step=lock_step,
            group=named.group_of(latency, tp, interconnect, counted),
        )
        if reported_speedup:
            implied = choosing.implied(variants, at([settings[0]]), reported_speedup)
            at = partial(at.func, implied, *at.args[1:], **at.keywords)
        rows = at(settings)
        ends = break_even(rows, at)
        words = verdict(rows)
        if target.quantised and target.quantised.parts:
            beside = at.func(variants, models.quantised(target, AS_NAMED), *at.args[2:4],
                             settings[:1], **at.keywords)  # fmt: skip
            words += of_stored_weights(rows[: len(beside)], beside, target.quantised.name)
        studies.append((latency, rows, ends, words, reasons(rows, ends)))
        warnings += named.too_large(latency, target, settings, Dtype(here.dtype(dtype, name)), tp)
    for warning in warnings:
        console.warn(warning)
    _write_figures(studies[0][1], target.name, map_file, curves, draft_grid)
    if as_json:
        console.print_json(_document(studies, warnings))
        return
    if solve:
        for latency, rows, *_ in studies:
            _print_solved(latency, rows)
        return
    _print_all(studies, all_sizes=all_sizes, why=why)


def _print_all(studies: "Sequence[Study]", *, all_sizes: bool, why: bool) -> None:
    """The answers first, then each table with its sources, and what they stand on where asked."""
    _print_answers(studies)
    for latency, rows, ends, _, details in studies:
        _print_study(latency, rows, ends, all_sizes=all_sizes)
        if why:
            console.stdout().print()
            _print_words(details)
        else:
            console.say("more        --why: where each method stops paying, what this stands on")
    if len(studies) > 1:
        _print_which_gpu(studies)


def _warnings(variants: "Sequence[Variant]", target: "ModelShape") -> list[str]:
    """What to know of the model, the drafts and the acceptance before reading the numbers."""
    from medusa_bench.compare.acceptance import caveats

    found = [*target.notes]
    drafted = [each for each in variants if each.method.name == "draft-model"]
    drafts = {each.method.drafts[0].shape.name for each in drafted}
    if len(drafts) > 1 and len({each.acceptance for each in drafted}) == 1:
        found.append(
            "every draft model is given the same acceptance, so the smallest looks best; give each "
            "its own with --acceptance DRAFT=MODEL."
        )
    for model in dict.fromkeys(each.acceptance for each in variants):
        sizes = {each.method.num_candidates for each in variants if each.acceptance is model}
        found += caveats(model, sizes)
    return found


def _was_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _generate(context: click.Context) -> None:
    """The alias of `generate`: this command's defaults are of simulation, and not taken over."""
    options = context.params

    def given(name: str, otherwise: Any = None) -> Any:
        return options[name] if _was_given(context, name) else otherwise

    def one(name: str, otherwise: Any = None) -> Any:
        values = given(name)
        if values and len(values) > 1:
            raise click.UsageError(f"--generate takes one --{name.replace('_', '-')}.")
        return values[0] if values else otherwise

    if options["weights"] not in {None, "real", "random"}:
        raise click.UsageError("--generate runs real weights, or random ones (--weights random).")
    console.stderr().print("compare --generate is a command of its own now: generate.")
    request = generating.request_of(
        {
            **options,
            "model": options["generate"],
            "draft": given("draft", ()),
            "dtype": given("dtype"),
            "batch_size": one("batch_size", 1),
            "seq_len": one("seq_len", 128),
            "acceptance": one("acceptance", "paper"),
            "gpu": one("gpu"),
        }
    )
    generating.run(
        request,
        context.obj or (),
        options["threads"],
        options["draft_grid"],
        as_json=options["as_json"],
    )


def _print_answers(studies: "Sequence[Study]") -> None:
    """The verdict of one GPU; of several the first sentence of each, with the GPU it is about."""
    for latency, _, _, words, _ in studies:
        _print_words([f"{latency.device}: {words[0]}"] if len(studies) > 1 else words)
    console.stdout().print()


def _print_words(sentences: Sequence[str]) -> None:
    """Paragraphs no wider than a page."""
    out = console.stdout()
    for sentence in sentences:
        out.print(textwrap.fill(sentence, min(out.width, 100)), markup=False)


Study = tuple["LatencyModel", "list[Comparison]", "list[BreakEven]", list[str], list[str]]


def _document(studies: Sequence[Study], warnings: list[str]) -> dict[str, Any]:
    from medusa_bench.compare.comparisons import best, by_setting, cliffs_by_batch

    return {
        "warnings": warnings,
        "devices": [
            {
                "device": latency.device,
                "latency_model": latency.name,
                "comparisons": [row.as_dict() for row in rows],
                "best": [best(group).as_dict() for group in by_setting(rows).values()],
                "break_even": [
                    {
                        "method": end.method,
                        "seq_len": end.seq_len,
                        "last_paying_batch_size": end.last_paying_batch,
                        "tried_up_to": end.tried_up_to,
                    }
                    for end in ends
                ],
                "cliffs": [
                    {"method": name, "batch_size": b, "seq_len": s, "after_candidates": counts}
                    for (name, b, s), counts in cliffs_by_batch(rows).items()
                ],
                "verdict": words,
                "why": details,
            }
            for latency, rows, ends, words, details in studies
        ],
    }


_COUNTED = {
    "paper": "the eight products of a layer",
    "full": "the whole model",
    "fused": "the whole model, attention as one kernel",
}


def _print_study(
    latency: "LatencyModel",
    rows: "Sequence[Comparison]",
    ends: "Sequence[BreakEven]",
    *,
    all_sizes: bool,
) -> None:
    out = console.stdout()
    if len({row.seq_len for row in rows}) > 1 and not all_sizes:
        for name in dict.fromkeys(row.method for row in rows if row.method != "vanilla"):
            _print_map([row for row in rows if row.method == name], name)
        if ends:
            out.print(_ends(ends))
    else:
        out.print(_table(rows, all_sizes=all_sizes))
    whole = _COUNTED[rows[0].block or "paper"]
    out.print(
        f"Simulated: {rows[0].model} in {rows[0].dtype} on {latency.device}, {whole}", markup=False
    )
    out.print(f"latencies   {latency.provenance}; {latency.name}", markup=False)
    out.print(f"engine      {rows[0].engine}", markup=False)
    sources = ((_name(row), row.acceptance_source, row.required_parameter_name) for row in rows)
    for name, acceptance, parameter in dict.fromkeys(sources):
        if name != "vanilla":
            out.print(f"acceptance  {name}: {acceptance}", markup=False)
            if all_sizes:
                out.print(f"            needed to break even: {parameter}", markup=False)


def _table(rows: "Sequence[Comparison]", *, all_sizes: bool) -> Any:
    """The best size of each method, within 80 columns; with all sizes, every column as well."""
    from medusa_bench.compare.comparisons import best

    groups: dict[tuple[str, str, int, int], list[Comparison]] = {}
    for row in rows:
        groups.setdefault((row.method, row.draft, row.seq_len, row.batch_size), []).append(row)
    shown = list(rows) if all_sizes else [best(group) for group in groups.values()]
    shown.sort(key=lambda row: (row.seq_len, row.batch_size))
    timed = shown[0].tokens_per_s is not None
    drafts = len({row.draft for row in rows if row.method == "draft-model"}) > 1 or all_sizes
    columns = ["method", "batch", "size", "step", "tokens", "speedup", "90 %"]
    columns += ["tokens/s", "ms/token"] * timed
    columns += ["seq len", "overhead", "needed", "bound by"] * all_sizes
    cells = [_cells(row, timed=timed, drafts=drafts, all_columns=all_sizes) for row in shown]
    return console.table(columns, cells, gap=1)


def _name(row: "Comparison") -> str:
    return f"draft {row.draft}" if row.method == "draft-model" else row.method


def _cells(row: "Comparison", *, timed: bool, drafts: bool, all_columns: bool) -> list[str]:
    low, high = row.speedup_interval
    needed = "" if row.required_parameter is None else f"{row.required_parameter:.3f}"
    mark = "x" if row.unfit else _MARKS[row.outcome]
    every = [str(row.seq_len), f"{row.overhead:.3f}", needed, row.bound]
    rates = [
        console.significant(row.tokens_per_s or 0.0),
        f"{1e3 * (row.seconds_per_token or 0.0):.3g}",
    ]
    return [
        _name(row) if drafts else row.method,
        str(row.batch_size),
        str(row.num_candidates),
        console.duration(row.step.latency_s),
        f"{row.acceleration_rate:.2f}",
        f"{row.speedup:.2f}",
        f"{low:.2f}-{high:.2f} {mark}".rstrip() if low < high else mark,
        *(rates if timed else []),
        *(every if all_columns else []),
    ]


def _print_solved(latency: "LatencyModel", rows: "Sequence[Comparison]") -> None:
    """What acceptance must be for each method and size to break even."""
    from medusa_bench.compare.acceptance import Chain

    lines = []
    for row in rows:
        if row.num_candidates > 1:
            chance = Chain(0.0).required_parameter(row.num_candidates, row.overhead)
            lines.append(
                [
                    _name(row),
                    str(row.batch_size),
                    str(row.num_candidates),
                    console.duration(row.step.latency_s),
                    f"{row.overhead:.2f}",
                    f"{chance:.2f}" if chance is not None and chance <= 1 else "more than all",
                ]
            )
    title = f"To break even on {latency.device}, served by {rows[0].engine}"
    columns = ["method", "batch", "size", "step", "tokens a step", "chance of each token"]
    console.stdout().print(console.table(columns, lines, title))


_MARKS = {"pays": "", "uncertain": "?", "loses": "-", "even": ""}


def _print_map(rows: "Sequence[Comparison]", name: str) -> None:
    """Speedup@candidates over batch x seq_len: "?" uncertain, "-" does not pay, "|" a cliff."""
    from medusa_bench.compare.comparisons import best, by_setting, cliffs_by_batch

    cells = by_setting(rows)
    leaps = cliffs_by_batch(rows)
    batch_sizes = sorted({batch for batch, _ in cells})
    lines = []
    for seq_len in sorted({seq for _, seq in cells}):
        line = [str(seq_len)]
        for batch in batch_sizes:
            row = best(cells[batch, seq_len])
            edge = "|" if row.num_candidates in leaps.get((name, batch, seq_len), []) else ""
            mark = _MARKS[row.outcome] if row.speedup > 1 else "-"
            line.append(f"{row.speedup:.2f}{mark}@{row.num_candidates}{edge}")
        lines.append(line)
    title = (
        f'{name}: best speedup@candidates, seq len down, batch size across ("?": the 90 % interval '
        'crosses 1, "-": does not pay, "|": latency leaps just after)'
    )
    console.stdout().print(console.table(["", *map(str, batch_sizes)], lines, title))


def _ends(ends: "Sequence[BreakEven]") -> Any:
    cells = [
        [
            end.method,
            str(end.seq_len),
            f"{end.tried_up_to} and more"
            if end.pays_throughout
            else str(end.last_paying_batch or "none"),
        ]
        for end in ends
    ]
    return console.table(["method", "seq len", "pays up to batch"], cells)


def _print_which_gpu(studies: Sequence[Study]) -> None:
    """The GPUs side by side at each setting, the best method on each."""
    from medusa_bench.compare.comparisons import best, by_setting
    from medusa_bench.compare.verdicts import name

    timed = studies[0][1][0].tokens_per_s is not None
    out = console.stdout()
    columns = ["seq len", "batch", *(latency.device for latency, *_ in studies)]
    settings = by_setting(studies[0][1])
    lines = []
    for batch, seq_len in settings:
        line = [str(seq_len), str(batch)]
        for _, rows, *_ in studies:
            row = best(by_setting(rows)[batch, seq_len])
            value = f"{row.tokens_per_s:,.0f} tokens/s, " if row.tokens_per_s else ""
            line.append(f"{value}{row.speedup:.2f}x, {name(row)}")
        lines.append(line)
    out.print(console.table(columns, lines, "The best of each GPU"))
    for latency, _, _, words, _ in studies:
        out.print(f"\n{latency.device}:", markup=False)
        _print_words(words[1:])
    if not timed:
        console.stderr().print(
            "Hint: --block full counts the whole model, and gives tokens per second.", markup=False
        )


def _write_figures(
    rows: "Sequence[Comparison]",
    model: str,
    map_file: Path | None,
    curves: Path | None,
    draft_grid: Path | None,
) -> None:
    if not (map_file or curves or draft_grid):
        return
    from medusa_bench.report import comparison

    title = f"{model} on {rows[0].device}, simulated"
    widest = [row for row in rows if row.method == rows[0].method]
    if map_file:
        simulation.save(comparison.break_even_map(rows, title=title), map_file)
    if curves:
        figure = comparison.over_candidates(widest, title=f"{widest[0].method}: {title}")
        simulation.save(figure, curves)
    if draft_grid:
        smallest = min(row.batch_size for row in rows)
        seq_len = min(row.seq_len for row in rows)
        drafted = [
            row
            for row in rows
            if row.method == "draft-model" and (row.batch_size, row.seq_len) == (smallest, seq_len)
        ]
        if not drafted:
            raise click.UsageError("--draft-grid needs --method draft-model.")
        simulation.save(comparison.draft_grid(drafted, title=title), draft_grid)
