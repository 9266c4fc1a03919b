"""Schedules as serving engines load them: one launch each, and back again.

What each form can say, by the engines' sources of November 2026:

vLLM            `num_speculative_tokens_per_batch_size`, a list of [first batch, last batch, draft
                length] from 1 on; 0 is off; the last one goes on past its end
                (vllm/v1/spec_decode/dynamic/utils.py)
TensorRT-LLM    `draft_len_schedule`, last batch -> draft length; the smallest key must have
                `max_draft_len`, and no other a longer one; off past the last
                (llm_args.py, _torch/speculative/utils.py; release 1.2 reads keys as first batches)
SGLang          `--speculative-adaptive-config`, first batch -> `candidate_steps`; EAGLE with top-k
                1 only; a batch is padded to a CUDA-graph size before it is looked up
                (adaptive_spec_params.py, adaptive_step_router.py)
llama.cpp       `--spec-draft-n-max`, one length as long as a server runs (docs/speculative.md)

Every launch limits how many sequences run at once to the schedule's largest batch, so that a
schedule means the same in every form. What a form cannot say is said beside it.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from medusa_bench.base.documents import parse_object
from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.compare.methods import METHODS
from medusa_bench.compare.schedules import MAX_BATCH_SIZE, Schedule, Span, drafted


class ServingEngine(StrEnum):
    """Whose form a schedule is written in; `json` is our own."""

    VLLM = "vllm"
    TENSORRT_LLM = "tensorrt-llm"
    SGLANG = "sglang"
    LLAMA_CPP = "llama.cpp"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Written:
    """A schedule in an engine's form: what the engine does with it, and what the form leaves out.

    means is the schedule that `read` gives back: the one asked for where the form can say it.
    """

    text: str
    means: Schedule
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """What is served: a method of METHODS, and names of the model and of the weights that draft.

    num_gpus: over which the model is split.
    """

    method: str
    model: str
    draft: str = ""
    num_gpus: int = 1

    @property
    def notes(self) -> tuple[str, ...]:
        """Names that no engine can load: those of shapes, as of a preset."""
        return tuple(
            f"{name} names a shape and no weights: put a folder or OWNER/NAME there ({option})."
            for name, option in ((self.model, "--served-model"), (self.draft, "--served-draft"))
            if name and "/" not in name and not Path(name).exists() and Path(name).suffix != ".gguf"
        )


def write(
    schedule: Schedule, engine: ServingEngine, served: Served, *, always: int | None = None
) -> Written:
    """The schedule as a launch of an engine.

    always: the draft length to keep where an engine has but one, 0 for none; by default that of the
    largest batch. Raises MedusaBenchError where the engine serves no such method, or
    schedules none.
    """
    if engine is ServingEngine.JSON:
        return Written(_own(schedule, served), schedule)
    name = _name(engine, served.method)
    if METHODS[served.method].needs_draft_weights and not served.draft:
        served = replace(served, draft=f"{served.method}-of-{Path(served.model).name}")
    if not METHODS[served.method].needs_draft_weights:
        served = replace(served, draft="")
    match engine:
        case ServingEngine.VLLM:
            written = _vllm(schedule, name, served)
        case ServingEngine.TENSORRT_LLM:
            written = _tensorrt(schedule, name, served)
        case ServingEngine.SGLANG:
            written = _sglang(schedule, name, served)
        case ServingEngine.LLAMA_CPP:
            length = schedule.spans[-1].draft_len if always is None else always
            written = _llama_cpp(schedule, name, served, length)
    return replace(written, notes=(*written.notes, *served.notes))


# Whose drafting loop takes a length by batch size; vLLM's does for every method it serves.
_ADAPTIVE: Mapping[ServingEngine, frozenset[str]] = {
    ServingEngine.TENSORRT_LLM: frozenset({"Draft_Target", "Eagle3", "MTP", "NGram", "PARD"}),
    ServingEngine.SGLANG: frozenset({"EAGLE", "EAGLE3"}),
}


def _name(engine: ServingEngine, method: str) -> str:
    """The engine's name of a method that it schedules."""
    taken = {
        row: name
        for row, each in METHODS.items()
        if (name := each.engines.get(engine)) and name in _ADAPTIVE.get(engine, {name})
    }
    if method not in taken:
        raise MedusaBenchError(
            f"{engine} documents no schedule for {method}.",
            hint=f"with {engine}: {', '.join(taken)}; or --engine json for any method.",
        )
    return taken[method]


