"""Two running servers side by side, and what the simulation says of the faster one's method.

    time per token   = sum of (last token - first token) / sum of (tokens - 1), over requests
    tokens a step    = those tokens / (those tokens - accepted drafted tokens)
    overhead         = time per token x tokens a step / vanilla time per token
    speedup          = vanilla time per token / time per token = tokens a step / overhead

A step brings one token of its own beside what was accepted, whether it drafted or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from statistics import median
from typing import Any

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.compare import methods
from medusa_bench.compare.acceptance import Constant
from medusa_bench.compare.comparisons import Comparison
from medusa_bench.compare.methods import Asked
from medusa_bench.compare.passes import Block as Counted
from medusa_bench.compare.passes import Kind
from medusa_bench.compare.serving import EngineCost
from medusa_bench.compare.simulation import Variant, simulate
from medusa_bench.predict.latency import LatencyModel
from medusa_bench.results.rows import Provenance
from medusa_bench.results.served import Block, Counters, Role, Server
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.shapes import ModelShape

CONTENDED = 0.2  # of a processor, by others before a block: more is said


@dataclass(frozen=True, slots=True)
class Load:
    """All rounds of one server at one concurrency."""

    server: Server
    concurrency: int
    blocks: tuple[Block, ...]

    @property
    def num_tokens(self) -> int:
        return sum(answer.tokens for block in self.blocks for answer in block.answers)

    @property
    def num_requests(self) -> int:
        return sum(len(block.answers) for block in self.blocks)

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of all requests over the time of the rounds, prefill included."""
        return self.num_tokens / sum(block.elapsed_s for block in self.blocks)

    @property
    def time_per_token_s(self) -> float:
        """Of one request, after its first token."""
        return _time_per_token_s(self.blocks)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the most time per token of a round."""
        by_round_s = [_time_per_token_s([block]) for block in self.blocks]
        return min(by_round_s), max(by_round_s)

    @property
    def time_to_first_token_s(self) -> float:
        """The median over requests."""
        return median(each.first_token_s for block in self.blocks for each in block.answers)

    @property
    def seq_len(self) -> int:
        """Cached tokens in the middle of an answer, on average."""
        answers = [each for block in self.blocks for each in block.answers]
        return round(sum(each.prompt_tokens + each.tokens / 2 for each in answers) / len(answers))

    @property
    def cached_share(self) -> float:
        """Of the prompts' tokens, those a server had kept from earlier requests."""
        answers = [each for block in self.blocks for each in block.answers]
        total = sum(each.prompt_tokens for each in answers)
        return sum(each.cached_tokens for each in answers) / total if total else 0.0

    @property
    def acceptance(self) -> Counters | None:
        """Summed over the rounds; None where a round tells nothing."""
        counted = [block.acceptance for block in self.blocks]
        known = [each for each in counted if each is not None]
        if len(known) < len(counted):
            return None
        drafts = [each.drafts for each in known]
        return Counters(
            None if None in drafts else sum(each or 0 for each in drafts),
            sum(each.drafted for each in known),
            sum(each.accepted for each in known),
            tuple(map(sum, zip_longest(*(each.by_position for each in known), fillvalue=0))),
        )

    @property
    def tokens_a_step(self) -> float | None:
        """1 of a vanilla server; None where nothing tells."""
        if self.server.role is Role.VANILLA:
            return 1.0
        counted = self.acceptance
        tokens = self.num_tokens - self.num_requests
        if counted is None or counted.accepted >= tokens:
            return None
        return tokens / (tokens - counted.accepted)

    @property
    def drafting_share(self) -> float | None:
        """Of the steps, those that verified drafted tokens."""
        counted = self.acceptance
        tokens = self.num_tokens - self.num_requests
        if counted is None or counted.drafts is None or counted.accepted >= tokens:
            return None
        return min(1.0, counted.drafts / (tokens - counted.accepted))

    @property
    def draft_len(self) -> int | None:
        """Drafted tokens of a draft, on average."""
        counted = self.acceptance
        if counted is None or not counted.drafts:
            return None
        return max(1, round(counted.drafted / counted.drafts))

    @property
    def busy_share(self) -> float:
        """Of the processors before a block, by others: the median over the blocks."""
        known = [block.busy_share for block in self.blocks if block.busy_share is not None]
        return median(known) if known else 0.0

    @property
    def refusals(self) -> list[str]:
        return [each.reason for block in self.blocks for each in block.refusals]


def _time_per_token_s(blocks: Sequence[Block]) -> float:
    answers = [each for block in blocks for each in block.answers if each.tokens > 1]
    tokens = sum(each.tokens - 1 for each in answers)
    if not tokens or not (seconds := sum(each.decode_s for each in answers)):
        raise MedusaBenchError(
            "The answers hold one token each, so that there is no time between tokens.",
            hint="ask for more with --max-new-tokens, and --ignore-eos.",
        )
    return seconds / tokens


