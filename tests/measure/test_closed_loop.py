"""Servers under load: what is measured of a fake one, and every way in which it can fail."""

from dataclasses import replace
from pathlib import Path

import pytest

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.measure import closed_loop, completions
from medusa_bench.measure.closed_loop import Plan, Target
from medusa_bench.measure.completions import Address, Api, Asking, RequestError
from medusa_bench.results import served
from medusa_bench.results.served import Answer, Counters, Refusal, Role, Server, Writer
from tests.builders.fake_server import FakeServer, serving

ASKING = Asking("fake", Api.CHAT, 13, 0.0, ignore_eos=False, timeout_s=10.0)
PROMPTS = ["a", "b", "c", "d"]


def target(fake: FakeServer, role: Role = Role.SPECULATING) -> Target:
    return Target(Address.parse(fake.url), Server(role, role, "fake"), ASKING)


def test_tokens_are_counted_by_the_server_and_times_are_in_order() -> None:
    with serving(FakeServer(accepted=2, drafted=3)) as fake:
        answer = completions.ask(Address.parse(fake.url), ASKING, 5, "a")
    assert (answer.prompt, answer.tokens, answer.prompt_tokens) == (5, 13, 7)
    assert answer.first_token_s > 0 and answer.decode_s > 0
    assert fake.bodies[0]["messages"] == [{"role": "user", "content": "a"}]
    assert "ignore_eos" not in fake.bodies[0]


def test_plain_text_is_asked_for_at_the_other_path() -> None:
    with serving(FakeServer()) as fake:
        asking = replace(ASKING, api=Api.COMPLETIONS, ignore_eos=True)
        completions.ask(Address.parse(fake.url), asking, 0, "a")
    assert fake.bodies[0]["prompt"] == "a"
    assert fake.bodies[0]["ignore_eos"] is True


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", "HTTP 500: out of memory"),
        ("cut", "cut off"),
        ("json", "not valid JSON"),
        ("error", "the model is gone"),
        ("uncounted", "counts no tokens"),
        ("counts", "counts cannot be read"),
        ("unfinished", "cut off"),
    ],
)
def test_an_answer_that_is_not_whole_is_refused_in_words(fault: str, words: str) -> None:
    with (
        serving(FakeServer(fault=fault)) as fake,
        pytest.raises(RequestError, match=words),
    ):
        completions.ask(Address.parse(fake.url), ASKING, 0, "a")


def test_a_server_that_hangs_is_left_at_the_deadline() -> None:
    with (
        serving(FakeServer(fault="hang")) as fake,
        pytest.raises(RequestError, match=r"in time|within"),
    ):
        completions.ask(Address.parse(fake.url), replace(ASKING, timeout_s=0.1), 0, "a")


def test_a_refused_connection_is_told() -> None:
    with serving(FakeServer()) as fake:
        address = Address.parse(fake.url)
    with pytest.raises(RequestError, match="refused"):
        completions.identify(address)


def test_a_damaged_list_of_models_is_told() -> None:
    with serving(FakeServer(fault="models")) as fake, pytest.raises(RequestError, match="models"):
        completions.identify(Address.parse(fake.url))


def test_who_answers_is_asked() -> None:
    with serving(FakeServer()) as fake:
        who = completions.identify(Address.parse(fake.url))
        with pytest.raises(RequestError, match="no model 'other', but fake"):
            completions.identify(Address.parse(fake.url), "other")
    assert who == completions.Identity("fake", "vllm", "0.33.0")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://a", "http://", "http://a:b", "http://u@a"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(MedusaBenchError):
        Address.parse(url)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://localhost", True),
        ("http://localhost.example", False),
        ("https://10.0.0.1", False),
    ],
)
def test_this_machine_is_told_from_others(url: str, loopback: bool) -> None:
    assert Address.parse(url).is_loopback is loopback


