"""Quantised weights: bits with their scales, what stays as it is, and how configs say so."""

import json
from pathlib import Path
from typing import Any

import pytest

from medusa_bench.base.errors import InvalidFileError, UnknownNameError
from medusa_bench.compare.passes import memory_bytes
from medusa_bench.specs import models, operators, quantised_configs
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.schemes import SCHEMES, Quantisation, integer
from medusa_bench.specs.settings import Phase, Setting
from medusa_bench.specs.shapes import ModelShape
from tests.conftest import REFERENCE

LLAMA = models.PRESETS["llama-3-8b"]
DECODE = Setting(Phase.DECODE, 1, 1024)
INT4_CONFIG = REFERENCE.parent / "field" / "configs" / "int4_weights.json"


def read(said: dict[str, Any], shape: ModelShape = LLAMA) -> Quantisation:
    found, _ = quantised_configs.read({"quantization_config": said}, shape, where="it.json")
    assert found is not None
    return found


def bits_of(found: Quantisation, operator: str) -> float:
    """The mean over layers; 16 where nothing is said."""
    return sum(share * (scheme.bits if scheme else 16) for scheme, share in found.of(operator))


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        (SCHEMES["int4"], 4 + 16 / 128 + 4 / 128),
        (integer(4, 128, zero_point=False), 4.125),
        (integer(4, 32, zero_point=False), 4.5),
        (integer(3, 0, zero_point=True), 3),
        (SCHEMES["mxfp4"], 4.25),
        (SCHEMES["nvfp4"], 4.5),
        (SCHEMES["nf4"], 4.5),
        (SCHEMES["fp8-block"], 8 + 32 / (128 * 128)),
    ],
)
def test_a_weight_takes_its_bits_and_its_share_of_scales(scheme: Any, bits: float) -> None:
    assert scheme.bits == pytest.approx(bits, abs=1e-12)


def test_the_head_is_a_fifth_of_what_an_8b_model_of_four_bits_reads() -> None:
    """At 4 bits the 16-bit head of a model of 8 G weights is a fifth of its traffic."""
    shape = models.quantised(LLAMA, "int4")
    head = operators.find("lm_head").bytes_moved(shape, DECODE, Dtype.FLOAT16)
    assert head / operators.weight_bytes(shape, Dtype.FLOAT16) == pytest.approx(0.225, abs=0.01)


def test_scores_norms_and_heads_keep_their_bytes() -> None:
    shape = models.quantised(LLAMA, "int4")
    for name in ("qk", "pv", "lm_head", "medusa_head"):
        operator = operators.find(name)
        product = operator.product(LLAMA, DECODE)
        assert operator.bytes_moved(shape, DECODE, Dtype.FLOAT16) == product.bytes_moved(
            Dtype.FLOAT16
        )


def test_an_operators_weights_shrink_and_its_activations_do_not() -> None:
    up = operators.find("up")
    moved = up.bytes_moved(models.quantised(LLAMA, "int4"), DECODE, Dtype.FLOAT16)
    assert moved == pytest.approx(4096 * 14336 * 4.15625 / 8 + 2 * (4096 + 14336))


def test_a_cache_of_eight_bits_halves_what_attention_reads() -> None:
    shape = models.load("llama-3-8b", cache="fp8")
    qk, plain = operators.find("qk"), operators.find("qk").product(LLAMA, DECODE)
    keys = plain.batch * plain.k * plain.n
    moved = qk.bytes_moved(shape, DECODE, Dtype.FLOAT16)
    assert plain.bytes_moved(Dtype.FLOAT16) - moved == keys
    large, small = (memory_bytes(each, 64, 8192, Dtype.FLOAT16) for each in (LLAMA, shape))
    assert large - small == 64 * 8192 * 2 * 8 * 128 * 32


