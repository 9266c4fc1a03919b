"""Laws of attention, experts and states: what they ask, what ships, and how they behave."""

from dataclasses import replace

import numpy as np
import pytest

from medusa_bench.predict import operator_laws as laws
from medusa_bench.predict.calibration import DeviceCeilings
from medusa_bench.predict.operator_laws import (
    Attention,
    DeltaStep,
    ExpertProducts,
    Kernel,
    Kind,
    Latent,
    Shares,
)
from medusa_bench.specs.profiles import load

H100, A100 = load("h100-sxm"), load("a100-80gb-sxm")
CEILINGS = DeviceCeilings.of(H100)


def column(*values: float) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(values, dtype=float)


def experts(*tokens: float) -> ExpertProducts:
    """Qwen3-30B-A3B's 128 experts of 768, 8 a token."""
    t = column(*tokens)
    one = np.ones(len(t))
    touched = 128 * (1 - (1 - 8 / 128) ** t)
    return ExpertProducts(t, touched, 8 * one, 2048 * one, 768 * one, 3 * one, 2.0)


def attention(query_len: float, num_heads: float = 32, num_kv_heads: float = 8) -> Attention:
    return Attention(
        column(8), column(query_len), column(8192), column(num_heads), column(num_kv_heads),
        column(128), 2.0,
    )  # fmt: skip


def kernel(kind: Kind, device: str = "h100-sxm", dtype: str = "bfloat16") -> Kernel:
    found = laws.kernel_for(kind, load(device), dtype)
    assert found is not None
    return found[0]


def seconds(asked: laws.Asked, of: Kernel, ceilings: DeviceCeilings = CEILINGS) -> list[float]:
    return of.predict(asked.demand(ceilings, of), "here").latency_s.tolist()


def test_every_kernel_that_ships_names_its_rows_and_has_shares_that_can_be() -> None:
    shipped = laws.shipped()
    assert {each.kind for each in shipped} == set(Kind)
    for each in shipped:
        assert each.num_rows >= 40
        assert 0 < each.shares.bandwidth_share < 1 or each.kind is Kind.LATENT
        assert 0 < each.shares.launch_s < 2e-4
        ends = zip(each.interval.low, each.interval.high, strict=True)
        assert all(low < 0 < high for low, high in ends) or each.error < 0.01


def test_a_law_is_launch_and_the_cubes_of_its_terms() -> None:
    shares = Shares(1e-5, 0.5, 0.25, item_s=2e-6, beside_share=0.5)
    one = column(1e-6)
    demand = laws.Demand(one, one, column(3.0), 0 * one, one)
    expected = 1e-5 + 2e-6 + (2**3 + 4**3 + 6**3) ** (1 / 3) * 1e-6
    assert shares.latency_s(demand)[0] == pytest.approx(expected, rel=1e-12)
    parts = shares.parts(demand)
    assert parts.explained_s[0] == pytest.approx(expected, rel=1e-12)


def test_attention_of_8192_keys_over_8_heads_reads_33_mb_a_sequence() -> None:
    assert attention(1).read_bytes[0] == 8 * 2 * 8 * 128 * 8192 * 2
    (one,) = seconds(attention(1), kernel(Kind.ATTENTION))
    assert attention(1).read_bytes[0] / 3.35e12 < one < 2 * attention(1).read_bytes[0] / 3.35e12


def test_candidates_of_one_tile_take_no_longer_and_many_more_do() -> None:
    """64 rows a tile over groups of 4 heads: 16 candidates."""
    of = kernel(Kind.ATTENTION)
    one, tile, many = (seconds(attention(q), of)[0] for q in (1, 16, 256))
    assert tile < 1.05 * one
    assert many > 1.5 * one


def test_latent_attention_grows_with_its_candidates_where_grouped_heads_do_not() -> None:
    def latent(query_len: float) -> Latent:
        return Latent(column(32), column(query_len), column(8192), column(128), 512.0, 64.0, 2.0)

    of = kernel(Kind.LATENT)
    one, four = (seconds(latent(q), of)[0] for q in (1, 4))
    assert latent(1).read_bytes[0] == 32 * 8192 * 1152
    assert four > 2.5 * one
    demand = latent(1).demand(CEILINGS, of)
    intensity = demand.compute_s[0] * 989.4e12 / (demand.memory_s[0] * 3.35e12)
    assert intensity == pytest.approx(242, rel=0.07)


def test_tokens_of_one_step_read_more_experts_and_then_no_more() -> None:
    """Measured ratios at 2, 8 and 64 tokens: 1.53, 4.65 at the worst, 8.8 (modern.md)."""
    one, two, eight, many = seconds(experts(1, 2, 8, 64), kernel(Kind.EXPERTS))
    assert 1.2 < two / one < 1.8
    assert 3 < eight / one < 5.5
    assert 6 < many / one < 11
    at_128, at_256 = seconds(experts(128, 256), kernel(Kind.EXPERTS))
    assert at_256 < 1.3 * at_128


def test_a_width_that_is_not_aligned_takes_longer() -> None:
    aligned, odd = experts(8), experts(8)
    odd = replace(odd, width=odd.width - 8)
    of = kernel(Kind.EXPERTS)
    assert seconds(odd, of)[0] > 1.5 * seconds(aligned, of)[0]


def test_a_state_is_read_and_written_in_float32() -> None:
    """Qwen3.5-35B: 2.1 MB a sequence and layer, of which 4.2 MB move."""
    step = DeltaStep(column(64), column(16), column(32), column(128), column(128))
    assert step.read_bytes[0] == 64 * 2**21
    (found,) = seconds(step, kernel(Kind.DELTA))
    assert found == pytest.approx(4.5e-6 + 2 * step.read_bytes[0] / (0.89 * 3.35e12), rel=0.03)


def test_a_card_without_rows_takes_its_relatives_kernel_with_a_wider_interval() -> None:
    h200 = load("h200-sxm")
    own, words = laws.kernel_for(Kind.EXPERTS, H100, "bfloat16") or pytest.fail()
    lent, lent_words = laws.kernel_for(Kind.EXPERTS, h200, "bfloat16") or pytest.fail()
    assert words.startswith("experts: calibrated, h100-sxm")
    assert lent_words.startswith("experts: prior, h100-sxm")
    assert lent.interval.high[1] == pytest.approx(own.interval.high[1] + 0.1)
    faster = seconds(experts(64), lent, DeviceCeilings.of(h200))[0]
    assert faster < seconds(experts(64), own)[0]


def test_the_relative_is_of_the_nearer_family_where_it_has_rows() -> None:
    def lender(gpu: str, dtype: str) -> str:
        found = laws.kernel_for(Kind.EXPERTS, load(gpu), dtype)
        assert found is not None
        return found[0].device

    assert lender("a40", "bfloat16") == "a100-80gb-sxm"
    assert lender("b200", "bfloat16") == "h100-sxm"
    assert lender("a40", "int4_wo") == "h100-sxm"
    assert laws.kernel_for(Kind.EXPERTS, A100, "float32") is None
