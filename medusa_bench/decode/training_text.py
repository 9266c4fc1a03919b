"""Text that the backbone writes itself, with the hidden states it was written from.

Heads are trained on what the backbone would say (self-distillation), so that they match its
distribution. The hidden states are a by-product of writing, kept once; training never runs the
backbone again. One file per batch, whole or absent: a killed run goes on where it stopped.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts of equal length in tokens, so that no row is padded. `index` names its file."""

    index: int
    categories: tuple[str, ...]
    prompt_ids: Tensor  # (rows, prompt_len)


@dataclass(frozen=True, slots=True)
class Texts:
    """What was written, flat. Text i is tokens[starts[i] : starts[i + 1]].

    hidden[j] is the hidden state that predicts tokens[j]: (tokens, hidden_size), bfloat16.
    """

    tokens: Tensor
    hidden: Tensor
    starts: Tensor
    categories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.starts) - 1


def batches(
    prompt_ids: Sequence[Sequence[int]],
    categories: Sequence[str],
    *,
    rows: int,
    chance: torch.Generator | None = None,
) -> list[Batch]:
    """Batches of prompts of equal length, each of at most `rows`, in random order.

    Without `chance` every prompt is in a batch, shortest first; with it only full batches are
    kept, in random order.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, ids in enumerate(prompt_ids):
        by_length[len(ids)].append(index)
    groups = [
        members[start : start + rows]
        for _, members in sorted(by_length.items())
        for start in range(0, len(members), rows)
    ]
    if chance is not None:
        groups = [group for group in groups if len(group) == rows]
        groups = [groups[i] for i in torch.randperm(len(groups), generator=chance)]
    return [
        Batch(
            index,
            tuple(categories[i] for i in group),
            torch.tensor([list(prompt_ids[i]) for i in group], dtype=torch.long),
        )
        for index, group in enumerate(groups)
    ]


@torch.inference_mode()
def write(model: Any, prompt_ids: Tensor, max_new_tokens: int, eos_ids: Sequence[int]) -> Texts:
    """Continue each prompt greedily until an EOS (included) or max_new_tokens.

    prompt_ids: (rows, prompt_len). Rows that end leave the batch. Categories are left empty.
    """
    from transformers import DynamicCache

    device = next(model.parameters()).device
    backbone, lm_head = model.get_decoder(), model.get_output_embeddings()
    cache = DynamicCache(config=model.config)
    rows = torch.arange(len(prompt_ids))
    tokens: list[list[int]] = [[] for _ in rows]
    hidden: list[list[Tensor]] = [[] for _ in rows]
    ends = torch.tensor(list(eos_ids), device=device, dtype=torch.long)
    ids = prompt_ids.to(device)
    for _ in range(max_new_tokens):
        states = backbone(input_ids=ids, past_key_values=cache, use_cache=True)
        last = states.last_hidden_state[:, -1]
        ids = lm_head(last).argmax(-1, keepdim=True)
        kept = last.to("cpu", torch.bfloat16)
        for place, row in enumerate(rows.tolist()):
            tokens[row].append(int(ids[place]))
            hidden[row].append(kept[place])
        going = (~torch.isin(ids[:, 0], ends)).nonzero().flatten()
        if not len(going):
            break
        if len(going) < len(ids):
            ids, rows = ids[going], rows[going.cpu()]
            cache.batch_select_indices(going)
    lengths = torch.tensor([0, *map(len, tokens)])
    return Texts(
        torch.tensor([token for text in tokens for token in text], dtype=torch.int32),
        torch.stack([state for text in hidden for state in text]),
        lengths.cumsum(0),
        ("",) * len(tokens),
    )


def write_batches(
    model: Any,
    todo: Sequence[Batch],
    folder: Path,
    *,
    min_tokens: int,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    progress: Callable[[int], bool] = lambda _: True,
) -> bool:
    """Write batches to the folder, in order, until it holds min_tokens; files there are kept.

    `progress` is told the tokens so far after each batch and stops the writing by returning
    False. Returns whether min_tokens (or the last batch) was reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for batch in todo:
        if total >= min_tokens:
            break
        path = folder / f"{batch.index:05d}.safetensors"
        if not path.exists():
            texts = write(model, batch.prompt_ids, max_new_tokens, eos_ids)
            _save(texts, batch.categories, path)
        with safe_open(path, "pt") as file:
            total += file.get_slice("tokens").get_shape()[0]
        if not progress(total):
            return False
    return True


def _save(texts: Texts, categories: tuple[str, ...], path: Path) -> None:
    """Whole or not at all: written beside, flushed, then renamed."""
    beside = path.with_suffix(".part")
    save_file(
        {"tokens": texts.tokens, "hidden": texts.hidden, "starts": texts.starts},
        beside,
        metadata={"categories": json.dumps(categories)},
    )
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    beside.replace(path)


def read(folder: Path) -> Texts:
    """All the texts in a folder, in the order of their files."""
    parts = list(_read_parts(folder))
    ends = torch.cat([part.starts.diff() for part in parts]).cumsum(0)
    return Texts(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.hidden for part in parts]),
        torch.cat([torch.zeros(1, dtype=ends.dtype), ends]),
        tuple(category for part in parts for category in part.categories),
    )


def _read_parts(folder: Path) -> Iterator[Texts]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            yield Texts(
                file.get_tensor("tokens"),
                file.get_tensor("hidden"),
                file.get_tensor("starts"),
                tuple(json.loads(file.metadata()["categories"])),
            )
