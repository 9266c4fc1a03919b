"""Configs of today's models: each weight of a layer is one of the table's, or they are refused."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from medusa_bench.base.errors import MedusaBenchError, UnsupportedModelError
from medusa_bench.specs import configs, hybrid_configs, models, operators
from medusa_bench.specs.shapes import Experts, ModelShape, Window
from tests.conftest import REFERENCE

ORACLE = REFERENCE / "modern" / "weight_shapes.json"
TYPES = REFERENCE / "modern" / "model_types.csv"
FIELD = REFERENCE.parent / "field" / "configs"
KNOWN = sorted(configs._GATED | configs._UNGATED | configs._EXPERTS_TYPES | hybrid_configs.TYPES)
# Two attentions and two MLPs a layer, and experts that do nothing: refused.
REFUSED = {"longcat_flash"}


def oracle() -> dict[str, Any]:
    """Weights by layer of 49 model types, as transformers builds them; empty where they are not."""
    return json.loads(ORACLE.read_text()) if ORACLE.exists() else {}


def shape_of(config: dict[str, Any]) -> ModelShape:
    return configs.from_config(config, name="it", where="it.json")


def weights_of_layers(shape: ModelShape) -> int:
    return operators.num_weights(shape) - operators.find("lm_head").num_weights(shape)


@pytest.mark.skipif(not ORACLE.exists(), reason="the reference data is not beside this checkout")
@pytest.mark.parametrize("name", oracle())
def test_the_weights_of_all_layers_are_the_models_own(name: str) -> None:
    """The oracle's matrices without biases, layer by layer; what we do not model is refused."""
    entry = oracle()[name]
    built = sum(
        len(kind["layers"]) * math.prod(size)
        for kind in entry["layers"]
        for weight, size in kind["weights"].items()
        if not weight.endswith(("bias", "A_log"))  # decays, of which no product is made
    )
    if name in REFUSED:
        with pytest.raises(UnsupportedModelError):
            shape_of(entry["config"])
        return
    shape = shape_of(entry["config"])
    assert weights_of_layers(shape) == built
    assert shape.vocab_size == entry["outside"][next(iter(entry["outside"]))][0]


@pytest.mark.skipif(not TYPES.exists(), reason="the reference data is not beside this checkout")
def test_no_type_is_known_whose_weights_are_of_another_block() -> None:
    """Of 196 types probed: those known stand in the list of their block, and no other does."""
    blocks = {
        row["model_type"]: row["block_by_weights"]
        for row in csv.DictReader(TYPES.read_text().splitlines())
    }
    # Refused unless their heads are plain; dense only; a composite of which the text is taken.
    checked_apart = {"helium", "stablelm", "granitemoehybrid", "gemma3", "dots1"}
    checked_apart |= {
        "gemma4",
        "gemma4_text",
        "lfm2",
        "minimax",
    }  # short convolutions, linear attention: of the oracle
    for name in set(KNOWN) & blocks.keys() - checked_apart:
        block = blocks[name]
        if name in hybrid_configs.TYPES:
            assert "recurrent" in block, name
            continue
        if name in configs._EXPERTS_TYPES:
            assert block.startswith("experts"), name
            assert "recurrent" not in block, name
        elif name in configs._UNGATED:
            assert block.startswith("ungated"), name
        else:
            assert block == "plain gated", name


@pytest.mark.skipif(not FIELD.is_dir(), reason="the field's configs do not lie beside the checkout")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dense_with_idle_mamba_keys", {"num_layers": 4, "experts": None}),
        ("experts", {"experts": Experts(128, 8, 768, 48)}),
        ("fused_intermediate", {"intermediate_size": 18944}),
        (
            "glm_names",
            {
                "num_layers": 28,
                "intermediate_size": 13696,
                "num_kv_heads": 2,
                "head_dim": 128,
                "vocab_size": 65024,
            },
        ),
        ("infinity_in_json", "recurrent"),
        ("kv_heads_per_layer", "differ by layer"),
        ("nested_two_deep", {"hidden_size": 2048, "num_kv_heads": 2}),
        ("recurrent_named_attention", "a recurrent model"),
        ("sliding_alternating", {"window": Window(1024, 29)}),
        (
            "vision_with_class_defaults",
            {"hidden_size": 4096, "intermediate_size": 11008, "num_layers": 32, "num_heads": 32},
        ),
    ],
)
def test_configs_of_the_field(name: str, expected: dict[str, Any] | str) -> None:
    path = str(FIELD / f"{name}.json")
    if isinstance(expected, str):
        with pytest.raises(MedusaBenchError, match=expected):
            models.load(path)
        return
    shape = models.load(path)
    assert {key: getattr(shape, key) for key in expected} == expected