def _own(schedule: Schedule, served: Served) -> str:
    return _json_lines(
        {
            "method": served.method,
            "model": served.model,
            "draft": served.draft or None,
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


def _vllm(schedule: Schedule, name: str, served: Served) -> Written:
    launch = f"vllm serve {shlex.quote(served.model)} --max-num-seqs {schedule.max_batch_size}"
    if served.num_gpus > 1:
        launch += f" --tensor-parallel-size {served.num_gpus}"
    if not schedule.max_draft_len:
        return Written(f"{launch}\n", schedule)
    config: dict[str, Any] = {"method": name}
    if served.draft:
        config["model"] = served.draft
    if served.method in {"pard", "p-eagle"}:
        config["parallel_drafting"] = True
    config["num_speculative_tokens"] = schedule.max_draft_len
    if not schedule.is_constant:
        config["num_speculative_tokens_per_batch_size"] = [
            [span.first_batch, span.last_batch, span.draft_len] for span in schedule.spans
        ]
    return Written(
        f"{launch} \\\n  --speculative-config {shlex.quote(json.dumps(config))}\n", schedule
    )


def _tensorrt(schedule: Schedule, name: str, served: Served) -> Written:
    longest = schedule.spans[0].draft_len
    means = Schedule.of(
        {
            batch_size: min(longest, schedule.draft_len(batch_size))
            for batch_size in range(1, schedule.max_batch_size + 1)
        }
    )
    notes = () if means == schedule else (_shortened(schedule, means),)
    lines = [
        f"# trtllm-serve {shlex.quote(served.model)} --config FILE  (this file)",
        f"max_batch_size: {means.max_batch_size}",
        *([f"tensor_parallel_size: {served.num_gpus}"] if served.num_gpus > 1 else []),
    ]
    if longest:
        entries = ", ".join(f"{span.last_batch}: {span.draft_len}" for span in means.spans)
        lines += [
            "speculative_config:",
            f"  decoding_type: {name}",
            f"  max_draft_len: {longest}",
            *([f"  speculative_model: {json.dumps(served.draft)}"] if served.draft else []),
        ]
        if not means.is_constant:
            lines += [
                "  # last batch size: drafted tokens (release 1.3 on; 1.2 reads first batch sizes)",
                f"  draft_len_schedule: {{{entries}}}",
            ]
    return Written("\n".join(lines) + "\n", means, notes)


def _shortened(schedule: Schedule, means: Schedule) -> str:
    kept = drafted(means.spans[0].draft_len)
    return (
        "TensorRT-LLM drafts no longer at a larger batch than at batch size 1: it drafts "
        f"{kept if means.max_draft_len else 'nothing'} where the schedule asks for "
        f"{schedule.max_draft_len}."
    )


# Where SGLang's capture sizes are dense; the ends of spans are added to them.
_GRAPH_SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_ADAPTIVE_FILE = "adaptive-speculation.json"


def _sglang(schedule: Schedule, name: str, served: Served) -> Written:
    largest = schedule.max_batch_size
    launch = (
        f"python3 -m sglang.launch_server --model-path {shlex.quote(served.model)} "
        f"--max-running-requests {largest}"
    )
    if served.num_gpus > 1:
        launch += f" --tp-size {served.num_gpus}"
    if not schedule.max_draft_len:
        return Written(f"{launch}\n", schedule)
    ends = {span.last_batch for span in schedule.spans}
    graphs = sorted({*(size for size in _GRAPH_SIZES if size < largest), *ends})
    steps = schedule.max_draft_len
    slots = ",\n".join(
        f'  "{span.first_batch}": {{"candidate_steps": [{span.draft_len}]}}'
        for span in schedule.spans
    )
    lines = [
        *([] if schedule.is_constant else [f"cat > {_ADAPTIVE_FILE} <<'JSON'", "{", slots, "}"]),
        *([] if schedule.is_constant else ["JSON"]),
        f"{launch} \\",
        *([f"  --cuda-graph-bs {' '.join(map(str, graphs))} \\"] if len(ends) > 1 else []),
        f"  --speculative-algorithm {name} --speculative-eagle-topk 1 \\",
        *(
            [f"  --speculative-draft-model-path {shlex.quote(served.draft)} \\"]
            if served.draft
            else []
        ),
        f"  --speculative-num-steps {steps} --speculative-num-draft-tokens {steps + 1}",
    ]
    if not schedule.is_constant:
        lines[-1] += " \\"
        lines.append(f"  --speculative-adaptive --speculative-adaptive-config {_ADAPTIVE_FILE}")
    return Written("\n".join(lines) + "\n", schedule)


def _llama_cpp(schedule: Schedule, name: str, served: Served, length: int) -> Written:
    if served.num_gpus > 1:
        raise MedusaBenchError(
            "llama.cpp splits a model over GPUs layer by layer, which --tp does not model.",
            hint="another --engine, or one GPU.",
        )
    largest = schedule.max_batch_size
    launch = f"llama-server -m {shlex.quote(served.model)} -np {largest}"
    if length:
        if served.draft:
            launch += f" -md {shlex.quote(served.draft)}"
        option = "--spec-ngram-simple-size-m" if name.startswith("ngram") else "--spec-draft-n-max"
        launch += f" --spec-type {name} {option} {length}"
        launch += "" if name.startswith("ngram") else " --spec-draft-n-min 0"
    means = Schedule((Span(1, largest, length),))
    if means == schedule:
        return Written(f"{launch}\n", schedule)
    table = [
        f"# {span.first_batch} to {span.last_batch} slots (-np): "
        f"{drafted(span.draft_len) if span.draft_len else 'no speculation'}"
        for span in schedule.spans
    ]
    return Written(
        "\n".join(["# a server keeps one draft length while it runs:", *table, launch]) + "\n",
        means,
        (
            "llama.cpp keeps one draft length while it runs: this launch has the best one for 1 "
            f"to {largest} sequences; a server of fewer slots (-np) takes what the table says.",
        ),
    )


def _json_lines(value: dict[str, Any]) -> str:
    """One key a line, lists on theirs."""
    items = [f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()]
    return "{\n" + ",\n".join(items) + "\n}\n"


# --- reading --------------------------------------------------------------------------------------

_VLLM = re.compile(r"--speculative-config\s+('.*'|\S+)")
_LIMIT = re.compile(
    r"(?:--max-num-seqs|--max-running-requests|-np|^max_batch_size:)[ =]*(\d{1,6})\b", re.MULTILINE
)
_TENSORRT = re.compile(r"^\s*draft_len_schedule:\s*\{([^}]*)\}\s*$", re.MULTILINE)
_SLOT = re.compile(r'"(\d{1,6})":\s*\{"candidate_steps":\s*\[(\d{1,6})\]')
_ONE_LENGTH = re.compile(
    r"(?:--spec-draft-n-max|--spec-ngram-simple-size-m|--speculative-num-steps|^\s*max_draft_len:)"
    r"[ =]*(\d{1,6})\b",
    re.MULTILINE,
)
_LAUNCH = re.compile(r"vllm serve|sglang\.launch_server|llama-server|trtllm-serve")


def read(text: str, *, where: str) -> Schedule:
    """A schedule from any of the forms above, or vLLM's bare JSON. Raises InvalidFileError."""
    try:
        if text.lstrip().startswith("{"):
            return _from_json(parse_object(text.encode(), where=where), None)
        limit = _LIMIT.search(text)
        largest = _whole(int(limit[1])) if limit else None
        if found := _VLLM.search(text):
            (config,) = shlex.split(found[1])
            return _from_json(parse_object(config.encode(), where=where), largest)
        if found := _TENSORRT.search(text):
            return _from_tensorrt(found[1], largest)
        if slots := _SLOT.findall(text):
            return _from_slots([(int(batch), int(length)) for batch, length in slots], largest)
        if largest and (_LAUNCH.search(text) or _ONE_LENGTH.search(text)):
            length = _ONE_LENGTH.search(text)
            return Schedule((Span(1, largest, _whole(int(length[1])) if length else 0),))
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


def _from_json(content: dict[str, Any], largest: int | None) -> Schedule:
    """Ours, or vLLM's; of the latter, what is left out goes on as the last span says."""
    if "spans" in content:
        keys = ("first_batch", "last_batch", "draft_len")
        triples = [[span[key] for key in keys] for span in content["spans"]]
    elif "num_speculative_tokens_per_batch_size" in content or not largest:
        triples = content["num_speculative_tokens_per_batch_size"]
    else:
        triples = [[1, largest, content["num_speculative_tokens"]]]
    spans = [Span(_whole(first), _whole(last), _whole(n)) for first, last, n in triples]
    if largest and spans and largest > spans[-1].last_batch:
        spans[-1] = Span(spans[-1].first_batch, largest, spans[-1].draft_len)
    return Schedule(tuple(spans))


def _from_tensorrt(entries: str, largest: int | None) -> Schedule:
    by_last = sorted(
        (_whole(int(last)), _whole(int(length)))
        for last, length in (entry.split(":") for entry in entries.split(","))
    )
    if largest and largest > by_last[-1][0]:
        by_last.append((largest, 0))
    spans, first = [], 1
    for last, length in by_last:
        spans.append(Span(first, last, length))
        first = last + 1
    return Schedule(tuple(spans))


def _from_slots(slots: list[tuple[int, int]], largest: int | None) -> Schedule:
    ends = [batch - 1 for batch, _ in slots[1:]] + [largest or slots[-1][0]]
    return Schedule(
        tuple(
            Span(first, _whole(last), _whole(length))
            for (first, length), last in zip(slots, ends, strict=True)
        )
    )