def test_mxfp4_of_a_model_with_experts_is_of_its_experts_alone() -> None:
    shape = models.quantised(models.PRESETS["gpt-oss-120b"], "mxfp4")
    assert shape.quantised is not None
    assert bits_of(shape.quantised, "expert_up") == 4.25
    assert bits_of(shape.quantised, "q") == bits_of(shape.quantised, "router") == 16
    # The published checkpoint: 65 GB (65.2 GiB of 116.8 G weights, the embedding in 16 bits).
    embedding = 2 * 201088 * 2880
    held = operators.weight_bytes(shape, Dtype.BFLOAT16) + embedding
    assert held / 1e9 == pytest.approx(65.2, rel=0.01)


def test_dtypes_mean_what_they_did_without_quantisation() -> None:
    assert operators.weight_bytes(LLAMA, Dtype.FLOAT16) == 2 * operators.num_weights(LLAMA)
    assert models.quantised(models.quantised(LLAMA, "int4"), "none") == LLAMA


def test_an_unknown_scheme_names_those_that_are_known() -> None:
    with pytest.raises(UnknownNameError, match="int5"):
        models.load("llama-7b", weights="int5")


@pytest.mark.skipif(not INT4_CONFIG.exists(), reason="the field's configs are not beside this")
def test_the_fields_int4_config_takes_416_bits_a_weight() -> None:
    shape = models.load(str(INT4_CONFIG))
    assert shape.quantised is not None
    assert bits_of(shape.quantised, "up") == 4.15625
    assert bits_of(shape.quantised, "lm_head") == 16


GROUP = {
    "targets": ["Linear"],
    "weights": {"num_bits": 4, "type": "int", "group_size": 32, "symmetric": True},
    "input_activations": None,
}
COMPRESSED = {"quant_method": "compressed-tensors", "config_groups": {"group_0": GROUP}}
FP8_GROUP = {
    "targets": ["Linear"],
    "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
    "input_activations": {"num_bits": 8, "type": "float"},
}


@pytest.mark.parametrize(
    ("said", "up", "head", "cache"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
         4.15625, 16, None),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}, 4.125, 16, None),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True, "lm_head": True},
         8, 8, None),
        (COMPRESSED | {"ignore": ["lm_head"]}, 4.5, 16, None),
        (COMPRESSED | {"ignore": ["re:.*lm_head", "re:.*mlp.*"]}, 16, 16, None),
        (COMPRESSED | {"kv_cache_scheme": {"num_bits": 8, "type": "float"}}, 4.5, 16, 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 16384, 16, None),
        ({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp"]},
         8 + 8 / 32, 16, None),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["lm_head"],
          "kv_cache_quant_algo": "FP8"}, 4.5, 16, 8),
        ({"quant_method": "modelopt", "quant_algo": "FP8",
          "ignore": ["model.layers.1*"]}, 8 + 8 * 11 / 32, 16, None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5, 16, None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True,
          "bnb_4bit_use_double_quant": True}, 4.127, 16, None),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8, 16, None),
    ],
)  # fmt: skip
def test_configs_say_what_is_quantised(
    said: dict[str, Any], up: float, head: float, cache: int | None
) -> None:
    found = read(said)
    assert bits_of(found, "up") == pytest.approx(up, abs=1e-3)
    assert bits_of(found, "lm_head") == head
    assert found.cache_bits == cache


def test_lists_of_single_layers_leave_their_share() -> None:
    """Names of single layers, and a router that is no gate_proj."""
    shape = models.PRESETS["deepseek-v3"]
    dense = [f"model.layers.{layer}.mlp.gate_proj" for layer in range(3)]
    some = [f"model.layers.{layer}.mlp.experts" for layer in range(3, 32)]
    found = read(
        {"quant_method": "fp8", "modules_to_not_convert": ["mlp.gate", *dense, *some]}, shape
    )
    assert bits_of(found, "gate") == 16
    assert bits_of(found, "up") == 8
    assert bits_of(found, "expert_up") == pytest.approx(8 + 8 * 29 / 58)
    assert bits_of(found, "shared_up") == 8


