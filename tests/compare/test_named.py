"""What a name on the command line stands for."""

from dataclasses import replace
from pathlib import Path

import pytest

from medusa_bench.compare import named, serving
from medusa_bench.compare.passes import Block
from medusa_bench.results.rows import Environment
from tests.builders.results import fake_results


def environment(device_type: str) -> Environment:
    return Environment(device=f"some {device_type}", device_type=device_type, memory_bytes=1 << 34)


@pytest.mark.parametrize(("device_type", "engine"), [("cpu", "none"), ("cuda", "")])
def test_engine_of_unknown_name_serves_gpus_alone(
    tmp_path: Path, device_type: str, engine: str
) -> None:
    fake_results(tmp_path / "there", environment=environment(device_type))
    folder = str(tmp_path / "there")
    assert named.engine_name(None, gpu=folder) == engine
    assert named.engine_name("vllm", gpu=folder) == "vllm"
    cost = named.engine_cost(None, None, None, gpu=folder)
    assert cost == serving.cost_of(engine)


def test_papers_points_stay_the_papers() -> None:
    for gpu in ("paper", "results/paper"):
        assert named.engine_name(None, gpu=gpu) == "none"
        assert named.counted_block(None, gpu=gpu) is Block.PAPER
    assert named.counted_block(None, gpu="h100-sxm") is Block.FULL


def test_host_time_that_is_known_replaces_the_engines() -> None:
    cost = named.engine_cost("vllm", "0.10", 1e-3, gpu="h100-sxm")
    assert cost == replace(serving.cost_of("vllm", "0.10"), step_s=cost.step_s)
    assert cost.step_s.value_s == cost.step_s.low_s == cost.step_s.high_s == 1e-3
