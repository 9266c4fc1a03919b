"""The paper's printed tables, read like any other results."""

import csv
import shutil
from pathlib import Path

import pytest

from medusa_bench.base.errors import InvalidFileError
from medusa_bench.base.files import shipped
from medusa_bench.results import folders
from medusa_bench.results.rows import Provenance

PAPER = shipped("results/paper")
TABLES = "tables_6_7_8_llama33b_a100_80gb_pcie.csv"


@pytest.fixture(scope="module")
def paper() -> folders.Results:
    return folders.load(PAPER)


def test_all_168_printed_intensities_equal_the_operator_table_at_two_decimals(
    paper: folders.Results,
) -> None:
    with (PAPER / TABLES).open() as file:
        printed = [float(row["operational_intensity"]) for row in csv.DictReader(file)]
    assert len(paper.cells) == len(printed) == 168
    for cell, intensity in zip(paper.cells, printed, strict=True):
        assert cell.operational_intensity == intensity
        for point in cell.points:
            ours = point.product.operational_intensity(point.dtype)
            assert round(ours, 2) == intensity, (cell.table, point.operator.name, point.setting)


def test_printed_rates_are_kept_as_printed(paper: folders.Results) -> None:
    with (PAPER / TABLES).open() as file:
        printed = [float(row["tflop_per_s"]) for row in csv.DictReader(file)]
    assert [round(cell.flops_per_s / 1e12, 2) for cell in paper.cells] == printed


def test_two_cells_of_one_product_each_keep_their_own_rate(paper: folders.Results) -> None:
    rates = {}
    for each in paper.points():
        setting = each.point.setting
        name = each.point.operator.name
        rates[name, setting.batch_size, setting.num_candidates] = each.flops_per_s
    # 1 x 32 and 2 x 16 tokens are one product; the paper timed it twice.
    assert rates["up", 1, 32] == pytest.approx(39.69e12)
    assert rates["up", 2, 16] == pytest.approx(39.66e12)


def test_160_cells_are_distinct_and_each_stands_for_its_operators(paper: folders.Results) -> None:
    points = paper.points()
    assert len({(each.point.operator.family, each.point.setting) for each in points}) == 160
    assert len(points) == 104 * 2 + 56 * 3
    assert {each.provenance for each in points} == {Provenance.REPORTED}
    assert {each.roof_fraction for each in points} == {None}


def test_no_printed_rate_lies_above_the_cards_roof(paper: folders.Results) -> None:
    for each in paper.points():
        intensity = each.point.product.operational_intensity(each.point.dtype)
        assert each.flops_per_s is not None
        assert each.flops_per_s < min(312e12, intensity * 1.935e12)


def test_the_shipped_tables_are_the_published_ones(reference_dir: Path) -> None:
    for file in (reference_dir / "paper").glob("*.csv"):
        assert (PAPER / file.name).read_bytes() == file.read_bytes()


def test_printed_tables_that_were_altered_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "paper"
    shutil.copytree(PAPER, folder)
    table = folder / TABLES
    table.write_text(table.read_text().replace("0.54", "0.55"))
    with pytest.raises(InvalidFileError, match="checksum differs"):
        folders.load(folder)


def test_printed_tables_are_not_merged(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="not merged"):
        folders.merge([folders.load(PAPER)] * 2, tmp_path / "merged")
