"""From a backbone to its Medusa heads: write text, train on it, measure, keep. Resumable."""

import copy
import csv
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from medusa_bench import __version__
from medusa_bench.base import limits
from medusa_bench.base.documents import parse_object
from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.base.files import read_bytes, write_whole
from medusa_bench.decode.engine import loading
from medusa_bench.decode.heads import files
from medusa_bench.decode.heads import texts as training_texts
from medusa_bench.decode.heads.accuracy import Ranks, ranks, write_accuracy
from medusa_bench.decode.heads.heads import MedusaHeads
from medusa_bench.decode.heads.prompts import training_prompts
from medusa_bench.decode.heads.texts import Texts
from medusa_bench.decode.heads.training import Recipe, Trained, train
from medusa_bench.decode.study.prompts import Prompt, first_turn_ids

HELD_OUT_TEXT = "held-out text of the backbone's own"
CURVES = "training.csv"
WORK = "work"  # text, hidden states and checkpoint: needed to go on, not to use the heads


class Stage(StrEnum):
    """What is going on, and what its progress counts."""

    WRITING = "writing text (tokens)"
    TRAINING = "training (steps)"
    TOGETHER = "training backbone and heads (steps)"
    ANSWERING = "answering the prompts (tokens)"


# stage, how much of it is done, how much there is -> whether to go on
Progress = Callable[[Stage, float, float], bool]


@dataclass(frozen=True, slots=True)
class Text:
    """Which text the backbone is asked to write."""

    tokens: int = 120_000
    max_new_tokens: int = 160
    rows: int = 64
    seed: int = 0

    @property
    def num_prompts(self) -> int:
        """Enough for full batches of prompts of equal length; the same for all but long texts, so
        that asking for more tokens goes on with the same text."""
        return max(8000, 2 * self.tokens // self.max_new_tokens)


@dataclass(frozen=True, slots=True)
class Made:
    """What has been made, and measured on text the heads were not trained on."""

    trained: Trained
    held_out: Ranks
    on_prompts: Ranks
    num_texts: int
    num_tokens: int


def make_heads(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    name: str,
    text: Text,
    recipe: Recipe,
    prompts: Sequence[Prompt],
    prompts_text: str,
    dtype: torch.dtype = torch.bfloat16,
    progress: Progress = lambda _stage, _done, _total: True,
) -> Made | None:
    """Write text, train heads, measure them on held-out text and on `prompts`, save all of it.

    None if `progress` stopped it; the same call goes on. Raises MedusaBenchError where the folder
    was begun with other settings, or where `prompts` are among the training prompts.
    """
    work = folder / WORK
    texts = written(
        model, tokenizer, folder, name=name, text=text, prompts=prompts, progress=progress
    )
    if texts is None:
        return None
    trained = train(
        model,
        texts,
        recipe,
        work / "checkpoint.pt",
        progress=lambda step, _loss: progress(Stage.TRAINING, step, recipe.steps),
    )
    if trained is None:
        return None
    answered = answers(
        model,
        tokenizer,
        work / "answers",
        prompts=prompts,
        max_new_tokens=text.max_new_tokens,
        progress=progress,
    )
    if answered is None:
        return None
    heads = as_saved(trained.heads, dtype)
    made = Made(
        trained,
        ranks(heads, trained.held_out, text=HELD_OUT_TEXT),
        ranks(heads, answered, text=prompts_text),
        len(texts),
        len(texts.tokens),
    )
    _save(made, folder, name=name, text=text, recipe=recipe, dtype=dtype)
    return made


@torch.no_grad()
def as_saved(heads: MedusaHeads, dtype: torch.dtype) -> MedusaHeads:
    """The heads as a reader of their file has them: rounded, but for the LM head they share."""
    rounded = copy.deepcopy(heads)
    for name, parameter in rounded.named_parameters():
        if name != "lm_head.weight":
            parameter.copy_(parameter.to(dtype))
    return rounded


def _begin(work: Path, model: Any, name: str, text: Text) -> None:
    """Note what the folder's text is of; refuse to mix it with another's."""
    lm_head = model.get_output_embeddings().weight
    settings = {
        "model": name,
        "lm_head_sum": float(lm_head.sum(dtype=torch.float64)),
        "lm_head_shape": list(lm_head.shape),
        **asdict(text),
    }
    settings.pop("tokens")  # more of the same text may be asked for
    settings.pop("seed")
    settings["text_seed"] = text.seed
    path = work / "text.json"
    if path.exists():
        before = parse_object(read_bytes(path, limits.RUN_BYTES), where=str(path))
        if other := [key for key in settings if before.get(key) != settings[key]]:
            was, now = before.get(other[0]), settings[other[0]]
            raise MedusaBenchError(
                f"{work} was begun with {other[0]} {was}, and is now asked for {now}.",
                hint="choose another folder, or delete this one.",
            )
        return
    write_whole(path, (json.dumps(settings, indent=2, allow_nan=False) + "\n").encode())


def written(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    name: str,
    text: Text,
    prompts: Sequence[Prompt],
    progress: Progress,
) -> Texts | None:
    """The training text in the folder, written as far as it is not there; None if stopped.

    Raises MedusaBenchError where the folder was begun with other settings, or where `prompts` are
    among the training prompts.
    """
    _begin(folder / WORK, model, name, text)
    asked = training_prompts(text.num_prompts, seed=text.seed)
    known = {turn for prompt in prompts for turn in prompt.turns}
    if shared := [prompt for prompt in asked if prompt.turns[0] in known]:
        raise MedusaBenchError(
            f"The prompt {shared[0].turns[0][:60]!r} is both trained on and measured on."
        )
    batches = training_texts.batches(
        [first_turn_ids(tokenizer, prompt) for prompt in asked],
        [prompt.category for prompt in asked],
        rows=text.rows,
        chance=torch.Generator().manual_seed(text.seed),
    )
    paths = training_texts.write_batches(
        model,
        batches,
        folder / WORK / "texts",
        min_tokens=text.tokens,
        max_new_tokens=text.max_new_tokens,
        eos_ids=loading.eos_ids(model),
        progress=lambda tokens: progress(Stage.WRITING, min(tokens, text.tokens), text.tokens),
    )
    return None if paths is None else training_texts.read(paths)


def answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    progress: Callable[[int], bool] = lambda _: True,
) -> Texts | None:
    """The model's greedy answers to the first turn of every prompt, all in one batch.

    `progress` is told the tokens so far and stops it (None) by returning False.
    """
    asked = [first_turn_ids(tokenizer, prompt) for prompt in prompts]
    return training_texts.write(model, asked, max_new_tokens, loading.eos_ids(model), progress)


