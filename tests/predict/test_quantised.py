"""Products of quantised weights: fitted shares, and the overhead of verification they make."""

import numpy as np
import pytest

from medusa_bench.compare.methods import medusa
from medusa_bench.compare.passes import Block
from medusa_bench.compare.simulation import step_costs
from medusa_bench.predict import choosing, quantised
from medusa_bench.predict.choosing import Kind
from medusa_bench.results.rows import Timing
from medusa_bench.specs import models
from medusa_bench.specs.columns import Products
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product
from medusa_bench.specs.schemes import NEW_STATE, SCHEMES, STATE, cached
from tests.conftest import REFERENCE
from tools import fit_quantised

TABLE = REFERENCE / "modern" / "gemm_quantised.parquet"
ROWS = [1, 32, 64, 128, 256]


def of_rows(*rows: int) -> Products:
    return Products.of([Product(1, m, 14336, 4096) for m in rows])


@pytest.mark.skipif(not TABLE.exists(), reason="the reference data is not beside this checkout")
def test_the_shares_are_those_of_one_half_and_hold_on_the_other() -> None:
    """18 % at most over all schemes, on shapes that were not fitted."""
    found = list(fit_quantised.fits(TABLE))
    assert {(kernels.device, name) for name, kernels, _ in found} == quantised.FITTED.keys()
    for name, kernels, _ in found:
        shipped = quantised.FITTED[kernels.device, name]
        assert shipped.error == pytest.approx(kernels.error, abs=5e-4)
        assert shipped.parameters.logs == pytest.approx(kernels.parameters.logs, abs=0.01)
    errors = [kernels.error for _, kernels, _ in found]
    assert np.average(errors, weights=[count for *_, count in found]) < 0.18


def overhead(weights: str, num_candidates: int = 64) -> float:
    """Of a whole model's products on an A100, at batch size 1."""
    shape = models.load("llama-3-8b", weights=weights)
    steps = [medusa(n).step(shape, 1, 128, Block.FULL) for n in (1, num_candidates)]
    costs = step_costs(steps, choosing.model_for("a100-80gb-sxm"), Dtype.FLOAT16).latency_s
    return float(costs[1] / costs[0])


def test_smaller_weights_raise_the_overhead_of_verification() -> None:
    plain, int8, int4 = (overhead(each) for each in ("none", "int8", "int4"))
    assert plain < int8 < int4
    assert plain < 1.1
    assert int4 > 1.3


def test_weights_alone_leave_the_roof_of_memory_earlier() -> None:
    """T(m) / T(1) at 32, 64, 128 and 256 rows; published for per-column integers of large weights
    on an A100: bf16 1.05, 1.08, 1.22, 1.87; int4 1.24, 1.78, 2.6, 4.4."""
    a100 = choosing.model_for("a100-80gb-sxm")
    found = quantised.predict(a100, of_rows(*ROWS), Dtype.BFLOAT16, SCHEMES["int4"]).latency_s
    assert found[1:] / found[0] == pytest.approx([1.24, 1.78, 2.6, 4.4], rel=0.2)


def test_the_roofline_counts_bytes_as_they_are_stored() -> None:
    roof = choosing.model_for("a100-80gb-sxm", Timing.KERNEL, Kind.ROOFLINE)
    (found,) = quantised.predict(roof, of_rows(1), Dtype.FLOAT16, SCHEMES["int4"]).latency_s
    moved = 14336 * 4096 * 4.15625 / 8 + 2 * (14336 + 4096)
    assert found == pytest.approx(moved / 2.039e12)


def test_products_come_back_in_their_order_whatever_they_are_stored_in() -> None:
    a100 = choosing.model_for("a100-80gb-sxm")
    products, schemes = of_rows(1, 64, 1, 256), [None, SCHEMES["int4"]]
    stored = np.array([0, 1, 1, 0])
    mixed = quantised.predict_stored(a100, products, Dtype.FLOAT16, schemes, stored)
    for row, code in enumerate(stored):
        one = slice(row, row + 1)
        alone = quantised.predict(a100, products[one], Dtype.FLOAT16, schemes[code])
        assert mixed[row] == alone[0]
        assert mixed.source[row] == alone.source[0]
        assert mixed.parts.launch_s[row] == alone.parts.launch_s[0]


def test_float8_without_its_units_is_a_matter_of_weights_alone() -> None:
    """An A100 multiplies in 16 bits; an H100 in 8, where many rows gain as well."""
    many = of_rows(4096)
    gain = {}
    for gpu in ("a100-80gb-sxm", "h100-sxm"):
        model = choosing.model_for(gpu)
        plain = model.predict(many, Dtype.BFLOAT16).latency_s[0]
        found = quantised.predict(model, many, Dtype.BFLOAT16, SCHEMES["fp8"])
        gain[gpu] = plain / found.latency_s[0]
    assert gain["a100-80gb-sxm"] == pytest.approx(1, abs=0.1)
    assert gain["h100-sxm"] > 1.3


@pytest.mark.parametrize("gpu", ["rtx-4090", "b200", "l40s", "mi300x"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_without_rows_says_whose_it_takes(gpu: str, scheme: str) -> None:
    model = choosing.model_for(gpu)
    found = quantised.predict(model, of_rows(1), Dtype.FLOAT16, SCHEMES[scheme])
    assert "prior" in found.source[0]
    assert found.low_s[0] < found.latency_s[0] < found.high_s[0]


def test_a_cache_of_eight_bits_takes_two_thirds() -> None:
    """Published of an H100: .65 to .70 of bf16's time, where half would be ideal."""
    h100 = choosing.model_for("h100-sxm")
    keys = Products.of([Product(512, 1, 8192, 128)])
    plain = h100.predict(keys, Dtype.BFLOAT16).latency_s[0]
    narrow = quantised.predict(h100, keys, Dtype.BFLOAT16, cached(8)).latency_s[0]
    assert 0.6 < narrow / plain < 0.75


DELTA_NETS = REFERENCE / "modern" / "gated_delta_net_decode.parquet"


@pytest.mark.skipif(not DELTA_NETS.exists(), reason="the reference data is not beside this")
def test_a_state_takes_what_was_published_of_it() -> None:
    """Gated delta nets on an H100: 5 % on the mean of states beyond what its L2 holds."""
    table = pytest.importorskip("pyarrow.parquet").read_table(DELTA_NETS).to_pylist()
    rows = [
        row
        for row in table
        if "recurrent" in row["kernel"] and row["batch_size"] * row["num_v_heads"] * 2**16 > 100e6
    ]
    assert len(rows) > 20
    h100 = choosing.model_for("h100-sxm")
    batch = [row["batch_size"] * row["num_v_heads"] for row in rows]
    k, v = rows[0]["head_k_dim"], rows[0]["head_v_dim"]
    updates = Products.of([Product(each, k, v, 1) for each in batch])
    reads = Products.of([Product(each, 1, v, k) for each in batch])
    found = (
        quantised.predict(h100, updates, Dtype.BFLOAT16, NEW_STATE).latency_s
        + quantised.predict(h100, reads, Dtype.BFLOAT16, STATE).latency_s
    )
    published_s = np.array([row["latency_us"] for row in rows]) * 1e-6
    assert np.abs(found / published_s - 1).mean() < 0.05
