"""From a backbone to Medusa-2: write text, train heads, then both together, and measure both.

The folder holds the heads as `distillation` writes them, the adapter in peft's format in
`adapter/`, and `quality.json`: what the backbone lost and the heads won. Resumable.
"""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from medusa_bench import __version__
from medusa_bench.base.files import write_whole
from medusa_bench.decode.heads import adapters, distillation, files
from medusa_bench.decode.heads.accuracy import Ranks, ranks, write_accuracy
from medusa_bench.decode.heads.distillation import WORK, Progress, Stage, Text
from medusa_bench.decode.heads.heads import MedusaHeads
from medusa_bench.decode.heads.joint import (
    JointCurve,
    JointRecipe,
    Passages,
    train_jointly,
    with_adapter,
)
from medusa_bench.decode.heads.quality import (
    AnswerDifference,
    Quality,
    answer_difference,
    quality,
)
from medusa_bench.decode.heads.training import Recipe, split, train
from medusa_bench.decode.study.prompts import Prompt

ADAPTER, QUALITY, CURVES = "adapter", "quality.json", "training-joint.csv"
COUNTS = (4, 8, 16, 32)  # candidates at which tokens a step are told
_QUALITY_TEXTS = 64  # held-out texts that the backbone is read on, before and after


@dataclass(frozen=True, slots=True)
class Together:
    """What was made, and what it gives: heads on the adapted model's own answers, and before."""

    heads: MedusaHeads
    curves: tuple[JointCurve, ...]
    medusa_1: Ranks  # on the frozen model's answers
    medusa_2: Ranks  # on the adapted model's answers
    quality: Quality
    answers: AnswerDifference

    def document(self) -> dict[str, Any]:
        """As JSON, for quality.json: provenance generated."""
        return {
            "provenance": "generated",
            "held_out": asdict(self.quality),
            "answers": asdict(self.answers),
            "tokens_a_step": {
                name: {str(count): asdict(measured.rate_interval(count)) for count in COUNTS}
                for name, measured in (("medusa_1", self.medusa_1), ("medusa_2", self.medusa_2))
            },
            "top_1": {
                name: [measured.cumulative_accuracy(k, 1) for k in range(measured.num_heads)]
                for name, measured in (("medusa_1", self.medusa_1), ("medusa_2", self.medusa_2))
            },
        }


def make_medusa_2(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    name: str,
    text: Text,
    recipe: Recipe,
    joint: JointRecipe,
    prompts: Sequence[Prompt],
    prompts_text: str,
    heads_from: Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    progress: Progress = lambda _stage, _done, _total: True,
) -> Together | None:
    """Medusa-1 (trained here, or read from `heads_from`), then backbone and heads together.

    None if `progress` stopped it; the same call goes on. `model` comes back adapted and merged.
    Raises MedusaBenchError where the folder was begun with other settings.
    """
    work = folder / WORK
    texts = distillation.written(
        model, tokenizer, folder, name=name, text=text, prompts=prompts, progress=progress
    )
    if texts is None:
        return None
    training, held_out = split(texts, recipe.held_out)
    heads = None if heads_from is None else _trainable(files.load(heads_from, model))
    if heads is None:
        first = train(
            model,
            texts,
            recipe,
            work / "checkpoint.pt",
            progress=lambda step, _loss: progress(Stage.TRAINING, step, recipe.steps),
        )
        if first is None:
            return None
        heads = _trainable(first.heads)
    before = distillation.answers(
        model, tokenizer, work / "answers", prompts=prompts,
        max_new_tokens=text.max_new_tokens, progress=progress,
    )  # fmt: skip
    if before is None:
        return None
    medusa_1 = ranks(distillation.as_saved(heads, dtype), before, text=prompts_text)
    adapted = with_adapter(model, joint)
    curves = train_jointly(
        adapted,
        heads,
        training,
        joint,
        work / "joint.pt",
        progress=lambda step, _loss: progress(Stage.TOGETHER, step, joint.steps),
    )
    if curves is None:
        return None
    sample = held_out.first(_QUALITY_TEXTS)
    kept = quality(adapted, sample, Passages(sample, heads, joint))
    adapters.save(adapted, folder / ADAPTER, base_name=name)
    moved = adapters.merged(adapted)
    after = distillation.answers(
        moved, tokenizer, work / f"answers-{joint_name(joint)}", prompts=prompts,
        max_new_tokens=text.max_new_tokens, progress=progress,
    )  # fmt: skip
    if after is None:
        return None
    heads.eval().requires_grad_(False)
    made = Together(
        heads,
        curves,
        medusa_1,
        ranks(distillation.as_saved(heads, dtype), after, text=prompts_text),
        kept,
        answer_difference(before, after),
    )
    _save(made, folder, name=name, text=text, recipe=recipe, joint=joint, dtype=dtype)
    return made


def joint_name(joint: JointRecipe) -> str:
    """A short name that differs where the recipe does."""
    return hashlib.sha256(json.dumps(asdict(joint), sort_keys=True).encode()).hexdigest()[:12]


def _trainable(heads: MedusaHeads) -> MedusaHeads:
    """In float32 and with gradients, but for the LM head that is shared with the backbone."""
    heads = heads.float().train()
    for name, parameter in heads.named_parameters():
        parameter.requires_grad_(name != "lm_head.weight")
    return heads


def _save(
    made: Together,
    folder: Path,
    *,
    name: str,
    text: Text,
    recipe: Recipe,
    joint: JointRecipe,
    dtype: torch.dtype,
) -> None:
    config = {
        "base_model_name_or_path": name,
        "hidden_size": made.heads.hidden_size,
        "vocab_size": made.heads.vocab_size,
        "dtype": str(dtype).removeprefix("torch."),
        "adapter": ADAPTER,
        "medusa_bench": {
            "version": __version__,
            "recipe": asdict(recipe),
            "joint": asdict(joint),
            "optimizer": "AdamW",
            "text": asdict(text),
        },
    }
    files.save(made.heads, folder, config=config, dtype=dtype)
    write_accuracy(made.medusa_2, folder, "accuracy", model=name)
    write_whole(
        folder / QUALITY, (json.dumps(made.document(), indent=2, allow_nan=False) + "\n").encode()
    )
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["step", "part", "loss_nats"])
    for curve in made.curves:
        parts = {"backbone": curve.backbone}
        parts |= {f"head {head}": loss for head, loss in enumerate(curve.heads, start=1)}
        writer.writerows([curve.step, part, f"{loss:.6f}"] for part, loss in parts.items())
    write_whole(folder / CURVES, lines.getvalue().encode())
