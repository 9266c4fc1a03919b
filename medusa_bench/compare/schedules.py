"""Draft length by batch size, in the form that each serving engine reads, and back again.

What each form relies on:

vLLM            `--speculative-config` with `num_speculative_tokens_per_batch_size`: a list of
                [first batch, last batch, draft length], from 1, 0 for off
                (docs: features/speculative_decoding/dynamic_speculative_decoding)
TensorRT-LLM    `speculative_config.draft_len_schedule`: last batch -> draft length, off above the
                last (1.3 on; before that the keys were first batches)
SGLang          `--speculative-adaptive-config`: first batch -> `candidate_steps`, for EAGLE with
                top-k 1; it has no "off", so batches without speculation are another launch
                (docs: advanced_features/adaptive_speculative_decoding)
llama.cpp       `--draft-max` (newer builds also `--spec-draft-n-max`), fixed while a server runs,
                so one launch for each range of slots `-np` (docs: speculative.md)
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from medusa_bench.base.documents import parse_object
from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.compare.comparisons import Comparison

MAX_BATCH_SIZE = 4096


class ServingEngine(StrEnum):
    """Whose form a schedule is written in; `json` is our own."""

    VLLM = "vllm"
    TENSORRT_LLM = "tensorrt-llm"
    SGLANG = "sglang"
    LLAMA_CPP = "llama.cpp"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Span:
    """Batch sizes that draft alike. draft_len: tokens verified besides the root; 0 is off."""

    first_batch: int
    last_batch: int
    draft_len: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Spans that cover 1 to the largest batch without gap or overlap.

    Raises ValueError where they do not.
    """

    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        expected = 1
        for span in self.spans:
            if span.first_batch != expected or span.last_batch < span.first_batch:
                raise ValueError(
                    f"batch sizes {span.first_batch} to {span.last_batch} do not go on from "
                    f"{expected - 1}"
                )
            if span.draft_len < 0:
                raise ValueError(f"a draft length of {span.draft_len}")
            expected = span.last_batch + 1
        if not 1 < expected <= MAX_BATCH_SIZE + 1:
            raise ValueError(f"batch sizes must run from 1 to at most {MAX_BATCH_SIZE}")

    @classmethod
    def of(cls, draft_len_by_batch: Mapping[int, int]) -> "Schedule":
        """From every batch size's own draft length; neighbours that agree become one span."""
        spans: list[Span] = []
        for batch_size, draft_len in sorted(draft_len_by_batch.items()):
            if spans and spans[-1].draft_len == draft_len:
                spans[-1] = Span(spans[-1].first_batch, batch_size, draft_len)
            else:
                spans.append(Span(batch_size, batch_size, draft_len))
        return cls(tuple(spans))

    @property
    def max_batch_size(self) -> int:
        return self.spans[-1].last_batch

    @property
    def max_draft_len(self) -> int:
        return max(span.draft_len for span in self.spans)

    def draft_len(self, batch_size: int) -> int:
        """Of a batch of 1 to max_batch_size."""
        return next(s.draft_len for s in self.spans if s.first_batch <= batch_size <= s.last_batch)


def plan(rows: Iterable[Comparison], margin: float = 0.0, tolerance: float = 0.0) -> Schedule:
    """A draft length for every batch size, off where its best speedup is at most 1 + margin.

    With no tolerance each batch size takes its fastest length. With one, spans are as few as they
    can be without any batch size giving up more than that share of its best speedup.

    rows: one method at one seq_len, at every batch size from 1 on. Raises ValueError otherwise.
    """
    speedups: dict[int, dict[int, float]] = {}
    for row in rows:
        speedups.setdefault(row.batch_size, {})[row.num_candidates - 1] = row.speedup
    chosen: dict[int, int] = {}
    span: list[int] = []  # batch sizes that can still share a length
    shared: set[int] = set()

    def close() -> None:
        for_all = {n: sum(speedups[b].get(n, 1.0) for b in span) for n in sorted(shared)}
        chosen.update(dict.fromkeys(span, max(for_all, key=lambda length: for_all[length])))

    for batch_size, by_length in sorted(speedups.items()):
        highest = max(by_length.values())
        enough = {n for n, speedup in by_length.items() if speedup >= (1 - tolerance) * highest}
        allowed = {n for n in enough if by_length[n] > 1 + margin} or {0}
        if span and not shared & allowed:
            close()
            span = []
        shared = shared & allowed if span else allowed
        span.append(batch_size)
    if span:
        close()
    return Schedule.of(chosen)


@dataclass(frozen=True, slots=True)
class Replay:
    """One batch size simulated again under a schedule, beside the two simple policies."""

    batch_size: int
    draft_len: int
    speedup: float
    always_on_draft_len: int
    always_on_speedup: float  # the best draft length there is for all batch sizes together


