"""Every schedule loads in every engine, and means there what it means here.

The engines' rules are told again in this file, as their sources of November 2026 have them.
"""

import json
import re
import shlex
from bisect import bisect_left, bisect_right
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.compare import schedule_files
from medusa_bench.compare.methods import METHODS
from medusa_bench.compare.schedule_files import Served, ServingEngine, read, write
from medusa_bench.compare.schedules import Schedule, Span

MIXED = Schedule((Span(1, 4, 5), Span(5, 9, 0), Span(10, 31, 3), Span(32, 64, 0)))
CONSTANT = Schedule((Span(1, 64, 4),))
OFF = Schedule((Span(1, 64, 0),))
EAGLE = Served("eagle-3", "org/target", "org/eagle3")

schedules = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=8).map(
    lambda parts: Schedule.of(
        dict(enumerate([length for count, length in parts for _ in range(count)], start=1))
    )
)


def arguments(launch: str) -> dict[str, list[str]]:
    """The options of the last command in a script, each with what follows it."""
    command = launch.replace("\\\n", " ").strip().splitlines()[-1]
    found: dict[str, list[str]] = {}
    option = ""
    for word in shlex.split(command, comments=True):
        option = word if word.startswith("-") else option
        found.setdefault(option, [])
        if word != option:
            found[option].append(word)
    return found


def vllm(text: str) -> list[int]:
    """Drafted tokens of each batch size that vLLM can run, from 1 on."""
    given = arguments(text)
    (largest,) = map(int, given["--max-num-seqs"])
    if "--speculative-config" not in given:
        return [0] * largest
    config = json.loads(given["--speculative-config"][0])
    most = config["num_speculative_tokens"]
    assert most > 0
    entries = config.get("num_speculative_tokens_per_batch_size", [[1, largest, most]])
    expected = 1
    for first, last, length in entries:
        assert expected <= first <= last
        assert first != 1 or expected == 1
        assert length >= 0
        expected = last + 1
    assert entries[0][0] == 1
    found = []
    for batch in range(1, largest + 1):
        reached = [length for first, _, length in entries if first <= batch]
        found.append(min(most, reached[-1]))
    return found


def tensorrt(text: str) -> list[int]:
    content = yaml.safe_load(text)
    largest = content["max_batch_size"]
    if "speculative_config" not in content:
        return [0] * largest
    config = content["speculative_config"]
    most = config["max_draft_len"]
    assert most > 0
    table = config.get("draft_len_schedule")
    if table is None:
        return [most] * largest
    assert table[min(table)] == most
    assert all(key >= 1 and 0 <= length <= most for key, length in table.items())
    keys = sorted(table)
    found = []
    for batch in range(1, largest + 1):
        at = bisect_left(keys, batch)
        found.append(table[keys[at]] if at < len(keys) else 0)
    return found


def sglang(text: str) -> list[int]:
    given = arguments(text)
    (largest,) = map(int, given["--max-running-requests"])
    if "--speculative-algorithm" not in given:
        return [0] * largest
    assert given["--speculative-algorithm"][0] in {"EAGLE", "EAGLE3"}
    assert given["--speculative-eagle-topk"] == ["1"]
    (steps,) = map(int, given["--speculative-num-steps"])
    assert given["--speculative-num-draft-tokens"] == [str(steps + 1)]
    if "--speculative-adaptive" not in given:
        return [steps] * largest
    (file,) = given["--speculative-adaptive-config"]
    written = re.search(rf"cat > {file} <<'JSON'\n(.*?)\nJSON\n", text, re.DOTALL)
    assert written is not None
    slots = {int(key): value["candidate_steps"] for key, value in json.loads(written[1]).items()}
    assert all(candidates and min(candidates) >= 0 for candidates in slots.values())
    keys, graphs = sorted(slots), sorted(map(int, given["--cuda-graph-bs"]))
    found = []
    for batch in range(1, largest + 1):
        at = bisect_left(graphs, batch)
        padded = graphs[at] if at < len(graphs) else batch
        (length,) = slots[keys[max(0, bisect_right(keys, padded) - 1)]]
        found.append(length)
    return found


def llama_cpp(text: str) -> list[int]:
    given = arguments(text)
    assert "--draft-max" not in given  # an error since their pull request 22397
    (largest,) = map(int, given["-np"])
    for option in ("--spec-draft-n-max", "--spec-ngram-simple-size-m"):
        if option in given:
            assert given["--spec-type"]
            return [int(given[option][0])] * largest
    return [0] * largest


RULES = [
    (ServingEngine.VLLM, vllm, Served("draft-model", "org/target", "org/draft")),
    (ServingEngine.VLLM, vllm, Served("suffix", "org/target")),
    (ServingEngine.TENSORRT_LLM, tensorrt, EAGLE),
    (ServingEngine.SGLANG, sglang, EAGLE),
    (ServingEngine.SGLANG, sglang, Served("mtp", "org/target")),
    (ServingEngine.LLAMA_CPP, llama_cpp, Served("draft-model", "t.gguf", "d.gguf")),
    (ServingEngine.LLAMA_CPP, llama_cpp, Served("prompt-lookup", "t.gguf")),
]


@pytest.mark.parametrize(("engine", "rule", "served"), RULES)
@settings(max_examples=200, deadline=None)
@given(schedule=schedules)
def test_engines_do_with_a_schedule_what_is_said_they_do(
    engine: ServingEngine, rule: Any, served: Served, schedule: Schedule
) -> None:
    written = write(schedule, engine, served)
    means = written.means
    assert rule(written.text) == [means.draft_len(b) for b in range(1, means.max_batch_size + 1)]
    assert means.max_batch_size == schedule.max_batch_size
    assert read(written.text, where="here") == means
    assert (means == schedule) == (not written.notes)
    if engine in {ServingEngine.VLLM, ServingEngine.SGLANG}:
        assert means == schedule


