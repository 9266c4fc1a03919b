"""Speedup, tokens a step and overhead of servers, from seconds and counts that are known."""

from dataclasses import replace

import pytest

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.compare import served as comparing
from medusa_bench.compare.serving import cost_of
from medusa_bench.results.served import Answer, Block, Counters, Role, Server
from medusa_bench.specs import models
from medusa_bench.specs.dtypes import Dtype
from tests.builders.latencies import SmoothLatency


def block(role: Role, decode_s: float, *, accepted: int = 0, round_index: int = 0) -> Block:
    """Two answers of 13 tokens each, 24 tokens after the first ones."""
    answers = tuple(Answer(n, 100, 0, 13, 0.5, decode_s) for n in range(2))
    counted = Counters(8, 24, accepted, ()) if role is Role.SPECULATING else None
    server = Server(role, role, "m")
    return Block(server, "s", 2, round_index, answers, (), 2.0, counted, 0.0, 0.0)


def pair(*blocks: Block) -> comparing.Pair:
    (found,) = comparing.pairs(comparing.loads(blocks))
    return found


def test_speedup_is_tokens_a_step_over_overhead() -> None:
    found = pair(block(Role.VANILLA, 1.2), block(Role.SPECULATING, 0.8, accepted=16))
    assert found.speedup == pytest.approx(1.5)
    assert found.speculating.tokens_a_step == 3.0  # 24 tokens in 24 - 16 steps
    assert found.overhead == pytest.approx(2.0)
    assert found.vanilla.time_per_token_s == pytest.approx(0.1)
    assert found.vanilla.tokens_per_s == pytest.approx(13.0)
    assert found.speculating.seq_len == 106
    assert found.speculating.drafting_share == 1.0
    assert found.speculating.draft_len == 3


def test_speedups_are_of_the_rounds_that_both_have() -> None:
    found = pair(
        block(Role.VANILLA, 1.0),
        block(Role.SPECULATING, 0.5, accepted=16),
        block(Role.SPECULATING, 0.25, accepted=16, round_index=1),
    )
    assert found.speedup == 2.0
    assert found.speedups == [2.0]
    assert found.overhead == pytest.approx(1.5)


def test_servers_without_a_common_round_are_no_pair() -> None:
    blocks = block(Role.VANILLA, 1.0), block(Role.SPECULATING, 0.5, accepted=16, round_index=1)
    assert comparing.pairs(comparing.loads(blocks)) == []


def test_a_round_that_counts_nothing_leaves_tokens_a_step_unknown() -> None:
    silent = replace(block(Role.SPECULATING, 0.5, round_index=1), counted=None)
    found = pair(
        block(Role.VANILLA, 1.0),
        block(Role.VANILLA, 1.0, round_index=1),
        block(Role.SPECULATING, 0.5, accepted=16),
        silent,
    )
    assert found.speculating.tokens_a_step is None
    assert found.overhead is None
    with pytest.raises(MedusaBenchError, match="does not tell"):
        simulated(found)


def simulated(found: comparing.Pair, method: str = "draft-model") -> comparing.Comparison:
    target = models.load("smollm2-360m")
    draft = models.load("smollm2-135m")
    return comparing.simulated(
        found, method, target, draft,
        latency=SmoothLatency(), dtype=Dtype.FLOAT16, engine=cost_of("vllm"),
    )  # fmt: skip


def test_the_simulated_row_has_the_served_acceptance_length_and_batch() -> None:
    found = pair(block(Role.VANILLA, 1.2), block(Role.SPECULATING, 0.8, accepted=16))
    row = simulated(found)
    assert (row.batch_size, row.seq_len, row.draft_len) == (2, 106, 3)
    assert row.acceleration_rate == 3.0
    assert row.draft == "smollm2-135m"
    assert row.speedup == pytest.approx(3.0 / row.overhead)


def test_a_lookup_that_drafts_seldom_costs_less() -> None:
    often = pair(block(Role.VANILLA, 1.2), block(Role.SPECULATING, 0.8, accepted=16))
    counted = Counters(2, 6, 16, ())
    seldom = pair(block(Role.VANILLA, 1.2), replace(block(Role.SPECULATING, 0.8), counted=counted))
    assert seldom.speculating.drafting_share == 0.25
    costs = [simulated(each, "prompt-lookup").step.latency_s for each in (seldom, often)]
    assert costs[0] < costs[1]


def test_answers_of_one_token_have_no_time_between_tokens() -> None:
    answers = (Answer(0, 5, 0, 1, 0.1, 0.0),)
    found = pair(*(replace(block(role, 1.0), answers=answers) for role in Role))
    with pytest.raises(MedusaBenchError, match="one token each"):
        _ = found.speedup