def replay(schedule: Schedule, rows: Iterable[Comparison]) -> list[Replay]:
    """A schedule simulated again, batch by batch.

    Always-on is the one draft length with the best mean speedup over the batch sizes. Raises
    MedusaBenchError where the rows lack a batch size or draft length of the schedule.
    """
    speedup = {(row.batch_size, row.num_candidates - 1): row.speedup for row in rows}
    batch_sizes = range(1, schedule.max_batch_size + 1)
    lengths = {length for _, length in speedup if length}
    for batch_size in batch_sizes:
        length = schedule.draft_len(batch_size)
        if length and (batch_size, length) not in speedup:
            raise MedusaBenchError(
                f"The schedule drafts {length} tokens at batch size {batch_size}, which was not "
                "simulated.",
                hint="give --draft-len and --max-batch-size that cover the schedule.",
            )
    always = max(
        sorted(lengths),
        key=lambda length: sum(speedup.get((b, length), 0.0) for b in batch_sizes),
    )
    return [
        Replay(
            batch_size,
            length,
            speedup[batch_size, length] if length else 1.0,
            always,
            speedup[batch_size, always],
        )
        for batch_size in batch_sizes
        for length in (schedule.draft_len(batch_size),)
    ]


# --- writing --------------------------------------------------------------------------------------

# How each engine calls a method; where one is missing, the engine's documentation names none.
_METHOD_NAMES: Mapping[ServingEngine, Mapping[str, str]] = {
    ServingEngine.VLLM: {
        "draft-model": "draft_model",
        "eagle-1": "eagle",
        "eagle-2": "eagle",
        "eagle-3": "eagle3",
        "prompt-lookup": "ngram",
        "mtp": "mtp",
        "block-diffusion": "dflash",
    },
    ServingEngine.TENSORRT_LLM: {
        "draft-model": "Draft_Target",
        "eagle-3": "Eagle3",
        "prompt-lookup": "NGram",
        "mtp": "MTP",
        "block-diffusion": "DFlash",
    },
    ServingEngine.SGLANG: {
        "eagle-1": "EAGLE",
        "eagle-2": "EAGLE",
        "eagle-3": "EAGLE3",
        "mtp": "EAGLE",
    },
    ServingEngine.LLAMA_CPP: {"draft-model": "draft", "prompt-lookup": "ngram-simple"},
}


def write(
    schedule: Schedule, engine: ServingEngine, method: str, model: str, draft: str = ""
) -> str:
    """The schedule in an engine's own form. model and draft are names the engine can load.

    Raises MedusaBenchError where the engine documents no such method or no way to schedule it.
    """
    names = _METHOD_NAMES.get(engine, {})
    if engine is not ServingEngine.JSON and method not in names:
        raise MedusaBenchError(
            f"{engine} documents no schedule for {method}.",
            hint=f"with {engine}: {', '.join(names)}; or --engine json for any method.",
        )
    match engine:
        case ServingEngine.VLLM:
            return _json(
                {
                    "method": names[method],
                    **({"model": draft} if draft else {}),
                    "num_speculative_tokens": max(1, schedule.max_draft_len),
                    "num_speculative_tokens_per_batch_size": [
                        [s.first_batch, s.last_batch, s.draft_len] for s in schedule.spans
                    ],
                }
            )
        case ServingEngine.TENSORRT_LLM:
            entries = ", ".join(f"{s.last_batch}: {s.draft_len}" for s in schedule.spans)
            lines = [
                f"max_batch_size: {schedule.max_batch_size}",
                "speculative_config:",
                f"  decoding_type: {names[method]}",
                f"  max_draft_len: {max(1, schedule.max_draft_len)}",
                *([f"  speculative_model: {json.dumps(draft)}"] if draft else []),
                f"  draft_len_schedule: {{{entries}}}",
            ]
            return "\n".join(lines) + "\n"
        case ServingEngine.SGLANG:
            return _sglang(schedule, names[method], model, draft)
        case ServingEngine.LLAMA_CPP:
            return _llama_cpp(schedule, names[method], model, draft)
        case ServingEngine.JSON:
            return _json(
                {
                    "method": method,
                    "model": model,
                    "draft": draft or None,
                    "spans": [
                        {
                            "first_batch": span.first_batch,
                            "last_batch": span.last_batch,
                            "draft_len": span.draft_len,
                        }
                        for span in schedule.spans
                    ],
                }
            )


def drafted(draft_len: int) -> str:
    """ "1 drafted token", "4 drafted tokens"."""
    return f"{draft_len} drafted token{'' if draft_len == 1 else 's'}"


def _json(value: dict[str, Any]) -> str:
    """One key a line, lists on theirs."""
    items = [f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()]
    return "{\n" + ",\n".join(items) + "\n}\n"


def _heading(first: int, last: int, words: str) -> str:
    return f"# batch sizes {first} to {last}: {words}"


