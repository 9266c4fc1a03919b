"""Refit what serving engines cost to published speedups, and write the table that ships.

    python -m tools.engine_costs ../shared/reference/speculation/speedup_by_batch.csv

How good the fit is on settings left out: `medusa-bench compare --against FILE --leave-out setting`.
"""

import argparse
from pathlib import Path

from medusa_bench.base.files import write_whole
from medusa_bench.compare import scoring, serving, serving_fit

TABLE = Path(serving.__file__).with_name("engines.toml")
HEADING = (
    "What serving engines add to the products of a step, in seconds: value, and the ends of its",
    "90 % interval. layer_s: of a layer of a pass. step_s: of a step that speculates.",
    "draft_pass_s: of a drafting pass. serving.py has the formula, serving_fit.py the fit and its",
    "priors. Reported speedups alone stand behind it: nothing here was measured by this project.",
    "",
    "Refit: python -m tools.engine_costs speedup_by_batch.csv",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "file", type=Path, help="published speedups, as compare --against reads them"
    )
    table = scoring.read(parser.parse_args().file)
    costs = serving_fit.fit(scoring.evidence_of(table.rows))
    write_whole(TABLE, serving.to_toml(costs, heading=HEADING).encode())
    print(f"wrote {len(costs.rows)} rows to {TABLE}, fitted to {len(table.rows)} speedups")


if __name__ == "__main__":
    main()
