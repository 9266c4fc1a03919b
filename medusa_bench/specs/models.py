"""Models by name: presets, and any Hugging Face config.json read as JSON, offline."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from medusa_bench.base import limits
from medusa_bench.base.documents import JsonObject, parse_object
from medusa_bench.base.errors import InvalidFileError, UnknownNameError
from medusa_bench.base.files import read_bytes
from medusa_bench.specs import quantised_configs
from medusa_bench.specs.configs import from_config
from medusa_bench.specs.operators import of_model
from medusa_bench.specs.schemes import AS_NAMED, Quantisation, uniform
from medusa_bench.specs.shapes import (
    Experts,
    Heads,
    LatentAttention,
    ModelShape,
    Recurrence,
    Window,
)

_WINDOW_4096 = Window(4096, 32)

# The paper's models and those of its speculative baseline, then what people run today.
# Source: the config.json of each; Vicuna and Llama-1/2 share their shapes.
_PRESETS = (
    #          name             hidden  inter layers heads  kv  dim   vocab
    ModelShape("llama-7b",        4096, 11008,   32,   32,  32, 128),
    ModelShape("llama-13b",       5120, 13824,   40,   40,  40, 128),
    ModelShape("llama-33b",       6656, 17920,   60,   52,  52, 128),
    ModelShape("zephyr-7b",       4096, 14336,   32,   32,   8, 128, window=_WINDOW_4096),
    ModelShape("mistral-7b",      4096, 14336,   32,   32,   8, 128, window=_WINDOW_4096),
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
    ModelShape("phi-4",           5120, 17920,   40,   40,  10, 128, 100352),
    ModelShape("mistral-small-24b", 5120, 32768, 40,   32,   8, 128, 131072),
)  # fmt: skip


Dense = tuple[int, int, int, int, int, int, int]


def _moe(
    name: str,
    dense: Dense,
    experts: Experts,
    latent: LatentAttention | None = None,
    window: Window | None = None,
) -> ModelShape:
    """dense: as the columns above."""
    return replace(ModelShape(name, *dense), experts=experts, latent=latent, window=window)


# Experts in place of the MLP, in all layers or all but the first; the last two columns of the
# dense dimensions of models with latent attention mean nothing and are theirs by name alone.
_DEEPSEEK = LatentAttention(kv_rank=512, rope_dim=64, nope_dim=128, value_dim=128, q_rank=1536)
_OF_EXPERTS = (
    # hidden, inter, layers, heads, kv, dim, vocab; experts, per token, width, layers, shared
    _moe("mixtral-8x7b",      (4096, 14336, 32, 32, 8, 128, 32000), Experts(8, 2, 14336, 32)),
    _moe("qwen3-30b-a3b",     (2048, 6144, 48, 32, 4, 128, 151936), Experts(128, 8, 768, 48)),
    _moe("qwen3-235b-a22b",   (4096, 12288, 94, 64, 4, 128, 151936), Experts(128, 8, 1536, 94)),
    _moe("qwen3-coder-480b-a35b", (6144, 8192, 62, 96, 8, 128, 151936), Experts(160, 8, 2560, 62)),
    _moe("glm-4.5",           (5120, 12288, 92, 96, 8, 128, 151552),
         Experts(160, 8, 1536, 89, 1536)),
    _moe("minimax-m2",        (3072, 1536, 62, 48, 8, 128, 200064), Experts(256, 8, 1536, 62)),
    _moe("gpt-oss-20b",       (2880, 2880, 24, 64, 8, 64, 201088), Experts(32, 4, 2880, 24),
         window=Window(128, 12)),
    _moe("gpt-oss-120b",      (2880, 2880, 36, 64, 8, 64, 201088), Experts(128, 4, 2880, 36),
         window=Window(128, 18)),
    _moe("llama-4-scout",     (5120, 16384, 48, 40, 8, 128, 202048),
         Experts(16, 1, 8192, 48, 8192), window=Window(8192, 36)),
    _moe("llama-4-maverick",  (5120, 16384, 48, 40, 8, 128, 202048),
         Experts(128, 1, 8192, 24, 8192), window=Window(8192, 36)),
    _moe("deepseek-v3",       (7168, 18432, 61, 128, 128, 192, 129280),
         Experts(256, 8, 2048, 58, 2048), latent=_DEEPSEEK),
    _moe("kimi-k2",           (7168, 18432, 61, 64, 64, 192, 163840),
         Experts(384, 8, 2048, 60, 2048), latent=_DEEPSEEK),
)  # fmt: skip
# States in place of a cache in most layers. Source: the config.json of each.
_DELTA_32 = Recurrence(36, 12352, 4096, 8192, 4, num_states=32, key_dim=128, value_dim=128)
_OF_STATES = (
    ModelShape("qwen3-next-80b-a3b", 2048, 5632, 48, 16, 2, 256, 151936,
               experts=Experts(512, 10, 512, 48, 512, shared_is_gated=True),
               recurrence=_DELTA_32, gated_output=True),
    ModelShape("qwen3.5-35b-a3b", 2048, 512, 40, 16, 2, 256, 248320,
               experts=Experts(256, 8, 512, 40, 512, shared_is_gated=True),
               recurrence=replace(_DELTA_32, num_layers=30), gated_output=True),
    ModelShape("qwen3.5-27b", 5120, 17408, 64, 24, 4, 256, 248320,
               recurrence=Recurrence(48, 16480, 6144, 10240, 4, 48, 128, 128), gated_output=True),
    ModelShape("granite-4.0-h-small", 4096, 1536, 40, 32, 8, 128, 100352,
               experts=Experts(72, 10, 768, 40, 1536),
               recurrence=Recurrence(36, 16768, 8192, 8448, 4, 128, 128, 64)),
    ModelShape("nemotron-3-nano-30b-a3b", 2688, 1856, 52, 32, 2, 128, 131072,
               experts=Experts(128, 6, 1856, 23, 3712), gated=False,
               recurrence=Recurrence(23, 10304, 4096, 6144, 4, 64, 128, 64),
               attention_layers=6, mlp_layers=0),
    ModelShape("nemotron-3-super-120b-a12b", 4096, 2688, 88, 32, 2, 128, 131072,
               experts=Experts(512, 22, 2688, 40, 5376, input_width=1024), gated=False,
               recurrence=Recurrence(40, 18560, 8192, 10240, 4, 128, 128, 64),
               attention_layers=8, mlp_layers=0),
)  # fmt: skip
_HEADS_BY_LAYER = (
    ModelShape("gemma-4-26b-a4b", 2816, 2112, 30, 16, 8, 256, 262144,
               experts=Experts(128, 8, 704, 30), window=Window(1024, 25), mlp_layers=30,
               whole_heads=Heads(5, 2, 512, 512, has_values=False),
               near_heads=Heads(25, 8, 256, 256)),
    ModelShape("mimo-v2-flash", 4096, 16384, 48, 64, 4, 192, 152576,
               experts=Experts(256, 8, 2048, 47), window=Window(128, 39),
               whole_heads=Heads(9, 4, 192, 128), near_heads=Heads(39, 8, 192, 128)),
)  # fmt: skip
# Of every six layers five attend to a window.
_OF_WINDOWS = tuple(
    ModelShape(name, *sizes, 262208, window=Window(1024, sizes[2] - sizes[2] // 6))
    for name, sizes in (
        ("gemma-3-4b", (2560, 10240, 34, 8, 4, 256)),
        ("gemma-3-12b", (3840, 15360, 48, 16, 8, 256)),
        ("gemma-3-27b", (5376, 21504, 62, 32, 16, 128)),
    )
)
PRESETS: Mapping[str, ModelShape] = {
    shape.name: shape
    for shape in (*_PRESETS, *_OF_EXPERTS, *_OF_WINDOWS, *_OF_STATES, *_HEADS_BY_LAYER)
}

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
    "deepseek-r1": "deepseek-v3",
    "kimi-k2.6": "kimi-k2",
    "llama-4-scout-17b-16e": "llama-4-scout",
    "granite-4": "granite-4.0-h-small",
    "minimax-m2.5": "minimax-m2",
    "mistral-small": "mistral-small-24b",
    "nemotron-3": "nemotron-3-nano-30b-a3b",
    "nemotron-3-nano": "nemotron-3-nano-30b-a3b",
    "nemotron-3-super": "nemotron-3-super-120b-a12b",
    "qwen3-coder-30b-a3b": "qwen3-30b-a3b",
    "qwen3-next": "qwen3-next-80b-a3b",
    "qwen3.5": "qwen3.5-35b-a3b",
}


def load(
    name_or_path: str,
    *,
    assume_llama: bool = False,
    weights: str | None = None,
    cache: str | None = None,
) -> ModelShape:
    """The shape of a preset, an alias, a Hugging Face config.json, or a folder that holds one.

    assume_llama: take a model type that is not known for Llama's block. weights: a scheme of
    SCHEMES in place of what the config says of quantisation, "none" for none. cache: "fp8" where
    cached keys and values take 8 bits. Raises UnknownNameError, InvalidFileError, or
    UnsupportedModelError where the model's layers are not those of the operator table.
    """
    shape = _load(name_or_path, assume_llama=assume_llama)
    if weights is not None:
        shape = quantised(shape, weights)
    if cache is not None:
        own = shape.quantised or Quantisation(AS_NAMED)
        shape = replace(shape, quantised=own.with_cache(8 if cache == "fp8" else None))
    return shape


def quantised(shape: ModelShape, weights: str) -> ModelShape:
    """The same with its weights in a scheme of SCHEMES, or in none ("none"); its cache stays.

    Raises UnknownNameError.
    """
    notes = tuple(each for each in shape.unmodelled if not each.startswith(_NOTE))
    shape = replace(shape, unmodelled=notes)
    cache_bits = shape.quantised.cache_bits if shape.quantised else None
    if weights == AS_NAMED:
        own = Quantisation(AS_NAMED, (), cache_bits) if cache_bits else None
        return replace(shape, quantised=own)
    names = [op.name for op, _ in of_model(shape) if not op.reads_cache]
    found = uniform(weights, names, of_experts=shape.experts is not None).with_cache(cache_bits)
    note = quantised_configs.note(found)
    return replace(shape, quantised=found, unmodelled=(*shape.unmodelled, note))


def as_measured(shape: ModelShape) -> ModelShape:
    """The same with all weights in the dtype that is named, and a note of it where they are not."""
    if shape.quantised is None:
        return shape
    said = f"{_NOTE} ({shape.quantised.name}): measured in the dtype you name"
    plain = quantised(shape, AS_NAMED)
    return replace(plain, quantised=None, unmodelled=(*plain.unmodelled, said))


_NOTE = "quantised weights"


def _load(name_or_path: str, *, assume_llama: bool) -> ModelShape:
    name = name_or_path.lower()
    name = ALIASES.get(name, name)
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name_or_path)
    try:
        if path.is_dir():
            path = path / "config.json"
        if path.exists():
            return _read(path, assume_llama=assume_llama)
    except OSError as error:
        raise InvalidFileError(f"{path} cannot be read: {error.strerror}.") from None
    if path.suffix == ".json" or len(path.parts) > 1 or path.name == "config.json":
        raise InvalidFileError(
            f"There is no config.json at {name_or_path}.",
            hint="give a preset's name, a config.json, or the folder that holds it; "
            "`hf download OWNER/MODEL config.json` fetches one.",
        )
    raise UnknownNameError("model", name_or_path, [*PRESETS, *ALIASES])


def _read(path: Path, *, assume_llama: bool) -> ModelShape:
    config = _object(path)
    name = _folder_name(path) if path.name == "config.json" else path.stem
    shape = from_config(config, name=name, where=str(path), assume_llama=assume_llama)
    beside = path.with_name("hf_quant_config.json")  # ModelOpt's, where the config says nothing
    where = path
    if path.name == "config.json" and "quantization_config" not in config and beside.exists():
        config, where = _object(beside), beside
    found, note = quantised_configs.read(config, shape, where=str(where))
    if not note:
        return shape
    return replace(shape, quantised=found, unmodelled=(*shape.unmodelled, note))


def _object(path: Path) -> JsonObject:
    return parse_object(read_bytes(path, limits.CONFIG_BYTES), where=str(path), finite=False)


def _folder_name(config: Path) -> str:
    """A model's folder; in the Hugging Face cache, whose folders are revisions, its NAME."""
    for folder in config.absolute().parents[:3]:
        if folder.name.startswith("models--") and config.absolute().parents[1].name == "snapshots":
            return folder.name.rpartition("--")[2].lower()
    return config.resolve().parent.name
