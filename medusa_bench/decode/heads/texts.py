"""Text that the backbone writes itself, with the hidden states it was written from.

Heads are trained on what the backbone would say (self-distillation), so that they match its
distribution. The hidden states are a by-product of writing, kept once; training never runs the
backbone again. One file per batch, whole or absent: a killed run goes on where it stopped.
"""

import inspect
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from medusa_bench.base.files import write_whole


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts of equal length in tokens, so that no row is padded. `index` names its file."""

    index: int
    categories: tuple[str, ...]
    prompt_ids: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Texts:
    """What was written, flat. Text i is tokens[starts[i] : starts[i + 1]].

    hidden[j] is the hidden state that predicts tokens[j]: (tokens, hidden_size), bfloat16.
    prompt_ids[i] are the token ids that text i answers; () where a file of an earlier version
    did not keep them.
    """

    tokens: Tensor
    hidden: Tensor
    starts: Tensor
    categories: tuple[str, ...]
    prompt_ids: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.starts) - 1

    def chosen(self, index: Tensor) -> "Texts":
        """The texts of those places (texts,), in that order."""
        lengths = self.starts.diff()[index]
        starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        rows = torch.arange(int(starts[-1])) + torch.repeat_interleave(
            self.starts[index] - starts[:-1], lengths
        )
        return Texts(
            self.tokens[rows],
            self.hidden[rows],
            starts,
            tuple(self.categories[i] for i in index.tolist()),
            tuple(self.prompt_ids[i] for i in index.tolist()) if self.prompt_ids else (),
        )

    def first(self, at_most: int) -> "Texts":
        """The first texts, whole."""
        return self.chosen(torch.arange(min(len(self), at_most)))


def batches(
    prompt_ids: Sequence[Sequence[int]],
    categories: Sequence[str],
    *,
    rows: int,
    chance: torch.Generator,
) -> list[Batch]:
    """Full batches of `rows` prompts of equal length, in random order. What is left is left out."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, ids in enumerate(prompt_ids):
        by_length[len(ids)].append(index)
    groups = [
        members[start : start + rows]
        for _, members in sorted(by_length.items())
        for start in range(0, len(members) - rows + 1, rows)
    ]
    order = torch.randperm(len(groups), generator=chance).tolist()
    return [
        Batch(
            index,
            tuple(categories[i] for i in groups[group]),
            tuple(tuple(prompt_ids[i]) for i in groups[group]),
        )
        for index, group in enumerate(order)
    ]


@torch.inference_mode()
def write(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    eos_ids: Sequence[int],
    progress: Callable[[int], bool] = lambda _: True,
) -> Texts | None:
    """Continue each prompt greedily until an EOS (included) or max_new_tokens, all in one batch.

    Prompts of unequal length are padded on the left. Rows that end leave the batch. `progress` is
    told the tokens so far after each step, and stops the writing (None) by returning False.
    Categories are left empty.
    """
    from transformers import DynamicCache

    device = next(model.parameters()).device
    backbone, lm_head = model.get_decoder(), model.get_output_embeddings()
    cache = DynamicCache(config=model.config)
    # transformers renames this argument: the old name warns from 5.2x on and goes with 5.40.
    names = inspect.signature(backbone.forward).parameters
    takes_cache = "cache" if "cache" in names else "past_key_values"
    rows = list(range(len(prompt_ids)))
    tokens: list[list[int]] = [[] for _ in rows]
    hidden: list[list[Tensor]] = [[] for _ in rows]
    ends = torch.tensor(list(eos_ids), device=device, dtype=torch.long)
    ids, mask = _padded(prompt_ids, device)
    written = 0
    for _ in range(max_new_tokens):
        padding = {}
        if mask is not None:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            padding = {"attention_mask": mask, "position_ids": positions}
        states = backbone(input_ids=ids, use_cache=True, **{takes_cache: cache}, **padding)
        last = states.last_hidden_state[:, -1]
        ids = lm_head(last).argmax(-1, keepdim=True)
        kept = last.to("cpu", torch.bfloat16)
        for place, row in enumerate(rows):
            tokens[row].append(int(ids[place]))
            hidden[row].append(kept[place])
        written += len(rows)
        if not progress(written):
            return None
        going = (~torch.isin(ids[:, 0], ends)).nonzero().flatten()
        if not len(going):
            break
        if len(going) < len(rows):
            ids, rows = ids[going], [rows[place] for place in going.tolist()]
            mask = None if mask is None else mask[going]
            cache.batch_select_indices(going)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    lengths = torch.tensor([0, *map(len, tokens)])
    return Texts(
        torch.tensor([token for text in tokens for token in text], dtype=torch.int32),
        torch.stack([state for text in hidden for state in text]),
        lengths.cumsum(0),
        ("",) * len(tokens),
        tuple(map(tuple, prompt_ids)),
    )


