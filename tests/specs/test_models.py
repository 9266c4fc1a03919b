"""Presets and Hugging Face configs give the right dimensions, or say in words why not.

The configs below are shortened from the published config.json of each model.
"""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from medusa_bench.base.documents import parse_object
from medusa_bench.base.errors import (
    InvalidFileError,
    MedusaBenchError,
    UnknownNameError,
    UnsupportedModelError,
)
from medusa_bench.specs import configs, models
from medusa_bench.specs.operators import OPERATORS, find, of_block
from medusa_bench.specs.settings import Phase, Setting
from medusa_bench.specs.shapes import ModelShape, Window

LLAMA_3_1_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
    "vocab_size": 128256,
}


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    return configs.from_config(dict(config), name="it", where="it.json")


def llama(**changes: object) -> dict[str, Any]:
    """Llama-3.1-8B with other values; None takes a key away."""
    config = {**LLAMA_3_1_8B, **changes}
    return {key: value for key, value in config.items() if value is not None}


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        ("llama-7b", (4096, 11008, 32, 32, 32, 128, 32000)),
        ("llama-13b", (5120, 13824, 40, 40, 40, 128, 32000)),
        ("llama-33b", (6656, 17920, 60, 52, 52, 128, 32000)),
        ("Vicuna-33B", (6656, 17920, 60, 52, 52, 128, 32000)),
        ("zephyr-7b", (4096, 14336, 32, 32, 8, 128, 32000)),
        ("tinyllama-1b", (2048, 5632, 22, 32, 4, 64, 32000)),
        ("llama-68m", (768, 3072, 2, 12, 12, 64, 32000)),
        ("llama-160m", (768, 3072, 12, 12, 12, 64, 32000)),
        ("llama-2-70b", (8192, 28672, 80, 64, 8, 128, 32000)),
        ("llama-3-70b", (8192, 28672, 80, 64, 8, 128, 128256)),
        ("llama-3.1-8b", (4096, 14336, 32, 32, 8, 128, 128256)),
    ],
)
def test_presets_have_the_published_dimensions(name: str, dimensions: tuple[int, ...]) -> None:
    shape = models.load(name)
    assert (
        shape.hidden_size,
        shape.intermediate_size,
        shape.num_layers,
        shape.num_heads,
        shape.num_kv_heads,
        shape.head_dim,
        shape.vocab_size,
    ) == dimensions


def test_a_preset_with_a_sliding_window_reads_no_more_of_the_cache() -> None:
    mistral = models.load("mistral-7b")
    assert mistral.window == Window(4096, 32)
    for seq_len, cached in ((4096, 4096), (4097, 4096), (8192, 4096)):
        product = find("qk_window").product(mistral, Setting(Phase.DECODE, 1, seq_len))
        assert (product.batch, product.n) == (8, cached)


def test_a_grid_of_no_named_operators_is_each_models_own_block() -> None:
    def own(name: str) -> list[str]:
        return [operator.name for operator, _ in of_block(models.load(name))]

    llama = ["q", "k", "v", "qk", "pv", "up", "gate", "down"]
    assert own("llama-7b") == [operator.name for operator in OPERATORS] == llama
    assert own("mistral-7b") == ["q", "k", "v", "up", "gate", "down", "qk_window", "pv_window"]
    assert own("qwen3-30b-a3b")[5:] == ["router", "expert_up", "expert_gate", "expert_down"]
    assert not {"q", "o", "o_latent", "lm_head"} & {*own("deepseek-v3")}


def test_every_alias_leads_to_a_preset_and_hides_none() -> None:
    assert set(models.ALIASES.values()) <= set(models.PRESETS)
    assert not set(models.ALIASES) & set(models.PRESETS)


@pytest.mark.parametrize(
    ("config", "heads", "kv_heads", "head_dim", "intermediate"),
    [
        (LLAMA_3_1_8B, 32, 8, 128, 14336),
        (llama(num_key_value_heads=None), 32, 32, 128, 14336),  # Llama 1: one K/V head a head
        (llama(model_type="mistral", num_key_value_heads=None), 32, 8, 128, 14336),
        # Mistral-Nemo: head_dim is not hidden_size / heads.
        (llama(model_type="mistral", hidden_size=5120, head_dim=128), 32, 8, 128, 14336),
        (llama(model_type="qwen3", hidden_size=1024, num_attention_heads=16), 16, 8, 128, 14336),
        (
            llama(
                model_type="gemma", hidden_size=3072, num_attention_heads=16, num_key_value_heads=16
            ),
            16,
            16,
            256,
            14336,
        ),
        (llama(model_type="cohere", num_key_value_heads=None), 32, 32, 128, 14336),
        (llama(model_type="qwen", intermediate_size=22016), 32, 8, 128, 11008),
        (llama(model_type="exaone", num_hidden_layers=None, num_layers=32), 32, 8, 128, 14336),
        (llama(head_dim=None, q_lora_rank=0, num_experts=0), 32, 8, 128, 14336),
    ],
)
def test_heads_and_widths_follow_the_model_class(
    config: dict[str, Any], heads: int, kv_heads: int, head_dim: int, intermediate: int
) -> None:
    shape = shape_of(config)
    assert (shape.num_heads, shape.num_kv_heads, shape.head_dim) == (heads, kv_heads, head_dim)
    assert shape.intermediate_size == intermediate
    assert shape.num_layers == 32


