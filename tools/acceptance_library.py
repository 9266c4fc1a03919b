"""Rewrite the library of published acceptance from a table of its figures.

    python -m tools.acceptance_library ../shared/reference/speculation/acceptance.csv

Kept: every row of a known method that prints its tokens a step, with its conditions and source.
"""

import argparse
import csv
import json
import re
from pathlib import Path

from medusa_bench.base.files import write_whole
from medusa_bench.compare import published_acceptance

LIBRARY = Path(published_acceptance.__file__).with_name("acceptance.json")
METHODS = {
    "EAGLE": "eagle-1", "EAGLE-2": "eagle-2", "EAGLE2": "eagle-2", "EAGLE-3": "eagle-3",
    "EAGLE3": "eagle-3", "DFlash": "dflash", "DSpark": "dspark", "SpS": "draft-model",
    "PLD": "prompt-lookup", "n-gram": "prompt-lookup", "Lookahead": "lookahead", "MTP": "mtp",
    "Medusa": "medusa", "Hydra": "hydra", "P-EAGLE": "p-eagle",
}  # fmt: skip
SHAPES = {"Jacobi + n-gram pool": "chain", "parallel": "block"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("file", type=Path, help="published acceptance (CSV)")
    with parser.parse_args().file.open(encoding="utf-8", newline="") as file:
        read = [row for row in csv.DictReader(file) if row["method"] in METHODS]
    sources = sorted({_source(row) for row in read})
    rows = [
        [
            METHODS[row["method"]],
            row["target_model"],
            row["dataset"],
            row["temperature"],
            SHAPES.get(row["draft_shape"], row["draft_shape"].split(",")[0].split(" ")[0]),
            _count(row["num_candidates"]),
            _count(row["draft_len"]),
            float(row["tokens_per_step"]),
            row["per_position_survival"],
            sources.index(_source(row)),
        ]
        for row in read
        if re.fullmatch(r"[0-9.]+", row["tokens_per_step"])
    ]
    lines = [json.dumps(row, ensure_ascii=True) for row in rows]
    head = json.dumps({"provenance": "reported", "sources": sources})[:-1]
    text = f'{head}, "columns": {json.dumps(published_acceptance.COLUMNS)}, "rows": [\n'
    write_whole(LIBRARY, (text + ",\n".join(lines) + "\n]}\n").encode())
    print(f"wrote {len(rows)} rows to {LIBRARY}")
    for differs, width in published_acceptance.spreads().items():
        print(f"90 % of pairs that differ in {differs}: |ln| up to {width:.2f}")


def _count(text: str) -> int:
    """0 where no single number is printed."""
    return int(text) if text.isdigit() else 0


def _source(row: dict[str, str]) -> str:
    return f"{row['source']}, {row['table_or_figure']}".strip(", ")


if __name__ == "__main__":
    main()
