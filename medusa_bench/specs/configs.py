"""Which layers a Hugging Face config.json describes: an allow-list of model types, read offline.

A type stands here only if every weight of its layers is one of the operator table's, checked
against the weights that transformers 5.24 builds from such a config (or by hand, where it builds
none). Another type is refused with what was understood of it, and taken for Llama's block where the
user asks for that.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from medusa_bench.base.documents import JsonObject
from medusa_bench.base.errors import InvalidFileError, UnsupportedModelError
from medusa_bench.specs import hybrid_configs
from medusa_bench.specs.config_values import MAX_DIMENSION, alike, count, dimension
from medusa_bench.specs.shapes import Experts, Heads, LatentAttention, ModelShape, Window

# One block with up, gate and down projections and grouped heads. The last line: by hand.
_GATED = frozenset(
    "bitnet cohere cohere2 cwm ernie4_5 exaone exaone4 gemma gemma2 gemma3 gemma3_text glm glm4 "
    "granite granite_swa helium hunyuan_v1_dense hyperclovax internlm3 iquestcoder llama ministral "
    "ministral3 mistral mllama_text_model modernbert-decoder olmo olmo2 olmo3 phi3 qwen2 "
    "qwen2_5_omni_text qwen2_5_vl qwen2_5_vl_text qwen2_vl qwen2_vl_text qwen3 qwen3_vl_text "
    "seed_oss smollm3 stablelm vaultgemma "
    "aquila baichuan chatglm granitemoehybrid internlm2 minicpm molmo qwen yi".split()
)
# The same with an MLP of an up and a down projection alone.
_UNGATED = frozenset(
    "apertus arcee bloom falcon gpt2 gpt_bigcode gpt_neox gptj mpt nemotron opt phi "
    "starcoder2".split()
)
# With experts in place of the MLP, in all layers or some; the second line has latent attention.
_EXPERTS_TYPES = frozenset(
    "afmoe dots1 ernie4_5_moe glm4_moe gpt_oss granitemoe hunyuan_v1_moe llama4 llama4_text "
    "gemma4 gemma4_text mimo_v2_flash minimax_m2 mixtral olmoe phimoe qwen2_moe qwen3_moe "
    "deepseek_v2 deepseek_v3 deepseek_v32 glm_moe_dsa kimi_k2".split()
)
# The widths of up and gate together stand in intermediate_size.
_TWICE_AS_WIDE = frozenset({"molmo", "qwen"})
# These ignore or half use a head_dim that is not hidden_size / heads.
_HEADS_BY_LAYER = frozenset({"gemma4", "gemma4_text", "mimo_v2_flash"})
_PLAIN_HEAD_DIM = frozenset({"helium", "stablelm"})

# Other names of the standard keys, by the standard one; the first that is set is taken.
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "d_model"),
    "intermediate_size": ("ffn_hidden_size", "ffn_dim", "n_inner"),
    "num_hidden_layers": ("num_layers", "n_layer", "n_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("multi_query_group_num",),
    "head_dim": ("kv_channels", "attention_head_dim"),
    "vocab_size": ("padded_vocab_size",),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts"),
    "experts_per_token": (
        "num_experts_per_tok",
        "num_experts_per_token",
        "top_k_experts",
        "moe_topk",
        "moe_k",
    ),
}

# What a config may leave out because its class has a default of its own: otherwise as many
# key/value heads as heads, and hidden_size / heads. Source: the classes of transformers 5.24.
_CLASS_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "falcon": {"vocab_size": 65024},
    "mpt": {"d_model": 2048, "vocab_size": 50368},
    "olmoe": {"vocab_size": 50304},
    "bitnet": {"num_key_value_heads": 5},
    "cwm": {"num_key_value_heads": 8, "head_dim": 128},
    "ernie4_5": {"num_key_value_heads": 2, "head_dim": 128},
    "gemma": {"num_key_value_heads": 16, "head_dim": 256},
    "gemma2": {"num_key_value_heads": 4, "head_dim": 256},
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
    },
    "glm": {"num_key_value_heads": 2, "head_dim": 128},
    "glm4": {"num_key_value_heads": 2, "head_dim": 128},
    "helium": {"num_key_value_heads": 20, "head_dim": 128},
    "internlm3": {"num_key_value_heads": 2, "head_dim": 128},
    "ministral": {"num_key_value_heads": 8},
    "ministral3": {"num_key_value_heads": 8, "head_dim": 128},
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257},
    "mistral": {"num_key_value_heads": 8},
    "mllama_text_model": {"num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32},
    "qwen2_5_vl_text": {"num_key_value_heads": 8},
    "qwen2_vl_text": {"num_key_value_heads": 8},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "qwen3_vl_text": {"num_key_value_heads": 32, "head_dim": 128},
    "seed_oss": {"num_key_value_heads": 8, "head_dim": 128},
    "smollm3": {"num_key_value_heads": 4},
    "stablelm": {"num_key_value_heads": 32},
    "vaultgemma": {"num_key_value_heads": 4, "head_dim": 256},
}


_LLAMA_DEFAULTS: Mapping[str, int] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}

_INDEXED = frozenset({"deepseek_v32", "glm_moe_dsa"})
_ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "attention"}
_WINDOWED_LAYERS = {"sliding_attention", "chunked_attention"}
# Of how many layers one attends to everything, where no list says which.
_WINDOW_PATTERNS: Mapping[str, int] = {
    "cohere2": 4, "gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gpt_oss": 2,
}  # fmt: skip
_EXPERTS = re.compile("experts")
_LATENT = ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim")
_RECURRENT = re.compile(
    r"^(mamba_|ssm_|linear_num_|linear_attn|lru_width$|state_size$|conv_L_cache$|conv_kernel$"
    r"|block_types$|hybrid_override_pattern$|attn_layer_)"
)
_RECURRENT_TYPES = re.compile(r"rwkv|xlstm|mamba|retnet|griffin|hgrn")
# Keys that, when set, make rows of the table wrong: what they mean.
_OTHER_BLOCKS = {
    "block_configs": "blocks that differ by layer",
    "num_attention_heads_per_layer": "heads that differ by layer",
    "num_key_value_heads_per_layer": "key/value heads that differ by layer",
    "num_kv_shared_layers": "layers that share keys and values",
    "use_cla": "layers that share keys and values",
    "num_global_key_value_heads": "heads that differ by layer",
    "per_layer_config": "dimensions that differ by layer",
    "use_double_wide_mlp": "an MLP that is twice as wide in some layers",
    "attn_output_gate": "a gate in the query projection",
    "is_encoder_decoder": "an encoder and a decoder",
    "index_topk": "an indexer that chooses cached tokens",
}
_INNER_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")
_MOST_NESTED = 4


def from_config(
    config: JsonObject, *, name: str, where: str, assume_llama: bool = False
) -> ModelShape:
    """The shape that a Hugging Face config describes.

    assume_llama: take a type that is not known for Llama's block. Raises UnsupportedModelError for
    a type that is not known and for layers that the operator table has not (recurrence, heads that
    differ by layer, an indexer), InvalidFileError for missing or senseless dimensions. What is left
    out but does not make the table wrong is in `unmodelled`.
    """
    config, notes = _text_model(config)
    if notes:  # nested configs are written without their class's defaults
        config = {**_LLAMA_DEFAULTS, **config} if config.get("model_type") == "llama" else config
    model_type = config.get("model_type")
    kind = model_type if isinstance(model_type, str) else ""
    config = _standard(config, kind)
    is_hybrid = kind in hybrid_configs.TYPES
    may_have = kind in _EXPERTS_TYPES and config.get("enable_moe_block") is not False
    has_experts = (may_have or is_hybrid) and _experts_at(config, where) > 1
    _refuse_other_layers(config, where, kind, has_experts=has_experts)
    if kind not in _GATED | _UNGATED | _EXPERTS_TYPES | hybrid_configs.TYPES:
        if not assume_llama:
            raise _unknown(config, where, kind)
        notes.append(f"model_type {kind[:40] or 'none'} is not known: taken for Llama's block")
    hidden_size = dimension(config, "hidden_size", where)
    num_layers = dimension(config, "num_hidden_layers", where)
    num_heads = dimension(config, "num_attention_heads", where)
    with_latent = kind in _EXPERTS_TYPES or is_hybrid
    latent = _latent(config, where) if with_latent and config.get("kv_lora_rank") else None
    mixers = hybrid_configs.mixers(config, where, kind) if is_hybrid else {}
    heads = _heads_by_layer(config, where, kind, num_layers) if kind in _HEADS_BY_LAYER else {}
    if mixers.get("recurrence"):
        notes.append("layers with a state are counted, along which chains alone are verified")
    num_kv_heads = num_heads if latent else _kv_heads(config, where, kind, num_heads)
    return _shape(
        name=name,
        hidden_size=hidden_size,
        intermediate_size=_intermediate_size(config, where, kind, hidden_size),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=latent.nope_dim + latent.rope_dim
        if latent
        else _head_dim(config, where, kind, hidden_size, num_heads),
        vocab_size=dimension(config, "vocab_size", where),
        unmodelled=(*notes, *_left_out(config)),
        experts=_experts(config, where, kind, num_layers) if has_experts else None,
        latent=latent,
        window=_window(config, kind, num_layers),
        gated=kind not in _UNGATED | hybrid_configs.UNGATED,
        gated_output=_gates_output(config, kind),
        **mixers,
        **heads,
        where=where,
    )


def _shape(*, where: str, **fields: Any) -> ModelShape:
    try:
        return ModelShape(**fields)
    except ValueError as error:
        raise InvalidFileError(f"{where}: {error}.") from None


def _text_model(config: JsonObject) -> tuple[JsonObject, list[str]]:
    """The config of the text model, however deep it lies, over what stands around it."""
    notes = []
    for _ in range(_MOST_NESTED):
        inner = next((key for key in _INNER_CONFIGS if isinstance(config.get(key), dict)), None)
        if inner is None:
            break
        notes.append(f"only the text model ({inner}) is counted")
        outer = {key: value for key, value in config.items() if key != inner}
        config = {**outer, **config[inner]}
    return config, notes[-1:]


def _standard(config: JsonObject, kind: str) -> JsonObject:
    """Under the standard names, with its class's defaults for what is left out."""
    given = {key: value for key, value in config.items() if value is not None}
    config = {**_CLASS_DEFAULTS.get(kind, {}), **given}
    for standard, others in _OTHER_NAMES.items():
        if config.get(standard) is None:
            config[standard] = next(
                (config[other] for other in others if config.get(other) is not None), None
            )
    return config


