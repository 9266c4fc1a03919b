"""A closed loop on running servers: so many requests at a time, a new one when one is answered.

Rounds go over servers and concurrencies in shuffled order, so that a machine that slows down slows
all of them. Bounded: every request has a deadline, and no block is begun that would end too late.
"""

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.measure import completions, host
from medusa_bench.measure.completions import Address, Asking, RequestError
from medusa_bench.results.served import Answer, Block, Counters, Refusal, Server, Writer

_WARM_UP_TOKENS = 8
_LOOK_AGAIN_S, _LOOKS = 0.05, 20  # a metrics page may lag behind the last answer


@dataclass(frozen=True, slots=True)
class Target:
    """A server under load: where, who, and how it is asked."""

    address: Address
    server: Server
    asking: Asking


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured; setting: as blocks keep it."""

    targets: Sequence[Target]
    prompts: Sequence[str]
    setting: str
    concurrencies: Sequence[int]
    rounds: int
    max_time_s: float | None = None
    seed: int = 0

    @property
    def num_blocks(self) -> int:
        return len(self.targets) * len(self.concurrencies) * self.rounds


class OutOfTimeError(Exception):
    """The next block would end after max_time_s."""


def run(
    plan: Plan, writer: Writer, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Block]:
    """Each block that is not there yet, kept as soon as it is done.

    Raises OutOfTimeError, and MedusaBenchError where a server answers no request of a block: what
    was measured before is kept.
    """
    start_s, longest_s = clock(), 0.0
    dice = random.Random(plan.seed)
    warm: set[Server] = set()
    for round_index in range(plan.rounds):
        turns = [(each, count) for each in plan.targets for count in plan.concurrencies]
        for target, concurrency in dice.sample(turns, len(turns)):
            server = target.server
            if writer.has((server.role, server.label, plan.setting, concurrency, round_index)):
                continue
            if plan.max_time_s is not None and clock() - start_s + longest_s > plan.max_time_s:
                raise OutOfTimeError
            if server not in warm:
                _warm_up(target, plan.prompts[0])
                warm.add(server)
            done = _block(target, plan, concurrency, round_index)
            longest_s = max(longest_s, done.elapsed_s)
            if not done.answers:
                raise MedusaBenchError(
                    f"{target.address} answered none of {len(done.refusals)} requests: "
                    f"{done.refusals[0].reason}.",
                    hint="what was measured before is kept; the same command goes on.",
                )
            writer.append(done)
            yield done


def _warm_up(target: Target, prompt: str) -> None:
    asking = replace(target.asking, max_new_tokens=_WARM_UP_TOKENS)
    try:
        completions.ask(target.address, asking, 0, prompt)
    except RequestError as error:
        raise MedusaBenchError(
            f"{target.address} does not answer: {error}.",
            hint="does it serve this model, by this way of asking (--api)?",
        ) from None


def _block(target: Target, plan: Plan, concurrency: int, round_index: int) -> Block:
    busy_share = None
    if target.address.is_loopback:
        shares = host.busy_shares(host.allowed_cpus())
        busy_share = min(1.0, max(shares.values())) if shares else None
    started_at_s = time.time()
    before = completions.counters(target.address)
    start_s = time.perf_counter()
    outcomes = answer_all(target, plan.prompts, concurrency)
    elapsed_s = time.perf_counter() - start_s
    answers = tuple(one for one in outcomes if isinstance(one, Answer))
    counted = None
    if before is not None:
        counted = _settled(target.address, sum(one.accepted or 0 for one in answers), before)
    return Block(
        target.server,
        plan.setting,
        concurrency,
        round_index,
        answers,
        tuple(one for one in outcomes if isinstance(one, Refusal)),
        elapsed_s,
        counted,
        busy_share,
        started_at_s,
    )


def _settled(address: Address, told: int, before: Counters) -> Counters | None:
    """What was counted since `before`, once the page has caught up with what the answers told."""
    for _ in range(_LOOKS):
        after = completions.counters(address)
        if after is None:
            break
        since = after - before
        if since.accepted >= told:
            return since if min(since.drafted, since.accepted) >= 0 else None  # it started anew
        time.sleep(_LOOK_AGAIN_S)
    return None


def answer_all(target: Target, prompts: Sequence[str], concurrency: int) -> list[Answer | Refusal]:
    """Every prompt once, `concurrency` of them at a time; outcomes in the order of the prompts.

    Its threads are daemons: Ctrl-C waits for no answer.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    outcomes: queue.SimpleQueue[Answer | Refusal] = queue.SimpleQueue()
    for number in range(len(prompts)):
        waiting.put(number)

    def work() -> None:
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            outcomes.put(_outcome(target, number, prompts[number]))

    for _ in range(min(concurrency, len(prompts))):
        threading.Thread(target=work, daemon=True).start()
    found = [outcomes.get() for _ in prompts]
    return sorted(found, key=lambda each: each.prompt)


def _outcome(target: Target, number: int, prompt: str) -> Answer | Refusal:
    try:
        return completions.ask(target.address, target.asking, number, prompt)
    except RequestError as error:
        return Refusal(number, str(error))
    except Exception as error:  # a thread that ends without a word would be waited for for ever
        return Refusal(number, f"unforeseen: {type(error).__name__}: {error}")
