"""Blocks of servers as lines: what is written is read, and what was altered is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from medusa_bench.base.errors import BusyError, InvalidFileError
from medusa_bench.results import served
from medusa_bench.results.codec import sealed
from medusa_bench.results.served import Answer, Block, Counters, Refusal, Role, Server, Writer

BLOCK = Block(
    Server(Role.SPECULATING, "fast", "m", "vllm", "0.33.0"),
    "setting",
    2,
    1,
    (Answer(0, 7, 3, 13, 0.25, 0.5, 30, 8), Answer(1, 7, 0, 1, 0.25, 0.0)),
    (Refusal(2, "HTTP 500"),),
    1.5,
    Counters(12, 36, 8, (6, 2)),
    0.125,
    1e9,
)


def test_a_block_is_read_as_it_was_written() -> None:
    assert served.decode(served.encode(BLOCK)[:-1]) == BLOCK


def test_a_torn_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    line = served.encode(BLOCK)
    (tmp_path / served.FILE).write_bytes(line + line[:50])
    assert served.load(tmp_path) == [BLOCK]
    with Writer(tmp_path) as writer:
        writer.append(BLOCK)
    assert (tmp_path / served.FILE).read_bytes() == line + line


def test_a_whole_block_stands_before_one_with_failed_requests(tmp_path: Path) -> None:
    whole, again = replace(BLOCK, refusals=()), replace(BLOCK, refusals=(), elapsed_s=9.0)
    with Writer(tmp_path) as writer:
        writer.append(BLOCK)
        assert not writer.has(BLOCK.key)
        writer.append(whole)
        writer.append(BLOCK)
        assert writer.has(BLOCK.key)
    assert served.load(tmp_path) == [whole]
    with Writer(tmp_path) as writer:
        writer.append(again)
    assert served.load(tmp_path) == [again]


def test_an_altered_line_is_refused_with_its_place(tmp_path: Path) -> None:
    line = served.encode(BLOCK)
    (tmp_path / served.FILE).write_bytes(line + line.replace(b"0.5", b"0.6"))
    with pytest.raises(InvalidFileError, match="line 2: the checksum"):
        served.load(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"kind": "x"}, {"answers": [{}]}, {"concurrency": 0}, {"busy_share": 2}, {"server": None}],
)
def test_what_is_no_block_is_refused(changes: dict[str, object]) -> None:
    from medusa_bench.results.codec import unsealed

    record = unsealed(served.encode(BLOCK)[:-1]) | changes
    record.pop("check", None)
    with pytest.raises(InvalidFileError, match="no block"):
        served.decode(sealed(record)[:-1])


def test_two_do_not_write_at_once(tmp_path: Path) -> None:
    with Writer(tmp_path), pytest.raises(BusyError), Writer(tmp_path):
        pass


def test_counters_are_summed_over_labels_and_subtracted() -> None:
    page = """
vllm:spec_decode_num_drafts_total{engine="0"} 10.0
vllm:spec_decode_num_drafts_total{engine="1"} 5.0
vllm:spec_decode_num_drafts_created{engine="0"} 1.7e9
vllm:spec_decode_num_draft_tokens_total{engine="0"} 45.0
vllm:spec_decode_num_accepted_tokens_total{engine="0"} 20.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 12.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="1"} 8.0
"""
    counted = served.counters_of(page)
    assert counted == Counters(15, 45, 20, (12, 8))
    assert counted - Counters(5, 15, 4, (4,)) == Counters(10, 30, 16, (8, 8))
    assert served.counters_of("llamacpp:n_decode_total 3") is None