def _intermediate_size(config: JsonObject, where: str, kind: str, hidden_size: int) -> int:
    if kind in {"llama4", "llama4_text"}:
        return dimension(config, "intermediate_size_mlp", where)
    default = None
    if kind == "mpt":
        default = hidden_size * dimension(config, "expansion_ratio", where, default=4)
    elif kind in {"bloom", "falcon", "gpt2", "gptj", "gpt_bigcode"}:
        default = 4 * hidden_size
    elif kind in hybrid_configs.TYPES:
        return hybrid_configs.intermediate_size(config, where, kind)
    width = dimension(config, "intermediate_size", where, default=default)
    return max(1, width // 2) if kind in _TWICE_AS_WIDE else width


def _gates_output(config: JsonObject, kind: str) -> bool:
    """Whether attention's output is weighed by a projection as wide as the queries."""
    if kind in hybrid_configs.DELTA_NETS:
        return config.get("attn_output_gate") is not False
    return kind == "afmoe"


def _kv_heads(config: JsonObject, where: str, kind: str, num_heads: int) -> int:
    if kind == "falcon":
        if config.get("new_decoder_architecture"):
            return dimension(config, "num_kv_heads", where, default=num_heads)
        return 1 if config.get("multi_query", True) else num_heads
    if kind == "gpt_bigcode":
        return 1 if config.get("multi_query", True) else num_heads
    num_kv_heads = dimension(config, "num_key_value_heads", where, default=num_heads)
    if num_heads % num_kv_heads:
        raise InvalidFileError(
            f"{where}: num_attention_heads ({num_heads}) is no multiple of "
            f"num_key_value_heads ({num_kv_heads})."
        )
    return num_kv_heads


def _head_dim(config: JsonObject, where: str, kind: str, hidden_size: int, num_heads: int) -> int:
    if config.get("head_dim") is None and hidden_size % num_heads:
        raise InvalidFileError(
            f"{where}: hidden_size ({hidden_size}) is no multiple of num_attention_heads "
            f"({num_heads}), and no head_dim is given."
        )
    head_dim = dimension(config, "head_dim", where, default=hidden_size // num_heads)
    if kind in _PLAIN_HEAD_DIM and head_dim * num_heads != hidden_size:
        raise _unsupported(
            where, [f"heads that are no equal parts of hidden_size (model_type {kind})"]
        )
    for key in () if kind in _HEADS_BY_LAYER else ("v_head_dim", "global_head_dim"):
        if config.get(key) is not None and dimension(config, key, where) != head_dim:
            raise _unsupported(where, [f"heads of two sizes ({key} {config[key]})"])
    return head_dim


def _heads_by_layer(config: JsonObject, where: str, kind: str, num_layers: int) -> dict[str, Any]:
    """Heads of layers that attend to all tokens and of those within a window, and what is beside
    them: Gemma-4 has its experts beside an MLP."""
    num_kv_heads = dimension(config, "num_key_value_heads", where)
    head_dim = dimension(config, "head_dim", where)
    if kind == "mimo_v2_flash":
        pattern = config.get("hybrid_layer_pattern")
        if not isinstance(pattern, list) or len(pattern) != num_layers:
            raise InvalidFileError(f"{where}: hybrid_layer_pattern must name {num_layers} layers.")
        near = pattern.count(1)
        near_kv = dimension(config, "swa_num_key_value_heads", where, default=num_kv_heads)
        near_dim = dimension(config, "swa_head_dim", where, default=head_dim)
        values = dimension(config, "v_head_dim", where, default=head_dim)
        near_values = dimension(config, "swa_v_head_dim", where, default=values)
        return {
            "whole_heads": Heads(num_layers - near, num_kv_heads, head_dim, values),
            "near_heads": Heads(near, near_kv, near_dim, near_values),
        }
    if config.get("hidden_size_per_layer_input"):
        raise _unsupported(where, ["an embedding for each layer (hidden_size_per_layer_input)"])
    window = _window(config, kind, num_layers)
    near = window.num_layers if window else 0
    whole_kv = dimension(config, "num_global_key_value_heads", where, default=num_kv_heads)
    whole_dim = dimension(config, "global_head_dim", where, default=head_dim)
    tied = config.get("attention_k_eq_v") is True
    return {
        "whole_heads": Heads(num_layers - near, whole_kv, whole_dim, whole_dim, not tied),
        "near_heads": Heads(near, num_kv_heads, head_dim, head_dim),
        "mlp_layers": num_layers,
    }


def _latent(config: JsonObject, where: str) -> LatentAttention:
    indexer = {}
    if config.get("index_topk"):
        indexer = {
            "index_tokens": dimension(config, "index_topk", where),
            "index_heads": dimension(config, "index_n_heads", where),
            "index_dim": dimension(config, "index_head_dim", where),
        }
    return LatentAttention(
        kv_rank=dimension(config, "kv_lora_rank", where),
        rope_dim=dimension(config, "qk_rope_head_dim", where),
        nope_dim=dimension(config, "qk_nope_head_dim", where),
        value_dim=dimension(config, "v_head_dim", where),
        q_rank=dimension(config, "q_lora_rank", where) if config.get("q_lora_rank") else 0,
        **indexer,
    )


# -- experts ------------------------------------------------------------------------------------


def _experts_at(config: JsonObject, where: str) -> int:
    """The number of experts; 0 or 1 is a dense model."""
    value = config.get("num_experts") or 0
    return value if type(value) is int and value <= 1 else dimension(config, "num_experts", where)


def _experts(config: JsonObject, where: str, kind: str, num_layers: int) -> Experts:
    width_key = "moe_intermediate_size"
    if kind in {"gpt_oss", "granitemoe", "llama4", "llama4_text", "minimax_m2", "mixtral"} | {
        "granitemoehybrid", "jamba", "minimax", "olmoe", "phimoe",
    }:  # fmt: skip
        width_key = "intermediate_size"
    width = dimension(alike(config, width_key, where), width_key, where)
    per_token = dimension(alike(config, "experts_per_token", where), "experts_per_token", where)
    try:
        return Experts(
            num_experts=dimension(config, "num_experts", where),
            experts_per_token=per_token,
            width=width,
            num_layers=_num_expert_layers(config, where, kind, num_layers),
            shared_width=_shared_width(config, where, kind, width),
            shared_is_gated=kind == "qwen2_moe" or kind in hybrid_configs.DELTA_NETS,
            input_width=dimension(config, "moe_latent_size", where)
            if config.get("moe_latent_size")
            else 0,
        )
    except ValueError as error:
        raise InvalidFileError(f"{where}: {error}.") from None


_SHARED_WIDTHS: Mapping[str, str] = {
    "qwen2_moe": "shared_expert_intermediate_size",
    **dict.fromkeys(hybrid_configs.DELTA_NETS, "shared_expert_intermediate_size"),
    "granitemoehybrid": "shared_intermediate_size",
    "nemotron_h": "moe_shared_expert_intermediate_size",
}


def _shared_width(config: JsonObject, where: str, kind: str, width: int) -> int:
    if key := _SHARED_WIDTHS.get(kind):
        return dimension(config, key, where) if config.get(key) else 0
    if kind in {"llama4", "llama4_text"}:
        return width
    for key in (
        "n_shared_experts", "num_shared_expert", "num_shared_experts", "moe_num_shared_experts",
    ):  # fmt: skip
        if count := alike(config, key, where).get(key):
            return dimension({key: count}, key, where) * width
    return 0


def _num_expert_layers(config: JsonObject, where: str, kind: str, num_layers: int) -> int:
    """How many layers have experts: all, unless the first, or every so many, are dense."""
    types = config.get("mlp_layer_types")
    if isinstance(types, list) and len(types) == num_layers:
        return types.count("sparse")
    layers = list(range(num_layers))
    if kind in {"llama4", "llama4_text"}:
        if isinstance(named := config.get("moe_layers"), list) and named:
            return len(set(map(str, named)))
        step = dimension(config, "interleave_moe_layer_step", where, default=1)
        return len(layers[step - 1 :: step])
    frequency = config.get("moe_layer_freq")
    if isinstance(frequency, list) and len(frequency) == num_layers:
        return frequency.count(1)
    if kind in hybrid_configs.WITH_EXPERTS_BY_LAYER:
        return hybrid_configs.num_expert_layers(config, where, kind)
    return len(_expert_layers(config, where, kind, layers))


def _expert_layers(config: JsonObject, where: str, kind: str, layers: list[int]) -> list[int]:
    """By a first one and a step."""
    if kind == "ernie4_5_moe":
        first = count(config, "moe_layer_start_index", where)
        last = count(config, "moe_layer_end_index", where, default=len(layers) - 1)
        step = dimension(config, "moe_layer_interval", where, default=1)
        last = len(layers) - 1 if last < 0 else last
        return [each for each in layers if first <= each <= last and (each + 1) % step == 0]
    if kind in {"qwen2_moe", "qwen3_moe"} | hybrid_configs.DELTA_NETS:
        step = dimension(config, "decoder_sparse_step", where, default=1)
        dense = config.get("mlp_only_layers") or []
        if not isinstance(dense, list):
            raise InvalidFileError(f"{where}: mlp_only_layers is no list of layers.")
        return [each for each in layers if (each + 1) % step == 0 and each not in dense]
    key = "num_dense_layers" if kind == "afmoe" else "first_k_dense_replace"
    first = count(config, key, where)
    step = dimension(config, "moe_layer_freq", where, default=1)
    return [each for each in layers if each >= first and each % step == 0]


# -- what stands beside -------------------------------------------------------------------------


def _window(config: JsonObject, kind: str, num_layers: int) -> Window | None:
    """The window of cached tokens, and in how many layers it stands; None where in none."""
    tokens = config.get("sliding_window") or config.get("attention_chunk_size")
    if type(tokens) is not int or not 1 <= tokens <= MAX_DIMENSION:
        return None
    layer_types, pattern = config.get("layer_types"), config.get("hybrid_layer_pattern")
    if isinstance(pattern, list) and pattern:  # 1 is a window
        return Window(tokens, min(pattern.count(1), num_layers)) if pattern.count(1) else None
    no_rope = config.get("no_rope_layers")
    if isinstance(layer_types, list) and layer_types:
        share = sum(str(each) in _WINDOWED_LAYERS for each in layer_types) / len(layer_types)
        windowed = round(share * num_layers)
    elif kind in {"llama4", "llama4_text"}:
        windowed = sum(map(bool, no_rope)) if isinstance(no_rope, list) and no_rope else 0
        windowed = windowed or num_layers - num_layers // 4
    elif pattern := config.get("sliding_window_pattern") or _WINDOW_PATTERNS.get(kind):
        windowed = num_layers - num_layers // pattern if type(pattern) is int else 0
    else:
        windowed = num_layers if config.get("use_sliding_window", True) else 0
    return Window(tokens, min(windowed, num_layers)) if windowed else None


def _refuse_other_layers(config: JsonObject, where: str, kind: str, *, has_experts: bool) -> None:
    reasons = []
    settings = {
        key: value
        for part in (config, config.get("ffn_config"), config.get("attn_config"))
        if isinstance(part, dict)
        for key, value in part.items()
    }
    layer_types = config.get("layer_types")
    types = set(map(str, layer_types)) if isinstance(layer_types, list) else set()
    by_clarity = dict(sorted(settings.items(), key=lambda item: "per_tok" in item[0]))
    if not has_experts and (found := _first_set(by_clarity, _EXPERTS.search, above=1)):
        reasons.append(f"a mixture of experts of an unknown layout ({found})")
    is_hybrid = kind in hybrid_configs.TYPES
    if (
        not is_hybrid
        and kind not in _EXPERTS_TYPES
        and (found := _first_set(settings, _LATENT.__contains__))
    ):
        reasons.append(f"multi-head latent attention of an unknown layout ({found})")
    is_idle = types == {"attention"}  # a hybrid's keys in a model all of whose layers attend
    if not is_hybrid and not is_idle and (found := _first_set(settings, _RECURRENT.search)):
        reasons.append(f"recurrent or convolutional layers ({found})")
    if _RECURRENT_TYPES.search(kind):
        reasons.append(f"a recurrent model (model_type {kind[:40]})")
    known = _ATTENTION_LAYERS | (hybrid_configs.LAYERS if is_hybrid else set())
    known |= {"indexed_attention"} if kind in _INDEXED else set()
    if others := sorted(types - known):
        reasons.append(f"layers of other types ({', '.join(others)[:80]})")
    modelled = {"attn_output_gate"} if is_hybrid else set()
    modelled |= {"num_global_key_value_heads"} if kind in _HEADS_BY_LAYER else set()
    modelled |= {"index_topk"} if kind in _INDEXED and config.get("kv_lora_rank") else set()
    for key, meaning in _OTHER_BLOCKS.items():
        if config.get(key) and key not in modelled:
            reasons.append(f"{meaning} ({key})")
    if reasons:
        raise _unsupported(where, reasons)


def _unsupported(where: str, reasons: list[str]) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{where} describes {' and '.join(reasons)}, which the operator table does not model.",
        hint="its numbers would be wrong, so none are given; `medusa-bench operators` "
        "shows the products that are modelled.",
    )


def _unknown(config: JsonObject, where: str, kind: str) -> UnsupportedModelError:
    keys = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size",
    )  # fmt: skip
    understood = [f"{key} {config[key]}" for key in keys if type(config.get(key)) is int]
    return UnsupportedModelError(
        f"{where} has "
        + (f"the model_type {kind[:40]}, which is not known here" if kind else "no model_type")
        + f"; understood were {', '.join(understood) or 'no dimensions'}.",
        hint="if its layers are Llama's (grouped heads; up, gate and down projections), "
        "--assume-block llama takes it for that.",
    )


def _left_out(config: JsonObject) -> Iterator[str]:
    """In words, what a config has that changes no row of the table but a reader should know."""
    for key in ("num_nextn_predict_layers", "num_mtp_modules"):
        if config.get(key):
            yield f"layers that predict further tokens ({key}) are left out"
    if config.get("cross_attention_layers"):
        yield "layers that attend to an image (cross_attention_layers) are counted as the others"
    for key in ("vision_config", "audio_config"):
        if isinstance(config.get(key), dict):
            yield f"the {key.removesuffix('_config')} model is left out"


def _first_set(config: JsonObject, wanted: Callable[[str], object], above: int = 0) -> str:
    """The first wanted key whose value is a number over `above`, or else not empty, as words."""
    for key, value in config.items():
        if wanted(key) and (value > above if isinstance(value, int | float) else value):
            return f"{key[:40]} {str(value)[:40]}"
    return ""
