"""What is timed before generating, what that foresees, and who takes part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.cli import console, simulation
from medusa_bench.cli.generation.loading import Loaded

if TYPE_CHECKING:
    from medusa_bench.compare.trees import CandidateTree
    from medusa_bench.decode.study.operator_times import ModelTimes
    from medusa_bench.decode.study.overheads import OverheadRow
    from medusa_bench.decode.study.rounds import Entrant
    from medusa_bench.decode.study.study import Foreseen, HeadsTimes

OVERHEAD_COUNTS = (1, 4, 8, 16, 32, 64)
_FORESEEN_COUNTS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64)
_DRAFT_LEN = (4,)
_TURNS = 10  # each number of candidates, in each of --rounds


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What was timed before any text was generated."""

    times: "ModelTimes"
    heads: "HeadsTimes | None"
    drafts: "Mapping[str, ModelTimes]"
    self_draft: "ModelTimes | None"
    overheads: "list[OverheadRow]"

    @property
    def heads_s(self) -> float:
        return self.heads.latency_s if self.heads else 0.0


def num_turns(options: Mapping[str, Any]) -> int:
    """How often `rehearse` times each number of candidates."""
    return int(options["rounds"]) * _TURNS


def rehearse(
    loaded: Loaded,
    options: Mapping[str, Any],
    swept_on: str | None,
    advance: Callable[[float], None],
) -> Rehearsal:
    """Time the operators, heads and drafts alone, and steps that verify arbitrary tokens.

    swept_on: the sweep or GPU whose latencies stand for the operators instead.
    """
    from medusa_bench.decode.engine.packing import Packing
    from medusa_bench.decode.study.operator_times import ModelTimes, SweptProducts
    from medusa_bench.decode.study.overheads import time_overheads
    from medusa_bench.decode.study.study import HeadsTimes, draft_times

    study = loaded.study
    swept = None
    if swept_on:
        swept = SweptProducts(simulation.latency_models((swept_on,))[0], study.dtype)
        if loaded.packing is not Packing.NONE:
            console.warn(
                f"{swept.name} is of plain products, but weights are packed here "
                f"({loaded.packing}); with --packing none both are the same."
            )
    lens = draft_lens(options)
    counts = {*_FORESEEN_COUNTS, *(options["num_candidates"] or ()), *(n + 1 for n in lens)}
    if options["lookup"]:
        counts |= set(range(1, max(lens) + 2))
    if options["tree_name"]:
        counts.add(_named_tree(options).num_candidates)
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
        num_rounds=num_turns(options),
        beside=beside,
        advance=advance,
    )
    return Rehearsal(times, heads, drafts, self_draft, overheads)


def foresee(loaded: Loaded, rehearsal: Rehearsal) -> "list[Foreseen]":
    """Medusa at each count: its overhead, and its speedup where accuracies are known."""
    from medusa_bench.decode.study import study

    return study.foresee(rehearsal.times, _FORESEEN_COUNTS, loaded.rates, heads_s=rehearsal.heads_s)


def draft_lens(options: Mapping[str, Any]) -> Sequence[int]:
    """The draft lengths asked for."""
    return options["draft_len"] or _DRAFT_LEN


def _named_tree(options: Mapping[str, Any]) -> "CandidateTree":
    from medusa_bench.compare import trees

    return trees.load_tree(options["tree_name"])


@dataclass(slots=True)
class Contest:
    """Who takes part, vanilla first; by name, what proposing takes and the rates expected."""

    entrants: "list[Entrant]" = field(default_factory=list)
    drafting_s: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)

    def add(self, entrant: "Entrant", drafting_s: float, rate: float | None = None) -> None:
        """One more, with what it takes to propose and the tokens per step expected of it."""
        self.entrants.append(entrant)
        self.drafting_s[entrant.name] = drafting_s
        if rate is not None:
            self.rates[entrant.name] = rate


def contest(
    loaded: Loaded,
    rehearsal: Rehearsal,
    foreseen: "Sequence[Foreseen]",
    options: Mapping[str, Any],
) -> Contest:
    """Every method that the options name."""
    from medusa_bench.decode.methods.lookup import Lookup
    from medusa_bench.decode.methods.self_speculative import SelfSpeculative
    from medusa_bench.decode.methods.speculative import Speculative
    from medusa_bench.decode.methods.vanilla import Vanilla

    study = loaded.study
    found = Contest()
    found.add(study.entrant(Vanilla()), 0.0)
    if not options["temperature"]:
        found.entrants.append(study.library())
    if loaded.heads is not None:
        _add_medusas(found, loaded, rehearsal, foreseen, options)
    for draft_len in draft_lens(options):
        for name, draft in loaded.drafts.items():
            label = f"speculative, {name}, {draft_len}"
            pass_s = rehearsal.drafts[name].simulated(1).latency_s
            entrant = study.entrant(Speculative(draft, draft_len), name=label, draft=name)
            found.add(entrant, draft_len * pass_s)
        if loaded.self_draft and rehearsal.self_draft:
            layers = options["self_draft"]
            entrant = study.entrant(
                SelfSpeculative(loaded.self_draft, draft_len),
                name=f"self-speculative, {layers} layers, {draft_len}",
                draft=f"its first {layers} layers",
            )
            found.add(entrant, draft_len * rehearsal.self_draft.simulated(1).latency_s)
        if options["lookup"]:
            found.add(study.entrant(Lookup(draft_len), name=f"prompt lookup, {draft_len}"), 0.0)
    return found


def _add_medusas(
    found: Contest,
    loaded: Loaded,
    rehearsal: Rehearsal,
    foreseen: "Sequence[Foreseen]",
    options: Mapping[str, Any],
) -> None:
    """Medusa with the tree asked for, at the counts asked for, or at the best count foreseen."""
    from medusa_bench.compare.trees import expected_tokens, grow
    from medusa_bench.decode.engine.rules import Typical
    from medusa_bench.decode.methods.medusa import Medusa

    assert loaded.heads is not None
    chosen = []
    if options["tree_name"]:
        chosen.append(_named_tree(options))
    elif loaded.rates is None:
        raise MedusaBenchError(
            "No tree for the heads: no accuracies stand beside them to grow one from.",
            hint="give --tree, or --accuracy; `train` writes the accuracies of its heads.",
        )
    elif options["num_candidates"]:
        chosen += [grow(loaded.rates, count) for count in options["num_candidates"]]
    else:
        likely = max(
            (row for row in foreseen if row.num_candidates > 1), key=lambda row: row.speedup or 0
        )
        assert likely.tree is not None
        chosen.append(likely.tree)
    temperature = options["temperature"]
    for tree in chosen:
        entrant = loaded.study.entrant(
            Medusa(loaded.heads, tree.paths),
            name=f"medusa, {tree.num_candidates}" + (", typical (lossy)" if temperature else ""),
            rule=(lambda: Typical(temperature)) if temperature else None,
            lossless=not temperature,
        )
        found.add(
            entrant,
            rehearsal.heads_s if tree.num_candidates > 1 else 0.0,
            expected_tokens(tree, loaded.rates) if loaded.rates and not temperature else None,
        )
