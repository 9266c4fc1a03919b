"""Many prompts for self-distillation, put together from templates; none is an evaluation prompt."""

import json
import random
import re
from pathlib import Path

from medusa_bench.decode.study.prompts import Prompt

_FILE = Path(__file__).parents[1] / "prompt_sets" / "training.json"
_MAX_REPEATS = 200
_SLOT = re.compile(r"\{([a-z]+)(\d?)\}")


def training_prompts(count: int, *, seed: int) -> list[Prompt]:
    """`count` different prompts in random order, categories in equal parts.

    The same seed gives the same prompts, and a larger count gives the smaller one's first. Raises
    ValueError where the templates do not hold that many.
    """
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    chance = random.Random(seed)
    categories = sorted(content["templates"])
    seen: set[str] = set()
    prompts: list[Prompt] = []
    repeats = 0
    while len(prompts) < count:
        category = categories[len(prompts) % len(categories)]
        template = chance.choice(content["templates"][category])
        text = _filled(template, content, chance)
        if text in seen:
            repeats += 1
            if repeats > _MAX_REPEATS:
                raise ValueError(f"the templates of {category} do not hold {count} prompts")
            continue
        repeats = 0
        seen.add(text)
        prompts.append(Prompt(f"training-{len(prompts)}", category, (text,)))
    return prompts


def _filled(template: str, content: dict[str, dict[str, list[str]]], chance: random.Random) -> str:
    """The template with a value in each slot; {name} and {name2} are different names."""
    values: dict[str, str] = {}
    for slot, number in _SLOT.findall(template):
        if slot + number in values:
            continue
        if slot in content["numbers"]:
            low, high = content["numbers"][slot]
            values[slot] = str(chance.randint(int(low), int(high)))
        else:
            free = [value for value in content["slots"][slot] if value not in values.values()]
            values[slot + number] = chance.choice(free)
    return _SLOT.sub(lambda match: values[match[1] + match[2]], template)
