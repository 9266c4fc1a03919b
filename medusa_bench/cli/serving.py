"""`medusa-bench serving`: running servers measured from outside, beside what is simulated."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.base.errors import ExitCode, MedusaBenchError
from medusa_bench.cli import console
from medusa_bench.cli.options import COUNTS, DTYPE, DURATION, JSON, Number, Whole
from medusa_bench.cli.progress import progress

if TYPE_CHECKING:
    from medusa_bench.compare.comparisons import Comparison
    from medusa_bench.compare.served import Load, Pair
    from medusa_bench.measure.closed_loop import Plan, Target
    from medusa_bench.results.served import Role

_MOST_CONCURRENT = 256


@click.command(
    epilog="""\b
Examples:
  medusa-bench serving http://127.0.0.1:8001 --vanilla http://127.0.0.1:8000
  medusa-bench serving http://127.0.0.1:8001 --vanilla http://127.0.0.1:8000 \\
    -m llama-3-8b --gpu h100-sxm --method eagle-3 --engine vllm -o results/served
"""
)
@click.argument("url")
@click.option("--vanilla", "vanilla_url", metavar="URL", help="The same model without speculation.")
@click.option("--label", help="A name for URL's server in results.  [default: URL]")
@click.option("--served-model", default="", help="Which model.  [default: the first it lists]")
@click.option(
    "-c", "--concurrency", type=COUNTS, default=(1, 2, 4), show_default="1,2,4",
    help="Requests at a time.",
)  # fmt: skip
@click.option("--rounds", type=Whole(1, 100), default=3, show_default=True)
@click.option(
    "--prompts",
    "prompt_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="MT-Bench, AlpacaEval or Spec-Bench file.  [default: 80 of our own]",
)
@click.option(
    "--num-prompts", type=Whole(1, 256), default=8, show_default=True,
    help="Prompts of a round, evenly from all categories; each is one request.",
)  # fmt: skip
@click.option("--max-new-tokens", type=Whole(2, 1 << 20), default=64, show_default=True)
@click.option("--temperature", type=Number(0, 100), default=0.0, show_default=True)
@click.option("--ignore-eos", is_flag=True, help="Have every answer --max-new-tokens long.")
@click.option("--api", type=click.Choice(["chat", "completions"]), default="chat")
@click.option("--timeout", type=DURATION, default="60s", show_default=True, help="Of a request.")
@click.option(
    "--max-time", type=DURATION, default="10min", show_default=True, help="Begin no round later."
)
@click.option("--allow-remote", is_flag=True, help="Send requests beyond this machine.")
@click.option("--seed", type=Whole(0), default=0, show_default=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False),
    help="Folder that keeps what is measured; the same command goes on in it.",
)  # fmt: skip
@click.option("-m", "--model", help="Simulate beside it: the model's shape.")
@click.option("--gpu", help="With -m: whose latencies; a profile's name or a results folder.")
@click.option(
    "--method", default="draft-model", show_default=True, help="With -m: how URL's server drafts."
)
@click.option("--draft", help="With -m: the draft model's shape.")
@click.option("--draft-len", type=Whole(1, 4096), help="With -m.  [default: as counted]")
@click.option("--dtype", type=DTYPE, default="float16", show_default=True, help="With -m.")
@click.option("--engine", help="With -m: whose costs.  [default: what the server says it is]")
@JSON
def command(**options: Any) -> int:
    """Measure a running OpenAI-compatible server by a closed loop: time per token and acceptance.

    Every round answers the same prompts, --concurrency of them at a time, in shuffled order over
    servers and concurrencies. Acceptance is what the server itself counts, on its /metrics page or
    in its answers. With --vanilla, tokens a step, overhead and speedup; with -m, the simulated row
    beside them. Only this machine is asked, unless --allow-remote.
    """
    from medusa_bench.compare import served as comparing

    simulate = _simulation(options) if options["model"] else None
    blocks, code = _measured(_plan(options), options["output"])
    loads = comparing.loads(blocks)
    pairs = comparing.pairs(loads)
    beside = [simulate(pair) for pair in pairs] if simulate else []
    notes = _notes(loads)
    if options["as_json"]:
        document = [
            {
                "concurrency": pair.speculating.concurrency,
                "tokens_per_step": pair.speculating.tokens_a_step,
                "overhead": pair.overhead,
                "speedup": pair.speedup,
                "speedups_by_round": pair.speedups,
            }
            for pair in pairs
        ]
        console.print_json(
            {
                "servers": [comparing.as_dict(load) for load in loads],
                "served": document,
                "simulated": [row.as_dict() for row in beside],
                "notes": notes,
            }
        )
        return code
    out = console.stdout()
    out.print(_load_table(loads))
    if pairs:
        out.print()
        out.print(_pair_table(pairs, beside))
    for note in notes:
        console.warn(note)
    return code


# -- what is measured ------------------------------------------------------------------------------


def _plan(options: dict[str, Any]) -> "Plan":
    from medusa_bench.decode.study import prompts
    from medusa_bench.measure.closed_loop import Plan
    from medusa_bench.results.served import Role

    most = max(options["concurrency"])
    if most > _MOST_CONCURRENT:
        raise click.UsageError(f"--concurrency goes up to {_MOST_CONCURRENT}.")
    path = options["prompt_file"] or prompts.OWN
    count = max(options["num_prompts"], most)  # fewer would leave some idle
    texts = [one.turns[0] for one in prompts.spread(prompts.read(path), count)]
    if len(texts) < most:
        raise click.UsageError(
            f"{path} has {len(texts)} prompts, too few for --concurrency {most}."
        )
    asked = ("api", "max_new_tokens", "temperature", "ignore_eos")
    words = repr([texts, *(options[name] for name in asked)])
    targets = [_target(options["url"], Role.SPECULATING, options["label"], options)]
    if options["vanilla_url"]:
        targets.insert(0, _target(options["vanilla_url"], Role.VANILLA, "vanilla", options))
    return Plan(
        targets,
        texts,
        hashlib.sha256(words.encode()).hexdigest()[:16],
        options["concurrency"],
        options["rounds"],
        options["max_time"],
        options["seed"],
    )


def _target(url: str, role: "Role", label: str | None, options: dict[str, Any]) -> "Target":
    from medusa_bench.measure import completions
    from medusa_bench.measure.closed_loop import Target
    from medusa_bench.results.served import Server

    address = completions.Address.parse(url)
    if not address.is_loopback and not options["allow_remote"]:
        raise MedusaBenchError(
            f"{address} is not this machine, and nothing was sent to it.",
            hint="add --allow-remote to load a server elsewhere.",
        )
    try:
        who = completions.identify(address, options["served_model"])
    except completions.RequestError as error:
        raise MedusaBenchError(
            f"{address} cannot be measured: {error}.",
            hint="is an OpenAI-compatible server listening there?",
        ) from None
    asking = completions.Asking(
        who.model,
        completions.Api(options["api"]),
        options["max_new_tokens"],
        options["temperature"],
        options["ignore_eos"],
        options["timeout"],
    )
    server = Server(role, label or str(address), who.model, who.engine, who.version)
    return Target(address, server, asking)


def _measured(plan: "Plan", folder: Path | None) -> tuple[list[Any], int]:
    """All blocks of the plan, those of an earlier run among them, and the exit code."""
    from tempfile import TemporaryDirectory

    from medusa_bench.measure import closed_loop
    from medusa_bench.results.served import Writer

    code = ExitCode.OK
    with (
        TemporaryDirectory() as scratch,
        Writer(folder or Path(scratch)) as writer,
        progress("Asking", plan.num_blocks) as advance,
    ):
        try:
            for block in closed_loop.run(plan, writer):
                advance(1)
                for reason in dict.fromkeys(each.reason for each in block.refusals):
                    advance.say(f"{block.server.label}: a request failed: {reason}")
        except closed_loop.OutOfTimeError:
            code = ExitCode.UNFINISHED
            console.warn("stopped at --max-time; the same command, with -o, goes on.")
        mine = {(each.server.role, each.server.label) for each in plan.targets}
        blocks = [
            block
            for block in writer.blocks.values()
            if block.setting == plan.setting
            and (block.server.role, block.server.label) in mine
            and block.concurrency in plan.concurrencies
            and block.round_index < plan.rounds
        ]
    if code is ExitCode.OK and any(block.refusals for block in blocks):
        code = ExitCode.POINTS_FAILED
    return blocks, code


def _simulation(options: dict[str, Any]) -> Any:
    """What simulates a pair. Raises MedusaBenchError for a name that is not known."""
    from medusa_bench.compare import named
    from medusa_bench.compare import served as comparing
    from medusa_bench.specs import models
    from medusa_bench.specs.dtypes import Dtype

    if not options["gpu"]:
        raise click.UsageError("-m needs --gpu: whose latencies are to be simulated.")
    target = models.load(options["model"])
    draft = models.load(options["draft"]) if options["draft"] else None
    (latency,) = named.latency_models((options["gpu"],))

    def simulate(pair: "Pair") -> "Comparison":
        server = pair.speculating.server
        engine = options["engine"]
        if engine is None and named.engine_name(None, gpu=options["gpu"]) != "none":
            engine = server.engine or None
        return comparing.simulated(
            pair,
            options["method"],
            target,
            draft or target,
            latency=latency,
            dtype=Dtype(options["dtype"]),
            engine=named.engine_cost(engine, server.version, None, gpu=options["gpu"]),
            draft_len=options["draft_len"],
        )

    return simulate


# -- what is shown ---------------------------------------------------------------------------------


def _load_table(loads: "Sequence[Load]") -> Any:
    cells = []
    for load in loads:
        low_s, high_s = load.spread
        counted = load.acceptance
        accepted = f"{counted.accepted} of {counted.drafted}" if counted else "not told"
        cells.append(
            [
                load.server.label,
                str(load.concurrency),
                str(load.num_requests),
                f"{load.tokens_per_s:.1f}",
                f"{1e3 * load.time_per_token_s:.2f}",
                f"{1e3 * low_s:.2f} to {1e3 * high_s:.2f}",
                console.duration(load.time_to_first_token_s),
                accepted,
            ]
        )
    columns = ["server", "concurrency", "requests", "tokens/s", "ms/token", "rounds"]
    title = "served: output tokens of all requests, time per token of one"
    return console.table([*columns, "first token", "accepted"], cells, title)


def _pair_table(pairs: "Sequence[Pair]", beside: "Sequence[Comparison]") -> Any:
    cells = []
    for index, pair in enumerate(pairs):
        rate, overhead = pair.speculating.tokens_a_step, pair.overhead
        by_round = pair.speedups
        cells.append(
            [
                str(pair.speculating.concurrency),
                "served",
                f"{rate:.2f}" if rate else "",
                f"{overhead:.2f}" if overhead else "",
                f"{pair.speedup:.2f}x",
                f"{min(by_round):.2f} to {max(by_round):.2f}" if by_round else "",
            ]
        )
        if beside:
            row = beside[index]
            low, high = row.speedup_interval
            inside = "holds it" if low <= pair.speedup <= high else "misses it"
            cells.append(
                [
                    "",
                    "simulated",
                    f"{row.acceleration_rate:.2f}",
                    f"{row.overhead:.2f}",
                    f"{row.speedup:.2f}x",
                    f"{low:.2f} to {high:.2f}, {inside}",
                ]
            )
    columns = ["concurrency", "source", "tokens/step", "overhead", "speedup", "interval"]
    title = "speculating over vanilla (served: least and most of a round; simulated: 90 %)"
    return console.table(columns, cells, title)


def _notes(loads: "Sequence[Load]") -> list[str]:
    from medusa_bench.compare.served import CONTENDED

    notes = []
    if busy := [load for load in loads if load.busy_share > CONTENDED]:
        notes.append(
            f"others had {max(load.busy_share for load in busy):.0%} of a processor while no "
            "request ran: the times are theirs too."
        )
    if cached := [load for load in loads if load.cached_share > 0.5]:
        share = max(load.cached_share for load in cached)
        notes.append(
            f"{share:.0%} of the prompts' tokens were kept from earlier rounds, so first tokens "
            "come sooner than of new prompts."
        )
    if silent := [each for each in loads if each.tokens_a_step is None]:
        notes.append(
            f"{silent[0].server.label} tells neither on /metrics nor in its answers what it "
            "accepted: tokens a step and overhead are unknown."
        )
    if refused := sum(len(load.refusals) for load in loads):
        notes.append(f"{refused} requests failed; the same command asks their rounds again.")
    return notes