def answers(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    progress: Progress,
) -> Texts | None:
    """The backbone's answers to the first turn of every prompt; written once."""
    asked = [first_turn_ids(tokenizer, prompt) for prompt in prompts]
    identity = hashlib.sha256(json.dumps([asked, max_new_tokens]).encode()).hexdigest()
    path = folder / f"{identity[:16]}.safetensors"
    if path.exists():
        return training_texts.read([path])
    most = len(prompts) * max_new_tokens
    found = answer(
        model,
        tokenizer,
        prompts,
        max_new_tokens,
        lambda tokens: progress(Stage.ANSWERING, tokens, most),
    )
    if found is not None:
        training_texts.save(found, [prompt.category for prompt in prompts], path)
    return found


def _save(
    made: Made, folder: Path, *, name: str, text: Text, recipe: Recipe, dtype: torch.dtype
) -> None:
    """Heads, config, accuracies on both texts, and the course of training."""
    config = {
        "base_model_name_or_path": name,
        "hidden_size": made.trained.heads.hidden_size,
        "vocab_size": made.trained.heads.vocab_size,
        "dtype": str(dtype).removeprefix("torch."),
        "medusa_bench": {
            "version": __version__,
            "recipe": asdict(recipe),
            "text": asdict(text) | {"texts_written": made.num_texts, "written": made.num_tokens},
            "training_tokens": made.num_tokens - len(made.trained.held_out.tokens),
            "coverage": made.trained.coverage,
        },
    }
    files.save(made.trained.heads, folder, config=config, dtype=dtype)
    write_accuracy(made.held_out, folder, "accuracy-held-out", model=name)
    write_accuracy(made.on_prompts, folder, "accuracy", model=name)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["step", "head", "loss_nats", "held_out_top_1", "held_out_top_5"])
    for curve in made.trained.curves:
        for head, values in enumerate(
            zip(curve.loss, curve.held_out_top_1, curve.held_out_top_5, strict=True), start=1
        ):
            writer.writerow([curve.step, head, *(f"{value:.6f}" for value in values)])
    write_whole(folder / CURVES, lines.getvalue().encode())
