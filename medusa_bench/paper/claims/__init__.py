"""The sentences of the paper's appendix G, each judged by numbers: reproduced, differs, or not.

Every sentence is quoted from arXiv 2401.10774v3, shortened where "..." stands. Each check computes
its numbers from the operator table (computed), the printed tables (reported), or latencies that
calibrations predict (predicted, simulated); nothing here was measured. A module for each section.
"""

from medusa_bench.paper.claims import candidates, rooflines, speedups
from medusa_bench.paper.claims.evidence import ClaimResult, Evidence
from medusa_bench.paper.reproduction import Reproduction

CLAIMS = (*rooflines.CLAIMS, *candidates.CLAIMS, *speedups.CLAIMS)


def judge(reproduction: Reproduction) -> list[ClaimResult]:
    """Every sentence in the paper's order."""
    evidence = Evidence(reproduction)
    found = []
    for claim in CLAIMS:
        verdict, words, numbers = claim.check(evidence)
        numbers = {name: float(value) for name, value in numbers.items()}
        found.append(
            ClaimResult(claim.section, claim.sentence, verdict, words.format(**numbers), numbers)
        )
    return found