def test_a_nested_text_config_takes_its_own_classes_defaults() -> None:
    # gemma-3-12b: head_dim 256 stands in no file; hidden_size / heads would be 240.
    shape = shape_of(
        {
            "model_type": "gemma3",
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 3840,
                "intermediate_size": 15360,
                "num_attention_heads": 16,
                "num_hidden_layers": 48,
                "num_key_value_heads": 8,
                "sliding_window": 1024,
            },
            "vision_config": {"hidden_size": 1152},
        }
    )
    assert (shape.hidden_size, shape.head_dim, shape.vocab_size) == (3840, 256, 262208)
    assert any("text_config" in note for note in shape.unmodelled)
    assert shape.window == Window(1024, 40)
    assert "the vision model is left out" in shape.unmodelled


@pytest.mark.parametrize(
    ("config", "reasons"),
    [
        (
            llama(model_type="qwen3", num_experts=60),
            ["mixture of experts of an unknown layout (num_experts 60)"],
        ),
        (llama(model_type="new", ffn_config={"moe_num_experts": 16}), ["mixture of experts"]),
        (
            llama(model_type="longcat_flash", n_routed_experts=256, kv_lora_rank=512),
            [
                "mixture of experts of an unknown layout (n_routed_experts 256)",
                "latent attention of an unknown layout (kv_lora_rank 512)",
            ],
        ),
        (llama(model_type="minicpm3", q_lora_rank=768, kv_lora_rank=256), ["latent attention"]),
        (llama(model_type="jamba", mamba_d_state=16), ["recurrent"]),
        (llama(model_type="nemotron_h", hybrid_override_pattern="M-M*"), ["recurrent"]),
        (llama(model_type="recurrent_gemma", block_types=["recurrent"]), ["recurrent"]),
        (llama(model_type="rwkv6qwen2"), ["a recurrent model (model_type rwkv6qwen2)"]),
        (llama(model_type="deepseek_v32", index_topk=2048), ["an indexer"]),
        (llama(num_key_value_heads_per_layer=[4, 4, 2]), ["key/value heads that differ by layer"]),
        (llama(model_type="helium", head_dim=64), ["no equal parts of hidden_size"]),
        (llama(model_type="brand_new"), ["brand_new, which is not known", "hidden_size 4096"]),
        (llama(model_type=None), ["no model_type; understood were hidden_size 4096"]),
        (llama(model_type="gemma3n_text", num_kv_shared_layers=15), ["share keys and values"]),
        (llama(model_type="gemma2", global_head_dim=512), ["heads of two sizes"]),
        (llama(model_type="gemma4_text", per_layer_config={"5": {}}), ["differ by layer"]),
        (llama(model_type="hunyuan_v1_dense", use_cla=True), ["share keys and values"]),
        (llama(model_type="nemotron-nas", block_configs=[{}]), ["blocks that differ by layer"]),
        (llama(v_head_dim=64), ["heads of two sizes (v_head_dim 64)"]),
        (llama(attn_output_gate=True), ["a gate in the query projection"]),
        (llama(intermediate_size=[8192, 16384]), ["intermediate_size differs by layer"]),
        (llama(is_encoder_decoder=True), ["an encoder and a decoder"]),
        (
            {"model_type": "llava", "text_config": llama(model_type="qwen3", num_experts=8)},
            ["mixture of experts"],
        ),
    ],
)
def test_a_block_that_is_not_the_tables_is_refused_by_name(
    config: dict[str, Any], reasons: list[str]
) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        shape_of(config)
    for reason in reasons:
        assert reason in caught.value.message


@pytest.mark.parametrize(
    ("config", "note"),
    [
        (llama(cross_attention_layers=[3, 8]), "cross_attention_layers"),
        (llama(num_nextn_predict_layers=1), "num_nextn_predict_layers"),
        (llama(model_type="qwen2_vl", vision_config={}), "the vision model is left out"),
    ],
)
def test_what_changes_no_row_is_said_with_the_shape(config: dict[str, Any], note: str) -> None:
    (found,) = shape_of(config).unmodelled
    assert note in found


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (llama(model_type="mistral", sliding_window=4096), Window(4096, 32)),
        (llama(model_type="phi3", sliding_window=2047), Window(2047, 32)),
        (llama(model_type="gemma2", sliding_window=4096, head_dim=128), Window(4096, 16)),
        (llama(model_type="cohere2", sliding_window=4096), Window(4096, 24)),
        (
            llama(sliding_window=512, layer_types=["sliding_attention"] * 5 + ["full_attention"]),
            Window(512, 27),
        ),
        (llama(layer_types=["full_attention"] * 32, sliding_window=4096), None),
        (llama(model_type="qwen2", use_sliding_window=False, sliding_window=131072), None),
    ],
)
def test_windows_stand_in_the_layers_that_have_them(
    config: dict[str, Any], window: Window | None
) -> None:
    assert shape_of(config).window == window


