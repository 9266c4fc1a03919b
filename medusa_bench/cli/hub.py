"""Shapes of models by OWNER/NAME: their config.json, from the cache or the Hugging Face hub."""

from pathlib import Path

from medusa_bench.cli.progress import busy
from medusa_bench.specs import models
from medusa_bench.specs.shapes import ModelShape


def load(
    name: str,
    *,
    assume_block: str | None,
    offline: bool,
    weights: str | None = None,
    cache: str | None = None,
) -> ModelShape:
    """The shape that -m names, its weights and cache stored as asked.

    Raises what specs.models.load and `located` raise.
    """
    return models.load(
        located(name, offline=offline),
        assume_llama=assume_block == "llama",
        weights=weights,
        cache=cache,
    )


def located(name: str, *, offline: bool) -> str:
    """The same name where it is a preset or on disk, else the config.json of OWNER/NAME.

    Raises MedusaBenchError where the hub is asked and has it not, or is not to be asked.
    """
    from medusa_bench.decode.engine import hub

    if name.lower() in {*models.PRESETS, *models.ALIASES} or Path(name).exists():
        return name
    if not hub.is_name(name) or name.endswith(".json"):
        return name
    with busy(f"Looking for {name} in the cache and on the hub"):
        return str(hub.fetched_config(name, offline=offline))