@given(schedule=schedules)
def test_our_own_form_says_everything(schedule: Schedule) -> None:
    written = write(schedule, ServingEngine.JSON, Served("medusa", "llama-7b"))
    assert read(written.text, where="here") == written.means == schedule


def test_vllms_launch() -> None:
    text = write(MIXED, ServingEngine.VLLM, EAGLE).text
    assert text.startswith("vllm serve org/target --max-num-seqs 64 \\\n  --speculative-config '{")
    assert json.loads(arguments(text)["--speculative-config"][0]) == {
        "method": "eagle3",
        "model": "org/eagle3",
        "num_speculative_tokens": 5,
        "num_speculative_tokens_per_batch_size": [[1, 4, 5], [5, 9, 0], [10, 31, 3], [32, 64, 0]],
    }
    one = write(CONSTANT, ServingEngine.VLLM, EAGLE).text
    assert "per_batch_size" not in one
    assert write(OFF, ServingEngine.VLLM, EAGLE).text == (
        "vllm serve org/target --max-num-seqs 64\n"
    )


@pytest.mark.parametrize("method", ["pard", "p-eagle"])
def test_vllm_drafts_in_one_pass_where_it_is_told_to(method: str) -> None:
    text = write(CONSTANT, ServingEngine.VLLM, Served(method, "org/target", "org/draft")).text
    assert json.loads(arguments(text)["--speculative-config"][0])["parallel_drafting"] is True


def test_tensorrt_llm_drafts_no_more_at_a_larger_batch() -> None:
    rising = Schedule((Span(1, 4, 2), Span(5, 8, 6), Span(9, 9, 1)))
    written = write(rising, ServingEngine.TENSORRT_LLM, EAGLE)
    assert written.means == Schedule((Span(1, 8, 2), Span(9, 9, 1)))
    assert "2 drafted tokens where the schedule asks for 6" in written.notes[0]
    later = Schedule((Span(1, 4, 0), Span(5, 8, 3)))
    written = write(later, ServingEngine.TENSORRT_LLM, EAGLE)
    assert written.means == Schedule((Span(1, 8, 0),))
    assert "drafts nothing where" in written.notes[0]


def test_llama_cpp_has_one_length_and_a_table_of_the_others() -> None:
    served = Served("draft-model", "t.gguf", "d.gguf")
    written = write(MIXED, ServingEngine.LLAMA_CPP, served, always=3)
    assert written.text.splitlines()[-1] == (
        "llama-server -m t.gguf -np 64 -md d.gguf --spec-type draft-simple --spec-draft-n-max 3 "
        "--spec-draft-n-min 0"
    )
    assert "# 10 to 31 slots (-np): 3 drafted tokens\n" in written.text
    assert "keeps one draft length" in written.notes[0]
    off = write(MIXED, ServingEngine.LLAMA_CPP, served, always=0).text.splitlines()[-1]
    assert off == "llama-server -m t.gguf -np 64"


@pytest.mark.parametrize("engine", ServingEngine)
def test_names_of_shapes_are_told_apart_from_names_of_weights(engine: ServingEngine) -> None:
    method = "eagle-3" if engine is ServingEngine.SGLANG else "draft-model"
    preset = write(CONSTANT, engine, Served(method, "llama-7b", "llama-68m")).notes
    assert len(preset) == (0 if engine is ServingEngine.JSON else 2)
    assert not write(CONSTANT, engine, Served(method, "org/a", "b.gguf")).notes
    assert write(CONSTANT, engine, Served("mtp", "org/a")).notes == ()


def test_an_engine_without_the_method_is_an_error_that_names_those_it_has() -> None:
    with pytest.raises(MedusaBenchError) as caught:
        write(MIXED, ServingEngine.SGLANG, Served("prompt-lookup", "org/target"))
    assert caught.value.hint is not None
    assert "eagle-3" in caught.value.hint
    assert "dflash" not in caught.value.hint  # served, but not by a schedule


def test_whom_an_engine_schedules_stands_in_the_table_of_methods() -> None:
    for engine, names in schedule_files._ADAPTIVE.items():
        assert names <= {row.engines.get(engine) for row in METHODS.values()}


def test_a_schedule_of_batches_past_its_end_goes_on_as_the_engine_has_it() -> None:
    bare = "vllm serve m --max-num-seqs 64 --speculative-config " + shlex.quote(
        json.dumps({"num_speculative_tokens_per_batch_size": [[1, 4, 5], [5, 9, 2]]})
    )
    assert read(bare, where="here").spans[-1] == Span(5, 64, 2)
    off = "max_batch_size: 64\nspeculative_config:\n  draft_len_schedule: {4: 5, 31: 3}\n"
    assert read(off, where="here").spans[-1] == Span(32, 64, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "{}",
        '{"num_speculative_tokens_per_batch_size": [[1, 4]]}',
        '{"num_speculative_tokens_per_batch_size": [[1, 4, 3], [6, 8, 0]]}',
        '{"num_speculative_tokens_per_batch_size": [[1, "4", 3]]}',
        '{"num_speculative_tokens_per_batch_size": 3}',
        "draft_len_schedule: {a: 1}",
        "llama-server -m x",
        "vllm serve x --speculative-config '{\"num_speculative_tokens\": 3}'",
        "vllm serve x --max-num-seqs 8 --speculative-config 'nothing'",
    ],
)
def test_files_that_hold_no_schedule_are_refused(text: str) -> None:
    with pytest.raises(InvalidFileError):
        read(text, where="here")
