"""A model, its heads, drafts and prompts, as the options name them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.cli import console

if TYPE_CHECKING:
    from medusa_bench.decode.engine.model import DecoderModel
    from medusa_bench.decode.engine.packing import Packing
    from medusa_bench.decode.heads.heads import MedusaHeads
    from medusa_bench.decode.study.study import Rates, Study
    from medusa_bench.specs.models import ModelShape

ACCURACY_NAME = "accuracy-paths.json"  # what train writes beside heads

Given = Callable[[str], bool]  # whether an option was on the command line


@dataclass(frozen=True, slots=True)
class Loaded:
    """A study, and what takes part in it beside its own model."""

    study: "Study"
    packing: "Packing"
    heads: "MedusaHeads | None" = None
    rates: "Rates | None" = None
    drafts: "Mapping[str, DecoderModel]" = field(default_factory=dict)
    self_draft: "DecoderModel | None" = None

    @property
    def model(self) -> "DecoderModel":
        return self.study.engine.model

    @property
    def rate_source(self) -> str:
        return f"expected from {self.rates.name}" if self.rates else ""


def load(options: Mapping[str, Any], given: Given) -> Loaded:
    """The model of --generate with all that was asked for beside it. Raises MedusaBenchError."""
    import torch

    from medusa_bench.compare import trees
    from medusa_bench.decode.engine import attention, loading
    from medusa_bench.decode.engine.model import DecoderModel
    from medusa_bench.decode.engine.packing import pack
    from medusa_bench.decode.heads import files
    from medusa_bench.decode.study import prompts
    from medusa_bench.decode.study.rounds import Question
    from medusa_bench.specs import models

    attention.register()
    name = options["generate"]
    dtype = _dtype(options, given)
    load_as = {
        "dtype": getattr(torch, dtype),
        "device": options["device"],
        "attention": options["attention"],
    }
    model, tokenizer = loading.load(name, **load_as)
    heads = None
    if options["heads"]:
        heads = files.load(options["heads"], model)
        for note in heads.notes:
            console.warn(note)
    packing = _packing(options, model)
    pack(model, packing)
    if heads is not None:
        pack(heads, packing)
    drafts = {}
    for draft_name in options["draft"] if given("draft") else ():
        draft, draft_tokenizer = loading.load(draft_name, **load_as)
        if draft_tokenizer.get_vocab() != tokenizer.get_vocab():
            raise MedusaBenchError(
                f"{draft_name} has another tokenizer than {name}.",
                hint="a draft must speak the target's tokens.",
            )
        pack(draft, packing)
        drafts[Path(draft_name).name] = DecoderModel(draft, compiled=options["compiled"])
    decoder = DecoderModel(model, compiled=options["compiled"])
    self_draft = None
    if options["self_draft"]:
        self_draft = DecoderModel(
            model, num_layers=options["self_draft"], compiled=options["compiled"]
        )
    path = options["prompts"] or prompts.OWN
    chosen = _spread(prompts.read(path), options["num_prompts"])
    questions = [
        Question(tuple(prompts.first_turn_ids(tokenizer, one)), one.category) for one in chosen
    ]
    config = model.config.get_text_config()
    study = _study(
        options,
        given,
        model=decoder,
        packing=packing,
        shape=models.from_config(config.to_dict(), name=Path(name).stem, where=name),
        questions=questions,
        text=f"{len(questions)} prompts of {path.name}",
        max_new_tokens=options["max_new_tokens"],
        eos_token_ids=loading.eos_ids(model),
        rule=_sampling(options),
        energy_j=_energy(options["device"]),
    )
    rates = None
    if heads is not None:
        file = Path(options["heads"])
        beside = (file if file.is_dir() else file.parent) / ACCURACY_NAME
        if options["accuracy"] or beside.is_file():
            rates = trees.load_accuracy(options["accuracy"] or str(beside))
    return Loaded(study, packing, heads, rates, drafts, self_draft)


def load_random(
    options: Mapping[str, Any], given: Given, *, seq_len: int, num_steps: int, room: int
) -> Loaded:
    """A model of the shape that --generate names, with random weights, and a prompt such that
    seq_len tokens are cached in the middle of num_steps steps, with room for more. Raises
    MedusaBenchError."""
    import torch

    from medusa_bench.decode.engine import attention
    from medusa_bench.decode.engine.model import DecoderModel
    from medusa_bench.decode.engine.packing import pack
    from medusa_bench.decode.engine.random_weights import random_model
    from medusa_bench.decode.study.rounds import Question
    from medusa_bench.specs import models

    attention.register()
    shape = models.load(options["generate"])
    model = random_model(
        shape,
        dtype=getattr(torch, _dtype(options, given)),
        device=options["device"],
        attention=options["attention"],
        seed=options["seed"],
        context_limit=seq_len + num_steps + room,
    )
    packing = _packing(options, model)
    pack(model, packing)
    prompt_len = max(1, seq_len - num_steps // 2)
    study = _study(
        options,
        given,
        model=DecoderModel(model, compiled=options["compiled"]),
        packing=packing,
        shape=shape,
        questions=[Question(tuple(index % shape.vocab_size for index in range(prompt_len)))],
        text="none",
        max_new_tokens=num_steps,
        weights="random weights, ",
    )
    return Loaded(study, packing)


def _study(
    options: Mapping[str, Any],
    given: Given,
    *,
    model: "DecoderModel",
    packing: "Packing",
    shape: "ModelShape",
    weights: str = "",
    **changes: Any,
) -> "Study":
    from medusa_bench.decode.engine.engine import Engine
    from medusa_bench.decode.study.study import Study
    from medusa_bench.specs.dtypes import Dtype

    return Study(
        engine=Engine(model),
        shape=shape,
        device=_device_name(options["device"]),
        dtype=Dtype(_dtype(options, given)),
        how=weights + _how(model, packing),
        batch_size=_batch_size(options, given),
        seed=options["seed"],
        **changes,
    )


def _packing(options: Mapping[str, Any], model: Any) -> "Packing":
    from medusa_bench.decode.engine.packing import Packing, fastest

    if options["compiled"]:
        return Packing.NONE  # the compiler lays weights out itself
    return fastest(model) if options["packing"] == "best" else Packing[options["packing"].upper()]


def _dtype(options: Mapping[str, Any], given: Given) -> str:
    if given("dtype"):
        if options["dtype"] not in {"float32", "float16", "bfloat16"}:
            raise MedusaBenchError(
                f"Models are generated with in float32, float16 or bfloat16, "
                f"not {options['dtype']}."
            )
        return str(options["dtype"])
    return "float32" if options["device"] == "cpu" else "float16"


def _batch_size(options: Mapping[str, Any], given: Given) -> int:
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


def _sampling(options: Mapping[str, Any]) -> Any:
    if not options["temperature"]:
        return None
    import torch

    from medusa_bench.decode.engine.rules import Rejection

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

    from medusa_bench.measure import nvml as gpu

    nvml, _ = gpu.load_nvml()
    found = gpu.find(nvml, str(torch.cuda.get_device_properties(device).uuid)) if nvml else None
    return found.energy_j if found else lambda: None


def _how(model: "DecoderModel", packing: "Packing") -> str:
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
