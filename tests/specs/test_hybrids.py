"""Layers with a state: what they read and write, and which layers of a config they are."""

import json
from typing import Any

import pytest

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.compare import choosing
from medusa_bench.compare.choosing import Request
from medusa_bench.compare.passes import Kind, all_reduced, memory_bytes
from medusa_bench.results.codec import _of_shape, _shape
from medusa_bench.specs import configs, models
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import find, of_model
from medusa_bench.specs.settings import Phase, Setting
from medusa_bench.specs.shapes import ModelShape

QWEN = models.PRESETS["qwen3.5-35b-a3b"]
NANO = models.PRESETS["nemotron-3-nano-30b-a3b"]
HYBRIDS = [name for name, shape in models.PRESETS.items() if shape.recurrence]
STATE_BYTES = 32 * 128 * 128 * 4  # Qwen3.5-35B, a sequence and layer


def medusa(num_candidates: int, batch_size: int = 1, seq_len: int = 1024) -> Setting:
    return Setting(Phase.MEDUSA, batch_size, seq_len, num_candidates)


def state_bytes(shape: ModelShape, setting: Setting) -> float:
    return sum(
        find(name).bytes_moved(shape, setting, Dtype.BFLOAT16)
        for name in ("state_update", "state_read")
    )


@pytest.mark.parametrize("num_candidates", [1, 2, 4, 8])
@pytest.mark.parametrize("seq_len", [128, 100_000])
def test_a_pass_reads_one_state_and_writes_one_for_each_candidate(
    num_candidates: int, seq_len: int
) -> None:
    moved = state_bytes(QWEN, medusa(num_candidates, seq_len=seq_len))
    assert moved == pytest.approx((1 + num_candidates) * STATE_BYTES, rel=0.02)


def test_the_states_of_a_sequence_weigh_as_much_as_six_thousand_cached_tokens() -> None:
    """126 MB a step and sequence: the keys and values of 6,000 tokens over its 10 full layers."""
    setting = Setting(Phase.DECODE, 1, 6000)
    states = 30 * state_bytes(QWEN, setting)
    cached = 10 * 6000 * 2 * 2 * 256 * 2
    assert states == pytest.approx(126e6, rel=0.02)
    assert states == pytest.approx(cached, rel=0.05)


def test_memory_holds_states_whatever_the_length() -> None:
    short, longer = (memory_bytes(QWEN, 8, length, Dtype.BFLOAT16) for length in (1000, 2000))
    assert longer - short == 8 * 1000 * 10 * 2 * 2 * 256 * 2
    one, two = (memory_bytes(NANO, count, 1, Dtype.BFLOAT16) for count in (1, 2))
    held = 23 * 64 * 64 * 128 * 4
    assert two - one == pytest.approx(held, rel=0.02)


def test_one_sublayer_a_layer_is_summed_once_over_a_group() -> None:
    sums, _ = all_reduced(NANO, medusa(1), Dtype.BFLOAT16)
    assert sums == 52 + 2
    sums, _ = all_reduced(QWEN, medusa(1), Dtype.BFLOAT16)
    assert sums == 2 * 40 + 2


def test_a_group_splits_states_and_widths() -> None:
    part = QWEN.split(4)
    whole = {op.name: op.num_weights(QWEN) for op, _ in of_model(QWEN)}
    for op, _ in of_model(part):
        if op.name in {"state_in", "state_out", "o_gate", "q"}:
            assert op.num_weights(part) * 4 == whole[op.name]
    quarter = state_bytes(part, medusa(1)) / state_bytes(QWEN, medusa(1))
    assert quarter == pytest.approx(0.25)


def test_a_module_of_one_layer_attends_and_one_of_many_keeps_the_shares() -> None:
    one = QWEN.of_depth(1, "MTP")
    assert (one.num_recurrent_layers, one.num_attention_layers) == (0, 1)
    half = QWEN.of_depth(20, "half")
    assert (half.num_recurrent_layers, half.num_attention_layers) == (15, 5)


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrids_verify_chains_alone_and_say_so(name: str) -> None:
    target = models.PRESETS[name]
    request = Request(("eagle-1", "medusa"), acceptance=("tokens:2",), engine="sglang")
    for variant in choosing.variants(request, target):
        shape = variant.method.shape
        if variant.method.name == "medusa":
            assert "along which chains alone are verified" in variant.unfit or shape.kind is (
                Kind.ROOT
            )
        else:
            assert shape.kind is Kind.CHAIN
    attended = Request(("eagle-1",), acceptance=("tokens:2",), engine="sglang")
    (tree,) = choosing.variants(attended, models.PRESETS["llama-3-8b"])
    assert tree.method.shape.kind is Kind.TREE


def test_trees_of_windows_and_latent_attention_are_left_out_where_an_engine_does() -> None:
    request = Request(("eagle-3",), acceptance=("tokens:2",), engine="tensorrt-llm")
    for name, kind in (("deepseek-v3", Kind.CHAIN), ("gpt-oss-120b", Kind.CHAIN),
                       ("llama-3-8b", Kind.TREE)):  # fmt: skip
        for variant in choosing.variants(request, models.PRESETS[name]):
            assert variant.method.shape.kind is kind


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_shape_is_read_back_as_it_was_written(name: str) -> None:
    shape = models.PRESETS[name]
    assert _shape(json.loads(json.dumps(_of_shape(shape)))) == shape


