"""What a page shows of a comparison: the best, what is nearly as good, and one length for all."""

from dataclasses import replace
from itertools import product

import pytest

from medusa_bench.compare import acceptance, methods, studies
from medusa_bench.compare.break_even import break_even
from medusa_bench.compare.comparisons import Comparison, shown_seq_len
from medusa_bench.compare.simulation import Variant, simulate
from medusa_bench.compare.studies import Study
from medusa_bench.compare.verdicts import reasons, verdict
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS
from tests.builders.latencies import SmoothLatency


def rows(
    counts: tuple[int, ...] = (8, 16, 32), seq_lens: tuple[int, ...] = (1024,)
) -> list[Comparison]:
    variants = [Variant(methods.medusa(count), acceptance.PAPER) for count in counts]
    settings = list(product((1, 4), seq_lens))
    return simulate(variants, PRESETS["llama-7b"], SmoothLatency(), Dtype.FLOAT16, settings)


@pytest.mark.parametrize(("share", "is_near"), [(0.985, True), (0.975, False)])
def test_nearly_best_is_within_two_per_cent_of_the_best(share: float, is_near: bool) -> None:
    at_1 = [row for row in rows() if row.batch_size == 1 and row.method == "medusa"]
    speeds = {8: share, 16: 1.0, 32: share}
    told = [
        replace(row, acceleration_rate=2 * speeds[row.num_candidates] * row.overhead)
        for row in at_1
    ]
    (best,) = studies.columns(Study(told, [], []))["best"]["medusa"]
    assert (best["fewest"], best["most"]) == ((8, 32) if is_near else (16, 16))


@pytest.mark.parametrize(
    ("seq_lens", "shown"),
    [((1024, 2048, 4096), 1024), ((512, 2048, 4096), 2048), ((128, 256), 128), ((8192,), 8192)],
)
def test_words_table_and_page_speak_of_one_length(seq_lens: tuple[int, ...], shown: int) -> None:
    found = rows(seq_lens=seq_lens)
    assert shown_seq_len(found) == shown
    words = " ".join([*verdict(found), *reasons(found, break_even(found))])
    assert f"At {shown} cached tokens" in words
    study = Study(found, [], [])
    assert all(f", {shown} cached tokens" in title for title, _ in studies.method_table(study))
    assert studies.columns(study)["seq_len"] == shown


def test_what_is_no_choice_stands_last_and_says_why() -> None:
    found = rows(seq_lens=(1024,))
    unfit = [replace(row, method="mtp", acceleration_rate=99.0, unfit="no layers") for row in found]
    for _, table in studies.method_table(Study([*found, *unfit], [], [])):
        assert [row.name for row in table if "no choice" in row.name] == [table[-1].name]
        assert table[-1].outcome == "no layers"
