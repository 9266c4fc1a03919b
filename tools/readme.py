"""Outputs shown in README.md and docs/ are what the commands print: checked by a test, written by

    python -m tools.readme

A block whose first line is `$ medusa-bench ...` is run, in the repository's root, 100 columns wide.
A table after `<!-- foreseen of FILE -->`, or methods or overheads, is made from that JSON of
`generate`, which is a measurement and cannot be run again to the same figures.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"```console\n(\$ medusa-bench [^\n]*)\n.*?```", re.DOTALL)
_TABLE = re.compile(r"<!-- (foreseen|methods|overheads) of (\S+) -->\n.*?(?=\n\n)", re.DOTALL)


def render(text: str) -> str:
    """The text with each command's output, and each file's table, in its place."""
    text = _BLOCK.sub(lambda match: f"```console\n{match[1]}\n{_output(match[1])}```", text)
    return _TABLE.sub(
        lambda match: f"<!-- {match[1]} of {match[2]} -->\n{_table(match[1], match[2])}", text
    )


def _table(kind: str, file: str) -> str:
    document: dict[str, Any] = json.loads((ROOT / file).read_text())
    columns = _COLUMNS[kind].split(", ")
    rows: list[list[str]] = []
    match kind:
        case "foreseen":
            for row in document["foreseen"]:
                spread = f"{row['speedup_low']:.2f} to {row['speedup_high']:.2f}"
                rates = [f"{row[key]:.2f}" for key in ("acceleration_rate", "overhead", "speedup")]
                rows.append([str(row["num_candidates"]), *rates[:2], f"{rates[2]} ({spread})"])
        case "methods":
            for method in document["methods"]:
                generated, simulated = method["generated"], method["simulated"]
                same = f"{method['num_identical_texts']} of {method['num_texts']}"
                rows.append([*_method(generated, method["speedups_by_round"]), same])
                if simulated and generated["method"] != "vanilla":
                    interval = (simulated["speedup_low"], simulated["speedup_high"])
                    rows.append([*_method(simulated, interval), ""])
        case "overheads":
            for row in document["overheads"]:
                ratios = [f"{row[key]:.2f}" for key in ("overhead", "simulated_overhead")]
                step = f"{1e3 * row['step_s']:.1f}"
                rows.append([str(row["num_candidates"]), step, *ratios, f"{row['error']:+.0%}"])
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_COLUMNS = {
    "foreseen": "candidates, tokens/step, overhead, speedup",
    "methods": "method, source, tokens/s, tokens/step, overhead, speedup, same texts",
    "overheads": "candidates, step in ms, overhead, simulated, error",
}


def _method(one: dict[str, Any], speedups: Sequence[float]) -> list[str]:
    return [
        one["method"],
        one["source"],
        f"{one['tokens_per_s']:.1f}",
        f"{one['acceleration_rate']:.2f}",
        f"{one['overhead']:.2f}",
        f"{one['speedup']:.2f} ({min(speedups):.2f} to {max(speedups):.2f})",
    ]


def commands(text: str) -> list[str]:
    return [match[1] for match in _BLOCK.finditer(text)]


def _output(line: str) -> str:
    command, _, pipe = line.removeprefix("$ medusa-bench ").partition(" | head -")
    done = subprocess.run(
        [sys.executable, "-m", "medusa_bench", *shlex.split(command)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
    )
    lines = [each.rstrip() for each in done.stdout.splitlines()]
    return "".join(f"{each}\n" for each in (lines[: int(pipe)] if pipe else lines))


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(render(document.read_text()))