def loads(blocks: Sequence[Block]) -> list[Load]:
    """Blocks by server and concurrency, vanilla first."""
    groups: dict[tuple[Server, int], list[Block]] = {}
    for block in blocks:
        if block.answers:
            groups.setdefault((block.server, block.concurrency), []).append(block)
    found = [
        Load(server, count, tuple(sorted(own, key=lambda block: block.round_index)))
        for (server, count), own in groups.items()
    ]
    return sorted(found, key=lambda each: (each.server.role is not Role.VANILLA, each.concurrency))


@dataclass(frozen=True, slots=True)
class Pair:
    """A speculating server beside the vanilla one at one concurrency, both in the same rounds."""

    speculating: Load
    vanilla: Load

    @property
    def speedup(self) -> float:
        return self.vanilla.time_per_token_s / self.speculating.time_per_token_s

    @property
    def speedups(self) -> list[float]:
        """By round."""
        both = zip(self.vanilla.blocks, self.speculating.blocks, strict=True)
        return [_time_per_token_s([base]) / _time_per_token_s([block]) for base, block in both]

    @property
    def overhead(self) -> float | None:
        """A step of the one over a step of the other; None where tokens a step are unknown."""
        rate = self.speculating.tokens_a_step
        return None if rate is None else rate / self.speedup


def pairs(found: Sequence[Load]) -> list[Pair]:
    """Each speculating server beside the vanilla one, in the rounds that both were measured in.

    A run that was stopped has measured some rounds of one server alone: a round is as the machine
    was, and what no round holds against another is no speedup.
    """
    base: Mapping[int, Load] = {
        each.concurrency: each for each in found if each.server.role is Role.VANILLA
    }
    matched = [
        Pair(
            _in_rounds_of(each, base[each.concurrency]), _in_rounds_of(base[each.concurrency], each)
        )
        for each in found
        if each.server.role is Role.SPECULATING and each.concurrency in base
    ]
    return [pair for pair in matched if pair.vanilla.blocks]


def _in_rounds_of(load: Load, other: Load) -> Load:
    rounds = {block.round_index for block in other.blocks}
    kept = tuple(block for block in load.blocks if block.round_index in rounds)
    return replace(load, blocks=kept)


def simulated(
    pair: Pair,
    method: str,
    target: ModelShape,
    draft: ModelShape,
    *,
    latency: LatencyModel,
    dtype: Dtype,
    engine: EngineCost,
    draft_len: int | None = None,
) -> Comparison:
    """The same method at the same concurrency, with the tokens a step that were served.

    Raises MedusaBenchError where those, or the draft's length, are unknown.
    """
    load = pair.speculating
    rate, length = load.tokens_a_step, draft_len or load.draft_len
    if rate is None or length is None:
        what = "tokens a step are" if rate is None else "the length of a draft is"
        raise MedusaBenchError(
            f"{load.server.label} does not tell how much it accepted, so that {what} unknown.",
            hint="have it serve /metrics (llama.cpp: --metrics), or give --draft-len.",
        )
    name = methods.find(method)
    row = methods.METHODS[name]
    sized = Asked(draft_len=(length,))
    if Kind.CHAIN not in row.shapes:
        sized = Asked(num_candidates=(length + 1,))
    if row.looks_up:
        sized = replace(sized, drafting_share=load.drafting_share)
    shape = methods.shapes(name, sized)[-1]
    variant = Variant(
        methods.make(name, shape, target, draft, sized), Constant(rate, ", as served")
    )
    (found,) = simulate(
        [variant],
        target,
        latency,
        dtype,
        [(load.concurrency, load.seq_len)],
        engine=engine,
        block=Counted.FULL,
    )
    return found


def as_dict(load: Load) -> dict[str, Any]:
    """For JSON."""
    counted = load.acceptance
    low_s, high_s = load.spread
    return {
        "provenance": Provenance.SERVED,
        "role": load.server.role,
        "label": load.server.label,
        "model": load.server.model,
        "engine": load.server.engine or None,
        "engine_version": load.server.version or None,
        "concurrency": load.concurrency,
        "rounds": len(load.blocks),
        "requests": load.num_requests,
        "output_tokens": load.num_tokens,
        "output_tokens_per_s": load.tokens_per_s,
        "time_per_token_s": load.time_per_token_s,
        "time_per_token_low_s": low_s,
        "time_per_token_high_s": high_s,
        "time_to_first_token_s": load.time_to_first_token_s,
        "seq_len": load.seq_len,
        "cached_prompt_share": load.cached_share,
        "tokens_per_step": load.tokens_a_step,
        "drafts": counted.drafts if counted else None,
        "drafted_tokens": counted.drafted if counted else None,
        "accepted_tokens": counted.accepted if counted else None,
        "accepted_by_position": list(counted.by_position) if counted else None,
        "busy_share": load.busy_share,
        "refusals": load.refusals,
    }
