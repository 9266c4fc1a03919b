"""Prompts by category: 80 of our own, and the files of MT-Bench, AlpacaEval and Spec-Bench."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medusa_bench.base import limits
from medusa_bench.base.deadlines import within
from medusa_bench.base.documents import JsonObject, parse_object
from medusa_bench.base.errors import InvalidFileError, told_as
from medusa_bench.base.files import read_bytes

# Written for this project, ten in each of the categories of MT-Bench (arXiv 2306.05685).
OWN = Path(__file__).parents[1] / "prompt_sets" / "questions.jsonl"
OWN_TEXT = "answers to our 80 prompts"

_MAX_PROMPTS = 100_000
_MAX_TURNS = 64
_TEMPLATE_S = 2.0  # it takes milliseconds
_ENDLESS = f"The model's chat template has not ended after {_TEMPLATE_S:g} s."
_HINT = (
    "one JSON object a line with turns (MT-Bench, Spec-Bench), or a list of objects with "
    "instruction (AlpacaEval)."
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One conversation to answer: what the user says, turn by turn."""

    id: str
    category: str
    turns: tuple[str, ...]


def read(path: Path = OWN) -> tuple[Prompt, ...]:
    """The prompts of a file, in its order: our own, MT-Bench's, AlpacaEval's or Spec-Bench's.

    MT-Bench and Spec-Bench: a line each, {"question_id", "category", "turns": [...]}. AlpacaEval:
    a list, {"instruction", "dataset"}; the dataset is the category. Raises InvalidFileError with
    the line, or the place in the list, of what is wrong.
    """
    raw = read_bytes(path, limits.PROMPTS_BYTES, hint=_HINT).removeprefix(b"\xef\xbb\xbf")
    entries = _listed(raw, path) if raw.lstrip()[:1] == b"[" else _lines(raw, path)
    prompts = tuple(
        _prompt(entry, f"{path}, {where}", number)
        for number, (where, entry) in enumerate(entries, start=1)
    )
    if not prompts:
        raise InvalidFileError(f"{path} holds no prompts.", hint=_HINT)
    if len(prompts) > _MAX_PROMPTS:
        raise InvalidFileError(f"{path} holds {len(prompts):,} prompts; at most {_MAX_PROMPTS:,}.")
    return prompts


def _lines(raw: bytes, path: Path) -> Iterator[tuple[str, JsonObject]]:
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if line.strip():
            yield f"line {number}", parse_object(line, where=f"{path}, line {number}")


def _listed(raw: bytes, path: Path) -> Iterator[tuple[str, Any]]:
    listed = parse_object(b'{"prompts":' + raw + b"}", where=str(path))["prompts"]
    for number, entry in enumerate(listed, start=1):
        yield f"entry {number}", entry


def _prompt(entry: Any, where: str, number: int) -> Prompt:
    if not isinstance(entry, dict):
        raise InvalidFileError(f"{where} is no JSON object.", hint=_HINT)
    turns = entry.get("turns", [entry["instruction"]] if "instruction" in entry else None)
    if turns is None:
        raise InvalidFileError(f"{where} has neither turns nor instruction.", hint=_HINT)
    if (
        not isinstance(turns, list)
        or not 1 <= len(turns) <= _MAX_TURNS
        or not all(isinstance(turn, str) and turn.strip() for turn in turns)
    ):
        raise InvalidFileError(f"{where}: the turns must be a list of texts, none empty.")
    category = entry.get("category", entry.get("dataset", "all"))
    name = entry.get("question_id", entry.get("id", number))
    if not isinstance(category, str) or not isinstance(name, str | int):
        raise InvalidFileError(f"{where}: the category must be a text, the id a text or a number.")
    return Prompt(str(name), category, tuple(turns))


def spread(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """The first prompts of every category in turn, until there are `count`."""
    by_category: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_category.setdefault(prompt.category, []).append(prompt)
    deepest = max(map(len, by_category.values()))
    in_turn = [
        group[place]
        for place in range(deepest)
        for group in by_category.values()
        if place < len(group)
    ]
    return in_turn[:count]


def token_ids(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """A conversation as the model wants it: its chat template, or plain text where it has none.

    Raises InvalidFileError where the template is damaged, or loops on.
    """
    if tokenizer.chat_template is None:
        text = "\n\n".join(message["content"] for message in messages)
        ids: list[int] = tokenizer(text)["input_ids"]
        return ids
    with (
        told_as("The model's chat template cannot be used"),
        within(_TEMPLATE_S, InvalidFileError(_ENDLESS)),
    ):
        made = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(made["input_ids"])


def first_turn_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The first turn of a prompt, ready to be answered."""
    return token_ids(tokenizer, [{"role": "user", "content": prompt.turns[0]}])
