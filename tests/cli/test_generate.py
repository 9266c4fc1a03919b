"""`generate` from loading to verdict, on a tiny model with heads, a draft and lookup."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from medusa_bench import cli
from medusa_bench.cli import generation_tables
from medusa_bench.decode.heads import files as head_files
from medusa_bench.decode.heads.heads import MedusaHeads
from medusa_bench.decode.study.study import ExpectedStep
from medusa_bench.specs.latency import Latency
from tests.builders.tiny_models import tiny_llama

WORDS = "<unk> sea sky sun day sand wave wind blue gold calm".split()


def save_model(folder: Path, seed: int, words: list[str] = WORDS) -> LlamaForCausalLM:
    model = tiny_llama(
        seed=seed,
        vocab_size=len(words),
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=None,
    )
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, "<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    model = save_model(folder / "target", 0)
    save_model(folder / "draft", 1)
    save_model(folder / "stranger", 1, [*WORDS[:-1], "storm"])
    heads = MedusaHeads(2, model.lm_head.weight.detach())
    (folder / "heads").mkdir()
    head_files.save(heads, folder / "heads", config={}, dtype=torch.float32)
    accuracy = {"accuracy": [[0.5, 0.2, 0.1], [0.3, 0.1, 0.1]]}
    (folder / "heads" / "accuracy-paths.json").write_text(json.dumps(accuracy))
    lines = [
        {"question_id": 1, "category": "sea", "turns": ["sea sky sea sky sea"]},
        {"question_id": 2, "category": "land", "turns": ["sand sun"]},
    ]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def arguments(files: Path, *more: str) -> list[str]:
    return [
        "generate",
        str(files / "target"),
        *("--prompts", str(files / "prompts.jsonl")),
        *("--max-new-tokens", "10"),
        *("--rounds", "2"),
        *more,
    ]


def document(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> dict[str, Any]:
    assert cli.run([*arguments, "--json"]) == 0
    parsed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return parsed


def test_all_methods_give_the_same_text_and_every_number(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(
        capsys,
        arguments(
            files,
            *("--heads", str(files / "heads")),
            *("--draft", str(files / "draft")),
            *("--self-draft", "1"),
            *("--draft-len", "2"),
            *("--num-candidates", "4"),
            *("--packing", "float16"),
        ),
    )
    names = [row["generated"]["method"] for row in found["methods"]]
    assert names == [
        "vanilla",
        "generate()",
        "generate(), draft, 2",
        "generate(), prompt lookup, 2",
        "medusa, 4",
        "speculative, draft, 2",
        "self-speculative, 1 layers, 2",
        "prompt lookup, 2",
    ]
    for row in found["methods"]:
        assert row["num_identical_texts"] == row["num_texts"] == 2
        generated = row["generated"]
        assert generated["source"] == "generated"
        assert generated["speedup"] == pytest.approx(
            generated["acceleration_rate"] / generated["overhead"]
        )
        assert len(row["speedups_by_round"]) == 2
        assert {one["category"] for one in row["by_category"]} == {"sea", "land"}
    medusa = found["methods"][4]
    assert medusa["simulated"]["acceleration_rate"] == pytest.approx(1 + 0.5 + 0.2 + 0.15)
    assert set(medusa["gap_s"]) == {"operators", "rest_of_model", "drafting", "engine"}
    assert [row["num_candidates"] for row in found["overheads"]] == [1, 4, 8, 16, 32, 64]
    assert "float16" in found["how"]
    assert found["expectation"][0].startswith("Expected:")
    assert found["command"].startswith("medusa-bench generate ")
    assert set(found["versions"]) == {"medusa-bench", "torch", "transformers"}


@pytest.mark.parametrize(
    ("step_s", "high_s", "words"),
    [
        (1.2, 1.3, "Medusa pays, most with 4 candidates: 1.25x (1.50 tokens/step"),
        (1.2, 1.6, "Medusa may pay, most with 4 candidates: 1.25x (1.50 tokens/step"),
        (1.6, 1.7, "Medusa does not pay here with any number of candidates"),
    ],
)
def test_what_is_expected_says_how_sure_that_is(step_s: float, high_s: float, words: str) -> None:
    vanilla, step = Latency.exact(1), Latency(step_s, step_s, high_s)
    rows = [ExpectedStep(1, None, vanilla, vanilla, 1.0), ExpectedStep(4, None, step, vanilla, 1.5)]
    assert words in generation_tables.expectation(rows)[0]


def test_the_tables_name_their_sources(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = files / "figure7.png"
    draft = ("--draft", str(files / "draft"), "--draft-len", "1,2", "--draft-grid", str(grid))
    draft += ("--rounds", "1")
    assert cli.run(arguments(files, *draft, "--no-lookup", "--packing", "none")) == 0
    printed = capsys.readouterr().out
    for words in (
        "Before generating: simulated",
        "generated",
        "simulated",
        "2 of 2 the same",
        "Share of steps that accept at least so many tokens",
        "Overhead of verifying so many candidates",
        "By category",
        "the tokens/s of transformers' generate()",
    ):
        assert words in printed
    assert grid.stat().st_size > 1000


def test_sampling_uses_rejection_and_calls_typical_acceptance_lossy(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(
        capsys,
        arguments(files, "--heads", str(files / "heads"), "--temperature", "0.8", "--no-lookup"),
    )
    vanilla, medusa = found["methods"]
    assert "lossy" in medusa["generated"]["method"]
    assert (vanilla["generated"]["lossless"], medusa["generated"]["lossless"]) == (True, False)
    assert medusa["num_identical_texts"] is None


def test_random_weights_take_acceptance_from_a_named_model(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(
        capsys,
        [
            "generate",
            str(files / "target"),
            *("--weights", "random"),
            *("--acceptance", "tokens:2"),
            *("--num-candidates", "4"),
            *("--seq-len", "24"),
            *("--rounds", "1"),
        ],
    )
    one, four = found["overheads"]
    assert "assumed, not generated: 2 tokens a step" in found["acceptance_source"]
    assert (one["assumed_acceleration_rate"], four["assumed_acceleration_rate"]) == (1, 2)
    assert four["speedup"] == pytest.approx(2 / four["overhead"])


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--draft", "stranger"], "another tokenizer"),
        (["--heads", "heads", "--tree", "mc_sim_7b_63"], "but there are 2 heads"),
        (["--packing", "float16", "--dtype", "bfloat16"], "the model is bfloat16"),
        (["--dtype", "float8"], "not float8"),
        (["--self-draft", "2"], "A draft of the first 2 of 2 layers is no draft"),
        (["--max-new-tokens", "2", "--accuracy", "nothing.json", "--heads", "heads"], "nothing"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    files: Path, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    there = [str(files / one) if one in {"stranger", "heads"} else one for one in more]
    assert cli.run(arguments(files, "--rounds", "1", *there)) == 1
    assert sentence in capsys.readouterr().err


def test_compare_generate_is_an_alias_that_says_so(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--weights", "random", "-q", "4", "--rounds", "1", "--json"]
    assert cli.run(["compare", "--generate", str(files / "target"), *more]) == 0
    captured = capsys.readouterr()
    assert "a command of its own now: generate" in captured.err
    old = json.loads(captured.out)
    assert cli.run(["generate", str(files / "target"), *more]) == 0
    new = json.loads(capsys.readouterr().out)
    assert old.keys() == new.keys()
    assert [row["num_candidates"] for row in old["overheads"]] == [1, 4]
    two = ["compare", "--generate", str(files / "target"), "-b", "1,2"]
    assert cli.run(two) == 2
