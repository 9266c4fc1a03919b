"""Medusa-1: heads trained on a frozen backbone, from text it wrote itself and its hidden states.

Loss: the heads' cross-entropies, head k weighted 0.8^k; AdamW, a cosine schedule after a warm-up.
Source: arXiv 2401.10774, sections 2.2.1 and 2.3.2. A killed run goes on from its last checkpoint
and ends with the same heads as an unbroken one.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.decode.heads import checkpoints
from medusa_bench.decode.heads.accuracy import ranks, targets
from medusa_bench.decode.heads.heads import MedusaHeads
from medusa_bench.decode.heads.texts import Texts


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what the heads become, but for the backbone and its text."""

    num_heads: int = 3
    num_layers: int = 1
    own_lm_head: bool = False
    reads_root: bool = False
    max_proposable: int = 8192
    steps: int = 800
    rows: int = 256  # tokens a step
    learning_rate: float = 2e-3
    warmup_steps: int = 40
    head_decay: float = 0.8
    held_out: int = 10  # one text in so many is held out
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainingCurve:
    """The state of training after a step: per head, from the first."""

    step: int
    loss: tuple[float, ...]  # nats, on the rows of the last steps
    held_out_top_1: tuple[float, ...]
    held_out_top_5: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Trained:
    """Heads, how they came about, and the text that was kept from them."""

    heads: MedusaHeads
    curves: tuple[TrainingCurve, ...]
    held_out: Texts

    @property
    def coverage(self) -> float:
        """The share of the held-out tokens that the heads can propose at all."""
        proposable = torch.isin(self.held_out.tokens.long(), _token_ids(self.heads).cpu())
        return float(proposable.float().mean())


def split(texts: Texts, held_out: int) -> tuple[Texts, Texts]:
    """Training texts and held-out texts: every held_out-th text is held out, whole."""
    index = torch.arange(len(texts))
    is_held_out = index % held_out == held_out - 1
    return texts.chosen(index[~is_held_out]), texts.chosen(index[is_held_out])


def proposable_tokens(texts: Texts, vocab_size: int, at_most: int) -> Tensor:
    """The token ids that texts use most, ascending: what heads trained on them may propose."""
    counts = torch.bincount(texts.tokens.long(), minlength=vocab_size)
    used = int((counts > 0).sum())
    return counts.topk(min(used, at_most)).indices.sort().values


def train(
    model: Any,
    texts: Texts,
    recipe: Recipe,
    checkpoint: Path,
    *,
    progress: Callable[[int, float], bool] = lambda _step, _loss: True,
    checkpoint_every: int = 50,
) -> Trained | None:
    """Train heads for a causal LM of transformers on texts that it wrote; None if stopped.

    `progress` is told the steps done and the loss, and stops the training by returning False;
    the same call then goes on from `checkpoint`. Raises MedusaBenchError where the checkpoint
    was made with another recipe or other text, or where the loss is not finite.
    """
    training, held_out = split(texts, recipe.held_out)
    if not len(held_out):
        raise MedusaBenchError(
            f"{len(texts)} texts are too few: one in {recipe.held_out} is held out.",
            hint="ask for more tokens.",
        )
    heads = _untrained(model, training, recipe)
    work = _Work(heads, training, recipe)
    identity = asdict(recipe) | {"tokens": len(texts.tokens), "sum": int(texts.tokens.sum())}
    curves, step = work.resume(checkpoint, identity), work.step
    held_out_sample = held_out.first(_CURVE_TEXTS)
    while step < recipe.steps:
        losses = work.train_step()
        step = work.step
        if step % checkpoint_every == 0 or step == recipe.steps:
            curves.append(_curve(heads, work.recent_losses(), held_out_sample, step))
            work.save(checkpoint, identity, curves)
        if not progress(step, float(losses.mean())) and step < recipe.steps:
            work.save(checkpoint, identity, curves)
            return None
    return Trained(heads.eval().requires_grad_(False), tuple(curves), held_out)


_CURVE_TEXTS = 32


def _untrained(model: Any, training: Texts, recipe: Recipe) -> MedusaHeads:
    """Heads that repeat the LM head, in float32: small steps are lost in half precision."""
    lm_head = model.get_output_embeddings().weight.detach().float()
    embedding = model.get_input_embeddings().weight.detach().float() if recipe.reads_root else None
    return MedusaHeads(
        recipe.num_heads,
        lm_head,
        num_layers=recipe.num_layers,
        token_ids=proposable_tokens(training, len(lm_head), recipe.max_proposable).to(
            lm_head.device
        ),
        own_lm_head=recipe.own_lm_head,
        embedding=embedding,
    ).train()


