"""Where speculation pays beside experts, by the kernels' own laws on a card that has rows."""

from pathlib import Path

import numpy as np
import pytest

from medusa_bench.compare import acceptance, methods, scoring, simulation
from medusa_bench.compare.passes import Block
from medusa_bench.compare.simulation import Variant
from medusa_bench.predict import operator_costs, operator_laws
from medusa_bench.predict.choosing import model_for
from medusa_bench.predict.operator_laws import ExpertProducts, Kind
from medusa_bench.results.rows import Timing
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS
from medusa_bench.specs.operators import distinct_experts, of_model, symbols
from tests.conftest import REFERENCE

H100 = model_for("h100-sxm")
SPEEDUPS = REFERENCE / "speculation" / "speedup_by_batch.csv"


def simulated(model: str, counts: tuple[int, ...], batch_size: int) -> list[simulation.Comparison]:
    return simulation.simulate(
        [Variant(methods.medusa(count), acceptance.Constant(1.0)) for count in counts],
        PRESETS[model],
        H100,
        Dtype.BFLOAT16,
        [(batch_size, 1024)],
        block=Block.FULL,
    )


def overheads(model: str, counts: tuple[int, ...], batch_size: int) -> list[float]:
    return [row.overhead for row in simulated(model, counts, batch_size)]


def test_64_candidates_never_pay_at_batch_1_on_deepseek_v3_and_2_to_4_can() -> None:
    two, three, four, many = overheads("deepseek-v3", (2, 3, 4, 64), 1)
    assert many > 10  # more tokens than any tree of 64 is reported to yield
    assert two < 1.6 and three < 2.2 and four < 3.0


def test_qwen3_30b_pays_again_at_medium_batch_and_a_dense_model_no_more() -> None:
    by_batch = {batch: overheads("qwen3-30b-a3b", (8,), batch)[0] for batch in (1, 8, 64, 256)}
    assert by_batch[1] > 2
    assert by_batch[64] < 1.3 < by_batch[8]
    assert by_batch[256] > by_batch[64]  # compute binds in the end
    dense = {batch: overheads("qwen3-32b", (8,), batch)[0] for batch in (1, 64)}
    assert dense[1] < 1.1 < by_batch[64] < dense[64]


def test_sources_name_the_laws_and_dense_models_have_none() -> None:
    (row,) = simulated("deepseek-v3", (4,), 1)
    assert "experts: calibrated, h100-sxm" in row.latency_source
    assert "latent: calibrated, h100-sxm" in row.latency_source
    (dense,) = simulated("qwen3-32b", (4,), 1)
    assert dense.latency_source == "calibrated: h100-sxm (aiconfigurator)"


def test_a_pass_counts_its_experts_once_in_every_layer() -> None:
    shape = PRESETS["qwen3-30b-a3b"]
    one = np.ones(1)
    size = symbols(shape, 2 * one, 1024 * one, 4 * one)
    operators = [(operator, float(count)) for operator, count in of_model(shape)]
    found, names = operator_costs.of_pass(shape, operators, size, H100, Dtype.BFLOAT16)
    assert names == {"expert_up", "expert_gate", "expert_down"}
    ((times, predicted),) = found
    assert times == shape.num_layers
    assert shape.experts is not None
    touched = distinct_experts(shape.experts, 8 * one)
    asked = ExpertProducts(8 * one, touched, 8 * one, 2048 * one, 768 * one, 3 * one, 2.0)
    law = operator_laws.predict(Kind.EXPERTS, asked, "h100-sxm", "bfloat16")
    assert law is not None
    assert predicted.latency_s.tolist() == law.latency_s.tolist()


def test_attention_as_one_kernel_has_its_law_and_separate_products_have_none() -> None:
    """Llama-3-8B at 64k tokens and batch 8: 68.7 GB of keys and values, read once."""
    variants = [Variant(methods.medusa(16), acceptance.Constant(1.0))]
    shape = PRESETS["llama-3-8b"]

    def row(block: Block) -> simulation.Comparison:
        return simulation.simulate(variants, shape, H100, Dtype.BFLOAT16, [(8, 65536)],
                                   block=block)[0]  # fmt: skip

    fused, separate = row(Block.FUSED), row(Block.FULL)
    assert "attention: calibrated, h100-sxm" in fused.latency_source
    assert "attention" not in separate.latency_source
    cache_s = 32 * 8 * 65536 * 4096 / 3.35e12
    weights_s = 2 * 7.5e9 / 3.35e12
    assert cache_s + weights_s < fused.vanilla.latency_s < 1.25 * (cache_s + weights_s)
    assert fused.overhead < 1.1  # 16 candidates of 4 heads a group are one tile of 64 rows


def test_experts_that_are_spread_leave_each_gpu_its_part() -> None:
    from dataclasses import replace

    from medusa_bench.specs.shapes import Routing

    shape, one = PRESETS["qwen3-30b-a3b"], np.ones(1)

    def experts_s(ranks: int) -> float:
        routed = replace(shape, routing=Routing(ranks=ranks))
        operators = [(operator, float(count)) for operator, count in of_model(routed)]
        size = symbols(routed, 64 * one, 1024 * one, one)
        ((_, predicted),), _ = operator_costs.of_pass(routed, operators, size, H100, Dtype.BFLOAT16)
        return float(predicted.latency_s[0])

    assert 0.1 < experts_s(8) / experts_s(1) < 0.5


def test_float32_eager_time_and_the_roofline_keep_their_products() -> None:
    from medusa_bench.predict import choosing

    shape = PRESETS["deepseek-v3"]
    one = np.ones(1)
    size = symbols(shape, one, 1024 * one, one)
    operators = [(operator, float(count)) for operator, count in of_model(shape)]
    eager = model_for("h100-sxm", Timing.EAGER)
    roof = model_for("h100-sxm", Timing.KERNEL, choosing.Kind.ROOFLINE)
    for latency, dtype in ((H100, Dtype.FLOAT32), (eager, Dtype.BFLOAT16), (roof, Dtype.BFLOAT16)):
        found, names = operator_costs.of_pass(shape, operators, size, latency, dtype)
        assert not found and not names


@pytest.mark.skipif(not SPEEDUPS.exists(), reason="the reference data is not beside this checkout")
def test_published_rows_of_several_gpus_are_met() -> None:
    """Transformers puts layers on one GPU after the other, so nothing is summed between them."""
    table = scoring.read(Path(SPEEDUPS))
    assert not any("GPUs" in reason or "experts" in reason for reason in table.refused)
    found = scoring.run(table)
    several = [
        index for index, row in enumerate(table.rows) if int(row.text.get("num_gpus") or 1) > 1
    ]
    assert len(several) == 4
    assert scoring.score(found, several).median_abs_log_error < 0.15
