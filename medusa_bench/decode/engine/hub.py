"""Models by OWNER/NAME: from the local cache of huggingface_hub, and only then from the hub."""

import re
from pathlib import Path

from medusa_bench.base.errors import MedusaBenchError, told_as

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# What loading reads. No code: *.py is not fetched at all.
_ANSWER_TIMEOUT_S = 1.5
_HINT = (
    "check the name, the connection, and whether the model asks for a login (hf auth login); or "
    "give a preset such as llama-3-8b, or the path of a config.json."
)
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]


def is_name(name: str) -> bool:
    """Whether a text may be a model's name on the hub: OWNER/NAME."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def fetched(name: str, *, offline: bool) -> Path:
    """The folder in the local cache that holds a model, downloaded if it is not there yet.

    huggingface_hub shows the progress on stderr. Raises MedusaBenchError where it is not cached
    and `offline` (or HF_HUB_OFFLINE) keeps from asking, or where the hub does not have it.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    cached = _cached(name)
    if cached is not None:
        return cached
    if offline or constants.HF_HUB_OFFLINE:
        raise MedusaBenchError(
            f"{name} is not in the local cache, and the network is not to be asked.",
            hint=f"leave --offline (HF_HUB_OFFLINE) out, or fetch it first: hf download {name}",
        )
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise MedusaBenchError(
            f"{name} cannot be fetched from the hub: {reason}.",
            hint="check the name, the connection, and whether the model asks for a login "
            "(hf auth login).",
        ) from None


def fetched_config(name: str, *, offline: bool) -> Path:
    """The config.json of a model in the local cache, downloaded alone if it is not there yet.

    Raises MedusaBenchError as `fetched` does.
    """
    from huggingface_hub import (
        constants,
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )

    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return Path(cached)
    if offline or constants.HF_HUB_OFFLINE:
        raise MedusaBenchError(
            f"{name} is not on disk and not in the local cache, and the hub is not to be asked.",
            hint="leave --offline (HF_HUB_OFFLINE) out; or give a preset such as llama-3-8b, or "
            "the path of a config.json.",
        )
    with told_as(f"{name} is not on disk, and the hub does not give its config.json", hint=_HINT):
        # Asked once before the download, which would try for half a minute where no network is.
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=_ANSWER_TIMEOUT_S)
        return Path(hf_hub_download(name, "config.json"))


def _cached(name: str) -> Path | None:
    """The newest snapshot in the cache that is whole: a config, and weights as its index lists."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True, allow_patterns=_FILES))
    except (LocalEntryNotFoundError, OSError):
        return None
    has_weights = any(folder.glob("*.safetensors"))
    return folder if has_weights and (folder / "config.json").exists() else None