def _sglang(schedule: Schedule, algorithm: str, model: str, draft: str) -> str:
    launch = f"python3 -m sglang.launch_server --model-path {shlex.quote(model)}"
    lines = ["#!/bin/sh"]
    for run in _runs(schedule):
        first, last = run[0].first_batch, run[-1].last_batch
        if not run[0].draft_len:
            lines += [_heading(first, last, "no speculation")]
            lines += [f"{launch} --max-running-requests {last}"]
            continue
        slots = ",\n".join(
            f'  "{s.first_batch}": {{"candidate_steps": [{s.draft_len}]}}' for s in run
        )
        config = f"adaptive_spec_{first}.json"
        steps = run[0].draft_len
        lines += [
            _heading(first, last, "speculation"),
            f"cat > {config} <<'JSON'",
            "{",
            slots,
            "}",
            "JSON",
            f"{launch} --max-running-requests {last} \\",
            f"  --speculative-algorithm {algorithm} --speculative-eagle-topk 1 \\",
            *([f"  --speculative-draft-model-path {shlex.quote(draft)} \\"] if draft else []),
            f"  --speculative-num-steps {steps} --speculative-num-draft-tokens {steps + 1} \\",
            f"  --speculative-adaptive --speculative-adaptive-config {config}",
        ]
    return "\n".join(lines) + "\n"


def _runs(schedule: Schedule) -> list[list[Span]]:
    """Neighbouring spans that are all on, or off, together."""
    runs: list[list[Span]] = [[schedule.spans[0]]]
    for before, span in pairwise(schedule.spans):
        if bool(before.draft_len) == bool(span.draft_len):
            runs[-1].append(span)
        else:
            runs.append([span])
    return runs


def _llama_cpp(schedule: Schedule, kind: str, model: str, draft: str) -> str:
    lines = ["#!/bin/sh"]
    for span in schedule.spans:
        command = f"llama-server -m {shlex.quote(model)} -np {span.last_batch}"
        if span.draft_len:
            source = f"-md {shlex.quote(draft)}" if kind == "draft" else f"--spec-type {kind}"
            command += f" {source} --draft-max {span.draft_len} --draft-min 0"
        words = drafted(span.draft_len) if span.draft_len else "no speculation"
        lines += [_heading(span.first_batch, span.last_batch, words), command]
    return "\n".join(lines) + "\n"


# --- reading --------------------------------------------------------------------------------------

_TENSORRT = re.compile(r"^\s*draft_len_schedule:\s*\{([^}]*)\}\s*$", re.MULTILINE)
_MAX_BATCH = re.compile(r"^\s*max_batch_size:\s*(\d{1,6})\s*$", re.MULTILINE)
_PART = re.compile(r"^# batch sizes (\d{1,6}) to (\d{1,6}):.*$", re.MULTILINE)
_SLOT = re.compile(r'"(\d{1,6})":\s*\{"candidate_steps":\s*\[(\d{1,6})\]')
_DRAFT_MAX = re.compile(r"--(?:draft-max|draft-n|draft|spec-draft-n-max)[ =](\d{1,6})")


def read(text: str, *, where: str) -> Schedule:
    """A schedule from any of the forms above. Raises InvalidFileError."""
    try:
        if text.lstrip().startswith("{"):
            return _from_json(parse_object(text.encode(), where=where))
        if found := _TENSORRT.search(text):
            return _from_tensorrt(found[1], _MAX_BATCH.search(text))
        if _PART.search(text):
            return _from_launches(text)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidFileError(f"{where} is no schedule: {error}.") from None
    raise InvalidFileError(
        f"{where} holds no schedule that we know.",
        hint="`medusa-bench schedule --engine vllm` shows the form of each engine.",
    )


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_BATCH_SIZE:
        raise ValueError(f"{str(value)[:40]!r} is no whole number of 0 to {MAX_BATCH_SIZE}")
    return value


def _from_json(content: dict[str, Any]) -> Schedule:
    if "spans" in content:
        keys = ("first_batch", "last_batch", "draft_len")
        triples = [[span[key] for key in keys] for span in content["spans"]]
    else:
        triples = content["num_speculative_tokens_per_batch_size"]
    return Schedule(
        tuple(Span(_whole(first), _whole(last), _whole(n)) for first, last, n in triples)
    )


def _from_tensorrt(entries: str, max_batch: re.Match[str] | None) -> Schedule:
    by_last = sorted(
        (_whole(int(last)), _whole(int(length)))
        for last, length in (entry.split(":") for entry in entries.split(","))
    )
    if max_batch and int(max_batch[1]) > by_last[-1][0]:
        by_last.append((_whole(int(max_batch[1])), 0))
    spans, first = [], 1
    for last, length in by_last:
        spans.append(Span(first, last, length))
        first = last + 1
    return Schedule(tuple(spans))


def _from_launches(text: str) -> Schedule:
    spans: list[Span] = []
    parts = list(_PART.finditer(text))
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        first, last = int(part[1]), int(part[2])
        body = text[part.end() : following.start() if following else len(text)]
        if slots := [(int(batch), int(length)) for batch, length in _SLOT.findall(body)]:
            ends = [batch - 1 for batch, _ in slots[1:]] + [last]
            spans += [
                Span(begin, end, length) for (begin, length), end in zip(slots, ends, strict=True)
            ]
        else:
            length = _DRAFT_MAX.search(body)
            spans.append(Span(first, last, int(length[1]) if length else 0))
    return Schedule(tuple(spans))
