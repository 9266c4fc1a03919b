"""Prompts: the 80 that ship, other people's files, and files that are refused."""

import json
from collections import Counter
from pathlib import Path

import pytest

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.decode.heads.prompts import training_prompts
from medusa_bench.decode.study import prompts
from medusa_bench.decode.study.prompts import Prompt

CATEGORIES = "writing roleplay reasoning math coding extraction stem humanities".split()


def test_80_prompts_ship_ten_in_each_category_all_different() -> None:
    own = prompts.read()
    assert Counter(prompt.category for prompt in own) == dict.fromkeys(CATEGORIES, 10)
    assert len({prompt.turns for prompt in own}) == len({prompt.id for prompt in own}) == 80
    assert min(len(prompt.turns[0].split()) for prompt in own) >= 8


def test_training_prompts_share_no_prompt_and_no_long_phrase_with_the_80() -> None:
    def phrases(text: str) -> set[tuple[str, ...]]:
        words = text.lower().split()
        return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}

    measured_on = set().union(*(phrases(prompt.turns[0]) for prompt in prompts.read()))
    trained_on = training_prompts(4000, seed=0)
    assert len(measured_on) > 500
    assert not [prompt for prompt in trained_on if phrases(prompt.turns[0]) & measured_on]


def test_training_prompts_differ_cover_all_categories_and_follow_their_seed() -> None:
    made = training_prompts(800, seed=3)
    assert len({prompt.turns for prompt in made}) == 800
    assert Counter(prompt.category for prompt in made) == dict.fromkeys(CATEGORIES, 100)
    assert training_prompts(200, seed=3) == made[:200]
    assert training_prompts(200, seed=4) != made[:200]
    assert not [prompt for prompt in made if "{" in prompt.turns[0]]


def test_more_training_prompts_than_the_templates_hold_is_an_error_not_an_endless_search() -> None:
    with pytest.raises(ValueError, match="do not hold"):
        training_prompts(1_000_000, seed=0)


def test_mt_bench_file_is_read_turn_by_turn(tmp_path: Path) -> None:
    file = tmp_path / "question.jsonl"
    lines = [
        {"question_id": 81, "category": "writing", "turns": ["Compose", "Rewrite"]},
        {"question_id": 111, "category": "math", "turns": ["Add"], "reference": ["2"]},
    ]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert prompts.read(file) == (
        Prompt("81", "writing", ("Compose", "Rewrite")),
        Prompt("111", "math", ("Add",)),
    )


def test_spec_bench_file_keeps_its_categories(tmp_path: Path) -> None:
    file = tmp_path / "question.jsonl"
    names = ("translation", "summarization", "qa", "math_reasoning", "rag")
    file.write_text(
        "\n".join(
            json.dumps({"question_id": i, "category": name, "turns": ["text"]})
            for i, name in enumerate(names)
        )
    )
    assert tuple(prompt.category for prompt in prompts.read(file)) == names


def test_alpaca_eval_file_is_a_list_of_instructions(tmp_path: Path) -> None:
    file = tmp_path / "alpaca_eval.json"
    entry = {"dataset": "vicuna", "instruction": "Name a river.", "output": "x", "generator": "y"}
    file.write_text(json.dumps([entry, {"instruction": "Sing."}], indent=1))
    assert prompts.read(file) == (
        Prompt("1", "vicuna", ("Name a river.",)),
        Prompt("2", "all", ("Sing.",)),
    )


GOOD = '{"turns": ["a"]}\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GOOD + '{"turns": ["a"]', "line 2 is not valid JSON"),
        (GOOD + GOOD + '{"turns": []}', "line 3: the turns must be"),
        (GOOD + '{"turns": ["  "]}', "line 2: the turns must be"),
        (GOOD + '{"turns": "a"}', "line 2: the turns must be"),
        ('{"prompt": "a"}', "line 1 has neither turns nor instruction"),
        ("\n\n" + '{"turns": ["a"], "category": 3}', "line 3: the category"),
        ("[1]", "entry 1 is no JSON object"),
        ('[{"instruction": "a"}, {"instruction": ""}]', "entry 2: the turns"),
        ('[{"instruction": "a"}', "is not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "holds no prompts"),
        ("", "holds no prompts"),
    ],
)
def test_bad_file_is_refused_with_the_line(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(content)
    with pytest.raises(InvalidFileError) as caught:
        prompts.read(file)
    assert said in caught.value.message


def test_file_that_is_not_text_or_not_there_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(b'{"turns": ["\xff"]}')
    with pytest.raises(InvalidFileError, match="line 1 is not valid UTF-8"):
        prompts.read(file)
    with pytest.raises(MedusaBenchError, match="cannot be read"):
        prompts.read(tmp_path / "none.jsonl")


class Tokenizer:
    """Words as tokens; with a chat template only where one is given."""

    def __init__(self, chat_template: str | None) -> None:
        self.chat_template = chat_template

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [len(word) for word in text.split()]}

    def apply_chat_template(
        self, messages: list[dict[str, str]], *, add_generation_prompt: bool, return_dict: bool
    ) -> dict[str, list[int]]:
        assert add_generation_prompt and return_dict
        return {"input_ids": [0, *self(messages[-1]["content"])["input_ids"], 0]}


def test_prompt_is_put_as_the_model_wants_it() -> None:
    prompt = Prompt("1", "qa", ("who is it", "why"))
    assert prompts.first_turn_ids(Tokenizer("template"), prompt) == [0, 3, 2, 2, 0]
    assert prompts.first_turn_ids(Tokenizer(None), prompt) == [3, 2, 2]
