"""Sums over a tensor-parallel group: the tables of others, and laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.predict.allreduce import AllReduce, all_reduce
from medusa_bench.specs import profiles
from tests.conftest import REFERENCE

TABLE = REFERENCE / "modern" / "allreduce.parquet"
H100, A100, L40S = (profiles.load(name) for name in ("h100-sxm", "a100-80gb-sxm", "l40s"))


def seconds(group: AllReduce, *message_bytes: float) -> list[float]:
    return group.latency_s(np.array(message_bytes, dtype=float)).tolist()


@pytest.mark.skipif(not TABLE.exists(), reason="the reference data is not beside this checkout")
@pytest.mark.parametrize(
    ("gpu", "framework", "kernel", "most"),
    [
        ("a100_sxm", "vllm", "vLLM_custom_graph", 0.08),
        ("h100_sxm", "vllm", "vLLM_custom_graph", 0.06),
        ("a100_sxm", "nccl", "nccl-tests", 0.07),
        ("h100_sxm", "nccl", "nccl-tests", 0.10),
    ],
)
def test_published_sums_are_met(gpu: str, framework: str, kernel: str, most: float) -> None:
    """Mean absolute error on all rows, half of them fitted; of NCCL where it is used."""
    import pandas as pd

    rows = pd.read_parquet(TABLE)
    chosen = rows[
        (rows.gpu == gpu) & rows.framework.str.startswith(framework) & (rows.kernel == kernel)
    ]
    is_large = chosen.message_bytes > 8e6
    chosen = chosen[is_large if framework == "nccl" else ~is_large]
    errors = []
    for num_gpus, group in chosen.groupby("num_gpus"):
        made = all_reduce(A100 if gpu.startswith("a100") else H100, int(num_gpus))
        predicted = made.latency_s(group.message_bytes.to_numpy(dtype=float))
        errors += (abs(predicted * 1e6 / group.latency_us.to_numpy() - 1)).tolist()
    assert len(errors) >= 15
    assert np.mean(errors) < most


@pytest.mark.skipif(not TABLE.exists(), reason="the reference data is not beside this checkout")
def test_pcie_is_met_for_two_gpus() -> None:
    import pandas as pd

    rows = pd.read_parquet(TABLE)
    chosen = rows[(rows.gpu == "l40s") & (rows.num_gpus == 2)]
    predicted = all_reduce(L40S, 2).latency_s(chosen.message_bytes.to_numpy(dtype=float))
    error = abs(predicted * 1e6 / chosen.latency_us.to_numpy() - 1)
    assert np.median(error) < 0.25


@given(
    st.sampled_from([H100, A100]),
    st.sampled_from([2, 4, 8]),
    st.floats(256, 7e6),
    st.floats(1.01, 1.1),
)
def test_a_larger_message_takes_no_less(
    profile: profiles.DeviceProfile, num_gpus: int, message_bytes: float, more: float
) -> None:
    small, large = seconds(all_reduce(profile, num_gpus), message_bytes, more * message_bytes)
    assert small <= large


def test_one_gpu_sums_nothing_and_pcie_takes_longer() -> None:
    assert seconds(all_reduce(H100, 1), 1e6) == [0.0]
    for message in (1e4, 1e6):
        assert seconds(all_reduce(H100, 8, "pcie"), message) > seconds(all_reduce(H100, 8), message)


def test_llama_3_70b_takes_085_ms_of_sums_a_step_over_8_h100() -> None:
    """160 sums of 16 kB, 5.3 us each; of 64 tokens, 1 MB and 15 us each."""
    group = all_reduce(H100, 8)
    small, large = seconds(group, 8192 * 2, 64 * 8192 * 2)
    assert 160 * small == pytest.approx(0.85e-3, rel=0.1)
    assert 160 * large == pytest.approx(2.4e-3, rel=0.15)


@pytest.mark.parametrize("num_gpus", [0, 3, 16, -8])
def test_groups_that_no_node_has_are_refused(num_gpus: int) -> None:
    with pytest.raises(MedusaBenchError, match="no group of one node"):
        all_reduce(H100, num_gpus)


def test_a_card_without_nvlink_has_none() -> None:
    with pytest.raises(MedusaBenchError, match="l40s has no NVLink"):
        all_reduce(L40S, 2, "nvlink")
