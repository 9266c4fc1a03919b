"""The paper beside ours: cells, gains, tables divided again, readings, measured results."""

from pathlib import Path

import pytest

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.compare import acceptance
from medusa_bench.paper import reproduction
from medusa_bench.paper.reproduction import Predictor, Reproduction
from medusa_bench.results import folders
from medusa_bench.results.reading import Results
from medusa_bench.results.rows import Grid, Timing
from medusa_bench.specs import models, operators, paper_grid
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.paper_grid import PAPER_NUM_CANDIDATES
from medusa_bench.specs.settings import Phase
from tests.builders.samples import ENVIRONMENT, measured, tasks

LAUNCH_S = 10e-6


def grid(model: str, names: str, counts: tuple[int, ...]) -> Grid:
    return Grid(
        shapes=(models.load(model),),
        operators=operators.select(names.split()),
        phases=(Phase.MEDUSA,),
        batch_sizes=(16,),
        seq_lens=(1024,),
        num_candidates=counts,
        dtypes=(Dtype.FLOAT16,),
        timings=(Timing.KERNEL,),
    )


@pytest.fixture(scope="module")
def user_results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Every call takes 10 us and one more for each candidate: gains and speedups are known."""
    folder = tmp_path_factory.mktemp("user")
    for asked in (
        grid("llama-33b", "qk pv", (1, 64)),
        grid("llama-7b", "q k v qk pv up gate down", (1, 16)),
    ):
        with folders.Writer(folder, ENVIRONMENT, asked) as writer:
            for point in asked.points():
                task = next(t for t in tasks(asked) if t.product == point.product)
                latency_s = LAUNCH_S + 1e-6 * point.setting.num_candidates
                if (task.key, 0) not in writer.done:
                    writer.append(measured(task, latency_s=latency_s))
    return folders.load(folder)


@pytest.fixture(scope="module")
def ours(user_results: Results) -> Reproduction:
    return reproduction.reproduce([user_results])


def test_all_168_intensities_are_the_printed_ones(ours: Reproduction) -> None:
    assert len(ours.cells) == 168
    assert all(cell.equals_print for cell in ours.cells)


def test_8_cells_are_printed_twice_so_160_are_distinct(ours: Reproduction) -> None:
    repeated = [cell for cell in ours.cells if cell.is_repeated]
    assert [cell.setting.num_candidates for cell in repeated] == list(PAPER_NUM_CANDIDATES)
    assert {(cell.setting.batch_size, cell.setting.seq_len) for cell in repeated} == {(16, 1024)}


def test_what_a_prediction_knows_of_the_cells_makes_it_better(ours: Reproduction) -> None:
    bare, unfitted, launch, fitted = (ours.scores[name].mape for name in Predictor)
    assert bare == pytest.approx(40, abs=1)
    assert bare > 2 * unfitted > 4 * launch
    assert fitted < 3.2
    assert ours.num_seeds == 20
    assert [ours.scores[name].rows for name in Predictor] == [160, 160, 160, 148]


def test_nothing_but_its_launch_time_is_borrowed_from_the_paper(ours: Reproduction) -> None:
    assert "2401.10774" not in ours.unfitted_name
    assert ours.launch_s == pytest.approx(33e-6, abs=3e-6)
    small = ours.cell(7, 1, 1024, 1)  # 33 us of launch are most of it
    known, unknown = (
        small.predicted_flops_per_s[name] for name in (Predictor.LAUNCH, Predictor.UNFITTED)
    )
    assert small.printed.flops_per_s == pytest.approx(known, rel=0.15)
    assert unknown > 1.5 * known


def test_44x_and_41x_are_the_cells_that_the_sentence_names(ours: Reproduction) -> None:
    rate, intensity = ours.gains
    assert (rate.medusa_printed, rate.vanilla_printed) == (54.80e12, 1.24e12)
    assert round(rate.printed) == rate.claimed == 44
    assert rate.ours == pytest.approx(44, rel=0.1)
    assert round(intensity.printed) == round(intensity.ours) == intensity.claimed == 41


def test_measured_gain_is_that_of_the_users_latencies(ours: Reproduction) -> None:
    ((rate, times),) = ours.gains[0].measured
    assert rate.device == ENVIRONMENT.device
    assert times == pytest.approx(64 * (LAUNCH_S + 1e-6) / (LAUNCH_S + 64e-6))


def test_measured_rates_join_the_cells_of_the_same_product_alone(ours: Reproduction) -> None:
    joined = {
        (cell.printed.table, cell.setting.num_candidates) for cell in ours.cells if cell.measured
    }
    assert joined == {
        (table, count)
        for table in ("table6_attention_batch16", "table7_attention_seq1024")
        for count in (1, 64)
    }


def test_measured_speedup_is_rate_over_measured_overhead(ours: Reproduction) -> None:
    vanilla, medusa = ours.measured_speedups
    assert (vanilla.num_candidates, vanilla.overhead, vanilla.speedup) == (1, 1, 1)
    assert (medusa.batch_size, medusa.num_candidates) == (16, 16)
    assert medusa.overhead == pytest.approx((LAUNCH_S + 16e-6) / (LAUNCH_S + 1e-6))
    assert medusa.speedup == pytest.approx(acceptance.PAPER.acceleration_rate(16) / medusa.overhead)


def test_results_that_were_not_measured_are_refused() -> None:
    with pytest.raises(MedusaBenchError, match="holds reported results"):
        reproduction.reproduce([folders.load(paper_grid.RESULTS)], num_seeds=1)


def test_speedup_divides_to_the_printed_one_in_every_row_of_table_4(ours: Reproduction) -> None:
    rows = [row for row in ours.divisions if row.table == 4]
    assert len(rows) == 4
    for row in rows:
        assert row.speedup == pytest.approx(row.speedup_printed, abs=0.005)
        assert row.overhead == pytest.approx(row.acceleration_rate / row.speedup)


def test_two_overheads_of_table_1_differ_by_more_than_rounding(ours: Reproduction) -> None:
    rows = {row.model: row for row in ours.divisions if row.table == 1}
    assert {name for name, row in rows.items() if row.difference} == {"vicuna-13b", "vicuna-33b"}
    assert rows["vicuna-13b"].overhead == pytest.approx(3.51 / 2.83)
    assert rows["vicuna-7b"].low < 1.225 < rows["vicuna-7b"].high


def test_a_simulated_step_costs_more_than_vanilla_with_its_heads(ours: Reproduction) -> None:
    assert all(1 < row.overhead_simulated < 1.3 for row in ours.divisions)


def test_our_form_fits_the_read_rates_and_the_printed_one_is_1_below(ours: Reproduction) -> None:
    for reading in ours.rate_readings:
        assert reading.ours == pytest.approx(reading.as_printed + 1)
        assert reading.ours == pytest.approx(reading.read, abs=0.17)


def test_speedups_are_nearer_to_figure_22_with_our_form(ours: Reproduction) -> None:
    readings = ours.speedup_readings
    assert len(readings) == 14
    with_ours = reproduction.mean_error((r.ours, r.read) for r in readings)
    as_printed = reproduction.mean_error((r.ours_as_printed, r.read) for r in readings)
    assert with_ours < 0.1
    assert as_printed > 0.25


def test_another_form_changes_the_speedups_and_no_latency(ours: Reproduction) -> None:
    other = reproduction.reproduce(law=acceptance.PAPER_PRINTED, num_seeds=1)
    for reading, again in zip(ours.speedup_readings, other.speedup_readings, strict=True):
        assert again.ours == pytest.approx(reading.ours_as_printed)
    assert [row.overhead for row in other.speedups] == [row.overhead for row in ours.speedups]


def test_parts_of_a_vanilla_step_sum_to_1_and_of_medusas_to_its_overhead(
    ours: Reproduction,
) -> None:
    rows = [row for row in ours.speedups if (row.batch_size, row.seq_len) == (1, 1024)]
    for part, row in zip(ours.step_parts, rows, strict=True):
        assert part.num_candidates == row.num_candidates
        assert part.qkv + part.attention + part.mlp == pytest.approx(row.overhead)


def test_only_shipped_files_are_read(ours: Reproduction, reference_dir: Path) -> None:
    shipped = {path.name for path in (reference_dir / "paper").iterdir()}
    assert shipped <= {path.name for path in folders.load(paper_grid.RESULTS).path.iterdir()}
