"""One loop for every decoding method: propose, verify in one pass, keep what is accepted.

Methods differ in what they propose; prefill, verification, acceptance, roll-back, stopping and
counting are the same code for all, so that their times compare.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.decode.engine.cache import SlabCache
from medusa_bench.decode.engine.clock import Clock, now_s
from medusa_bench.decode.engine.model import DecoderModel
from medusa_bench.decode.engine.rules import AcceptanceRule, Greedy, Proposal


class Finish(StrEnum):
    """Why a sequence ended."""

    EOS = "eos"
    LENGTH = "length"  # max_new_tokens
    CONTEXT = "context"  # the model's context limit


@dataclass(slots=True)
class Session:
    """What a method may look at between two steps. Row i of every field is one sequence."""

    model: DecoderModel
    rule: AcceptanceRule
    cache: SlabCache
    texts: list[list[int]]  # prompt and new tokens, the root last
    roots: Tensor  # (b,): the last token of each text, not yet in the cache
    hidden: Tensor  # (b, h): the hidden state that the root was chosen from
    accepted: list[int] = field(default_factory=list)  # proposed tokens accepted last; [] at first


class DecodingMethod(Protocol):
    """What proposes the tokens of a step; one file per method stands beside this one."""

    name: str
    max_nodes: int  # the most tokens a step verifies, the root included

    def begin(self, session: Session) -> None:
        """Get ready for a batch whose prompts have been read."""
        ...

    def propose(self, session: Session) -> Proposal: ...

    def keep(self, rows: list[int]) -> None:
        """Only these rows of the batch go on."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a batch: per sequence that took part, what it brought; and where time went."""

    rows: tuple[int, ...]  # which sequences of the batch took part
    accepted: tuple[int, ...]  # proposed tokens that were accepted
    kept: tuple[int, ...]  # new tokens that count: none past EOS or a limit
    num_nodes: int  # tokens verified per sequence, the root included
    step_s: float
    draft_s: float  # proposing
    verify_s: float  # the model's pass; the rest of step_s is the engine's own


