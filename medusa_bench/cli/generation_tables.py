"""What a comparison by generation says, in tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medusa_bench.cli import console

if TYPE_CHECKING:
    from medusa_bench.decode.study.overheads import OverheadRow
    from medusa_bench.decode.study.study import ExpectedStep, Row


def expectation(foreseen: "Sequence[ExpectedStep]") -> list[str]:
    """What to expect, before anything is generated."""
    from medusa_bench.decode.study.study import best

    if all(row.speedup is None for row in foreseen):
        return ["No head accuracies are known, so only overheads are foreseen."]
    row = best(foreseen)
    if row is None:
        return ["Expected: Medusa does not pay here with any number of candidates."]
    pays = "pays" if (row.speedup_interval or (0.0,))[0] > 1 else "may pay"
    return [
        f"Expected: Medusa {pays}, most with {row.num_candidates} candidates: {row.speedup:.2f}x "
        f"({row.acceleration_rate:.2f} tokens/step over an overhead of {row.overhead:.2f}; "
        f"{_interval(row.speedup_interval)} with how the machine varied)."
    ]


def foreseen(rows: "Sequence[ExpectedStep]") -> Any:
    """What each number of candidates is expected to cost and to bring."""
    cells = [
        [
            str(row.num_candidates),
            console.duration(row.step.latency_s),
            f"{row.overhead:.2f}",
            "" if row.acceleration_rate is None else f"{row.acceleration_rate:.2f}",
            "" if row.speedup is None else f"{row.speedup:.2f}x",
            _interval(row.speedup_interval),
        ]
        for row in rows
    ]
    title = "Before generating: simulated from this machine's operators"
    return console.table(
        ["candidates", "step", "overhead", "tokens/step", "speedup", "spread"], cells, title
    )


def results(rows: "Sequence[Row]", overheads: "Sequence[OverheadRow]") -> list[Any]:
    """All tables of what was generated, the paper's table 4 first."""
    parts = [_method_table(rows)]
    if any(row.gap for row in rows):
        parts.append(_gap_table(rows))
    if any(row.survival for row in rows):
        parts.append(_acceptance_table(rows))
    cells = [_overhead_cells(row) for row in overheads]
    title = "Overhead of verifying so many candidates"
    columns = ["candidates", "step", "overhead", "simulated", "error"]
    parts.append(console.table(columns, cells, title))
    if len(rows[0].by_category) > 1:
        parts.append(_category_table(rows))
    if any(row.differences for row in rows):
        parts.append(_difference_table(rows))
    return parts


def _method_table(rows: "Sequence[Row]") -> Any:
    cells = []
    for row in rows:
        generated = row.generated
        cells.append(
            [
                generated.method,
                "generated",
                str(generated.num_candidates),
                f"{row.tokens_per_s:.1f}",
                f"{generated.acceleration_rate:.2f}",
                f"{generated.overhead:.2f}",
                f"{generated.speedup:.2f}x",
                _interval((min(row.speedups), max(row.speedups))),
                console.duration(row.prefill_s),
                _text_cell(row),
                "" if row.joules_per_token is None else f"{row.joules_per_token:.2f}",
            ]
        )
        if row.simulated:
            simulated = row.simulated
            cells.append(
                [
                    "",
                    "simulated",
                    "",
                    f"{simulated.tokens_per_s or 0:.1f}",
                    f"{simulated.acceleration_rate:.2f}",
                    f"{simulated.overhead:.2f}",
                    f"{simulated.speedup:.2f}x",
                    _interval(simulated.speedup_interval),
                    "",
                    "",
                    "",
                ]
            )
    columns = ["method", "source", "candidates", "tokens/s", "tokens/step", "overhead", "speedup"]
    columns += ["spread", "prefill", "text", "J/token"]
    title = (
        "Acceleration rate, overhead, speedup (the paper's table 4); decoding only, sums over sums"
    )
    return console.table(columns, cells, title)


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def _text_cell(row: "Row") -> str:
    if not row.generated.lossless:
        return "lossy"
    if row.sampled:
        return "sampled"
    same = row.num_texts - len(row.differences)
    return f"{same} of {row.num_texts} the same"


def _gap_table(rows: "Sequence[Row]") -> Any:
    cells = [
        [
            row.generated.method,
            console.duration(row.generated.step.latency_s),
            console.duration(row.simulated.step.latency_s),
            *(
                _signed_ms(seconds)
                for seconds in (
                    row.gap.operators_s,
                    row.gap.rest_s,
                    row.gap.drafting_s,
                    row.gap.engine_s,
                )
            ),
        ]
        for row in rows
        if row.gap and row.simulated
    ]
    columns = ["method", "generated step", "simulated", "operators", "rest of model"]
    title = "Where generated steps (means) depart from simulated ones (medians)"
    return console.table([*columns, "drafting", "engine"], cells, title)


def _signed_ms(seconds: float) -> str:
    return f"{1e3 * seconds:+.2f} ms"


def _acceptance_table(rows: "Sequence[Row]") -> Any:
    shown = [row for row in rows if row.survival]
    depth = max((len(row.survival) for row in shown), default=0)
    cells = [
        [
            row.generated.method,
            *(f"{share:.3f}" for share in row.survival),
            *[""] * (depth - len(row.survival)),
        ]
        for row in shown
    ]
    columns = ["method", *(str(place) for place in range(1, depth + 1))]
    return console.table(columns, cells, "Share of steps that accept at least so many tokens")


def assumed_speedups(rows: "Sequence[OverheadRow]", rates: Sequence[float]) -> Any:
    """Overheads, and what they make of acceleration rates that were assumed."""
    cells = [
        [*_overhead_cells(row), f"{rate:.2f}", f"{rate / row.overhead:.2f}"]
        for row, rate in zip(rows, rates, strict=True)
    ]
    columns = ["candidates", "step", "overhead", "simulated", "error", "tokens/step", "speedup"]
    return console.table(columns, cells)


def _overhead_cells(row: "OverheadRow") -> list[str]:
    return [
        str(row.num_candidates),
        console.duration(row.step_s),
        f"{row.overhead:.2f}",
        f"{row.simulated_overhead:.2f}",
        f"{row.error:+.0%}",
    ]


def _category_table(rows: "Sequence[Row]") -> Any:
    shown = [row for row in rows[1:] if not (row.is_library or row.is_assisted)]
    cells = [
        [
            category.category,
            str(category.num_texts),
            f"{category.tokens_per_s:.1f}",
            *(
                f"{row.by_category[index].acceleration_rate:.2f}, "
                f"{row.by_category[index].speedup:.2f}x"
                for row in shown
            ),
        ]
        for index, category in enumerate(rows[0].by_category)
    ]
    columns = ["category", "texts", "vanilla tokens/s"]
    columns += [row.generated.method for row in shown]
    return console.table(columns, cells, "By category: tokens/step, speedup")


def _difference_table(rows: "Sequence[Row]") -> Any:
    cells = [
        [
            row.generated.method,
            str(one.question + 1),
            str(one.position + 1),
            f"{one.token} for {one.baseline_token}",
            f"{one.logit_gap:.2e}",
        ]
        for row in rows
        for one in row.differences
    ]
    columns = ["method", "prompt", "new token", "token ids", "logit gap"]
    return console.table(columns, cells, "First differences from vanilla (a gap near 0 is a tie)")
