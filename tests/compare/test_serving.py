"""What serving adds to a step's products: the formula by hand, the table's rows, the fit."""

import re
from dataclasses import replace

import click
import numpy as np
import pytest

from medusa_bench.base.errors import UnknownNameError
from medusa_bench.cli.compare import command
from medusa_bench.compare import acceptance, methods, serving, serving_fit
from medusa_bench.compare.comparisons import Comparison
from medusa_bench.compare.passes import Block, chain
from medusa_bench.compare.serving import EngineCost, Known, Launches, Parameter, Steps
from medusa_bench.compare.serving_fit import Evidence
from medusa_bench.compare.simulation import Variant, simulate
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS
from tests.builders.latencies import SmoothLatency

TARGET, DRAFT = PRESETS["llama-7b"], PRESETS["llama-160m"]


def exactly(value_s: float) -> Parameter:
    return Parameter(value_s, value_s, value_s)


def engine(launches: Launches, layer_s: float, step_s: float, draft_pass_s: float) -> EngineCost:
    parameters = map(exactly, (layer_s, step_s, draft_pass_s))
    layer, step, draft_pass = parameters
    return EngineCost("made", launches, layer, step, draft_pass, Known.VERSION, "made")


def rows(cost: EngineCost, block: Block = Block.FULL, batch_size: int = 2) -> list[Comparison]:
    variants = [
        Variant(methods.vanilla(), acceptance.Constant(1.0)),
        Variant(methods.draft_model(DRAFT, 3), acceptance.Chain(0.6)),
    ]
    settings = [(batch_size, 1024)]
    latency = SmoothLatency(spread=0.1)
    return simulate(variants, TARGET, latency, Dtype.FLOAT16, settings, engine=cost, block=block)


def products_s() -> tuple[float, float, float]:
    """Of a vanilla pass, of a verification of 4 tokens, of a drafting pass."""
    vanilla, drafted = rows(serving.NO_ENGINE)
    (verified,) = simulate(
        [Variant(methods.medusa(4), acceptance.PAPER)],
        TARGET,
        SmoothLatency(),
        Dtype.FLOAT16,
        [(2, 1024)],
        block=Block.FULL,
    )
    verify_s = verified.step.latency_s
    return vanilla.step.latency_s, verify_s, (drafted.step.latency_s - verify_s) / 3


def test_engine_with_graphs_adds_a_time_per_layer_pass_step_and_token() -> None:
    decode_s, verify_s, draft_s = products_s()
    vanilla, drafted = rows(engine(Launches.GRAPHS, 2e-5, 1e-3, 1e-4))
    assert vanilla.step.latency_s == pytest.approx(decode_s + 32 * 2e-5 + 2 * 4e-6)
    drafts_s = 3 * (draft_s + 12 * 2e-5 + 1e-4)
    verified_s = verify_s + 32 * 2e-5 + 2 * 4 * 4e-6
    assert drafted.step.latency_s == pytest.approx(drafts_s + verified_s + 1e-3)
    assert drafted.vanilla == vanilla.step


def test_eager_engine_takes_what_launching_takes_where_that_is_longer() -> None:
    decode_s, _, _ = products_s()
    slow, _ = rows(engine(Launches.EAGER, 1.0, 0.0, 0.0))
    assert slow.step.latency_s == pytest.approx(32 + 2 * 4e-6)
    quick, _ = rows(engine(Launches.EAGER, 1e-9, 0.0, 0.0))
    assert quick.step.latency_s == pytest.approx(decode_s + 2 * 4e-6)


def test_one_layer_of_the_model_bears_its_share_of_the_engine() -> None:
    cost = engine(Launches.GRAPHS, 2e-5, 3.2e-3, 0.0)
    alone, _ = rows(serving.NO_ENGINE, Block.PAPER)
    layer, _ = rows(cost, Block.PAPER)
    assert layer.step.latency_s - alone.step.latency_s == pytest.approx(2e-5 + 2 * 4e-6 / 32)
    free = replace(cost, step_s=exactly(0.0))
    with_step, without = rows(cost, Block.PAPER)[1], rows(free, Block.PAPER)[1]
    assert with_step.step.latency_s - without.step.latency_s == pytest.approx(1e-4)


def test_interval_of_a_served_speedup_is_the_engines_and_vanilla_has_none() -> None:
    vanilla, drafted = rows(serving.cost_of("vllm", "0.10.1"))
    assert vanilla.speedup_interval == (1.0, 1.0)
    low, high = drafted.speedup_interval
    assert (low, high) == (
        pytest.approx(drafted.speedup * np.exp(-0.20)),
        pytest.approx(drafted.speedup * np.exp(0.20)),
    )
    assert rows(serving.NO_ENGINE)[1].half_width is None