@dataclass(frozen=True, slots=True)
class Output:
    """A batch of finished texts. The first new token of each comes from its prefill."""

    method: str
    sequences: tuple[tuple[int, ...], ...]  # new tokens, EOS included
    finishes: tuple[Finish, ...]
    prefill_s: float  # the model's, with what the method prepares
    decode_s: float
    steps: tuple[Step, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that decoding steps brought: all but the first of each text."""
        return sum(sum(step.kept) for step in self.steps)

    @property
    def num_sequence_steps(self) -> int:
        return sum(len(step.rows) for step in self.steps)

    @property
    def acceleration_rate(self) -> float:
        """Tokens per step of a sequence: a ratio of sums; 1 for vanilla."""
        return self.num_tokens / max(1, self.num_sequence_steps)


class Engine:
    """Generates with one model. `clock` is injected by tests."""

    def __init__(self, model: DecoderModel, *, clock: Clock = time.perf_counter) -> None:
        self.model = model
        self._clock = clock

    def _now(self) -> float:
        return now_s(self.model.device, self._clock)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        method: DecodingMethod,
        *,
        max_new_tokens: int,
        eos_token_ids: Collection[int] = (),
        rule: AcceptanceRule | None = None,
    ) -> Output:
        """Continue each prompt until EOS, max_new_tokens or the model's context limit.

        Sequences of a batch advance by what each accepts. Raises MedusaBenchError for a prompt
        that is empty, over the context limit, or not of this vocabulary.
        """
        model = self.model
        rule = rule or Greedy()
        self._check(prompts, max_new_tokens)
        ledger = _Ledger(prompts, max_new_tokens, model.context_limit, eos_token_ids)
        cache = model.new_cache(len(prompts), ledger.longest + method.max_nodes + 1)
        started_s = self._now()
        hidden = model.prefill(cache, prompts)
        roots = rule.choose(model.logits(hidden))
        texts = [list(prompt) for prompt in prompts]
        session = Session(model, rule, cache, texts, roots, hidden)
        for sequence, token in enumerate(roots.tolist()):
            texts[sequence].append(token)
            ledger.take(sequence, [token])
        active = list(range(len(prompts)))
        active = self._keep_unfinished(session, method, active, ledger, begun=False)
        if active:
            method.begin(session)
        prefilled_s = self._now()
        steps = []
        while active:
            steps.append(self._step(session, method, active, ledger))
            active = self._keep_unfinished(session, method, active, ledger, begun=True)
        finished_s = self._now()
        return Output(
            method=method.name,
            sequences=tuple(tuple(tokens) for tokens in ledger.new),
            finishes=tuple(end for end in ledger.ends if end is not None),
            prefill_s=prefilled_s - started_s,
            decode_s=finished_s - prefilled_s,
            steps=tuple(steps),
        )

    def _step(
        self, session: Session, method: DecodingMethod, active: list[int], ledger: "_Ledger"
    ) -> Step:
        """Propose, verify, accept and commit once; row i of the session is sequence active[i]."""
        start_s = self._now()
        proposal = method.propose(session)
        layout = proposal.layout
        proposed_s = self._now()
        hidden, logits = session.model.step(session.cache, proposal.tokens.clamp(min=0), layout)
        verified_s = self._now()
        verdict = session.rule.judge(proposal, logits)
        routes = layout.routes[verdict.nodes]
        path = proposal.tokens.gather(1, routes)
        depths = layout.depths[verdict.nodes]
        # One transfer: path, its depth, the token after it.
        lines = torch.cat([path, depths[:, None], verdict.next_tokens[:, None]], dim=1).tolist()
        session.accepted = [line[-2] for line in lines]
        session.cache.commit(routes, session.accepted)
        rows = torch.arange(len(lines), device=hidden.device)
        session.hidden = hidden[rows, verdict.nodes]
        session.roots = verdict.next_tokens
        took_part = []
        for text, sequence, line in zip(session.texts, active, lines, strict=True):
            accepted = line[-2]
            brought = [*line[1 : 1 + accepted], line[-1]]
            text.extend(brought)
            if not ledger.ends[sequence]:
                took_part.append((sequence, accepted, ledger.take(sequence, brought)))
        end_s = self._now()
        sequences, counts, kept = zip(*took_part, strict=True)
        return Step(
            rows=sequences,
            accepted=counts,
            kept=kept,
            num_nodes=layout.num_nodes,
            step_s=end_s - start_s,
            draft_s=proposed_s - start_s,
            verify_s=verified_s - proposed_s,
        )

    def _keep_unfinished(
        self,
        session: Session,
        method: DecodingMethod,
        active: list[int],
        ledger: "_Ledger",
        *,
        begun: bool,
    ) -> list[int]:
        """Drop finished sequences from the batch; a static batch runs on until all are done."""
        rows = [row for row, sequence in enumerate(active) if not ledger.ends[sequence]]
        if len(rows) == len(active) or not rows:
            return [active[row] for row in rows]
        cache = session.cache
        if cache.static:
            # A finished row goes on unseen, so that shapes stay; keep it inside the slab.
            last = cache.capacity - method.max_nodes - 1
            for row in set(range(len(active))).difference(rows):
                cache.lengths[row] = min(cache.lengths[row], last)
            return active
        index = torch.tensor(rows, device=session.roots.device)
        cache.keep(rows)
        session.texts = [session.texts[row] for row in rows]
        session.roots, session.hidden = session.roots[index], session.hidden[index]
        if begun:
            session.accepted = [session.accepted[row] for row in rows]
            method.keep(rows)
        return [active[row] for row in rows]

    def _check(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        if not prompts or max_new_tokens < 1:
            raise MedusaBenchError("There must be a prompt, and at least 1 new token.")
        for number, prompt in enumerate(prompts, start=1):
            if not prompt:
                raise MedusaBenchError(f"Prompt {number} is empty.")
            if len(prompt) >= self.model.context_limit:
                raise MedusaBenchError(
                    f"Prompt {number} has {len(prompt)} tokens; the model's context holds "
                    f"{self.model.context_limit}.",
                    hint="shorten the prompt.",
                )
            if not 0 <= min(prompt) <= max(prompt) < self.model.vocab_size:
                raise MedusaBenchError(
                    f"Prompt {number} has token ids outside the model's vocabulary of "
                    f"{self.model.vocab_size}.",
                    hint="is the tokenizer that of this model?",
                )


class _Ledger:
    """The new tokens of each sequence that count, and why it ended."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        context_limit: int,
        eos_token_ids: Collection[int],
    ) -> None:
        self._limits = [min(max_new_tokens, context_limit - len(prompt)) for prompt in prompts]
        self._max_new_tokens = max_new_tokens
        self._eos_token_ids = frozenset(eos_token_ids)
        self.longest = max(map(sum, zip(map(len, prompts), self._limits, strict=True)))
        self.new: list[list[int]] = [[] for _ in prompts]
        self.ends: list[Finish | None] = [None] * len(prompts)

    def take(self, sequence: int, brought: list[int]) -> int:
        """Add what counts of a step's tokens: none past EOS or a limit. How many that is."""
        tokens, limit = self.new[sequence], self._limits[sequence]
        before = len(tokens)
        for token in brought:
            tokens.append(token)
            if token in self._eos_token_ids:
                self.ends[sequence] = Finish.EOS
                break
            if len(tokens) == limit:
                whole = limit == self._max_new_tokens
                self.ends[sequence] = Finish.LENGTH if whole else Finish.CONTEXT
                break
        return len(tokens) - before
