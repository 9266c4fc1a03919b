"""`compare --generate` from its options to what it prints."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medusa_bench import __version__
from medusa_bench.cli import console, simulation
from medusa_bench.cli.generation import entrants, loading, tables
from medusa_bench.cli.generation.loading import Given
from medusa_bench.cli.progress import progress

if TYPE_CHECKING:
    from medusa_bench.decode.study.rounds import Played
    from medusa_bench.decode.study.study import Row, Study

_LEAST_OVERHEAD = 0.95
_REHEARSING = "Timing this machine's operators"


def run(options: Mapping[str, Any], given: Given, arguments: Sequence[str]) -> None:
    """Foresee, generate, and print both; `arguments` are kept with what is measured.

    Raises MedusaBenchError.
    """
    import torch

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    if options["attention"] is None:
        attention = "grouped_sdpa" if options["device"] == "cpu" else "sdpa"
        options = {**options, "attention": attention}
    if options["weights"] == "random":
        _run_random(options, given, arguments)
    else:
        _run_real(options, given, arguments)


def _run_real(options: Mapping[str, Any], given: Given, arguments: Sequence[str]) -> None:
    loaded = loading.load(options, given)
    study = loaded.study
    swept_on = options["gpu"][0] if given("gpu") else None
    with progress(_REHEARSING, entrants.num_turns(options)) as advance:
        rehearsal = entrants.rehearse(loaded, options, swept_on, advance)
    foreseen = entrants.foresee(loaded, rehearsal)
    contest = entrants.contest(loaded, rehearsal, foreseen, options)
    words = tables.expectation(foreseen)
    if min(row.overhead for row in foreseen) < _LEAST_OVERHEAD:
        console.warn(
            "more candidates looked cheaper than one: the machine was not steady while its "
            "operators were timed; run again when it is idle, or with more --rounds."
        )
    out = console.stdout()
    if not options["as_json"]:
        out.print(f"{study.shape.name} on {study.device}; {study.how}", markup=False)
        out.print(tables.foreseen(foreseen))
        out.print("\n".join(words), markup=False)
    rows = study.rows(
        contest.entrants,
        _play(study, contest, options["rounds"]),
        times=rehearsal.times,
        drafting_s=contest.drafting_s,
        rates=contest.rates,
        rate_source=loaded.rate_source,
    )
    verdict = tables.verdict(rows)
    if options["draft_grid"]:
        _draw(rows, study, options["draft_grid"])
    if options["as_json"]:
        console.print_json(
            {
                **_setting(study, arguments),
                "foreseen": [row.as_dict() for row in foreseen],
                "expectation": words,
                "methods": [row.as_dict() for row in rows],
                "overheads": [row.as_dict() for row in rehearsal.overheads],
                "verdict": verdict,
            }
        )
        return
    for part in tables.results(rows, rehearsal.overheads):
        out.print()
        out.print(part)
    out.print("\n" + "\n".join(verdict), markup=False)


def _play(study: "Study", contest: entrants.Contest, num_rounds: int) -> "list[Played]":
    from medusa_bench.measure.host import Usage

    played = []
    before = Usage.now()
    total = num_rounds * study.num_batches() * len(contest.entrants)
    with progress("Generating", total) as advance:
        for one in study.play(contest.entrants, num_rounds):
            played.append(one)
            advance(1)
    if before.was_contended(Usage.now()):
        console.warn("others used the CPU meanwhile: times are too long, and speedups uncertain.")
    return played


def _run_random(options: Mapping[str, Any], given: Given, arguments: Sequence[str]) -> None:
    """Overheads of a shape with random weights; acceptance from a named model."""
    from medusa_bench.compare import acceptance
    from medusa_bench.decode.study.operator_times import ModelTimes
    from medusa_bench.decode.study.overheads import num_steps, time_overheads

    law = acceptance.parse(options["acceptance"][0] if options["acceptance"] else "paper")
    counts = sorted({1, *(options["num_candidates"] or entrants.OVERHEAD_COUNTS)})
    seq_len = options["seq_len"][0] if given("seq_len") else 128
    study = loading.load_random(
        options, given, seq_len=seq_len, num_steps=num_steps(counts), room=max(counts)
    ).study
    times = ModelTimes(study.engine.model, study.shape, counts, study.batch_size, seq_len)
    num_turns = entrants.num_turns(options)
    with progress(_REHEARSING, num_turns) as advance:
        rows = time_overheads(study, times, counts, num_rounds=num_turns, advance=advance)
    rates = [law.acceleration_rate(row.num_candidates) for row in rows]
    if options["as_json"]:
        console.print_json(
            {
                **_setting(study, arguments),
                "acceptance_source": f"assumed, not generated: {law.name}",
                "overheads": [
                    {
                        **row.as_dict(),
                        "assumed_acceleration_rate": rate,
                        "speedup": rate / row.overhead,
                    }
                    for row, rate in zip(rows, rates, strict=True)
                ],
            }
        )
        return
    out = console.stdout()
    out.print(f"{study.shape.name} on {study.device}; {study.how}", markup=False)
    out.print(f"tokens/step are assumed, not generated: {law.name}", markup=False)
    out.print(tables.assumed_speedups(rows, rates))


def _setting(study: "Study", arguments: Sequence[str]) -> dict[str, Any]:
    import torch
    import transformers

    return {
        "command": shlex.join(["medusa-bench", *arguments]),
        "versions": {
            "medusa-bench": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "model": study.shape.name,
        "device": study.device,
        "how": study.how,
        "batch_size": study.batch_size,
        "max_new_tokens": study.max_new_tokens,
        "text": study.text,
    }


def _draw(rows: "Sequence[Row]", study: "Study", path: Path) -> None:
    from medusa_bench.report import comparison

    drafted = [row.generated for row in rows if row.generated.draft]
    if not drafted:
        raise click.UsageError("--draft-grid needs --draft or --self-draft.")
    title = f"{study.shape.name}, generated"
    simulation.save(comparison.draft_grid(drafted, title=title), path)
