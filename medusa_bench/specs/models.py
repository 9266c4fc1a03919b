"""Dimensions of a model: presets, and any Hugging Face config.json read as JSON, offline."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medusa_bench.base import limits
from medusa_bench.base.documents import JsonObject, parse_object
from medusa_bench.base.errors import InvalidFileError, UnknownNameError, UnsupportedModelError
from medusa_bench.base.files import read_bytes


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Dimensions of a decoder with a gated MLP (SwiGLU and its kin), all counts.

    `unmodelled` says in words what the model has and the operator table leaves out; it is shown
    wherever the shape is used and takes no part in comparing shapes.
    """

    name: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int = 32000
    num_medusa_heads: int = 5
    unmodelled: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.name}: {self.num_heads} heads do not divide into groups "
                f"of {self.num_kv_heads} key/value heads"
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the table leaves out of this model, each with the model's name before it."""
        return tuple(f"{self.name}: {note}" for note in self.unmodelled)


_WINDOW_4096 = ("a sliding window of 4096 tokens: attention is counted over the whole of seq_len",)

# The paper's models and those of its speculative baseline, then what people run today.
# Source: the config.json of each; Vicuna and Llama-1/2 share their shapes.
_PRESETS = (
    #          name             hidden  inter layers heads  kv  dim   vocab
    ModelShape("llama-7b",        4096, 11008,   32,   32,  32, 128),
    ModelShape("llama-13b",       5120, 13824,   40,   40,  40, 128),
    ModelShape("llama-33b",       6656, 17920,   60,   52,  52, 128),
    ModelShape("zephyr-7b",       4096, 14336,   32,   32,   8, 128, unmodelled=_WINDOW_4096),
    ModelShape("mistral-7b",      4096, 14336,   32,   32,   8, 128, unmodelled=_WINDOW_4096),
    ModelShape("tinyllama-1b",    2048,  5632,   22,   32,   4,  64),
    ModelShape("llama-68m",        768,  3072,    2,   12,  12,  64),
    ModelShape("llama-160m",       768,  3072,   12,   12,  12,  64),
    ModelShape("llama-2-70b",     8192, 28672,   80,   64,   8, 128),
    ModelShape("llama-3-70b",     8192, 28672,   80,   64,   8, 128, 128256),
    ModelShape("llama-3-8b",      4096, 14336,   32,   32,   8, 128, 128256),
    ModelShape("llama-3.2-1b",    2048,  8192,   16,   32,   8,  64, 128256),
    ModelShape("llama-3.2-3b",    3072,  8192,   28,   24,   8, 128, 128256),
    ModelShape("smollm2-135m",     576,  1536,   30,    9,   3,  64,  49152),
    ModelShape("smollm2-360m",     960,  2560,   32,   15,   5,  64,  49152),
    ModelShape("qwen2.5-0.5b",     896,  4864,   24,   14,   2,  64, 151936),
    ModelShape("qwen2.5-7b",      3584, 18944,   28,   28,   4, 128, 152064),
    ModelShape("qwen2.5-32b",     5120, 27648,   64,   40,   8, 128, 152064),
    ModelShape("qwen3-0.6b",      1024,  3072,   28,   16,   8, 128, 151936),
    ModelShape("qwen3-1.7b",      2048,  6144,   28,   16,   8, 128, 151936),
    ModelShape("qwen3-4b",        2560,  9728,   36,   32,   8, 128, 151936),
    ModelShape("qwen3-8b",        4096, 12288,   36,   32,   8, 128, 151936),
    ModelShape("qwen3-14b",       5120, 17408,   40,   40,   8, 128, 151936),
    ModelShape("qwen3-32b",       5120, 25600,   64,   64,   8, 128, 151936),
)  # fmt: skip
PRESETS: Mapping[str, ModelShape] = {shape.name: shape for shape in _PRESETS}

# Other names of the same shapes.
ALIASES: Mapping[str, str] = {
    "vicuna-7b": "llama-7b",
    "vicuna-13b": "llama-13b",
    "vicuna-33b": "llama-33b",
    "llama-2-7b": "llama-7b",
    "llama-2-13b": "llama-13b",
    "tiny-vicuna-1b": "tinyllama-1b",
    "llama-3.1-8b": "llama-3-8b",
    "llama-3.1-70b": "llama-3-70b",
    "llama-3.3-70b": "llama-3-70b",
}

_MAX_DIMENSION = 1 << 24


