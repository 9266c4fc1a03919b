"""Settings and the paper's grid of them."""

import pytest

from medusa_bench.specs.paper_grid import PAPER_NUM_CANDIDATES
from medusa_bench.specs.settings import Phase, Setting, settings


@pytest.mark.parametrize(
    ("setting", "query_len"),
    [
        (Setting(Phase.PREFILL, 2, 512), 512),
        (Setting(Phase.DECODE, 2, 512), 1),
        (Setting(Phase.MEDUSA, 2, 512, 64), 64),
    ],
)
def test_the_phases_differ_in_the_tokens_a_sequence_puts_through(
    setting: Setting, query_len: int
) -> None:
    assert setting.query_len == query_len


def test_the_papers_grid_has_49_settings_for_each_query_length() -> None:
    grid = list(settings())
    assert len(grid) == len(set(grid)) == 49 * (1 + 1 + 8)
    medusa = [setting for setting in grid if setting.phase is Phase.MEDUSA]
    assert len(medusa) == 49 * 8
    assert tuple(dict.fromkeys(s.num_candidates for s in medusa)) == PAPER_NUM_CANDIDATES


def test_a_grid_of_some_phases_and_sizes_holds_just_those() -> None:
    assert list(settings([Phase.MEDUSA], [1], [128, 256], [16])) == [
        Setting(Phase.MEDUSA, 1, 128, 16),
        Setting(Phase.MEDUSA, 1, 256, 16),
    ]


@pytest.mark.parametrize(
    ("phase", "batch_size", "seq_len", "num_candidates"),
    [
        (Phase.DECODE, 0, 1, 1),
        (Phase.DECODE, 1, 0, 1),
        (Phase.MEDUSA, 1, 1, 0),
        (Phase.DECODE, 1, 1, 2),
        (Phase.PREFILL, 1, 1, 16),
    ],
)
def test_a_senseless_setting_cannot_be_made(
    phase: Phase, batch_size: int, seq_len: int, num_candidates: int
) -> None:
    with pytest.raises(ValueError, match=r"at least 1|only a Medusa"):
        Setting(phase, batch_size, seq_len, num_candidates)