def test_an_unknown_type_is_taken_for_llamas_block_where_that_is_asked_for() -> None:
    config = llama(model_type="brand_new")
    with pytest.raises(UnsupportedModelError) as caught:
        shape_of(config)
    assert "--assume-block llama" in str(caught.value.hint)
    shape = configs.from_config(config, name="it", where="it.json", assume_llama=True)
    assert (shape.num_kv_heads, shape.intermediate_size) == (8, 14336)
    assert "taken for Llama's block" in shape.unmodelled[0]
    with pytest.raises(UnsupportedModelError, match="recurrent"):
        configs.from_config(
            llama(model_type="rwkv9"), name="it", where="it.json", assume_llama=True
        )


@pytest.mark.parametrize(
    "config",
    [
        LLAMA_3_1_8B,
        llama(model_type="qwen2", use_sliding_window=False, sliding_window=131072),
        llama(model_type="mistral", sliding_window=None),
        llama(layer_types=["full_attention"] * 32, sliding_window=4096),
    ],
)
def test_a_plain_model_has_nothing_to_warn_of(config: dict[str, Any]) -> None:
    assert shape_of(config).unmodelled == ()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (llama(hidden_size=None), "has no hidden_size"),
        (llama(vocab_size=None), "has no vocab_size"),
        (llama(hidden_size=0), "hidden_size is '0'"),
        (llama(hidden_size=True), "hidden_size is 'True'"),
        (llama(hidden_size=4096.0), "hidden_size is '4096.0'"),
        (llama(hidden_size="4096"), "must be a whole number"),
        (llama(hidden_size=1 << 40), "must be a whole number of 1 to"),
        (llama(num_key_value_heads=5), "no multiple of num_key_value_heads (5)"),
        (llama(hidden_size=4097), "no multiple of num_attention_heads (32)"),
    ],
)
def test_senseless_dimensions_are_refused_by_file_and_key(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidFileError) as caught:
        shape_of(config)
    assert message in caught.value.message
    assert "it.json" in caught.value.message


def test_a_folder_a_config_and_a_renamed_file_are_all_read(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_3_1_8B))
    (tmp_path / "other.json").write_text(json.dumps(LLAMA_3_1_8B))
    for path, name in [
        (folder, "my-model"),
        (folder / "config.json", "my-model"),
        (tmp_path / "other.json", "other"),
    ]:
        shape = models.load(str(path))
        assert (shape.name, shape.hidden_size, shape.num_kv_heads) == (name, 4096, 8)


def test_an_unknown_model_is_an_error_with_near_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="No model named 'lama-7b'") as caught:
        models.load("lama-7b")
    assert "llama-7b" in str(caught.value.hint)
    with pytest.raises(InvalidFileError, match="There is no config"):
        models.load(str(tmp_path / "nowhere"))
    with pytest.raises(InvalidFileError, match="There is no config"):
        models.load("meta-llama/Llama-3.1-8B")


def test_an_enormous_config_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(InvalidFileError, match="over 64 MiB"):
        models.load(str(path))


def mutated(value: Any, rng: random.Random) -> Any:
    """A value that some broken writer might have left in place of `value`."""
    return rng.choice(
        [None, True, 0, -1, 1.5, 10**400, "", "\x00", "8", [], [value], {}, {"a": value}, value]
    )


def test_mutants_of_a_config_give_a_shape_or_an_error_in_words() -> None:
    rng = random.Random(0)
    outcomes = {True: 0, False: 0}
    base = llama(layer_types=["full_attention"], sliding_window=4, text_config=llama())
    keys = [*base, "num_experts", "head_dim", "ffn_config", "quantization_config", "v_head_dim"]
    for _ in range(500):
        config = dict(base)
        for key in rng.sample(keys, rng.randint(1, 3)):
            config[key] = mutated(config.get(key), rng)
            if rng.random() < 0.3:
                config["text_config"] = {**llama(), key: mutated(None, rng)}
        raw = bytearray(json.dumps(config).encode())
        if rng.random() < 0.3:
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        try:
            parsed = parse_object(bytes(raw), where="it.json")
            shape = configs.from_config(parsed, name="it", where="it.json")
        except MedusaBenchError as error:
            assert "it.json" in error.message
            outcomes[False] += 1
        else:
            assert shape.num_heads % shape.num_kv_heads == 0
            outcomes[True] += 1
    assert min(outcomes.values()) > 50
