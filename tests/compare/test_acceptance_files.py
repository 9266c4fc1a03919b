"""What engines print and export, to the numbers that stand there."""

import json
from pathlib import Path

import pytest

from medusa_bench.base.errors import InvalidFileError
from medusa_bench.compare import acceptance, acceptance_files
from tests.conftest import REFERENCE

V1 = (
    "SpecDecoding metrics: Mean acceptance length: {mean:.2f}, Accepted throughput: 1 tokens/s, "
    "Accepted: {accepted} tokens, Drafted: {drafted} tokens, "
    "Per-position acceptance rate: {rates}, Avg Draft acceptance rate: 1%\n"
)


def read(tmp_path: Path, text: str, name: str = "engine.log") -> acceptance.AcceptanceModel:
    (tmp_path / name).write_text(text)
    return acceptance_files.load(tmp_path / name)


def test_lines_weigh_by_their_drafts_not_by_the_tokens_drafted(tmp_path: Path) -> None:
    """100 drafts of 5 tokens and 600 of 1: (400 + 720) / 700 tokens a step."""
    text = V1.format(mean=4, accepted=300, drafted=500, rates="0.900, 0.800, 0.600, 0.400, 0.300")
    text += V1.format(mean=1.2, accepted=120, drafted=600, rates="0.200")
    model = read(tmp_path, text)
    assert model.acceleration_rate(6) == pytest.approx(1.6)


def test_a_line_that_accepts_nothing_counts_its_drafts(tmp_path: Path) -> None:
    text = V1.format(mean=1, accepted=0, drafted=300, rates="0.0, 0.0, 0.0")
    text += V1.format(mean=2, accepted=100, drafted=300, rates="0.8, 0.2, 0.0")
    assert read(tmp_path, text).acceleration_rate(4) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("document", "tokens_a_step"),
    [
        ({"a": {"acceptance_histogram": [6, 3, 1, 0], "mean_acceptance_length": 9}}, 1.5),
        ({"spec_decode_per_position_acceptance_rates": [0.8, 0.5, 0.2]}, 2.5),
        ({"output_throughput": 3.0, "spec_decode_acceptance_length": 2.25}, 2.25),
        ({"internal_states": [{"avg_spec_accept_length": 3.0}]}, 3.0),
        ({"timings": {"predicted_n": 50, "draft_n": 90, "draft_n_accepted": 30}}, 2.5),
        ({"spec_decode_acceptance_length": {"unit": "ratio", "avg": 2.5, "p50": 2.0}}, 2.5),
        ({"acceptance_rate": 0.5, "num_spec_steps": 20, "acceptance_histogram": [8, 0, 6, 6]}, 2.5),
        ({"specDecodingStats": {"numAcceptedTokens": 6, "numRequestsWithDraftTokens": 4}}, 2.5),
    ],
)
def test_exported_documents(
    tmp_path: Path, document: dict[str, object], tokens_a_step: float
) -> None:
    model = read(tmp_path, json.dumps(document), "export.json")
    assert model.acceleration_rate(8) == pytest.approx(tokens_a_step)


def test_tensorrt_llms_iterations_weigh_by_their_drafts(tmp_path: Path) -> None:
    """8 drafts that accepted 16 and 2 that accepted none, as /metrics lists them: 2.6."""
    stats = [
        {"iter": 1, "specDecodingStats": {
            "numDraftTokens": 24, "numAcceptedTokens": 16, "numRequestsWithDraftTokens": 8,
            "acceptanceLength": 3.0,
        }},
        {"iter": 2, "specDecodingStats": {
            "numDraftTokens": 6, "numAcceptedTokens": 0, "numRequestsWithDraftTokens": 2,
            "acceptanceLength": 1.0,
        }},
        {"iter": 3, "specDecodingStats": None},
    ]  # fmt: skip
    model = read(tmp_path, json.dumps(stats), "metrics.json")
    assert model.acceleration_rate(4) == pytest.approx(2.6)
    gauge = 'trtllm_spec_decode_acceptance_length{model_name="m"} 2.25\n'
    assert read(tmp_path, gauge, "page.txt").acceleration_rate(4) == pytest.approx(2.25)


@pytest.mark.parametrize(
    "line", ["[0] Acceptance Length: 2.5\n", "[AR] acceptance_length=2.5\n", "accept len 2.5"]
)
def test_what_scripts_print_of_their_own(tmp_path: Path, line: str) -> None:
    assert read(tmp_path, line * 3).acceleration_rate(8) == pytest.approx(2.5)


def test_a_bench_from_outside_says_nothing_of_acceptance(tmp_path: Path) -> None:
    guidellm = {"benchmarks": [{"metrics": {"output_tokens_per_second": {"mean": 90.0}}}]}
    with pytest.raises(InvalidFileError, match="nothing of acceptance"):
        read(tmp_path, json.dumps(guidellm), "benchmarks.json")


@pytest.mark.parametrize(
    "text",
    [
        "vllm:spec_decode_num_drafts_total 5\n"
        'vllm:spec_decode_num_accepted_tokens_per_pos_total{position="3000000"} 1\n',
        "Speculative metrics: System efficiency: 9.0, Number of speculative tokens: 99999999",
        "accept len: 0.5",
    ],
)
def test_what_no_step_can_be_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidFileError):
        read(tmp_path, text)


def test_a_histogram_of_many_entries_is_refused_before_it_is_built(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="3,000,000,001 accepted tokens are over"):
        read(tmp_path, '{"histogram": {"3000000001": 1}}', "huge.json")


def test_a_file_of_none_names_every_form_that_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="no acceptance counters") as caught:
        read(tmp_path, "hello")
    for reader in acceptance_files.READERS:
        assert reader.looks_for in str(caught.value.hint)


FIELD = REFERENCE.parent / "field" / "logs"


@pytest.mark.skipif(not FIELD.is_dir(), reason="the field's logs do not lie beside the checkout")
@pytest.mark.parametrize(
    ("name", "survival", "tokens_a_step"),
    [
        ("vllm_v0.log", None, 2.5),
        ("sglang.log", None, 2.5),
        ("llamacpp.log", (0.8, 0.5, 0.2), 2.5),
        ("llamacpp.prom", (0.8, 0.5, 0.2), 2.5),
        ("vllm_request.json", (0.4, 0.1, 0.0), 1.5),
        ("vllm_uneven.log", None, 1.6),
    ],
)
def test_logs_of_the_field(
    name: str, survival: tuple[float, ...] | None, tokens_a_step: float
) -> None:
    model = acceptance_files.load(FIELD / name)
    assert model.acceleration_rate(16) == pytest.approx(tokens_a_step)
    if survival is not None:
        assert model.survival(4) == pytest.approx(survival)


@pytest.mark.skipif(not FIELD.is_dir(), reason="the field's logs do not lie beside the checkout")
def test_a_log_without_drafts_says_what_is_missing() -> None:
    with pytest.raises(InvalidFileError, match=r"60 of 100.*not in how many drafts"):
        acceptance_files.load(FIELD / "vllm_first_v1.log")
