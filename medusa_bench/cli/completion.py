"""What a shell completes: GPUs, models and methods, also the last of a list with commas."""

from collections.abc import Callable, Iterable

import click

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _of(names: Callable[[], Iterable[str]]) -> Completer:
    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names() if name.startswith(last.lower())]

    return complete


def _gpus() -> list[str]:
    from medusa_bench.cli.here import RESULTS
    from medusa_bench.specs import profiles

    return [*profiles.names(), "paper", *(str(run.parent) for run in RESULTS.glob("*/run.json"))]


def _models() -> list[str]:
    from medusa_bench.specs import models

    return [*models.PRESETS, *models.ALIASES]


def _methods() -> Iterable[str]:
    from medusa_bench.compare.methods import METHODS

    return METHODS


GPUS, MODELS, METHODS = _of(_gpus), _of(_models), _of(_methods)
