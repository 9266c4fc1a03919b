"""A model, its heads, drafts and prompts, as a request names them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.compare import trees
from medusa_bench.decode.engine import attention, loading
from medusa_bench.decode.engine.engine import Engine
from medusa_bench.decode.engine.model import DecoderModel
from medusa_bench.decode.engine.packing import Packing, fastest, pack
from medusa_bench.decode.engine.random_weights import random_model
from medusa_bench.decode.engine.rules import AcceptanceRule, Rejection
from medusa_bench.decode.heads import adapters, files
from medusa_bench.decode.heads.heads import MedusaHeads
from medusa_bench.decode.study import prompts
from medusa_bench.decode.study.request import ACCURACY_NAME, Request
from medusa_bench.decode.study.rounds import Question
from medusa_bench.decode.study.study import GenerationStudy, Rates
from medusa_bench.measure import nvml as gpu
from medusa_bench.measure.host import cpu_name
from medusa_bench.specs import configs, models
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.shapes import ModelShape


@dataclass(frozen=True, slots=True)
class Loaded:
    """A study, and what takes part in it beside its own model."""

    study: GenerationStudy
    packing: Packing
    heads: MedusaHeads | None = None
    rates: Rates | None = None
    drafts: Mapping[str, DecoderModel] = field(default_factory=dict)
    self_draft: DecoderModel | None = None
    notes: tuple[str, ...] = ()  # in words, what a reader of the numbers should know

    @property
    def model(self) -> DecoderModel:
        return self.study.engine.model

    @property
    def rate_source(self) -> str:
        return f"expected from {self.rates.name}" if self.rates else ""


def load(request: Request) -> Loaded:
    """The model with all that was asked for beside it. Raises MedusaBenchError."""
    attention.register()
    load_as: dict[str, Any] = {
        "dtype": getattr(torch, _dtype(request)),
        "device": request.device,
        "attention": request.attention_name,
        "offline": request.offline,
    }
    model, tokenizer = loading.load(request.model, **load_as)
    if request.adapter is not None:
        model = adapters.merged(adapters.load(request.adapter, model))
    heads = files.load(request.heads, model) if request.heads else None
    packing = _packing(request, model)
    pack(model, packing)
    if heads is not None:
        pack(heads, packing)
    drafts = {}
    for name in request.drafts:
        draft, draft_tokenizer = loading.load(name, **load_as)
        if draft_tokenizer.get_vocab() != tokenizer.get_vocab():
            raise MedusaBenchError(
                f"{name} has another tokenizer than {request.model}.",
                hint="a draft must speak the target's tokens.",
            )
        pack(draft, packing)
        drafts[Path(name).name] = DecoderModel(draft, compiled=request.compiled)
    decoder = DecoderModel(model, compiled=request.compiled)
    self_draft = None
    if request.self_draft:
        self_draft = DecoderModel(model, num_layers=request.self_draft, compiled=request.compiled)
    path = request.prompts or prompts.OWN
    chosen = prompts.spread(prompts.read(path), request.num_prompts)
    questions = [
        Question(tuple(prompts.first_turn_ids(tokenizer, one)), one.category) for one in chosen
    ]
    config = model.config.get_text_config()
    study = _study(
        request,
        model=decoder,
        packing=packing,
        shape=configs.from_config(
            config.to_dict(), name=Path(request.model).stem, where=request.model
        ),
        questions=questions,
        text=f"{len(questions)} prompts of {path.name}",
        max_new_tokens=request.max_new_tokens,
        eos_token_ids=loading.eos_ids(model),
        rule=_sampling(request),
        energy_j=_energy(request.device),
    )
    rates = _rates(request) if heads is not None else None
    return Loaded(study, packing, heads, rates, drafts, self_draft, heads.notes if heads else ())


def _rates(request: Request) -> Rates | None:
    """The accuracies asked for, or those that `train` wrote beside the heads."""
    assert request.heads is not None
    file = Path(request.heads)
    beside = (file if file.is_dir() else file.parent) / ACCURACY_NAME
    if request.accuracy or beside.is_file():
        return trees.load_accuracy(request.accuracy or str(beside))
    return None


def load_random(request: Request, *, num_steps: int, room: int) -> Loaded:
    """A model of the shape that `request.model` names, with random weights.

    Its prompt is such that request.seq_len tokens are cached in the middle of num_steps steps, with
    room for more. Raises MedusaBenchError.
    """
    attention.register()
    shape = models.as_measured(models.load(request.model))  # as it is run: nothing is quantised
    model = random_model(
        shape,
        dtype=getattr(torch, _dtype(request)),
        device=request.device,
        attention=request.attention_name,
        seed=request.seed,
        context_limit=request.seq_len + num_steps + room,
    )
    packing = _packing(request, model)
    pack(model, packing)
    prompt_len = max(1, request.seq_len - num_steps // 2)
    study = _study(
        request,
        model=DecoderModel(model, compiled=request.compiled),
        packing=packing,
        shape=shape,
        questions=[Question(tuple(index % shape.vocab_size for index in range(prompt_len)))],
        text="none",
        max_new_tokens=num_steps,
        weights="random weights, ",
    )
    return Loaded(study, packing)


def _study(
    request: Request,
    *,
    model: DecoderModel,
    packing: Packing,
    shape: ModelShape,
    weights: str = "",
    **changes: Any,
) -> GenerationStudy:
    return GenerationStudy(
        engine=Engine(model),
        shape=shape,
        device=_device_name(request.device),
        dtype=request.torch_dtype,
        how=weights + _how(model, packing),
        batch_size=request.batch_size,
        seed=request.seed,
        **changes,
    )


def _packing(request: Request, model: Any) -> Packing:
    if request.compiled:
        return Packing.NONE  # the compiler lays weights out itself
    return fastest(model) if request.packing == "best" else Packing[request.packing.upper()]


def _dtype(request: Request) -> str:
    if request.torch_dtype not in {Dtype.FLOAT32, Dtype.FLOAT16, Dtype.BFLOAT16}:
        raise MedusaBenchError(
            f"Models are generated with in float32, float16 or bfloat16, not {request.torch_dtype}."
        )
    return str(request.torch_dtype)


def _sampling(request: Request) -> Callable[[], AcceptanceRule] | None:
    if not request.temperature:
        return None
    generator = torch.Generator(request.device).manual_seed(request.seed)
    return lambda: Rejection(request.temperature, generator)


def _device_name(device: str) -> str:
    if device == "cpu":
        return cpu_name()
    return torch.cuda.get_device_name(device)


def _energy(device: str) -> Callable[[], float | None]:
    if device == "cpu":
        return lambda: None
    nvml, _ = gpu.load_nvml()
    found = gpu.find(nvml, str(torch.cuda.get_device_properties(device).uuid)) if nvml else None
    return found.energy_j if found else lambda: None


def _how(model: DecoderModel, packing: Packing) -> str:
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
