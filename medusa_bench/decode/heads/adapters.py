"""LoRA adapters in peft's own format: written, read without running anything, merged.

A file of ours also says which backbone it is of, so that another one of the same shape is refused.
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from medusa_bench.base import limits
from medusa_bench.base.documents import JsonObject, parse_object
from medusa_bench.base.errors import InvalidFileError, MedusaBenchError, told_as
from medusa_bench.base.files import read_bytes, write_whole

HINT = "pip install 'medusa-bench[train]'"
CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
_BACKBONE = "medusa_bench_backbone"  # in the metadata of the weights

# What of a config changes the numbers, and what must be as it is here for us to apply it.
_USED = ("r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern")
_PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "layers_to_transform": None,
}


def fingerprint(model: Any) -> str:
    """Tells backbones apart: shape and exact sum of the LM head and of the first norm."""
    lm_head = model.get_output_embeddings().weight
    norms = sum(
        float(weight.detach().sum(dtype=torch.float64))
        for name, weight in model.named_parameters()
        if weight.dim() == 1 and "lora" not in name
    )
    return (
        f"{list(lm_head.shape)} {float(lm_head.detach().sum(dtype=torch.float64)):.6f} {norms:.6f}"
    )


def save(adapted: Any, folder: Path, *, base_name: str) -> None:
    """Write the adapter of peft's wrapper to a folder. Raises StorageError."""
    base = adapted.get_base_model()
    with tempfile.TemporaryDirectory() as scratch:
        adapted.save_pretrained(scratch, save_embedding_layers=False)
        weights = safetensors.torch.load_file(Path(scratch, WEIGHTS_NAME))
        config = json.loads(Path(scratch, CONFIG_NAME).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name  # peft writes the path it was loaded from
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    metadata = {"format": "pt", _BACKBONE: fingerprint(base)}
    halves = {name: weight.bfloat16().contiguous() for name, weight in sorted(weights.items())}
    write_whole(folder / WEIGHTS_NAME, safetensors.torch.save(halves, metadata))
    write_whole(
        folder / CONFIG_NAME, (json.dumps(config, indent=2, allow_nan=False) + "\n").encode()
    )


def wrapped(model: Any, **config: Any) -> Any:
    """peft's wrapper of a causal LM with a fresh LoRA adapter. `model` itself is changed."""
    peft = _peft()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of peft's use of transformers
        return peft.get_peft_model(model, peft.LoraConfig(**config, task_type="CAUSAL_LM"))


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise MedusaBenchError("A LoRA adapter needs peft.", hint=HINT) from None
    return peft


def load(path: str | Path, model: Any) -> Any:
    """`model` with the adapter in a folder, in peft's wrapper. `model` itself is changed.

    Raises MedusaBenchError where there is none or peft is missing, and InvalidFileError for one
    that is no plain LoRA adapter, is pickled, or is of another model.
    """
    folder = Path(path)
    config, weights = _config(folder), _weights(folder, model)
    with told_as(f"{folder} does not fit this model", hint="was it made for this model?"):
        adapted = wrapped(model, **{key: config[key] for key in _USED if key in config})
        result = _peft().set_peft_model_state_dict(adapted, weights)
    missing = [key for key in result.missing_keys if "lora_" in key]
    if missing or result.unexpected_keys:
        odd = (missing or result.unexpected_keys)[0]
        raise InvalidFileError(
            f"{folder / WEIGHTS_NAME} does not fit this model: {odd} is "
            f"{'missing' if missing else 'unknown'}.",
            hint="was it made for this model?",
        )
    return adapted.eval().requires_grad_(False)


def merged(adapted: Any) -> Any:
    """The plain model with the adapter added into its weights, in place.

    Raises MedusaBenchError where the adapted LM head shares its weight with the embedding.
    """
    base = adapted.get_base_model()
    lm_head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    if hasattr(lm_head, "lora_A") and lm_head.weight is embedding.weight:
        raise MedusaBenchError(
            "The adapter changes the LM head, which shares its weight with the embedding: the two "
            "cannot be merged into one.",
            hint="use the adapter as it is, with --adapter.",
        )
    return adapted.merge_and_unload().eval().requires_grad_(False)


def _config(folder: Path) -> JsonObject:
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise MedusaBenchError(
            f"There is no adapter at {folder}.", hint=f"give the folder that holds {CONFIG_NAME}."
        )
    config = parse_object(read_bytes(path, limits.CONFIG_BYTES), where=str(path))
    for key, plain in _PLAIN.items():
        if config.get(key, plain) != plain:
            raise InvalidFileError(
                f"{path} has {key} {config[key]!r}: only a plain LoRA adapter can be applied."
            )
    return config


def _weights(folder: Path, model: Any) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        pickled = folder / "adapter_model.bin"
        if pickled.exists():
            raise InvalidFileError(
                f"{pickled} is a pickle, which could run code; it was not opened.",
                hint="save the adapter as safetensors.",
            )
        raise InvalidFileError(f"{folder} lacks {WEIGHTS_NAME}.")
    try:
        with safe_open(path, "pt") as file:
            of = (file.metadata() or {}).get(_BACKBONE)
            if of is not None and of != fingerprint(model):
                raise InvalidFileError(
                    f"{path} was made for another backbone than this one.",
                    hint="give the model that it was trained with, unmerged.",
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InvalidFileError(f"{path} cannot be read: {error}.") from None
