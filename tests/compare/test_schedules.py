"""Schedules: cover every batch, are read back as written, and never lose when replayed."""

import json
from functools import cache

import pytest

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.compare import acceptance, methods, schedules, simulation
from medusa_bench.compare.comparisons import Comparison, best, by_setting
from medusa_bench.compare.passes import Block
from medusa_bench.compare.schedules import Schedule, ServingEngine, Span
from medusa_bench.compare.simulation import Variant
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS
from tests.builders.latencies import SmoothLatency

MIXED = Schedule((Span(1, 4, 5), Span(5, 9, 0), Span(10, 31, 3), Span(32, 64, 0)))
ENGINES = [
    (ServingEngine.VLLM, "draft-model"),
    (ServingEngine.TENSORRT_LLM, "eagle-3"),
    (ServingEngine.SGLANG, "eagle-3"),
    (ServingEngine.LLAMA_CPP, "draft-model"),
    (ServingEngine.LLAMA_CPP, "prompt-lookup"),
    (ServingEngine.JSON, "medusa"),
]


MIXED_PROBABILITY = 0.15  # pays at small batch sizes alone


@cache
def rows(probability: float) -> list[Comparison]:
    model = acceptance.Chain(probability)
    return simulation.simulate(
        [Variant(methods.draft_model(PRESETS["llama-160m"], n), model) for n in range(1, 9)],
        PRESETS["llama-7b"],
        SmoothLatency(launch_s=5e-6),
        Dtype.FLOAT16,
        [(batch_size, 512) for batch_size in range(1, 65)],
        block=Block.FULL,
    )


@pytest.mark.parametrize("probability", [0.02, MIXED_PROBABILITY, 0.8])
@pytest.mark.parametrize(("engine", "method"), ENGINES)
def test_a_schedule_read_back_and_replayed_is_never_worse_than_always_on_or_off(
    probability: float, engine: ServingEngine, method: str
) -> None:
    simulated = rows(probability)
    written = schedules.write(schedules.plan(simulated), engine, method, "target", "draft")
    schedule = schedules.read(written, where="here")
    assert schedule == schedules.plan(simulated)
    assert schedule.max_batch_size == 64
    speedup = {(row.batch_size, row.num_candidates - 1): row.speedup for row in simulated}
    for point in schedules.replay(schedule, simulated):
        assert point.speedup >= 1.0
        for length in range(1, 9):  # always on, whatever the length
            assert point.speedup >= speedup[point.batch_size, length]


def test_the_cases_replayed_include_always_on_always_off_and_both() -> None:
    lengths = [
        {span.draft_len for span in schedules.plan(rows(p)).spans}
        for p in (0.02, MIXED_PROBABILITY, 0.8)
    ]
    assert lengths[0] == {0}
    assert 0 in lengths[1]
    assert len(lengths[1]) > 1
    assert 0 not in lengths[2]


def test_margin_turns_off_what_pays_too_little() -> None:
    simulated = rows(0.4)
    for margin in (0.05, 0.2):
        schedule = schedules.plan(simulated, margin)
        for (batch_size, _), group in by_setting(simulated).items():
            on = best(group).speedup > 1 + margin
            assert bool(schedule.draft_len(batch_size)) == on


@pytest.mark.parametrize("probability", [MIXED_PROBABILITY, 0.8])
def test_tolerance_gives_fewer_spans_and_gives_up_no_more_than_it_says(probability: float) -> None:
    simulated = rows(probability)
    strict, loose = schedules.plan(simulated), schedules.plan(simulated, tolerance=0.02)
    assert len(loose.spans) <= len(strict.spans)
    for before, after in zip(
        schedules.replay(strict, simulated), schedules.replay(loose, simulated), strict=True
    ):
        assert after.speedup >= max(1.0, 0.98 * before.speedup)
    assert len(schedules.plan(rows(0.8), tolerance=0.02).spans) < len(
        schedules.plan(rows(0.8)).spans
    )


@pytest.mark.parametrize(("engine", "method"), ENGINES)
def test_spans_that_go_off_and_on_again_survive_every_form(
    engine: ServingEngine, method: str
) -> None:
    written = schedules.write(MIXED, engine, method, "target", "draft")
    assert schedules.read(written, where="here") == MIXED


def test_vllms_form() -> None:
    written = json.loads(schedules.write(MIXED, ServingEngine.VLLM, "eagle-3", "target", "draft"))
    assert written == {
        "method": "eagle3",
        "model": "draft",
        "num_speculative_tokens": 5,
        "num_speculative_tokens_per_batch_size": [[1, 4, 5], [5, 9, 0], [10, 31, 3], [32, 64, 0]],
    }


def test_tensorrt_llms_form() -> None:
    written = schedules.write(MIXED, ServingEngine.TENSORRT_LLM, "mtp", "target")
    assert "decoding_type: MTP\n" in written
    assert "draft_len_schedule: {4: 5, 9: 0, 31: 3, 64: 0}\n" in written
    implicit = "max_batch_size: 64\nspeculative_config:\n  draft_len_schedule: {4: 5, 31: 3}\n"
    assert schedules.read(implicit, where="x").spans[-1] == Span(32, 64, 0)


def test_sglang_and_llama_cpp_launch_without_speculation_where_it_is_off() -> None:
    sglang = schedules.write(MIXED, ServingEngine.SGLANG, "eagle-3", "target", "draft").splitlines()
    off = sglang[sglang.index("# batch sizes 32 to 64: no speculation") + 1]
    assert off == "python3 -m sglang.launch_server --model-path target --max-running-requests 64"
    assert '  "10": {"candidate_steps": [3]}' in sglang
    llama = schedules.write(MIXED, ServingEngine.LLAMA_CPP, "draft-model", "t.gguf", "d.gguf")
    assert "llama-server -m t.gguf -np 31 -md d.gguf --draft-max 3 --draft-min 0\n" in llama
    assert "llama-server -m t.gguf -np 64\n" in llama


def test_an_engine_without_the_method_is_an_error_that_names_those_it_has() -> None:
    with pytest.raises(MedusaBenchError) as caught:
        schedules.write(MIXED, ServingEngine.SGLANG, "prompt-lookup", "target")
    assert caught.value.hint is not None
    assert "eagle-3" in caught.value.hint


@pytest.mark.parametrize(
    "spans",
    [
        (),
        (Span(2, 4, 1),),
        (Span(1, 4, 1), Span(6, 8, 0)),
        (Span(1, 4, 1), Span(4, 8, 0)),
        (Span(1, 4, -1),),
        (Span(1, 0, 1),),
    ],
)
def test_gaps_overlaps_and_nonsense_are_refused(spans: tuple[Span, ...]) -> None:
    with pytest.raises(ValueError, match=r"batch sizes|draft length"):
        Schedule(spans)


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
        "# batch sizes 3 to 4: x\nllama-server",
    ],
)
def test_files_that_hold_no_schedule_are_refused(text: str) -> None:
    with pytest.raises(InvalidFileError):
        schedules.read(text, where="here")


def test_a_draft_length_that_was_not_simulated_is_an_error() -> None:
    with pytest.raises(MedusaBenchError, match="not simulated"):
        schedules.replay(Schedule((Span(1, 64, 99),)), rows(0.8))