BASE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8, "num_attention_heads": 4,
    "vocab_size": 100,
}  # fmt: skip
DELTA = BASE | {
    "model_type": "qwen3_5", "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": "auto", "mamba_d_state": 16}


@pytest.mark.parametrize(
    ("config", "recurrent", "attending"),
    [
        (DELTA, 6, 2),
        (DELTA | {"full_attention_interval": 2}, 4, 4),
        (DELTA | {"layer_types": ["linear_attention"] * 5 + ["full_attention"] * 3}, 5, 3),
        (BASE | MAMBA | {"model_type": "bamba", "attn_layer_indices": [3, 6]}, 6, 2),
        (BASE | MAMBA | {"model_type": "falcon_h1"}, 8, 8),
        (BASE | {"model_type": "minimax", "attn_type_list": [0, 0, 0, 1] * 2}, 6, 2),
        (BASE | {"model_type": "lfm2", "full_attn_idxs": [1, 4]}, 6, 2),
        (BASE | {"model_type": "jamba", "attn_layer_period": 4, "attn_layer_offset": 2}, 6, 2),
        (
            BASE | {
                "model_type": "nemotron_h", "hybrid_override_pattern": "M-M*-M-M",
                "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 16,
            },
            4,
            1,
        ),
    ],
)  # fmt: skip
def test_configs_say_which_layers_keep_a_state(
    config: dict[str, Any], recurrent: int, attending: int
) -> None:
    shape = configs.from_config(config, name="it", where="it.json")
    assert (shape.num_recurrent_layers, shape.num_attention_layers) == (recurrent, attending)
    assert any("chains alone" in note for note in shape.unmodelled)


def test_a_hybrid_all_of_whose_layers_attend_is_a_dense_model() -> None:
    config = BASE | MAMBA | {"model_type": "granitemoehybrid", "layer_types": ["attention"] * 8}
    shape = configs.from_config(config, name="it", where="it.json")
    assert shape.recurrence is None
    assert not shape.unmodelled


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["linear_attention"] * 3},
        {"linear_num_value_heads": 0},
        {"linear_key_head_dim": "wide"},
        {"full_attention_interval": 0},
        {"model_type": "nemotron_h", "hybrid_override_pattern": "MMXX****"},
        {"model_type": "nemotron_h"},
        {"model_type": "jamba", "attn_layer_period": 0},
    ],
)
def test_senseless_hybrids_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MedusaBenchError, match=r"it\.json"):
        configs.from_config(DELTA | changes, name="it", where="it.json")
    with pytest.raises(InvalidFileError):
        configs.from_config(DELTA | {"vocab_size": 0}, name="it", where="it.json")


def test_layers_with_a_window_have_heads_of_their_own() -> None:
    """Gemma-4: 8 of 256 within 1024 tokens in 25 layers; 2 of 512, keys as values, in 5."""
    shape = models.PRESETS["gemma-4-26b-a4b"]
    counts = {op.name: count for op, count in of_model(shape)}
    assert counts["q_near"] == counts["v_near"] == 25
    assert counts["q_whole"] == counts["pv_whole"] == 5
    assert counts["up"] == counts["expert_up"] == 30
    assert counts.keys().isdisjoint({"q", "k", "v", "o", "qk", "pv", "qk_window", "v_whole"})
    held = [memory_bytes(shape, 1, length, Dtype.BFLOAT16) for length in (512, 1024, 4096)]
    assert held[2] - held[1] == 3072 * 5 * 2 * (2 * 512) * 2
    assert held[1] - held[0] == 512 * 2 * (5 * 2 * (2 * 512) + 25 * 2 * (8 * 256))


def test_an_indexer_bounds_what_latent_attention_reads() -> None:
    """DeepSeek-V3.2: 2048 tokens attended to, 128 values of index keys for all."""
    config = {
        "model_type": "deepseek_v32", "hidden_size": 7168, "intermediate_size": 18432,
        "num_hidden_layers": 61, "num_attention_heads": 128, "vocab_size": 129280,
        "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128,
        "v_head_dim": 128, "index_topk": 2048, "index_n_heads": 64, "index_head_dim": 128,
    }  # fmt: skip
    shape = configs.from_config(config, name="it", where="it.json")
    counts = {op.name: count for op, count in of_model(shape)}
    assert counts["qk_indexed"] == counts["index_qk"] == 61
    assert "qk_latent" not in counts
    flops = {
        (name, length): find(name).product(shape, Setting(Phase.DECODE, 1, length)).flops
        for name in ("qk_indexed", "index_qk")
        for length in (1024, 4096, 65536)
    }
    assert flops["qk_indexed", 65536] == flops["qk_indexed", 4096]
    assert flops["qk_indexed", 4096] == 2 * flops["qk_indexed", 1024]
    assert flops["index_qk", 65536] == 64 * flops["index_qk", 1024]