def test_so_many_requests_run_at_a_time_and_every_prompt_is_asked_once() -> None:
    with serving(FakeServer()) as fake:
        outcomes = closed_loop.answer_all(target(fake), PROMPTS, 2)
    assert [one.prompt for one in outcomes] == [0, 1, 2, 3]
    assert sorted(body["messages"][0]["content"] for body in fake.bodies) == PROMPTS
    assert fake.most_at_a_time == 2


def test_one_failed_request_is_kept_beside_the_answers() -> None:
    with serving(FakeServer(fault="500", faulty=1)) as fake:
        outcomes = closed_loop.answer_all(target(fake), PROMPTS, 1)
    assert isinstance(outcomes[0], Refusal)
    assert all(isinstance(one, Answer) for one in outcomes[1:])


def plan(*fakes: FakeServer, rounds: int = 2, max_time_s: float | None = None) -> Plan:
    targets = [target(fake, role) for fake, role in zip(fakes, reversed(Role), strict=False)]
    return Plan(targets, PROMPTS, "setting", (1, 2), rounds, max_time_s)


def test_a_block_counts_what_the_server_counted_meanwhile(tmp_path: Path) -> None:
    with serving(FakeServer(accepted=2, drafted=3)) as fake, Writer(tmp_path) as writer:
        blocks = list(closed_loop.run(plan(fake), writer))
    # 12 tokens after the first of each of 4 answers, 3 a step.
    assert [block.counted for block in blocks] == [Counters(16, 48, 32, (16, 16))] * 4
    assert {(block.concurrency, block.round_index) for block in blocks} == {
        (1, 0), (2, 0), (1, 1), (2, 1),
    }  # fmt: skip
    assert sorted(served.load(tmp_path), key=str) == sorted(blocks, key=str)


def test_without_metrics_nothing_is_counted(tmp_path: Path) -> None:
    with serving(FakeServer(has_metrics=False)) as fake, Writer(tmp_path) as writer:
        blocks = list(closed_loop.run(plan(fake, rounds=1), writer))
    assert [block.acceptance for block in blocks] == [None, None]


def test_the_same_plan_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with serving(FakeServer()) as fake:
        with Writer(tmp_path) as writer:
            first = [next(iter(closed_loop.run(plan(fake), writer)))]
        with Writer(tmp_path) as writer:
            others = list(closed_loop.run(plan(fake), writer))
            assert list(closed_loop.run(plan(fake), writer)) == []
    assert len({block.key for block in first + others}) == 4 == len(first + others)


def test_a_block_with_a_failed_request_is_asked_again(tmp_path: Path) -> None:
    with serving(FakeServer(fault="500", faulty=2)) as fake, Writer(tmp_path) as writer:
        fake.faulty = 0
        list(closed_loop.run(plan(fake, rounds=1), writer))
        whole = next(iter(writer.blocks.values()))
        writer.append(replace(whole, round_index=7, refusals=(Refusal(0, "HTTP 500"),)))
        assert writer.has(whole.key)
        assert not writer.has((*whole.key[:-1], 7))


def test_a_server_that_answers_nothing_ends_the_run_and_keeps_what_was(tmp_path: Path) -> None:
    with serving(FakeServer()) as fake, Writer(tmp_path) as writer:
        going_on = closed_loop.run(plan(fake), writer)
        next(going_on)
        fake.fault = "500"
        with pytest.raises(MedusaBenchError, match="none of 4 requests: HTTP 500"):
            list(going_on)
    assert len(served.load(tmp_path)) == 1


def test_no_block_is_begun_that_would_end_too_late(tmp_path: Path) -> None:
    seconds = iter([0.0, 0.0, 100.0])
    with serving(FakeServer()) as fake, Writer(tmp_path) as writer:
        going_on = closed_loop.run(plan(fake, max_time_s=50.0), writer, clock=lambda: next(seconds))
        next(going_on)
        with pytest.raises(closed_loop.OutOfTimeError):
            next(going_on)
