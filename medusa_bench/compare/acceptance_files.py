"""Acceptance from files: our own JSON and CSV, and what serving engines print and export.

Each engine's form is a reader in one table. What is counted is weighted by the drafts it was
counted over, never by the tokens drafted: a draft of one token is a step as one of five is.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medusa_bench.base import limits, ranges
from medusa_bench.base.documents import parse_csv, parse_object
from medusa_bench.base.errors import InvalidFileError
from medusa_bench.base.files import read_text
from medusa_bench.compare import trees
from medusa_bench.compare.acceptance import (
    TOKENS_A_STEP,
    AcceptanceModel,
    Constant,
    Survival,
    Table,
    Tree,
)
from medusa_bench.results import served
from medusa_bench.results.rows import Provenance


def load(path: Path) -> AcceptanceModel:
    """A model from a file: JSON, CSV, or what an engine printed (see READERS).

    JSON: "acceleration_rate" ({candidates: rate}), "survival" (a list), "histogram" ({accepted
    drafted tokens: steps}), head accuracies as trees.load_accuracy reads them, or an engine's own
    document. CSV: the columns num_candidates, acceleration_rate, or head accuracies. Raises
    InvalidFileError.
    """
    text = read_text(path, limits.METRICS_BYTES)
    try:
        if path.suffix == ".json" and text.lstrip()[:1] != "[":
            return _from_json(path, parse_object(text.encode(), where=str(path)))
        if path.suffix == ".csv":
            return _from_csv(path, text)
        return from_text(text, where=str(path))
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidFileError(f"{path}: {str(error)[:200]}.") from None


# -- our own forms -------------------------------------------------------------------------------


def _from_json(path: Path, content: dict[str, Any]) -> AcceptanceModel:
    if "acceleration_rate" in content:
        rows = sorted(
            (_size(n), ranges.FACTOR.of(rate)) for n, rate in content["acceleration_rate"].items()
        )
        return Table(tuple(rows), f"table {path.name}")
    if "survival" in content:
        return Survival(
            tuple(ranges.SHARE.all_of(content["survival"]).tolist()), f"survival {path.name}"
        )
    if "histogram" in content:
        steps = {int(n): ranges.COUNT.of(count) for n, count in content["histogram"].items()}
        return from_histogram(steps, f"histogram {path.name}")
    if (engines := _from_document(content, where=str(path))) is not None:
        return engines
    rates = trees.accuracy_from_json(content, name=path.stem, where=str(path))
    return Tree.best_first(rates)


def _from_csv(path: Path, text: str) -> AcceptanceModel:
    names, rows = parse_csv(text, where=str(path))
    if {"num_candidates", "acceleration_rate"} <= set(names):
        table = sorted(
            (_size(r["num_candidates"]), ranges.FACTOR.of_text(r["acceleration_rate"]))
            for r in rows
        )
        return Table(tuple(table), f"table {path.name}")
    return Tree.best_first(trees.load_accuracy(str(path)))


def from_histogram(steps_by_accepted: Mapping[int, float], name: str) -> Survival:
    """From how many steps accepted 0, 1, 2, ... drafted tokens. Raises ValueError."""
    total = sum(steps_by_accepted.values())
    if not total > 0 or min(steps_by_accepted.values()) < 0 or min(steps_by_accepted) < 0:
        raise ValueError("a histogram needs steps, none of them negative")
    longest = _bounded(max(steps_by_accepted), "accepted tokens")
    reached, survives = 0.0, [0.0] * longest
    for depth in range(longest, 0, -1):
        reached += steps_by_accepted.get(depth, 0.0)
        survives[depth - 1] = reached / total
    return Survival(tuple(survives), name)


def _size(text: str) -> int:
    return ranges.whole(int(text), 1, limits.CANDIDATES)


def _bounded(count: int, what: str) -> int:
    if count > limits.CANDIDATES:
        raise ValueError(f"{count:,} {what} are over {limits.CANDIDATES:,}, the most of a step")
    return count


# -- what engines print --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reader:
    """One form of one engine: what is looked for, and what is made of it, or None."""

    engine: str
    looks_for: str
    read: Callable[[str, str], AcceptanceModel | None]  # text, file name


@dataclass(frozen=True, slots=True)
class _Counted:
    """What one line says: drafts, and the share of them that accepted at least 1, 2, ... tokens."""

    drafts: float
    survives: tuple[float, ...]


def _joined(lines: Iterable[_Counted], what: str) -> Survival | None:
    """All lines together, each by its drafts."""
    lines = [line for line in lines if line.drafts > 0]
    drafts = sum(line.drafts for line in lines)
    if not drafts:
        return None
    longest = max(len(line.survives) for line in lines)
    survives = [
        sum(line.drafts * line.survives[i] for line in lines if i < len(line.survives)) / drafts
        for i in range(longest)
    ]
    return Survival(tuple(survives), f"{what}, {drafts:.0f} drafts")


_WHOSE_COUNTERS = re.compile(r"^(vllm|llamacpp):spec_decode_num_drafts", re.MULTILINE)


def _prometheus(text: str, where: str) -> AcceptanceModel | None:
    counted, whose = served.counters_of(text), _WHOSE_COUNTERS.search(text)
    if counted is None or not whose or not (counted.drafts and counted.by_position):
        return None
    survives = tuple(accepted / counted.drafts for accepted in counted.by_position)
    return Survival(survives, f"{whose[1]}'s counters over {counted.drafts} drafts ({where})")


_RATES = r"([\d.]+(?:, [\d.]+)*)"
_VLLM_V1 = re.compile(
    r"Mean acceptance length: ([\d.]+),.*?Accepted: (\d+) tokens, Drafted: (\d+) tokens, "
    r"Per-position acceptance rate: " + _RATES
)
_LLAMA_CPP = re.compile(
    r"\(\s*(\d+) accepted /\s*(\d+) generated\), mean acceptance length =\s*([\d.]+), "
    r"acceptance rate per position = \(" + _RATES + r"\)"
)


def _counted(mean: str, accepted: str, drafted: str, rates: str) -> _Counted:
    survives = tuple(map(ranges.SHARE.of_text, rates.split(", ")))
    accepted_a_draft = TOKENS_A_STEP.of_text(mean) - 1
    if accepted_a_draft > 0:
        return _Counted(int(accepted) / accepted_a_draft, survives)
    return _Counted(int(drafted) / len(survives), survives)  # none accepted: all of full length


def _vllm_v1(text: str, where: str) -> AcceptanceModel | None:
    return _joined((_counted(*found) for found in _VLLM_V1.findall(text)), f"vLLM's log ({where})")


def _llama_cpp(text: str, where: str) -> AcceptanceModel | None:
    found = (_counted(m, a, d, rates) for a, d, m, rates in _LLAMA_CPP.findall(text))
    return _joined(found, f"llama.cpp's log ({where})")


_VLLM_FIRST_V1 = re.compile(
    r"SpecDecoding metrics: Draft acceptance rate: [\d.]+%, Accepted: (\d+) tokens, "
    r"Drafted: (\d+) tokens"
)


def _vllm_first_v1(text: str, where: str) -> AcceptanceModel | None:
    found = _VLLM_FIRST_V1.findall(text)
    if not found:
        return None
    accepted, drafted = (sum(map(int, column)) for column in zip(*found, strict=True))
    raise InvalidFileError(
        f"{where} says that {accepted:,} of {drafted:,} drafted tokens were accepted, but not in "
        "how many drafts, so tokens a step are unknown.",
        hint="give them with tokens:N, or the /metrics page or a log of a newer vLLM, which "
        "counts drafts.",
    )


_VLLM_V0 = re.compile(
    r"Speculative metrics: .*?System efficiency: ([\d.]+), Number of speculative tokens: (\d+)"
)


def _vllm_v0(text: str, where: str) -> AcceptanceModel | None:
    found = _VLLM_V0.findall(text)
    if not found:
        return None
    efficiency, speculated = found[-1]  # counted from the start on: the last line holds all
    return _measured(
        ranges.SHARE.of_text(efficiency) * (int(speculated) + 1), f"vLLM V0's log ({where})"
    )


_SGLANG = re.compile(r"accept len: ([\d.]+)")
_SGLANG_METRIC = re.compile(r"^sglang:spec_accept_length(?:\{[^}]*\})?\s+(\S+)\s*$", re.MULTILINE)


def _sglang(text: str, where: str) -> AcceptanceModel | None:
    """Tokens a step; every line covers the same number of steps, so a plain mean."""
    found = [
        ranges.FACTOR.of_text(each)
        for each in _SGLANG.findall(text) or _SGLANG_METRIC.findall(text)
    ]
    return _measured(sum(found) / len(found), f"SGLang's log ({where})") if found else None


_TENSORRT_STATS = re.compile(r'"specDecodingStats"\s*:\s*(\{[^{}]*\})')
_TENSORRT_METRIC = re.compile(
    r"^trtllm_spec_decode_acceptance_length(?:\{[^}]*\})?\s+(\S+)\s*$", re.MULTILINE
)


def _tensorrt(text: str, where: str) -> AcceptanceModel | None:
    """Each iteration's drafts and accepted tokens; of the metrics page, the gauge's value."""
    drafts = accepted = 0.0
    for found in _TENSORRT_STATS.findall(text):
        counted = parse_object(found.encode(), where=where)
        drafts += ranges.COUNT.of(counted.get("numRequestsWithDraftTokens", 0))
        accepted += ranges.COUNT.of(counted.get("numAcceptedTokens", 0))
    if drafts:
        what = f"TensorRT-LLM's statistics over {drafts:.0f} drafts ({where})"
        return _measured(1 + accepted / drafts, what)
    gauges = [ranges.FACTOR.of_text(value) for value in _TENSORRT_METRIC.findall(text)]
    return _measured(gauges[-1], f"TensorRT-LLM's metrics ({where})") if gauges else None


_IN_WORDS = re.compile(
    r"\baccept(?:ance|ed)?[ _]len(?:gth)?\b[\"':= ]{1,4}(\d+\.?\d*)", re.IGNORECASE
)


def _in_words(text: str, where: str) -> AcceptanceModel | None:
    """What scripts print of their own: "Acceptance length: 2.5"; a plain mean of the lines."""
    found = [TOKENS_A_STEP.of_text(each) for each in _IN_WORDS.findall(text)]
    return _measured(sum(found) / len(found), f"acceptance lengths of {where}") if found else None


def _measured(tokens_a_step: float, what: str) -> Constant:
    return Constant(TOKENS_A_STEP.of(tokens_a_step), f", {what}", Provenance.MEASURED)


READERS = (
    Reader(
        "vLLM, llama.cpp", "spec_decode_num_drafts and ..._accepted_tokens_per_pos", _prometheus
    ),
    Reader("vLLM", '"SpecDecoding metrics: Mean acceptance length" lines', _vllm_v1),
    Reader("vLLM V0", '"Speculative metrics" lines', _vllm_v0),
    Reader("llama.cpp", '"acceptance rate per position" lines', _llama_cpp),
    Reader("SGLang", '"accept len" lines or spec_accept_length', _sglang),
    Reader("TensorRT-LLM", "specDecodingStats or trtllm_spec_decode_acceptance_length", _tensorrt),
    Reader("others", '"acceptance length" and a number', _in_words),
    Reader("vLLM, first V1", '"SpecDecoding metrics: Draft acceptance rate" lines', _vllm_first_v1),
)


def from_text(text: str, *, where: str) -> AcceptanceModel:
    """From a log or a metrics page of an engine. Raises InvalidFileError where it is none."""
    for reader in READERS:
        if (found := reader.read(text, Path(where).name)) is not None:
            return found
    raise InvalidFileError(
        f"{where} holds no acceptance counters.",
        hint="looked for "
        + "; ".join(f"{reader.looks_for} ({reader.engine})" for reader in READERS)
        + ".",
    )


# -- what engines and their benches export as JSON ----------------------------------------------

# Keys whose value is tokens a step: vllm bench serve, SGLang's bench and server info, and AIPerf,
# whose values are an object of "avg" and quantiles.
_TOKENS_A_STEP = (
    "mean_acceptance_length", "spec_decode_acceptance_length", "accept_length",
    "avg_spec_accept_length", "acceptance_length",
)  # fmt: skip
_RATES_BY_POSITION = ("spec_decode_per_position_acceptance_rates", "per_position_acceptance_rates")


def _from_document(content: dict[str, Any], *, where: str) -> AcceptanceModel | None:
    """The most that a document tells: a histogram, rates by position, tokens a step, timings."""
    file = Path(where).name
    if "benchmarks" in content and "spec_decode" not in str(content):  # GuideLLM's
        raise InvalidFileError(
            f"{where} holds speeds and latencies, but nothing of acceptance: its bench sees a "
            "server from outside.",
            hint="give the server's /metrics page or log, or tokens:N.",
        )
    if "specDecodingStats" in content:
        return _tensorrt(json.dumps(content), file)
    found = dict(_leaves(content))
    if isinstance(steps := found.get("acceptance_histogram"), list):
        counts = {accepted: ranges.COUNT.of(count) for accepted, count in enumerate(steps)}
        return from_histogram(counts, f"histogram {file}")
    for key in _RATES_BY_POSITION:
        if isinstance(rates := found.get(key), list) and rates:
            return Survival(tuple(ranges.SHARE.all_of(rates).tolist()), f"{key} of {file}")
    for key in _TOKENS_A_STEP:
        if isinstance(value := found.get(key), int | float):
            return _measured(value, f"{key} of {file}")
    if {"predicted_n", "draft_n", "draft_n_accepted"} <= found.keys():  # llama.cpp's timings
        steps = int(found["predicted_n"]) - int(found["draft_n_accepted"])
        if steps > 0:
            return _measured(int(found["predicted_n"]) / steps, f"timings of {file}")
    return None


def _leaves(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key whose value is no object, however deep, outer ones last: they stand before."""
    plain = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
            if "avg" in value:
                plain.append((key, value["avg"]))
        elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
            for each in reversed(value):
                yield from _leaves(each)
        else:
            plain.append((key, value))
    yield from plain
