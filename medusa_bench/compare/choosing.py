"""Which methods to simulate, at which sizes, with which draft and which acceptance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from medusa_bench.base.errors import MedusaBenchError, UnknownNameError
from medusa_bench.compare import acceptance, methods, published_acceptance
from medusa_bench.compare.acceptance import AcceptanceModel, Constant
from medusa_bench.compare.comparisons import Comparison
from medusa_bench.compare.methods import METHODS, Method
from medusa_bench.compare.published_acceptance import PublishedAcceptance
from medusa_bench.compare.serving import NO_ENGINE, engine_of
from medusa_bench.compare.simulation import Variant
from medusa_bench.specs import models
from medusa_bench.specs.models import ModelShape
from medusa_bench.specs.paper_grid import PAPER_NUM_CANDIDATES

# Of ln(tokens a step), where the acceptance of another family or data set stands for this one's.
_HALF_WIDTH_OF_AN_ASSUMPTION = 0.45
_DEFAULT_METHODS = ("medusa", "draft-model")


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be compared.

    methods: none for the usual ones. drafts: none for the family's. acceptance: as on the command
    line. task, temperature: of the published acceptance to look for. engine: that is to serve,
    "" for any. papers: the paper's sizes and
    its own acceptance first. solve: what acceptance must be is asked, so none is needed.
    """

    methods: Sequence[str] = ()
    drafts: Sequence[str] = ()
    acceptance: Sequence[str] = ()
    num_candidates: Sequence[int] | None = None
    draft_len: Sequence[int] | None = None
    task: str = ""
    temperature: str = ""
    heads: bool = False
    engine: str = NO_ENGINE.name
    papers: bool = False
    solve: bool = False


@dataclass(frozen=True, slots=True)
class _Chosen:
    """An acceptance model, the half width of its 90 % interval where it is an estimate (of
    ln(tokens a step)), and the sizes it is known at, where those are few."""

    model: AcceptanceModel
    half_width: float = 0.0
    sizes: tuple[int, ...] = ()


def default_draft(target: ModelShape) -> ModelShape | None:
    """The smallest preset of the target's family and vocabulary, or None where there is none."""
    family = published_acceptance.family_of(target.name)
    fitting = [
        shape
        for shape in models.PRESETS.values()
        if shape.vocab_size == target.vocab_size
        and published_acceptance.family_of(shape.name) == family
        and _block_weights(shape) < _block_weights(target)
    ]
    return min(fitting, key=_block_weights, default=None)


def _block_weights(shape: ModelShape) -> int:
    return shape.num_layers * shape.hidden_size * (shape.hidden_size + 3 * shape.intermediate_size)


def variants(request: Request, target: ModelShape) -> list[Variant]:
    """The methods at every size asked for, each with its acceptance.

    Raises MedusaBenchError: an unknown method, no draft of the target's vocabulary, or no
    acceptance known near it.
    """
    for name in request.methods:
        if name not in METHODS:
            raise UnknownNameError("method", name, METHODS)
    drafts = _drafts(request, target)
    names = request.methods or [name for name in _DEFAULT_METHODS if drafts or name == "medusa"]
    given = _acceptance_by_name(request.acceptance, drafts)
    found = []
    for name in names:
        if METHODS[name].uses_draft_model and not drafts:
            raise MedusaBenchError(
                f"No draft model is known with the vocabulary of {target.name}.",
                hint="name one with --draft: a preset, or the folder of its config.json.",
            )
        for draft in drafts if METHODS[name].uses_draft_model else [target]:
            found += _sized(name, request, target, draft, given)
    return found


def _drafts(request: Request, target: ModelShape) -> list[ModelShape]:
    if request.drafts:
        return [models.load(name) for name in request.drafts]
    usual = default_draft(target)
    return [usual] if usual else []


def _sized(
    name: str,
    request: Request,
    target: ModelShape,
    draft: ModelShape,
    given: Mapping[str, AcceptanceModel],
) -> list[Variant]:
    chosen = _acceptance_of(name, request, target, draft, given)
    made = []
    for size in _sizes(name, request, chosen):
        method = _method(name, request, target, draft, size)
        unfit = _unfit(name, request, target, draft)
        made.append(Variant(method, chosen.model, chosen.half_width, unfit))
    return made


def _unfit(name: str, request: Request, target: ModelShape, draft: ModelShape) -> str:
    """Why the method is no choice here, in words; "" where nothing speaks against it."""
    row = METHODS[name]
    if row.uses_draft_model and draft.vocab_size != target.vocab_size:
        return (
            f"{draft.name} has a vocabulary of {draft.vocab_size} tokens, {target.name} of "
            f"{target.vocab_size}"
        )
    if name == "mtp" and published_acceptance.family_of(target.name) not in _WITH_MTP_LAYERS:
        return f"{target.name} has no layers for it"
    if name == "vanilla" or request.engine == NO_ENGINE.name:
        return ""
    return _unserved(name, engine_of(request.engine), chain=_is_chain(name, request))


