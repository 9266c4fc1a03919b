"""Dimensions of a model: presets, and any Hugging Face config.json read as JSON, offline."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medusa_bench.errors import InvalidFileError, UnknownNameError, UnsupportedModelError
from medusa_bench.strict_json import JsonObject, parse_object


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
    ModelShape("smollm2-135m",     576,  1536,   30,    9,   3,  64,  49152),
    ModelShape("smollm2-360m",     960,  2560,   32,   15,   5,  64,  49152),
    ModelShape("qwen2.5-0.5b",     896,  4864,   24,   14,   2,  64, 151936),
    ModelShape("qwen2.5-7b",      3584, 18944,   28,   28,   4, 128, 152064),
    ModelShape("qwen2.5-32b",     5120, 27648,   64,   40,   8, 128, 152064),
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
}

PAPER_MODELS = ("llama-7b", "llama-13b", "llama-33b")

_MAX_CONFIG_BYTES = 1 << 20
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
        if path.is_file():
            return _read(path)
    except OSError as error:
        raise InvalidFileError(f"{path} cannot be read: {error.strerror}.") from None
    if path.suffix == ".json" or len(path.parts) > 1 or path.name == "config.json":
        raise InvalidFileError(
            f"There is no config.json at {name_or_path}.",
            hint="give a preset's name, a config.json, or the folder that holds it.",
        )
    raise UnknownNameError("model", name_or_path, [*PRESETS, *ALIASES])


def _read(path: Path) -> ModelShape:
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise InvalidFileError(f"{path} is over 1 MiB: no model's config is that large.")
    config = parse_object(path.read_bytes(), where=str(path))
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    return from_config(config, name=name, where=str(path))


# Blocks with one up projection and no gate: the table's MLP rows would be wrong for them.
_UNGATED = frozenset(
    "gpt2 gpt_neo gpt_neox gptj opt bloom falcon mpt phi starcoder2 gpt_bigcode codegen nemotron "
    "persimmon arcee apertus bert roberta t5 bart whisper".split()
)
_GATED = frozenset(
    "llama mistral ministral qwen2 qwen3 gemma gemma2 gemma3 gemma3_text phi3 granite olmo olmo2 "
    "olmo3 cohere cohere2 stablelm internlm2 internlm3 baichuan yi smollm3 exaone exaone4 glm glm4 "
    "helium ernie4_5 hunyuan_v1_dense seed_oss minicpm aquila".split()
)
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_LATENT = ("kv_lora_rank", "q_lora_rank")
_RECURRENT = ("mamba_d_state", "ssm_cfg", "state_size", "linear_num_key_heads", "lru_width")


def from_config(config: JsonObject, *, name: str, where: str) -> ModelShape:
    """The shape that a Hugging Face config describes.

    Raises UnsupportedModelError for blocks that the operator table does not describe (mixture of
    experts, latent attention, recurrence, an MLP without a gate), InvalidFileError for missing or
    senseless dimensions. What is left out but does not make the table wrong is in `unmodelled`.
    """
    notes = []
    inner = config.get("text_config")
    if isinstance(inner, dict):
        notes.append("only the text model (text_config) is counted")
        config = {**config, **inner}
    _refuse_other_blocks(config, where)
    hidden_size = _dimension(config, "hidden_size", where)
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
    return ModelShape(
        name=name,
        hidden_size=hidden_size,
        intermediate_size=_dimension(config, "intermediate_size", where),
        num_layers=_dimension(config, "num_hidden_layers", where),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=_dimension(config, "head_dim", where, default=hidden_size // num_heads),
        vocab_size=_dimension(config, "vocab_size", where),
        unmodelled=(*notes, *_left_out(config)),
    )


def _refuse_other_blocks(config: JsonObject, where: str) -> None:
    model_type = config.get("model_type")
    layer_types = config.get("layer_types")
    other_layers = sorted(
        {str(kind) for kind in layer_types} - {"full_attention", "sliding_attention"}
        if isinstance(layer_types, list)
        else set()
    )
    reason = None
    if found := _truthy(config, _EXPERTS, above=1):
        reason = f"a mixture of experts ({found})"
    elif found := _truthy(config, _LATENT):
        reason = f"multi-head latent attention ({found})"
    elif found := _truthy(config, _RECURRENT):
        reason = f"recurrent layers ({found})"
    elif other_layers:
        reason = f"layers of other types ({', '.join(other_layers)[:80]})"
    elif config.get("is_encoder_decoder"):
        reason = "an encoder and a decoder"
    elif isinstance(model_type, str) and model_type in _UNGATED:
        reason = f"an MLP without a gate (model_type {model_type})"
    if reason:
        raise UnsupportedModelError(
            f"{where} describes {reason}, which the operator table does not model.",
            hint="its numbers would be wrong, so none are given; `medusa-bench operators` "
            "shows the block that is modelled.",
        )


def _left_out(config: JsonObject) -> Iterator[str]:
    """In words, what a config has that changes no row of the table but a reader should know."""
    model_type = config.get("model_type")
    if not (isinstance(model_type, str) and model_type in _GATED):
        named = (
            f"model type {model_type[:40]!r}" if isinstance(model_type, str) else "no model type"
        )
        yield f"{named}: taken as a block with up, gate and down projections"
    window = config.get("sliding_window")
    layer_types = config.get("layer_types")
    if isinstance(layer_types, list) and "sliding_attention" in layer_types:
        sliding = layer_types.count("sliding_attention")
        yield (
            f"a sliding window of {window} tokens in {sliding} of {len(layer_types)} layers: "
            "attention is counted over the whole of seq_len"
        )
    elif window and config.get("use_sliding_window", True) and not isinstance(layer_types, list):
        yield (
            f"a sliding window of {window} tokens: attention is counted over the whole of seq_len"
        )
    if isinstance(quantization := config.get("quantization_config"), dict):
        method = str(quantization.get("quant_method", "unnamed"))[:40]
        yield f"quantised weights ({method}): counted, and measured, in the dtype you name"
    if config.get("num_nextn_predict_layers"):
        yield "layers that predict further tokens (num_nextn_predict_layers) are left out"
    if isinstance(config.get("vision_config"), dict):
        yield "the vision model is left out"


def _truthy(config: JsonObject, keys: tuple[str, ...], above: int = 0) -> str:
    """The first of the keys whose value is a number over `above`, or else not empty, as words."""
    for key in keys:
        value = config.get(key)
        if value > above if isinstance(value, int | float) else value:
            return f"{key} {str(value)[:40]}"
    return ""


def _dimension(config: JsonObject, key: str, where: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if value is None:
        raise InvalidFileError(
            f"{where} has no {key}.", hint="is it a Hugging Face config.json of a causal LM?"
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
