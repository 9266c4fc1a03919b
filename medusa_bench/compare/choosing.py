"""Which methods to simulate, at which sizes, with which draft and which acceptance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.compare import acceptance, methods, published_acceptance
from medusa_bench.compare.acceptance import AcceptanceModel, Constant
from medusa_bench.compare.comparisons import Comparison
from medusa_bench.compare.methods import ALIASES, METHODS, USUAL, Asked
from medusa_bench.compare.passes import Kind, Shape
from medusa_bench.compare.published_acceptance import PublishedAcceptance
from medusa_bench.compare.serving import NO_ENGINE, engine_of
from medusa_bench.compare.simulation import Variant
from medusa_bench.specs import models
from medusa_bench.specs.operators import find, num_weights
from medusa_bench.specs.paper_grid import PAPER_NUM_CANDIDATES
from medusa_bench.specs.shapes import ModelShape

# Of ln(tokens a step), where the acceptance of another family or data set stands for this one's.
_HALF_WIDTH_OF_AN_ASSUMPTION = 0.45
_DEFAULT_METHODS = ("medusa", "draft-model")


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be compared.

    methods: none for the usual ones. drafts: none for the family's. acceptance: as on the command
    line. asked: sizes and drafters. task, temperature: of the published acceptance to look for.
    engine: that is to serve, "" for any. papers: the paper's sizes and its own acceptance first.
    solve: what acceptance must be is asked, so none is needed.
    """

    methods: Sequence[str] = ()
    drafts: Sequence[str] = ()
    acceptance: Sequence[str] = ()
    asked: Asked = USUAL
    task: str = ""
    temperature: str = ""
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


# A draft that is hardly smaller than its target saves nothing.
_MUCH_SMALLER = 2


def default_draft(target: ModelShape) -> ModelShape | None:
    """The smallest preset of the target's family and vocabulary, or None where there is none."""
    family = published_acceptance.family_of(target.name)
    fitting = [
        shape
        for shape in models.PRESETS.values()
        if shape.vocab_size == target.vocab_size
        and published_acceptance.family_of(shape.name) == family
        and _MUCH_SMALLER * _block_weights(shape) < _block_weights(target)
    ]
    return min(fitting, key=_block_weights, default=None)


def _block_weights(shape: ModelShape) -> int:
    return num_weights(shape) - find("lm_head").num_weights(shape)


def variants(request: Request, target: ModelShape) -> list[Variant]:
    """The methods at every size asked for, each with its acceptance.

    Raises MedusaBenchError: an unknown method, no draft of the target's vocabulary, or no
    acceptance known near it.
    """
    drafts = _drafts(request, target)
    names = names_of(request, target)
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


def names_of(request: Request, target: ModelShape) -> Sequence[str]:
    """The methods asked for, by their names in the table. Raises UnknownNameError."""
    usual = [name for name in _DEFAULT_METHODS if name == "medusa" or _drafts(request, target)]
    return list(dict.fromkeys(map(methods.find, request.methods))) or usual


def schedulable(method: str, asked: Asked) -> Asked:
    """The same with 1 to 15 drafted tokens, unless it says which; so many nodes of heads' trees."""
    lengths = asked.draft_len or range(1, 16)
    if "draft_len" in METHODS[methods.find(method)].options:
        return replace(asked, draft_len=lengths)
    return replace(asked, draft_len=None, num_candidates=[length + 1 for length in lengths])


def without_effect(request: Request, target: ModelShape) -> list[str]:
    """What is asked for and acts on none of the methods: fields of Asked, or "draft"."""
    rows = [METHODS[name] for name in names_of(request, target)]
    acting = frozenset().union(*(row.options for row in rows))
    if any(row.uses_draft_model for row in rows):
        acting |= {"draft"}
    given = {each.name for each in fields(Asked) if getattr(request.asked, each.name) is not None}
    return sorted((given | ({"draft"} if request.drafts else set())) - acting)


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
    chains = bool(_only_chains(request, target))
    offered = methods.shapes(name, request.asked, chains=chains)
    chosen = _acceptance_of(name, offered[0].kind, request, target, draft, given=given)
    unfit = _unfit(name, offered[0].kind, request, target, draft)
    return [
        Variant(
            methods.make(name, shape, target, draft, request.asked),
            chosen.model,
            chosen.half_width,
            unfit,
        )
        for shape in _within(offered, name, request, chosen)
    ]