def _padded(
    prompt_ids: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Token ids (rows, longest), padded on the left, and which are real; None where all are."""
    longest = max(map(len, prompt_ids))
    padded = [[0] * (longest - len(ids)) + list(ids) for ids in prompt_ids]
    ids = torch.tensor(padded, device=device)
    if all(len(prompt) == longest for prompt in prompt_ids):
        return ids, None
    real = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompt_ids]
    return ids, torch.tensor(real, device=device)


def write_batches(
    model: Any,
    todo: Sequence[Batch],
    folder: Path,
    *,
    min_tokens: int,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    progress: Callable[[int], bool] = lambda _: True,
) -> list[Path] | None:
    """Write batches to the folder, in order, until they hold min_tokens; files there are kept.

    Returns the files that hold them. `progress` is told the tokens so far and stops the writing
    (None) by returning False.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    before = 0
    for batch in todo:
        if before >= min_tokens:
            break
        path = folder / f"{batch.index:05d}.safetensors"
        if not path.exists():

            def so_far(written: int, before: int = before) -> bool:
                return progress(before + written)

            texts = write(model, batch.prompt_ids, max_new_tokens, eos_ids, so_far)
            if texts is None:
                return None
            save(texts, batch.categories, path)
        paths.append(path)
        with safe_open(path, "pt") as file:
            before += file.get_slice("tokens").get_shape()[0]
        if not progress(before):
            return None
    return paths


def save(texts: Texts, categories: Sequence[str], path: Path) -> None:
    """Whole or not at all."""
    prompt_ids = torch.tensor([id_ for ids in texts.prompt_ids for id_ in ids], dtype=torch.int32)
    tensors = {
        "tokens": texts.tokens,
        "hidden": texts.hidden,
        "starts": texts.starts,
        "prompt_ids": prompt_ids,
        "prompt_lengths": torch.tensor([len(ids) for ids in texts.prompt_ids]),
    }
    write_whole(path, safetensors.torch.save(tensors, {"categories": json.dumps(categories)}))


def read(paths: Sequence[Path]) -> Texts:
    """The texts in files, one file's after another's."""
    parts = [_read(path) for path in paths]
    ends = torch.cat([part.starts.diff() for part in parts]).cumsum(0)
    return Texts(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.hidden for part in parts]),
        torch.cat([torch.zeros(1, dtype=ends.dtype), ends]),
        tuple(category for part in parts for category in part.categories),
        tuple(ids for part in parts for ids in part.prompt_ids),
    )


def _read(path: Path) -> Texts:
    with safe_open(path, "pt") as file:
        return Texts(
            file.get_tensor("tokens"),
            file.get_tensor("hidden"),
            file.get_tensor("starts"),
            tuple(json.loads(file.metadata()["categories"])),
            _prompt_ids(file),
        )


def _prompt_ids(file: Any) -> tuple[tuple[int, ...], ...]:
    if "prompt_ids" not in file.keys():  # noqa: SIM118  # safe_open is no mapping
        return ()
    ids = file.get_tensor("prompt_ids").split(file.get_tensor("prompt_lengths").tolist())
    return tuple(tuple(each.tolist()) for each in ids)
