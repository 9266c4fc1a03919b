"""The paper beside ours as a document: sections for the terminal and Markdown, and JSON."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medusa_bench.base.exits import markdown_cell
from medusa_bench.base.quantities import duration
from medusa_bench.paper.claims.evidence import ClaimResult, ClaimVerdict
from medusa_bench.paper.reproduction import Cell, Predictor, Reproduction, mean_error
from medusa_bench.specs.paper_grid import SOURCE


@dataclass(frozen=True, slots=True)
class Section:
    """Lines and a table under a title."""

    title: str
    lines: Sequence[str]
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    is_prose: bool = False  # cells too long for the terminal's columns


def sections(
    reproduction: Reproduction, found: Sequence[ClaimResult], *, every_cell: bool
) -> Iterable[Section]:
    """Each part in the order of reading. every_cell: the 168 cells, not those measured alone."""
    yield _summary(reproduction, found)
    yield _scores(reproduction)
    yield _gains(reproduction)
    yield _divisions(reproduction)
    yield _rates(reproduction)
    yield _speedups(reproduction)
    if reproduction.measured_speedups:
        yield _measured_speedups(reproduction)
    yield _findings(found, reproduction.acceptance.name)
    measured = [cell for cell in reproduction.cells if cell.measured]
    if every_cell or measured:
        yield _cells(reproduction.cells if every_cell else measured)


def _summary(reproduction: Reproduction, found: Sequence[ClaimResult]) -> Section:

    cells = reproduction.cells
    equal = sum(cell.equals_print for cell in cells)
    fitted = reproduction.scores[Predictor.FITTED]
    rate, intensity = reproduction.gains
    counts = Counter(finding.verdict for finding in found)
    tally = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ClaimVerdict)
    tally = tally.replace("differs", "differ")
    return Section(
        f"The Medusa paper ({SOURCE}) beside ours",
        [
            f"Operational intensities of tables 6 to 8: {equal} of {len(cells)} equal ours at two "
            "decimals.",
            f"FLOP/s cells: {sum(not cell.is_repeated for cell in cells)} distinct (batch 16, seq "
            f"1024 stands in tables 6 and 7); {fitted.mape:.1f} % mean latency error where 12 are "
            f"fitted and the others predicted, mean over {reproduction.num_seeds} seeds.",
            f"Gains at batch 16, seq 1024, 64 candidates: {rate.printed:.1f}x FLOP/s and "
            f"{intensity.printed:.1f}x intensity as printed, {rate.ours:.1f}x and "
            f"{intensity.ours:.1f}x ours.",
            f"Sentences of appendix G: {tally}.",
            f"Acceleration rate used for simulated speedups: {reproduction.acceptance.name}.",
            "Ours is computed, predicted or simulated; measured only where RESULTS are named.",
        ],
    )


def _scores(reproduction: Reproduction) -> Section:

    rows = [
        [
            name,
            f"{score.rows}",
            f"{score.mape:.2f}",
            f"{score.median_ape:.2f}",
            f"{score.p95_ape:.1f}",
            f"{score.max_ape:.1f}",
            "" if name is Predictor.ROOFLINE else f"{score.coverage_90:.0f}",
        ]
        for name, score in reproduction.scores.items()
    ]
    return Section(
        "Latencies of the 160 distinct cells, predicted",
        [
            "Absolute error of latency in percent, by what the prediction knows of the cells.",
            f"Unfitted: {reproduction.unfitted_name}. The harness's launch time: "
            f"{duration(reproduction.launch_s)}, from the cells themselves. Fitted: 12 "
            f"cells drawn by chance, the other 148 scored, mean over {reproduction.num_seeds} "
            "seeds.",
        ],
        ["known", "rows", "mean", "median", "P95", "max", "in 90 %"],
        rows,
    )


def _gains(reproduction: Reproduction) -> Section:
    rows = []
    for gain in reproduction.gains:
        setting = gain.medusa.setting
        scale, unit = (1e12, "TFLOP/s") if gain.quantity == "FLOP/s" else (1.0, "FLOP/byte")
        rows.append(
            [
                gain.quantity,
                f"{gain.claimed:.0f}x",
                f"{gain.medusa_printed / scale:.2f} / {gain.vanilla_printed / scale:.2f} {unit}",
                f"{gain.printed:.2f}x",
                f"{gain.ours:.2f}x",
                gain.ours_is,
                f"{gain.num_cells_alike}",
                ", ".join(f"{times:.1f}x {rate.device} {rate.timing}"
                          for rate, times in gain.measured),
            ]
        )  # fmt: skip
    return Section(
        "44x and 41x",
        [
            f"QK^T or PV of Llama-33B, table 6, batch size {setting.batch_size}, seq_len "
            f"{setting.seq_len}: {setting.num_candidates} candidates over 1. Alike: cells of "
            "tables 6 to 8 whose printed gain rounds to the same."
        ],
        ["quantity", "claimed", "printed cells", "printed", "ours", "ours is", "alike", "measured"],
        rows,
    )


def _divisions(reproduction: Reproduction) -> Section:
    differences = [
        f"Table {row.table}, {row.model}: {row.difference}."
        for row in reproduction.divisions
        if row.difference
    ]
    overheads = {(row.table, row.model): row.overhead for row in reproduction.divisions}
    apart = [
        f"{model} {overheads[1, model]:.2f} and {overheads[4, model]:.2f}"
        for table, model in overheads
        if table == 1 and (4, model) in overheads
    ]
    return Section(
        "Tables 1 and 4, divided again",
        [
            "overhead = acceleration rate / speedup; speedup = tokens per second over the base's. "
            "Simulated: 64 candidates, batch size 1, seq_len 1024, all layers, LM head and Medusa "
            "heads, kernel time on the A100 80GB PCIe, nothing between the products.",
            *differences,
            "A step of one model costs the same whatever the text, yet tables 1 and 4 imply: "
            f"{'; '.join(apart)}.",
        ],
        [
            "table",
            "model",
            "rate",
            "speedup",
            "divided again",
            "overhead",
            "divided again",
            "simulated",
        ],
        [
            [
                f"{row.table}",
                row.model,
                f"{row.acceleration_rate:.2f}",
                f"{row.speedup_printed:.2f}",
                "" if row.speedup is None else f"{row.speedup:.3f}",
                "" if row.overhead_printed is None else f"{row.overhead_printed:.2f}",
                f"{row.overhead:.3f}",
                f"{row.overhead_simulated:.3f}",
            ]
            for row in reproduction.divisions
        ],
    )


def _rates(reproduction: Reproduction) -> Section:
    return Section(
        "Acceleration rates read off figures 4a and 21",
        [f"Used: {reproduction.acceptance.name}. Readings are good to about 0.05."],
        ["figure", "candidates", "read", "used", "0.477 ln(candidates), as printed"],
        [
            [
                row.figure,
                f"{row.num_candidates}",
                f"{row.read:.2f}",
                f"{row.ours:.2f}",
                f"{row.as_printed:.2f}",
            ]
            for row in reproduction.rate_readings
        ],
    )


def _speedups(reproduction: Reproduction) -> Section:

    rows = reproduction.speedup_readings
    ours = mean_error((row.ours, row.read) for row in rows)
    printed = mean_error((row.ours_as_printed, row.read) for row in rows)
    return Section(
        "Speedups read off figure 22, Llama-7B, seq_len 1024",
        [
            f"Simulated with {reproduction.acceptance.name}; latencies {reproduction.latency_name}."
            " Readings are good to about 0.05 (0.1 above batch size 8). Figure 23 has none.",
            f"Mean absolute difference: {ours:.1%}; with 0.477 ln(candidates), as printed: "
            f"{printed:.0%}.",
        ],
        ["batch", "candidates", "read", "ours", "with the printed form"],
        [
            [
                f"{row.batch_size}",
                f"{row.num_candidates}",
                f"{row.read:.2f}",
                f"{row.ours:.2f}",
                f"{row.ours_as_printed:.2f}",
            ]
            for row in rows
        ],
    )


def _measured_speedups(reproduction: Reproduction) -> Section:
    ours = {
        (row.batch_size, row.seq_len, row.num_candidates): row.speedup
        for row in reproduction.speedups
    }
    return Section(
        "Figures 21 to 23 with measured latencies, Llama-7B",
        [f"Acceleration rate: {reproduction.acceptance.name}. All eight products measured."],
        ["device", "timing", "batch", "seq", "candidates", "overhead", "speedup", "simulated"],
        [
            [
                row.device,
                row.timing,
                f"{row.batch_size}",
                f"{row.seq_len}",
                f"{row.num_candidates}",
                f"{row.overhead:.3f}",
                f"{row.speedup:.2f}",
                f"{ours[row.batch_size, row.seq_len, row.num_candidates]:.2f}",
            ]
            for row in reproduction.measured_speedups
        ],
    )


def _findings(found: Sequence[ClaimResult], form: str) -> Section:
    return Section(
        "What the appendix finds",
        [f"Simulated speedups rest on an acceleration rate of {form}."],
        ["section", "sentence", "verdict", "numbers"],
        [
            [finding.section, finding.sentence, finding.verdict, finding.evidence]
            for finding in found
        ],
        is_prose=True,
    )


def _cells(cells: Sequence[Cell]) -> Section:
    return Section(
        "Tables 6 to 8, cell by cell",
        ["FLOP/s in TFLOP/s. Predicted by what the prediction knows of the cells, as above."],
        ["table", "batch", "seq", "candidates", "intensity", "ours", "FLOP/s",
         *(str(name) for name in Predictor), "measured"],
        [
            [
                cell.printed.table.partition("_")[0].removeprefix("table"),
                f"{cell.setting.batch_size}",
                "any" if cell.printed.table.startswith("table8") else f"{cell.setting.seq_len}",
                f"{cell.setting.num_candidates}",
                f"{cell.printed.operational_intensity:.2f}",
                f"{cell.operational_intensity:.2f}",
                f"{cell.printed.flops_per_s / 1e12:.2f}",
                *(_tera(cell.predicted_flops_per_s.get(name)) for name in Predictor),
                ", ".join(f"{_tera(rate.flops_per_s)} {rate.device} {rate.timing}"
                          for rate in cell.measured),
            ]
            for cell in cells
        ],
    )  # fmt: skip


def _tera(flops_per_s: float | None) -> str:
    return "" if flops_per_s is None else f"{flops_per_s / 1e12:.2f}"


def markdown(
    reproduction: Reproduction, found: Sequence[ClaimResult], names: dict[int, str]
) -> str:
    """The whole, every cell included. names: the file of each figure, by its number."""
    parts = []
    for index, section in enumerate(sections(reproduction, found, every_cell=True)):
        parts.append(f"{'##' if index else '#'} {section.title}")
        parts.append("\n".join(f"- {line}" for line in section.lines))
        if section.rows:
            head, *rows = [
                list(map(markdown_cell, row)) for row in (section.columns, *section.rows)
            ]
            lines = [head, ["---"] * len(head), *rows]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    parts.append("## Figures, redrawn")
    parts += [
        f"### {_CAPTIONS[number].format(form=reproduction.acceptance.name)}\n\n"
        f"![Figure {number}]({name})"
        for number, name in names.items()
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_CAPTIONS = {
    18: "Figure 18: attention of Llama-33B over candidates at batch size 16",
    19: "Figure 19: attention of Llama-33B over candidates at seq_len 1024",
    20: "Figure 20: up, gate and down of Llama-33B over candidates",
    21: "Figure 21: acceleration rate ({form}), speedup and latency at batch size 1",
    22: "Figure 22: speedup by batch size (acceleration rate {form})",
    23: "Figure 23: speedup by seq_len at batch size 4 (acceleration rate {form})",
}


def as_dict(reproduction: Reproduction, found: Sequence[ClaimResult]) -> dict[str, Any]:
    """The whole for JSON, quantities in the units of their names."""
    return {
        "source": SOURCE,
        "acceptance": {
            "form": reproduction.acceptance.name,
            "provenance": reproduction.acceptance.provenance,
        },
        "num_seeds": reproduction.num_seeds,
        "intensities": {
            "rows": len(reproduction.cells),
            "equal": sum(cell.equals_print for cell in reproduction.cells),
        },
        "distinct_cells": sum(not cell.is_repeated for cell in reproduction.cells),
        "scores": {name: asdict(score) for name, score in reproduction.scores.items()},
        "latency_model": reproduction.latency_name,
        "unfitted_latency_model": reproduction.unfitted_name,
        "launch_s": reproduction.launch_s,
        "gains": [
            {
                "quantity": gain.quantity,
                "claimed": gain.claimed,
                "printed": gain.printed,
                "ours": gain.ours,
                "ours_is": gain.ours_is,
                "vanilla_printed": gain.vanilla_printed,
                "medusa_printed": gain.medusa_printed,
                "setting": asdict(gain.medusa.setting),
                "num_cells_alike": gain.num_cells_alike,
                "measured": [{**asdict(rate), "gain": times} for rate, times in gain.measured],
            }
            for gain in reproduction.gains
        ],
        "divisions": [
            {**asdict(row), "difference": row.difference} for row in reproduction.divisions
        ],
        "rate_readings": [asdict(row) for row in reproduction.rate_readings],
        "speedup_readings": [asdict(row) for row in reproduction.speedup_readings],
        "step_parts": [asdict(part) for part in reproduction.step_parts],
        "speedups": [row.as_dict() for row in reproduction.speedups],
        "measured_speedups": [asdict(row) for row in reproduction.measured_speedups],
        "findings": [asdict(finding) for finding in found],
        "cells": [
            {
                "table": cell.printed.table,
                "operators": cell.operators,
                **asdict(cell.setting),
                "is_repeated": cell.is_repeated,
                "operational_intensity_printed": cell.printed.operational_intensity,
                "operational_intensity": cell.operational_intensity,
                "flops_per_s_printed": cell.printed.flops_per_s,
                "flops_per_s_predicted": dict(cell.predicted_flops_per_s),
                "measured": [asdict(rate) for rate in cell.measured],
            }
            for cell in reproduction.cells
        ],
    }