def _unserved(name: str, engine: str, *, chain: bool) -> str:
    served_by = METHODS[name].served_by
    if not served_by:
        return "no serving engine has it"
    if engine and engine not in served_by:
        return f"{engine} does not serve it; {', '.join(served_by)} can"
    tree_in_vllm = engine == "vllm" and name.startswith("eagle-") and not chain
    return "vllm serves it as a chain alone" if tree_in_vllm else ""


_WITH_MTP_LAYERS = {"deepseek", "qwen3.5", "minimax"}


def _is_chain(name: str, request: Request) -> bool:
    """Whether the drafted tokens are what sizes count: of EAGLE where a draft length is given, and
    in vLLM, which has it as a chain alone."""
    vllm = engine_of(request.engine) == "vllm" and not request.num_candidates
    eagle = name.startswith("eagle-") and (bool(request.draft_len) or vllm)
    return METHODS[name].size_is_draft_len or eagle


def _method(
    name: str, request: Request, target: ModelShape, draft: ModelShape, size: int
) -> Method:
    if name.startswith("eagle-") and _is_chain(name, request):
        return methods.eagle_chain(target, size, name)
    method = METHODS[name].make(target, draft, size)
    return replace(method, medusa_heads=request.heads) if name == "medusa" else method


def _sizes(name: str, request: Request, chosen: _Chosen) -> Sequence[int]:
    """The sizes asked for; else the usual ones at which the acceptance is known."""
    if name == "vanilla":
        return (1,)
    chain = _is_chain(name, request)
    if asked := request.draft_len if chain else request.num_candidates:
        return asked
    if request.papers and name == "medusa":
        return PAPER_NUM_CANDIDATES
    usual = METHODS["draft-model" if chain and name.startswith("eagle-") else name].sizes
    largest = max(chosen.sizes, default=0) - chain
    return [size for size in usual if size <= largest] or usual if largest > 0 else usual


def _acceptance_by_name(
    texts: Sequence[str], drafts: Sequence[ModelShape]
) -> dict[str, AcceptanceModel]:
    names = {*METHODS, *(shape.name for shape in drafts)}
    chosen = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        named = equals and name in names
        chosen[name if named else ""] = acceptance.parse(spec if named else text)
    return chosen


def _acceptance_of(
    name: str,
    request: Request,
    target: ModelShape,
    draft: ModelShape,
    given: Mapping[str, AcceptanceModel],
) -> _Chosen:
    """What is given; else what is published of the family; else what is assumed of any."""
    if name == "vanilla" or request.solve:
        return _Chosen(Constant(1.0))
    keys = (draft.name, name, "") if METHODS[name].uses_draft_model else (name, "")
    if model := next((given[key] for key in keys if key in given), None):
        return _Chosen(model)
    assumed = METHODS[name].acceptance
    if request.papers and assumed and not request.task:
        return _Chosen(assumed)
    if published := _published(name, request, target, draft):
        sizes = tuple(count for count, _ in published.rates)
        return _Chosen(published, published.half_width, sizes)
    if assumed and not request.task:
        return _Chosen(assumed, _HALF_WIDTH_OF_AN_ASSUMPTION)
    of_task = f" for {request.task}" if request.task else ""
    raise MedusaBenchError(
        f"No acceptance of {name} with {target.name}{of_task} is known here.",
        hint=f"give it, as measured or published: --acceptance {name}=tokens:N; or ask what it "
        "must be: --solve acceptance.",
    )


_PUBLISHED_AS = {"block-diffusion": "dflash"}


def _published(
    name: str, request: Request, target: ModelShape, draft: ModelShape
) -> PublishedAcceptance | None:
    """Of a draft model only for the draft that is usual for this target."""
    usual = default_draft(target)
    if METHODS[name].uses_draft_model and not (usual and usual.name == draft.name == "llama-68m"):
        return None
    shape = ("chain" if _is_chain(name, request) else "tree") if name.startswith("eagle-") else ""
    return published_acceptance.find(
        _PUBLISHED_AS.get(name, name),
        target.name,
        shape=shape,
        task=request.task,
        temperature=request.temperature,
    )


def implied(chosen: Sequence[Variant], rows: Sequence[Comparison], speedup: float) -> list[Variant]:
    """The same methods with the acceptance that a reported speedup takes.

    rows: of each of them, where the speedup was reported. Tokens a step = speedup x overhead.
    Raises MedusaBenchError where it takes more than every token accepted.
    """
    found = []
    for variant, row in zip(chosen, rows, strict=True):
        rate, count = speedup * row.overhead, variant.method.num_candidates
        if count > 1 and rate > count:
            raise MedusaBenchError(
                f"A speedup of {speedup:g} takes {rate:.2f} tokens a step of {row.method}, more "
                f"than the {count} that are verified.",
                hint="give the size it was reported at with -q or --draft-len.",
            )
        where = f"batch size {row.batch_size} on {row.device}"
        note = f", as a reported speedup of {speedup:g} at {where} takes"
        found.append(replace(variant, acceptance=Constant(max(rate, 1.0), note)))
    return found