def _token_ids(heads: MedusaHeads) -> Tensor:
    assert heads.token_ids is not None
    return heads.token_ids


def _curve(heads: MedusaHeads, losses: Tensor, held_out: Texts, step: int) -> TrainingCurve:
    measured = ranks(heads, held_out, text="held out")
    return TrainingCurve(
        step,
        tuple(losses.tolist()),
        *(
            tuple(measured.cumulative_accuracy(k, top_k) for k in range(heads.num_heads))
            for top_k in (1, 5)
        ),
    )


class _Work:
    """Heads in training: what a step does, and what must be kept to go on after a kill."""

    def __init__(self, heads: MedusaHeads, texts: Texts, recipe: Recipe) -> None:
        self.heads, self.texts, self.recipe = heads, texts, recipe
        self.step = 0
        self._losses: list[Tensor] = []
        self._trained = [p for p in heads.parameters() if p.requires_grad and p.numel()]
        self._optimizer = torch.optim.AdamW(
            self._trained, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._rate)
        # Head k's right answer as a column of its logits; -1: past the end, or not proposable.
        columns = torch.full((heads.vocab_size + 1,), -1)
        columns[_token_ids(heads).cpu()] = torch.arange(heads.num_proposable)
        self._answers = columns[targets(texts, heads.num_heads)]
        self._usable = (self._answers[:, 0] >= 0).nonzero().flatten()
        self._weights = recipe.head_decay ** torch.arange(heads.num_heads)

    def _rate(self, step: int) -> float:
        """The share of the peak learning rate at a step: linear warm-up, then half a cosine."""
        warmup, steps = self.recipe.warmup_steps, self.recipe.steps
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    def _rows(self) -> Tensor:
        """The rows of this step: a pass through all tokens in random order, then another."""
        per_pass = max(1, len(self._usable) // self.recipe.rows)
        pass_index, place = divmod(self.step, per_pass)
        chance = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + pass_index)
        order = torch.randperm(len(self._usable), generator=chance)
        return self._usable[order[place * self.recipe.rows : (place + 1) * self.recipe.rows]]

    def train_step(self) -> Tensor:
        """One step of the optimizer; the loss of each head (num_heads,)."""
        rows = self._rows()
        parameter = self.heads.first.weight
        device = parameter.device
        logits = self.heads(
            self.texts.hidden[rows].to(device, parameter.dtype),
            self.texts.tokens[rows].long().to(device),
        )
        answers = self._answers[rows].T.to(device)
        each = nn.functional.cross_entropy(
            logits.flatten(0, 1), answers.flatten(), ignore_index=-1, reduction="none"
        ).view(answers.shape)
        losses = each.sum(dim=1) / (answers >= 0).sum(dim=1).clamp(min=1)
        loss = (losses * self._weights.to(device)).sum()
        if not bool(torch.isfinite(loss)):
            raise MedusaBenchError(
                f"The loss is not finite after {self.step} steps.",
                hint="use a smaller --learning-rate.",
            )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # in torch
        nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()
        self._schedule.step()
        self.step += 1
        self._losses.append(losses.detach().cpu())
        return self._losses[-1]

    def recent_losses(self) -> Tensor:
        """The mean loss of each head since the last call or start."""
        mean = torch.stack(self._losses).mean(dim=0)
        self._losses.clear()
        return mean

    def save(self, path: Path, identity: dict[str, Any], curves: list[TrainingCurve]) -> None:
        checkpoints.write(
            path,
            identity,
            {
                "step": self.step,
                "heads": [parameter.detach() for parameter in self._trained],
                "optimizer": self._optimizer.state_dict(),
                "schedule": self._schedule.state_dict(),
                "losses": self._losses,
                "curves": [asdict(curve) for curve in curves],
            },
        )

    def resume(self, path: Path, identity: dict[str, Any]) -> list[TrainingCurve]:
        """Go on from a checkpoint if there is one; the curves so far."""
        saved = checkpoints.read(path, identity)
        if saved is None:
            return []
        with torch.no_grad():
            for parameter, value in zip(self._trained, saved["heads"], strict=True):
                parameter.copy_(value)
        self._optimizer.load_state_dict(saved["optimizer"])
        self._schedule.load_state_dict(saved["schedule"])
        self.step = saved["step"]
        self._losses = saved["losses"]
        return [TrainingCurve(**curve) for curve in saved["curves"]]
