"""Medusa-2: the backbone and its heads trained together, the backbone through a LoRA adapter.

Loss: L_LM + lambda(step) x sum over heads of 0.8^k L_k. L_LM is the KL divergence from the model
with its adapter off (self-distillation) or the cross-entropy of the text (two stages).
Source: arXiv 2401.10774, sections 2.2.2 and 2.3.2. A killed run goes on from its last checkpoint
and ends with the same weights as an unbroken one.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.decode.heads import adapters, checkpoints
from medusa_bench.decode.heads.accuracy import targets
from medusa_bench.decode.heads.heads import MedusaHeads
from medusa_bench.decode.heads.texts import Texts


class Target(StrEnum):
    """What the backbone is held to while it moves."""

    SELF = "self"  # its own distribution with the adapter off
    TEXT = "text"  # the tokens of the text


class Rise(StrEnum):
    """How the heads' weight in the loss goes over the training."""

    SINE = "sine"  # from nothing to its peak at the end
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class JointRecipe:
    """Everything that decides what adapter and heads become, but for the model, heads and text.

    Rates are peaks: a linear warm-up, then half a cosine. The defaults are the paper's for
    self-distillation.
    """

    rank: int = 32
    alpha: int = 16
    dropout: float = 0.05
    adapts_lm_head: bool = False
    target: Target = Target.SELF
    heads_weight: float = 0.01  # lambda_0
    rise: Rise = Rise.SINE
    backbone_rate: float = 1e-4
    heads_rate_ratio: float = 4.0
    steps: int = 130
    texts: int = 4  # in a step, over all devices
    texts_at_a_time: int = 4  # in one forward pass of one device
    warmup_steps: int = 20
    head_decay: float = 0.8
    clip_norm: float = 1.0
    precision: str = "bf16"  # of products, by autocast: "bf16" or "no"
    seed: int = 0

    def weight(self, step: int) -> float:
        """The heads' weight in the loss of a step, counted from 0."""
        if self.rise is Rise.CONSTANT:
            return self.heads_weight
        return self.heads_weight * math.sin(math.pi / 2 * (step + 1) / self.steps)

    def rate(self, step: int) -> float:
        """The share of the peak learning rates at a step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, slots=True)
class JointCurve:
    """The mean losses of the steps since the last one, in nats a token."""

    step: int
    backbone: float
    heads: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """Prompts with their texts, padded on the right: what one forward pass reads.

    ids, mask: (texts, longest). rows: (tokens,) places in ids.flatten() whose hidden state predicts
    each token of the texts; tokens: (tokens,); answers: (tokens, num_heads), columns of the heads'
    logits or -1; hidden: (tokens, hidden_size), the frozen model's, or (0, hidden_size).
    """

    ids: Tensor
    mask: Tensor
    rows: Tensor
    tokens: Tensor
    answers: Tensor
    hidden: Tensor


def with_adapter(model: Any, recipe: JointRecipe) -> Any:
    """The model with a fresh LoRA adapter on its linear layers, in peft's wrapper.

    Raises MedusaBenchError where the LM head is to be adapted but shares its weight with the
    embedding: an adapter of it cannot be merged without changing the embedding too.
    """
    wanted: str | list[str] = "all-linear"
    if recipe.adapts_lm_head:
        lm_head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        if lm_head.weight is embedding.weight:
            raise MedusaBenchError(
                "The LM head of this model shares its weight with the embedding: an adapter of the "
                "one would change the other.",
                hint="leave --adapt-lm-head out; the heads then share the LM head as it is.",
            )
        wanted = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return adapters.wrapped(
            model,
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=wanted,
        )


def hidden_states(model: Any, passage: Passage) -> Tensor:
    """What the LM head reads at each token of the texts: (tokens, hidden_size)."""
    states: Tensor = model.get_decoder()(
        input_ids=passage.ids, attention_mask=passage.mask, use_cache=False
    ).last_hidden_state
    return states.flatten(0, 1)[passage.rows]


class Joint(nn.Module):
    """Backbone with adapter, and heads, as one module that gives a passage's losses."""

    def __init__(self, adapted: Any, heads: MedusaHeads, recipe: JointRecipe) -> None:
        super().__init__()
        self.adapted, self.heads, self.recipe = adapted, heads, recipe

    def forward(
        self, passage: Passage, teacher: Tensor | None, step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss to go down, L_LM and each head's loss: sums over tokens, weighed as a step.

        teacher: (tokens, vocab_size) log-probabilities to be kept to, or None for the text itself.
        """
        base = self.adapted.get_base_model()
        states = hidden_states(base, passage)
        logits = base.get_output_embeddings()(states).float()
        backbone = _backbone_loss(passage, teacher, logits)
        guesses = self.heads(states, passage.tokens).float()
        losses = nn.functional.cross_entropy(
            guesses.flatten(0, 1),
            passage.answers.T.flatten(),
            ignore_index=-1,
            reduction="none",
        )
        by_head = losses.view(guesses.shape[:2]).sum(dim=1)
        decay = self.recipe.head_decay ** torch.arange(len(by_head), device=by_head.device)
        return backbone + self.recipe.weight(step) * (decay * by_head).sum(), backbone, by_head


def _backbone_loss(passage: Passage, teacher: Tensor | None, logits: Tensor) -> Tensor:
    if teacher is None:
        return nn.functional.cross_entropy(logits, passage.tokens, reduction="sum")
    return nn.functional.kl_div(logits.log_softmax(-1), teacher, reduction="sum", log_target=True)


@torch.no_grad()
def teacher_log_probs(adapted: Any, passage: Passage) -> Tensor:
    """What the model says with its adapter off: (tokens, vocab_size), log-probabilities.

    By the hidden states that were kept when it wrote the text, or by one pass more. To be called
    before the adapted pass: peft switches off the gradients of what it disables.
    """
    base = adapted.get_base_model()
    with adapted.disable_adapter():
        states = passage.hidden if len(passage.hidden) else hidden_states(base, passage)
        lm_head = base.get_output_embeddings()
        logits: Tensor = lm_head(states.to(lm_head.weight.dtype))
        return logits.float().log_softmax(-1)


class Passages:
    """The texts of each step, in an order that the seed alone decides."""

    def __init__(self, texts: Texts, heads: MedusaHeads, recipe: JointRecipe) -> None:
        if not texts.prompt_ids:
            raise MedusaBenchError(
                "These texts were kept without their prompts, which Medusa-2 needs.",
                hint="delete the folder's work/texts, and repeat the command to write them again.",
            )
        self.texts, self.recipe = texts, recipe
        columns = torch.full((heads.vocab_size + 1,), -1)
        token_ids = torch.arange(heads.vocab_size) if heads.token_ids is None else heads.token_ids
        columns[token_ids.cpu()] = torch.arange(heads.num_proposable)
        self._answers = columns[targets(texts, heads.num_heads)]

    def of_step(self, step: int, process: int, num_processes: int) -> list[Passage]:
        """What one of several processes reads in a step, pass by pass."""
        chosen = self._chosen(step)[process::num_processes]
        size = self.recipe.texts_at_a_time
        return [self.passage(chosen[at : at + size]) for at in range(0, len(chosen), size)]

    def num_tokens(self, step: int) -> int:
        """Tokens of the texts of a step, over all processes."""
        lengths = self.texts.starts.diff()
        return int(lengths[torch.tensor(self._chosen(step))].sum())

    def _chosen(self, step: int) -> list[int]:
        per_pass = max(1, len(self.texts) // self.recipe.texts)
        pass_index, place = divmod(step, per_pass)
        chance = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + pass_index)
        order = torch.randperm(len(self.texts), generator=chance)
        at = place * self.recipe.texts
        chosen: list[int] = order[at : at + self.recipe.texts].tolist()
        return chosen

    def passage(self, chosen: list[int]) -> Passage:
        """Some texts, padded to the longest of them."""
        starts = self.texts.starts.tolist()
        spans = [range(starts[text], starts[text + 1]) for text in chosen]
        prompts = [self.texts.prompt_ids[text] for text in chosen]
        longest = max(len(p) + len(s) - 1 for p, s in zip(prompts, spans, strict=True))
        ids = torch.zeros(len(chosen), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        rows: list[int] = []
        for row, (prompt, span) in enumerate(zip(prompts, spans, strict=True)):
            read = [*prompt, *self.texts.tokens[span.start : span.stop - 1].tolist()]
            ids[row, : len(read)] = torch.tensor(read)
            mask[row, : len(read)] = 1
            first = row * longest + len(prompt) - 1
            rows += range(first, first + len(span))
        at = torch.tensor([index for span in spans for index in span])
        return Passage(
            ids,
            mask,
            torch.tensor(rows),
            self.texts.tokens[at].long(),
            self._answers[at],
            self.texts.hidden[at] if len(self.texts.hidden) else self.texts.hidden,
        )


def _on(passage: Passage, device: torch.device) -> Passage:
    return Passage(*(getattr(passage, name).to(device) for name in Passage.__slots__))


def train_jointly(
    adapted: Any,
    heads: MedusaHeads,
    texts: Texts,
    recipe: JointRecipe,
    checkpoint: Path,
    *,
    progress: Callable[[int, float], bool] = lambda _step, _loss: True,
    checkpoint_every: int = 10,
) -> tuple[JointCurve, ...] | None:
    """Train adapter and heads in place on texts the model wrote; None if `progress` stopped it.

    `adapted` is from `with_adapter`, `heads` are trainable, in float32. Under `accelerate launch`
    each process takes its share of a step's texts. Raises MedusaBenchError where the checkpoint was
    made with another recipe or other text, or where the loss is not finite.
    """
    work = _Work(adapted, heads, texts, recipe)
    plain = {key: str(v) if isinstance(v, StrEnum) else v for key, v in asdict(recipe).items()}
    identity = plain | {"tokens": len(texts.tokens), "sum": int(texts.tokens.sum())}
    curves = work.resume(checkpoint, identity)
    while work.step < recipe.steps:
        loss = work.train_step()
        is_last = work.step == recipe.steps
        goes_on = progress(work.step, loss) or is_last
        if work.step % checkpoint_every == 0 or is_last:
            curves.append(work.curve())
        if work.step % checkpoint_every == 0 or is_last or not goes_on:
            work.save(checkpoint, identity, curves)
        if not goes_on:
            return None
    adapted.eval()
    heads.eval()
    return tuple(curves)


class _Work:
    """Adapter and heads in training: what a step does, and what must be kept to go on."""

    def __init__(self, adapted: Any, heads: MedusaHeads, texts: Texts, recipe: JointRecipe) -> None:
        self.recipe, self.step, self._adapted = recipe, 0, adapted
        self._passages = Passages(texts, heads, recipe)
        self._accelerator = _accelerator(next(adapted.parameters()).device)
        share = recipe.texts // self._accelerator.num_processes
        if share * self._accelerator.num_processes != recipe.texts or recipe.texts > len(texts):
            raise MedusaBenchError(
                f"A step of {recipe.texts} texts cannot be shared by "
                f"{self._accelerator.num_processes} processes, or there are not so many texts.",
                hint="choose --batch-texts as a multiple of the number of processes.",
            )
        backbone = [p for p in adapted.parameters() if p.requires_grad]
        for parameter in heads.parameters():
            parameter.requires_grad_(parameter.requires_grad and parameter.numel() > 0)
        own = [p for p in heads.parameters() if p.requires_grad]
        self._trained = backbone + own
        groups = [
            {"params": backbone, "lr": recipe.backbone_rate},
            {"params": own, "lr": recipe.backbone_rate * recipe.heads_rate_ratio},
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.rate)
        self._joint, self._optimizer = self._accelerator.prepare(
            Joint(adapted, heads, recipe), optimizer
        )
        self._losses: list[Tensor] = []  # L_LM and each head's, a token

    def train_step(self) -> float:
        """One step of the optimizer; the loss a token."""
        accelerator, recipe = self._accelerator, self.recipe
        self._joint.train()
        # A step's dropout depends on the step alone, so that a killed run repeats it.
        torch.manual_seed(recipe.seed * 1_000_003 + self.step * 1009 + accelerator.process_index)
        passages = self._passages.of_step(
            self.step, accelerator.process_index, accelerator.num_processes
        )
        tokens = self._passages.num_tokens(self.step)
        told = torch.zeros(1 + self._num_heads, device=accelerator.device)
        for is_last, passage in _with_last(passages):
            with self._gradients_shared(is_last):
                placed = _on(passage, accelerator.device)
                with torch.autocast(
                    placed.ids.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"
                ):
                    loss, backbone, by_head = self._joint(placed, self._teacher(placed), self.step)
                # The processes' gradients are averaged; a step's loss is a mean over its tokens.
                accelerator.backward(loss * (accelerator.num_processes / tokens))
            told += torch.cat([backbone.detach()[None], by_head.detach()]) / tokens
        told = accelerator.reduce(told, "sum").cpu()
        if not bool(torch.isfinite(told).all()):
            raise MedusaBenchError(
                f"The loss is not finite after {self.step} steps.",
                hint="use a smaller --learning-rate.",
            )
        accelerator.clip_grad_norm_(self._trained, recipe.clip_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        self._losses.append(told)
        decay = recipe.head_decay ** torch.arange(self._num_heads)
        loss_a_token = told[0] + recipe.weight(self.step) * (decay * told[1:]).sum()
        self.step += 1
        return float(loss_a_token)

    def _teacher(self, passage: Passage) -> Tensor | None:
        if self.recipe.target is Target.TEXT:
            return None
        return teacher_log_probs(self._adapted, passage)

    @property
    def _num_heads(self) -> int:
        count: int = self._accelerator.unwrap_model(self._joint).heads.num_heads
        return count

    def _gradients_shared(self, now: bool) -> Any:
        """Gradients travel between processes once a step, with the last passage."""
        return contextlib.nullcontext() if now else self._accelerator.no_sync(self._joint)

    def curve(self) -> JointCurve:
        """The mean losses since the last call or start."""
        mean = torch.stack(self._losses).mean(dim=0).tolist()
        self._losses.clear()
        return JointCurve(self.step, mean[0], tuple(mean[1:]))

    def save(self, path: Path, identity: dict[str, Any], curves: list[JointCurve]) -> None:
        if not self._accelerator.is_main_process:
            return
        checkpoints.write(
            path,
            identity,
            {
                "step": self.step,
                "weights": [parameter.detach() for parameter in self._trained],
                "optimizer": self._optimizer.state_dict(),
                "schedule": self._schedule.state_dict(),
                "losses": self._losses,
                "curves": [asdict(curve) for curve in curves],
            },
        )

    def resume(self, path: Path, identity: dict[str, Any]) -> list[JointCurve]:
        """Go on from a checkpoint if there is one; the curves so far."""
        saved = checkpoints.read(path, identity)
        if saved is None:
            return []
        with torch.no_grad():
            for parameter, value in zip(self._trained, saved["weights"], strict=True):
                parameter.copy_(value)
        self._optimizer.load_state_dict(saved["optimizer"])
        self._schedule.load_state_dict(saved["schedule"])
        self.step = saved["step"]
        self._losses = saved["losses"]
        return [JointCurve(**curve) for curve in saved["curves"]]


def _accelerator(device: torch.device) -> Any:
    try:
        from accelerate import Accelerator
    except ImportError:
        raise MedusaBenchError("Medusa-2 needs accelerate.", hint=adapters.HINT) from None
    return Accelerator(cpu=device.type == "cpu")


def _with_last(passages: list[Passage]) -> Iterator[tuple[bool, Passage]]:
    for index, passage in enumerate(passages):
        yield index == len(passages) - 1, passage
