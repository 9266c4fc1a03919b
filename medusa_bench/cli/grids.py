"""The options that name a grid of points, for every command that takes one."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from medusa_bench.cli import completion, hub
from medusa_bench.cli import options as types
from medusa_bench.measure.sweep import Defaults
from medusa_bench.results.rows import Grid, Timing
from medusa_bench.specs import models
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import Family, of_block, select
from medusa_bench.specs.settings import Phase

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "-m",
        "--model",
        "models",
        type=types.MODELS,
        envvar="MEDUSA_BENCH_MODEL",
        shell_complete=completion.MODELS,
        help="Presets, config.json or folders, OWNER/NAME of the hub; else $MEDUSA_BENCH_MODEL.",
    ),
    types.OFFLINE,
    types.ASSUME_BLOCK,
    click.option(
        "--operator", "operators", type=types.OPERATORS, help="Names or families: qk,pv,mlp,o ..."
    ),
    click.option("--phase", "phases", type=types.PHASES, help="prefill,decode,medusa"),
    click.option(
        "-b", "--batch-size", "batch_sizes", type=types.COUNTS, help="Sequences in a pass."
    ),
    click.option(
        "-s", "--seq-len", "seq_lens", type=types.COUNTS, help="Cached tokens a sequence."
    ),
    click.option(
        "-q",
        "--num-candidates",
        type=types.COUNTS,
        help="Tokens a Medusa pass verifies, root included.",
    ),
    click.option(
        "--dtype", "dtypes", type=types.DTYPES, help="float16,bfloat16,float32,tf32,float8"
    ),
    click.option("--timing", type=click.Choice(["kernel", "eager", "both"]), help="Which time."),
)
NAMES_A_GRID = ("models", "operators", "phases", "batch_sizes", "seq_lens", "num_candidates")


def grid_options(function: Function) -> Function:
    """-m, --operator, --phase, -b, -s, -q, --dtype and --timing."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def grid(options: dict[str, Any], default: Defaults, *, stored: bool = False) -> Grid:
    """The grid that the options name; what is not given is the default's.

    stored: with weights as a model's config or --weights says; else in the dtypes alone.

    Raises UnknownNameError and what shapes.load raises.
    """
    timing = options["timing"]
    loaded = [
        hub.load(
            name,
            assume_block=options["assume_block"],
            offline=options["offline"],
            weights=options.get("weights"),
            cache=options.get("kv_dtype"),
        )
        for name in options["models"] or default.models
    ]
    shapes = tuple(loaded if stored else map(models.as_measured, loaded))
    chosen = select(options["operators"]) if options["operators"] else ()
    if not stored and any(each.family is Family.FUSED for each in chosen):
        raise click.UsageError("Fused attention is counted, and not measured as a product.")
    own = dict.fromkeys(operator for shape in shapes for operator, _ in of_block(shape))
    return Grid(
        shapes=shapes,
        operators=chosen or tuple(own),
        phases=tuple(map(Phase, options["phases"] or Phase)),
        batch_sizes=options["batch_sizes"] or default.batch_sizes,
        seq_lens=options["seq_lens"] or default.seq_lens,
        num_candidates=options["num_candidates"] or default.num_candidates,
        dtypes=tuple(map(Dtype, options["dtypes"] or [default.dtype])),
        timings=default.timings if timing is None else timings(timing),
    )


def timings(name: str) -> tuple[Timing, ...]:
    return tuple(Timing) if name == "both" else (Timing(name),)
