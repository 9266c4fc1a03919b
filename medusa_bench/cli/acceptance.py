"""`medusa-bench acceptance`: what acceptance models say, and what an engine's counters mean."""

import click

from medusa_bench.cli import console
from medusa_bench.cli.options import COUNTS, JSON


@click.command(epilog="Example: medusa-bench acceptance paper chain:0.8 tree:vicuna-7b-v1.3")
@click.argument("models", nargs=-1, metavar="[MODEL|FILE]...")
@click.option(
    "-q",
    "--num-candidates",
    type=COUNTS,
    default=(1, 2, 4, 8, 16, 32, 64, 128),
    show_default="1..128",
    help="Tokens verified in a step, the root included.",
)
@JSON
def command(*, models: tuple[str, ...], num_candidates: tuple[int, ...], as_json: bool) -> None:
    """Tokens a step yields, by the tokens verified, under one or more acceptance models.

    MODEL is paper, printed, log:A[:BASE], chain:P, survival:P1,P2,..., tree:MODEL, tokens:N; FILE
    is JSON, CSV, vLLM's /metrics page or its log. Without any: the paper's two forms.
    """
    from medusa_bench.compare import acceptance

    chosen = [acceptance.parse(text) for text in models or ("paper", "printed")]
    warnings = [words for model in chosen for words in acceptance.caveats(model, num_candidates)]
    if as_json:
        console.print_json(
            {
                "warnings": warnings,
                "models": [
                    {
                        "name": model.name,
                        "source": model.provenance,
                        "acceleration_rate": {
                            str(count): model.acceleration_rate(count) for count in num_candidates
                        },
                        "survival": None if survives is None else list(survives),
                    }
                    for model in chosen
                    for survives in (model.survival(num_candidates[-1]),)
                ],
            }
        )
        return
    cells = [
        [model.name, *(f"{model.acceleration_rate(count):.2f}" for count in num_candidates)]
        for model in chosen
    ]
    out = console.stdout()
    out.print(console.table(["candidates", *map(str, num_candidates)], cells, "tokens per step"))
    for model in chosen:
        if survives := model.survival(num_candidates[-1]):
            shares = ", ".join(f"{share:.3f}" for share in survives[:16])
            out.print(f"{model.name}: accepts at least 1, 2, ... guesses in {shares}", markup=False)
    for words in warnings:
        console.warn(words)