def test_lookups_that_find_nothing_leave_their_sequences_vanilla() -> None:
    cost = engine(Launches.GRAPHS, 0.0, 1e-3, 0.0)
    lookup = Variant(
        methods.make("prompt-lookup", chain(3), TARGET), acceptance.Survival((0.2, 0.1, 0.0))
    )
    share = 0.2 + 0.35 * 0.8
    (row,) = simulate(
        [lookup], TARGET, SmoothLatency(), Dtype.FLOAT16, [(2, 1024)], engine=cost, block=Block.FULL
    )
    decode_s, verify_s, _ = products_s()
    tokens_s = 2 * 4e-6 * (share * 4 + 1 - share)
    expected = share * verify_s + (1 - share) * decode_s + tokens_s
    assert row.step.latency_s == pytest.approx(expected + 1e-3 * (1 - (1 - share) ** 2))


@pytest.mark.parametrize(
    ("name", "version", "chosen"),
    [
        ("vllm", "0.10.1", "vllm V1"),
        ("vllm", "0.33.0", "vllm V1"),
        ("vllm", "v0.10.1", "vllm V1"),
        ("vllm", "V0", "vllm"),
        ("vllm", "V1 (mid 2025)", "vllm V1"),
        ("vllm", "0.6.3", "vllm"),
        ("vllm", "", "vllm"),
        ("SGLang", "0.4.4", "sglang 0.4"),
        ("hf", "transformers", "transformers eager"),
        ("tensorrt-llm", "1.2", "tensorrt-llm, taken as a serving engine of unknown name"),
        ("", "", "a serving engine of unknown name"),
        ("none", "", "none"),
    ],
)
def test_nearest_row_of_the_table_is_chosen(name: str, version: str, chosen: str) -> None:
    assert serving.cost_of(name, version).name == chosen


def test_less_known_engine_has_the_wider_interval() -> None:
    widths = [
        serving.cost_of(*key).half_width for key in (("vllm", "0.11"), ("vllm", ""), ("", ""))
    ]
    assert widths == sorted(widths) and len(set(widths)) == 3


def test_engine_is_added_by_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    added = replace(serving.ENGINES["transformers"], aliases=("new-one",))
    monkeypatch.setitem(serving.ENGINES, "new", added)  # type: ignore[misc]
    cost = serving.cost_of("new-one")
    assert (cost.name, cost.launches) == (
        "new, taken as an eager engine of unknown name",
        Launches.EAGER,
    )


def test_help_names_every_engine() -> None:
    (option,) = [each for each in command.params if each.name == "engine"]
    assert isinstance(option, click.Option)
    assert {*serving.ENGINES, "none"} <= set(re.findall(r"[\w.-]+\w", option.help or ""))


def test_unknown_engine_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(UnknownNameError, match="vllmm"):
        serving.cost_of("vllmm")


def test_shipped_table_reads_as_it_was_written_and_values_lie_inside_their_spread() -> None:
    table = serving.shipped()
    assert serving.from_toml(serving.to_toml(table, heading=["h"])) == table
    for cost in table.rows.values():
        for parameter in (cost.layer_s, cost.step_s, cost.draft_pass_s):
            assert 0 < parameter.low_s < parameter.value_s < parameter.high_s


def test_fit_recovers_the_engine_that_made_the_speedups() -> None:
    made = engine(Launches.GRAPHS, 20e-6, 3e-3, 0.2e-3)
    rng = np.random.default_rng(1)
    count = 400
    steps = Steps(
        batch_size=rng.integers(1, 64, count).astype(float),
        num_candidates=rng.integers(2, 8, count).astype(float),
        layers=np.full(count, 32.0),
        decode_s=rng.uniform(2e-3, 2e-2, count),
        verify_s=rng.uniform(2e-3, 4e-2, count),
        draft_s=rng.uniform(1e-4, 1e-3, (count, 1)),
        draft_layers=np.ones((count, 1)),
        draft_count=rng.integers(1, 8, (count, 1)).astype(float),
        drafting=np.ones(count),
    )
    costs = serving.Costs.of(made)
    settings = np.array([f"setting {index // 4}" for index in range(count)])
    evidence = Evidence(
        steps,
        engine=np.full(count, "vllm"),
        generation=np.full(count, "V1"),
        setting=settings,
        acceleration_rate=np.full(count, 3.0),
        speedup=3.0 * costs.vanilla_s(steps) / costs.step_latency_s(steps),
        has_size=np.full(count, True),
    )
    fitted = serving_fit.fit(evidence).cost("vllm", "0.9")
    for name in ("layer_s", "step_s", "draft_pass_s"):
        true, found = getattr(made, name).value_s, getattr(fitted, name)
        assert found.value_s == pytest.approx(true, rel=0.05)
        assert found.low_s < true < found.high_s