# The published numbers of weights, in units of 10^9; the embedding beside them is one more LM head.
@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("mixtral-8x7b", 46.7),
        ("qwen3-30b-a3b", 30.5),
        ("qwen3-235b-a22b", 235.1),
        ("qwen3-coder-480b-a35b", 480.2),
        ("gpt-oss-120b", 116.8),
        ("gpt-oss-20b", 20.9),
        ("glm-4.5", 352.8),
        ("minimax-m2", 228.7),
        ("llama-4-scout", 107.8),
        ("llama-4-maverick", 400.7),
        ("deepseek-v3", 671.0),
        ("kimi-k2", 1026.4),
        ("gemma-4-26b-a4b", 25.97),  # 25.23 with its tied head once
        ("mimo-v2-flash", 308.8),
        ("qwen3-next-80b-a3b", 79.7),
        ("qwen3.5-35b-a3b", 34.7),
        ("qwen3.5-27b", 26.9),
        ("granite-4.0-h-small", 32.6),
        ("nemotron-3-nano-30b-a3b", 31.6),
        ("nemotron-3-super-120b-a12b", 120.7),
        ("phi-4", 14.7),
        ("mistral-small-24b", 23.6),
        ("gemma-3-27b", 28.4),
        ("gemma-3-12b", 12.8),
        ("gemma-3-4b", 4.55),
    ],
)
def test_presets_have_the_published_number_of_weights(name: str, total: float) -> None:
    shape = models.PRESETS[name]
    embedding = operators.find("lm_head").num_weights(shape)
    weights = operators.num_weights(shape) + embedding
    assert weights / 1e9 == pytest.approx(total, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "num_layers"),
    [
        ({}, 61 - 3),
        ({"first_k_dense_replace": 0}, 61),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, 30),
        ({"mlp_layer_types": ["dense"] * 5 + ["sparse"] * 56}, 56),
    ],
)
def test_the_first_layers_may_be_dense(changes: dict[str, Any], num_layers: int) -> None:
    shape = shape_of(DEEPSEEK_V3 | changes)
    assert shape.num_expert_layers == num_layers
    assert shape.num_mlp_layers == 61 - num_layers


DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
}


def test_a_preset_is_what_its_config_says() -> None:
    shape = configs.from_config(DEEPSEEK_V3, name="deepseek-v3", where="it.json")
    assert shape == models.PRESETS["deepseek-v3"]


@pytest.mark.parametrize(
    "changes",
    [
        {"num_experts_per_tok": 300},
        {"num_experts_per_tok": [8, 9]},
        {"n_routed_experts": "many"},
        {"first_k_dense_replace": "all"},
        {"moe_intermediate_size": 0},
    ],
)
def test_senseless_experts_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MedusaBenchError, match=r"it\.json"):
        shape_of(DEEPSEEK_V3 | changes)


@pytest.mark.parametrize("dense", [True, 3, "0,1", {"0": 1}])
def test_a_list_of_dense_layers_that_is_none_is_refused(dense: Any) -> None:
    config = {
        "model_type": "qwen3_moe", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 100, "num_experts": 8,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "mlp_only_layers": dense,
    }  # fmt: skip
    with pytest.raises(MedusaBenchError, match="mlp_only_layers"):
        shape_of(config)


def test_the_readers_name_stands_before_what_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(DEEPSEEK_V3 | {"num_nextn_predict_layers": 1}))
    (note,) = models.load(str(path)).notes
    assert note.startswith("mine: layers that predict further tokens")