def test_published_checkpoints_leave_out_what_their_lists_say() -> None:
    """gpt-oss quantises its experts alone, Kimi-K2.5 its routed experts, DeepSeek-V3 what is linear
    but the router and the head."""
    gpt_oss = read(
        {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens",
                "lm_head",
            ],
        },
        models.PRESETS["gpt-oss-120b"],
    )  # fmt: skip
    assert {part.operator for part in gpt_oss.parts} == {"expert_up", "expert_gate", "expert_down"}
    patterns = ["self_attn.*", "shared_experts.*", "mlp\\.(gate|up|gate_up|down)_proj.*"]
    left_out = ["lm_head", *(f"re:.*{each}" for each in patterns)]
    kimi = read(COMPRESSED | {"ignore": left_out}, models.PRESETS["kimi-k2"])
    assert {part.operator for part in kimi.parts} == {"expert_up", "expert_gate", "expert_down"}
    deepseek = read(
        {"quant_method": "fp8", "weight_block_size": [128, 128]}, models.PRESETS["deepseek-v3"]
    )
    kept = {op.name for op, _ in operators.of_model(models.PRESETS["deepseek-v3"])} - {
        part.operator for part in deepseek.parts
    }
    assert kept == {"router", "absorb_q", "qk_latent", "pv_latent", "absorb_o"}


def test_the_first_group_that_fits_a_module_takes_it() -> None:
    """compressed-tensors: experts in four bits, what else is linear in eight."""
    experts = GROUP | {"targets": ["re:.*mlp\\.experts.*"]}
    said = COMPRESSED | {"config_groups": {"a": experts, "b": FP8_GROUP}}
    found = read(said, models.PRESETS["qwen3-30b-a3b"])
    assert bits_of(found, "expert_down") == 4.5
    assert bits_of(found, "o") == 8


def test_mixed_precision_is_read_module_by_module() -> None:
    layers = {
        **{f"model.layers.{i}.mlp.down_proj": {"quant_algo": "NVFP4"} for i in range(32)},
        **{f"model.layers.{i}.self_attn.q_proj": {"quant_algo": "FP8"} for i in range(8)},
    }
    said = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    found = read(said)
    assert bits_of(found, "down") == 4.5
    assert bits_of(found, "q") == pytest.approx(8 * 8 / 32 + 16 * 24 / 32)
    assert bits_of(found, "up") == 16


@pytest.mark.parametrize("pattern", ["re:(a+)+$", "re:" + "a" * 400, "re:(", "re:.*.*.*.*.*x"])
def test_patterns_that_could_take_for_ever_are_not_read_and_said(pattern: str) -> None:
    config = {"quantization_config": COMPRESSED | {"ignore": [pattern]}}
    found, note = quantised_configs.read(config, LLAMA, where="it.json")
    assert found is not None
    assert "1 patterns of what is left out were not read" in note


@pytest.mark.parametrize("bits", ["four", 0, True, 1 << 40])
def test_senseless_numbers_are_refused(bits: Any) -> None:
    with pytest.raises(InvalidFileError, match="bits of the quantisation"):
        read({"quant_method": "awq", "bits": bits})


def test_a_way_that_is_not_known_is_said_and_counted_in_the_dtype() -> None:
    config = {"quantization_config": {"quant_method": "aqlm"}}
    found, note = quantised_configs.read(config, LLAMA, where="it.json")
    assert found is None
    assert note.startswith("quantised weights (aqlm): counted")


def test_modelopts_own_file_is_read_where_the_config_says_nothing(tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 100,
    }  # fmt: skip
    said = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head", "*self_attn*"]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(said))
    shape = models.load(str(tmp_path))
    assert shape.quantised is not None
    assert bits_of(shape.quantised, "up") == 4.5
    assert bits_of(shape.quantised, "q") == 16
    measured = models.as_measured(shape)
    assert measured.quantised is None
    assert "measured in the dtype you name" in measured.notes[0]