def _unfit(name: str, kind: Kind, request: Request, target: ModelShape, draft: ModelShape) -> str:
    """Why the method is no choice here, in words; "" where nothing speaks against it."""
    row = METHODS[name]
    if row.uses_draft_model and draft.vocab_size != target.vocab_size:
        return (
            f"{draft.name} has a vocabulary of {draft.vocab_size} tokens, {target.name} of "
            f"{target.vocab_size}"
        )
    if row.needs_mtp_layers and published_acceptance.family_of(target.name) not in _WITH_MTP_LAYERS:
        return f"{target.name} has no layers for it"
    if kind is Kind.TREE and target.recurrence:
        return _only_chains(request, target)
    if name == "vanilla" or request.engine == NO_ENGINE.name:
        return ""
    return _unserved(name, request, target, kind)


def _unserved(name: str, request: Request, target: ModelShape, kind: Kind) -> str:
    engine, served_by = engine_of(request.engine), METHODS[name].engines
    if not served_by:
        return "no serving engine has it"
    if engine and engine not in served_by:
        return f"{engine} does not serve it; {', '.join(served_by)} can"
    return _only_chains(request, target) if kind is Kind.TREE else ""


_WITH_MTP_LAYERS = {"deepseek", "qwen3.5", "minimax"}


# Engines that verify no tree.
_CHAINS_ALONE = {"vllm", "llama.cpp"}


def _only_chains(request: Request, target: ModelShape) -> str:
    """Why trees cannot be verified, in words; "" where they can."""
    engine = engine_of(request.engine)
    if target.recurrence:  # a tree would need a state for each node, from its parent's
        return f"{target.name} has layers with a state, along which chains alone are verified"
    if engine in _CHAINS_ALONE:
        return f"{engine} serves it as a chain alone"
    # Its dynamic trees leave these out. Source: TensorRT-LLM, pull request 13081.
    if engine == "tensorrt-llm" and (target.latent or target.window):
        return f"{engine} verifies no trees of models with windows or latent attention"
    return ""


def _within(
    offered: Sequence[Shape], name: str, request: Request, chosen: _Chosen
) -> Sequence[Shape]:
    """Of the usual shapes those at which the acceptance is known; all that were asked for."""
    if request.papers and name == "medusa" and not request.asked.num_candidates:
        asked = replace(request.asked, num_candidates=PAPER_NUM_CANDIDATES)
        return methods.shapes(name, asked)
    if methods.is_sized(name, request.asked):
        return offered
    largest = max(chosen.sizes, default=0)
    return [shape for shape in offered if shape.num_candidates <= largest] or offered


def _acceptance_by_name(
    texts: Sequence[str], drafts: Sequence[ModelShape]
) -> dict[str, AcceptanceModel]:
    names = {*METHODS, *ALIASES, *(shape.name for shape in drafts)}
    chosen = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        named = equals and name in names
        chosen[ALIASES.get(name, name) if named else ""] = acceptance.parse(spec if named else text)
    return chosen


def _acceptance_of(
    name: str,
    kind: Kind,
    request: Request,
    target: ModelShape,
    draft: ModelShape,
    *,
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
    if published := _published(name, kind, request, target, draft):
        sizes = tuple(count for count, _ in published.rates)
        return _Chosen(published, published.half_width, sizes)
    usual_kind = next(iter(METHODS[name].shapes))
    if assumed and not request.task and kind is usual_kind:
        return _Chosen(assumed, _HALF_WIDTH_OF_AN_ASSUMPTION)
    of_task = f" for {request.task}" if request.task else ""
    raise MedusaBenchError(
        f"No acceptance of {name} with {target.name}{of_task} is known here.",
        hint=f"give it, as measured or published: --acceptance {name}=tokens:N; or ask what it "
        "must be: --solve acceptance.",
    )


def _published(
    name: str, kind: Kind, request: Request, target: ModelShape, draft: ModelShape
) -> PublishedAcceptance | None:
    """Of a draft model only for the draft that is usual for this target."""
    usual = default_draft(target)
    if METHODS[name].uses_draft_model and not (usual and usual.name == draft.name == "llama-68m"):
        return None
    shape = kind if len(METHODS[name].shapes) > 1 else ""
    return published_acceptance.find(
        name,
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