def load(name_or_path: str) -> ModelShape:
    """The shape of a preset, an alias, a Hugging Face config.json, or a folder that holds one.

    Raises UnknownNameError, InvalidFileError, or UnsupportedModelError where the model's block is
    not the one in the operator table.
    """
    name = name_or_path.lower()
    name = ALIASES.get(name, name)
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name_or_path)
    try:
        if path.is_dir():
            path = path / "config.json"
        if path.exists():
            return _read(path)
    except OSError as error:
        raise InvalidFileError(f"{path} cannot be read: {error.strerror}.") from None
    if path.suffix == ".json" or len(path.parts) > 1 or path.name == "config.json":
        raise InvalidFileError(
            f"There is no config.json at {name_or_path}.",
            hint="give a preset's name, a config.json, or the folder that holds it; "
            "`hf download OWNER/MODEL config.json` fetches one.",
        )
    raise UnknownNameError("model", name_or_path, [*PRESETS, *ALIASES])


def _read(path: Path) -> ModelShape:
    config = parse_object(read_bytes(path, limits.CONFIG_BYTES), where=str(path))
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    return from_config(config, name=name, where=str(path))


# Blocks with one up projection and no gate: the table's MLP rows would be wrong for them.
_UNGATED = frozenset(
    "apertus arcee biogpt bloom codegen cpm ctrl falcon fuyu gpt2 gpt_bigcode gpt_neo gpt_neox "
    "gpt_neox_japanese gptj jais2 mpt nanochat nemotron openai-gpt opt persimmon phi starcoder2 "
    "xglm xlnet albert apertus1p5_text bert bert-generation big_bird camembert data2vec-text "
    "deberta deberta-v2 distilbert electra ernie git megatron-bert rembert roberta "
    "roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod bart t5 "
    "whisper".split()
)
_GATED = frozenset(
    "llama mistral ministral ministral3 qwen2 qwen2_vl qwen2_vl_text qwen2_5_vl qwen2_5_vl_text "
    "qwen3 qwen3_vl_text gemma gemma2 gemma3 gemma3_text vaultgemma phi3 granite olmo olmo2 olmo3 "
    "cohere cohere2 stablelm internlm2 internlm3 baichuan yi smollm3 exaone exaone4 glm glm4 "
    "helium ernie4_5 hunyuan_v1_dense seed_oss minicpm aquila cwm mllama_text_model "
    "bitnet hyperclovax".split()
)
# What a config may leave out because its class has a default of its own (nested configs are
# written without defaults): otherwise as many key/value heads as heads, and hidden_size / heads.
# Source: the configuration classes of transformers 5.24.
_CLASS_DEFAULTS: Mapping[str, Mapping[str, int]] = {
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

_ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
# Older configs of these do not say which of their layers have a sliding window.
_ALTERNATING = ("gemma2", "gemma3", "gemma3_text", "cohere2")
_EXPERTS = re.compile("experts")
_LATENT = ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim")
_RECURRENT = re.compile(
    r"^(mamba_|ssm_|linear_num_|linear_attn|lru_width$|state_size$|conv_L_cache$|conv_kernel$"
    r"|block_types$|hybrid_override_pattern$|attn_layer_)"
)
# Keys that, when set, make rows of the table wrong: what they mean.
_OTHER_BLOCKS = {
    "block_configs": "blocks that differ by layer",
    "num_attention_heads_per_layer": "heads that differ by layer",
    "num_kv_shared_layers": "layers that share keys and values",
    "use_cla": "layers that share keys and values",
    "num_global_key_value_heads": "heads that differ by layer",
    "per_layer_config": "dimensions that differ by layer",
    "use_double_wide_mlp": "an MLP that is twice as wide in some layers",
    "attn_output_gate": "a gate in the query projection",
    "is_encoder_decoder": "an encoder and a decoder",
}
_INNER_CONFIGS = ("text_config", "llm_config", "language_config")


def from_config(config: JsonObject, *, name: str, where: str) -> ModelShape:
    """The shape that a Hugging Face config describes.

    Raises UnsupportedModelError for blocks that the operator table does not describe (mixture of
    experts, latent attention, recurrence, an MLP without a gate), InvalidFileError for missing or
    senseless dimensions. What is left out but does not make the table wrong is in `unmodelled`.
    """
    notes = []
    for key in _INNER_CONFIGS:
        if isinstance(inner := config.get(key), dict):
            notes.append(f"only the text model ({key}) is counted")
            config = {**config, **inner}
            break
    _refuse_other_blocks(config, where)
    model_type = config.get("model_type")
    if isinstance(model_type, str):
        given = {key: value for key, value in config.items() if value is not None}
        config = {**_CLASS_DEFAULTS.get(model_type, {}), **given}
    hidden_size = _dimension(config, "hidden_size", where)
    intermediate_size = _dimension(config, "intermediate_size", where)
    if model_type == "qwen":
        # The first Qwen states the width of up and gate together.
        intermediate_size = max(1, intermediate_size // 2)
    num_heads = _dimension(config, "num_attention_heads", where)
    num_kv_heads = _dimension(config, "num_key_value_heads", where, default=num_heads)
    if num_heads % num_kv_heads:
        raise InvalidFileError(
            f"{where}: num_attention_heads ({num_heads}) is no multiple of "
            f"num_key_value_heads ({num_kv_heads})."
        )
    if config.get("head_dim") is None and hidden_size % num_heads:
        raise InvalidFileError(
            f"{where}: hidden_size ({hidden_size}) is no multiple of num_attention_heads "
            f"({num_heads}), and no head_dim is given."
        )
    head_dim = _dimension(config, "head_dim", where, default=hidden_size // num_heads)
    for key in ("v_head_dim", "global_head_dim"):
        if config.get(key) is not None and _dimension(config, key, where) != head_dim:
            raise _unsupported(where, [f"heads of two sizes ({key} {config[key]})"])
    depth_key = "num_layers" if config.get("num_hidden_layers") is None else "num_hidden_layers"
    return ModelShape(
        name=name,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=_dimension(config, depth_key, where),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        vocab_size=_dimension(config, "vocab_size", where),
        unmodelled=(*notes, *_left_out(config)),
    )


def _refuse_other_blocks(config: JsonObject, where: str) -> None:
    reasons = []
    settings = {
        key: value
        for part in (config, config.get("ffn_config"), config.get("attn_config"))
        if isinstance(part, dict)
        for key, value in part.items()
    }
    by_clarity = dict(sorted(settings.items(), key=lambda item: "per_tok" in item[0]))
    if found := _first_set(by_clarity, _EXPERTS.search, above=1):
        reasons.append(f"a mixture of experts ({found})")
    if found := _first_set(settings, _LATENT.__contains__):
        reasons.append(f"multi-head latent attention ({found})")
    if found := _first_set(settings, _RECURRENT.search):
        reasons.append(f"recurrent or convolutional layers ({found})")
    layer_types = config.get("layer_types")
    others = sorted(
        set(map(str, layer_types)) - _ATTENTION_LAYERS if isinstance(layer_types, list) else ()
    )
    if others:
        reasons.append(f"layers of other types ({', '.join(others)[:80]})")
    for key, meaning in _OTHER_BLOCKS.items():
        if config.get(key):
            reasons.append(f"{meaning} ({key})")
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in _UNGATED:
        reasons.append(f"an MLP without a gate (model_type {model_type})")
    if reasons:
        raise _unsupported(where, reasons)


def _unsupported(where: str, reasons: list[str]) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{where} describes {' and '.join(reasons)}, which the operator table does not model.",
        hint="its numbers would be wrong, so none are given; `medusa-bench operators` "
        "shows the block that is modelled.",
    )


def _left_out(config: JsonObject) -> Iterator[str]:
    """In words, what a config has that changes no row of the table but a reader should know."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        yield "no model_type: taken as a block with up, gate and down projections"
    elif model_type not in _GATED:
        yield (
            f"model_type {model_type[:40]} is not known: taken as a block with up, gate and down "
            "projections"
        )
    window = config.get("sliding_window") or config.get("attention_chunk_size")
    layer_types = config.get("layer_types")
    if isinstance(layer_types, list):
        limited = len(layer_types) - layer_types.count("full_attention")
        layers = f"in {limited} of {len(layer_types)} layers" if limited else ""
    elif config.get("sliding_window_pattern") or model_type in _ALTERNATING:
        layers = "in some layers"
    else:
        layers = "in all layers" if config.get("use_sliding_window", True) else ""
    if window and layers:
        yield (
            f"a sliding window of {str(window)[:20]} tokens {layers}: attention is counted over "
            "the whole of seq_len"
        )
    if isinstance(quantization := config.get("quantization_config"), dict):
        method = str(quantization.get("quant_method", "unnamed"))[:40]
        yield f"quantised weights ({method}): counted, and measured, in the dtype you name"
    if config.get("num_nextn_predict_layers"):
        yield "layers that predict further tokens (num_nextn_predict_layers) are left out"
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


def _dimension(config: JsonObject, key: str, where: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if value is None:
        raise InvalidFileError(
            f"{where} has no {key}.",
            hint="is it the config.json of a causal LM? A key left to its class's default must be "
            "written out.",
        )
    if isinstance(value, list):
        raise UnsupportedModelError(
            f"{where}: {key} differs by layer, which the operator table does not model."
        )
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_DIMENSION:
        raise InvalidFileError(
            f"{where}: {key} is {str(value)[:40]!r}; it must be a whole number of 1 to 16777216."
        )
    return value
