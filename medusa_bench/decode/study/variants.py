"""What is timed before generating, the speedups that this predicts, and who takes part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.compare import trees
from medusa_bench.compare.named import latency_models
from medusa_bench.compare.trees import expected_tokens, grow
from medusa_bench.decode.engine.packing import Packing
from medusa_bench.decode.engine.rules import Typical
from medusa_bench.decode.methods.lookup import Lookup
from medusa_bench.decode.methods.medusa import Medusa
from medusa_bench.decode.methods.self_speculative import SelfSpeculative
from medusa_bench.decode.methods.speculative import Speculative
from medusa_bench.decode.methods.vanilla import Vanilla
from medusa_bench.decode.study.operator_times import ModelTimes, SweptProducts
from medusa_bench.decode.study.overheads import OverheadRow, time_overheads
from medusa_bench.decode.study.request import OVERHEAD_COUNTS, Request
from medusa_bench.decode.study.rounds import GeneratedVariant
from medusa_bench.decode.study.setup import Loaded
from medusa_bench.decode.study.study import ExpectedStep, HeadsTimes, draft_times, predict_speedups

_EXPECTED_COUNTS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Timings:
    """What was timed before any text was generated."""

    times: ModelTimes
    heads: HeadsTimes | None
    drafts: Mapping[str, ModelTimes]
    self_draft: ModelTimes | None
    overheads: list[OverheadRow]

    @property
    def heads_s(self) -> float:
        return self.heads.latency_s if self.heads else 0.0


def time_operators(
    loaded: Loaded, request: Request, advance: Callable[[float], None]
) -> tuple[Timings, tuple[str, ...]]:
    """Time the operators, heads and drafts alone, and steps that verify arbitrary tokens.

    With them notes, in words. Raises MedusaBenchError.
    """
    study, notes = loaded.study, []
    swept = None
    if request.swept_on:
        swept = SweptProducts(latency_models((request.swept_on,))[0], study.dtype)
        if loaded.packing is not Packing.NONE:
            notes.append(
                f"{swept.name} is of plain products, but weights are packed here "
                f"({loaded.packing}); with --packing none both are the same."
            )
    lens = request.draft_lens
    counts = {*_EXPECTED_COUNTS, *request.num_candidates, *(n + 1 for n in lens)}
    if request.lookup:
        counts |= set(range(1, max(lens) + 2))
    if request.tree:
        counts.add(trees.load_tree(request.tree).num_candidates)
    times = ModelTimes(
        loaded.model,
        study.shape,
        counts,
        study.batch_size,
        study.typical_seq_len(),
        swept=swept,
    )
    heads = HeadsTimes(loaded.heads, loaded.model, study.batch_size) if loaded.heads else None
    drafts = {name: draft_times(draft, times) for name, draft in loaded.drafts.items()}
    self_draft = draft_times(loaded.self_draft, times) if loaded.self_draft else None
    beside = [one for one in (heads, *drafts.values(), self_draft) if one]
    overheads = time_overheads(
        study,
        times,
        OVERHEAD_COUNTS,
        num_rounds=request.num_turns,
        beside=beside,
        advance=advance,
    )
    return Timings(times, heads, drafts, self_draft, overheads), tuple(notes)


def expected_steps(loaded: Loaded, timings: Timings) -> list[ExpectedStep]:
    """Medusa at each count: its overhead, and its speedup where accuracies are known."""

    return predict_speedups(timings.times, _EXPECTED_COUNTS, loaded.rates, heads_s=timings.heads_s)


@dataclass(slots=True)
class Variants:
    """Who takes part, vanilla first; by name, what proposing takes and the rates expected."""

    variants: list[GeneratedVariant] = field(default_factory=list)
    drafting_s: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)

    def add(self, variant: GeneratedVariant, drafting_s: float, rate: float | None = None) -> None:
        """One more, with what it takes to propose and the tokens per step expected of it."""
        self.variants.append(variant)
        self.drafting_s[variant.name] = drafting_s
        if rate is not None:
            self.rates[variant.name] = rate


def variants(
    loaded: Loaded,
    timings: Timings,
    foreseen: Sequence[ExpectedStep],
    request: Request,
) -> Variants:
    """Every method that the options name."""

    study = loaded.study
    found = Variants()
    found.add(study.variant(Vanilla()), 0.0)
    if not request.temperature:
        found.variants += [study.library(), *_assisted(loaded, request)]
    if loaded.heads is not None:
        _add_medusas(found, loaded, timings, foreseen, request)
    for draft_len in request.draft_lens:
        for name, draft in loaded.drafts.items():
            label = f"speculative, {name}, {draft_len}"
            pass_s = timings.drafts[name].simulated(1).latency_s
            variant = study.variant(Speculative(draft, draft_len), name=label, draft=name)
            found.add(variant, draft_len * pass_s)
        if loaded.self_draft and timings.self_draft:
            layers = request.self_draft
            variant = study.variant(
                SelfSpeculative(loaded.self_draft, draft_len),
                name=f"self-speculative, {layers} layers, {draft_len}",
                draft=f"its first {layers} layers",
            )
            found.add(variant, draft_len * timings.self_draft.simulated(1).latency_s)
        if request.lookup:
            found.add(study.variant(Lookup(draft_len), name=f"prompt lookup, {draft_len}"), 0.0)
    return found


def _assisted(loaded: Loaded, request: Request) -> list[GeneratedVariant]:
    """transformers' own drafting at the first draft length. It takes one text at a time, and
    chooses the cache of a compiled model itself."""
    study, draft_len = loaded.study, request.draft_lens[0]
    if study.batch_size > 1 or request.compiled:
        return []
    found = [study.assisted(draft_len, draft, name) for name, draft in loaded.drafts.items()]
    return [*found, study.assisted(draft_len)] if request.lookup else found


def _add_medusas(
    found: Variants,
    loaded: Loaded,
    timings: Timings,
    foreseen: Sequence[ExpectedStep],
    request: Request,
) -> None:
    """Medusa with the tree asked for, at the counts asked for, or at the best count foreseen."""

    assert loaded.heads is not None
    chosen = []
    if request.tree:
        chosen.append(trees.load_tree(request.tree))
    elif loaded.rates is None:
        raise MedusaBenchError(
            "No tree for the heads: no accuracies stand beside them to grow one from.",
            hint="give --tree, or --accuracy; `train` writes the accuracies of its heads.",
        )
    elif request.num_candidates:
        chosen += [grow(loaded.rates, count) for count in request.num_candidates]
    else:
        likely = max(
            (row for row in foreseen if row.num_candidates > 1), key=lambda row: row.speedup or 0
        )
        assert likely.tree is not None
        chosen.append(likely.tree)
    temperature = request.temperature
    for tree in chosen:
        variant = loaded.study.variant(
            Medusa(loaded.heads, tree.paths),
            name=f"medusa, {tree.num_candidates}" + (", typical (lossy)" if temperature else ""),
            rule=(lambda: Typical(temperature)) if temperature else None,
            lossless=not temperature,
        )
        found.add(
            variant,
            timings.heads_s if tree.num_candidates > 1 else 0.0,
            expected_tokens(tree, loaded.rates) if loaded.rates and not temperature else None,
        )
