"""How often the heads are right: by rank, along paths, and replayed as generation would go.

Measured on text that the backbone wrote, with the hidden states it was written from. Greedy
decoding writes the same text with heads or without, so a step's gain can be read off afterwards.
"""

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medusa_bench.decode.head_files import write_whole
from medusa_bench.decode.heads import MedusaHeads
from medusa_bench.decode.training_text import Texts

MAX_RANK = 10
_ROWS = 512  # a product's rows: bounds the memory that logits take


def targets(texts: Texts, num_heads: int) -> Tensor:
    """What head k should say at each token j: tokens[j + 1 + k], or -1 past the text's end.

    (tokens, num_heads). Head k reads hidden[j], from which tokens[j], the root, was chosen.
    """
    count = len(texts.tokens)
    ends = torch.repeat_interleave(texts.starts[1:], texts.starts.diff())
    ahead = torch.arange(count)[:, None] + 1 + torch.arange(num_heads)
    inside = ahead < ends[:, None]
    tokens: Tensor = texts.tokens.long()
    return torch.where(inside, tokens[ahead.clamp(max=count - 1)], -1)


@dataclass(frozen=True, slots=True)
class Ranks:
    """ranks (tokens, num_heads): which guess of a head was right, from 0.

    -1: none of the first max_rank; -2: the text ends before.
    """

    ranks: Tensor
    starts: Tensor
    max_rank: int
    text: str  # which text, in words

    @property
    def num_heads(self) -> int:
        return self.ranks.shape[1]

    def samples(self, head: int) -> int:
        """Tokens at which this head's guess could be checked."""
        return int((self.ranks[:, head] > -2).sum())

    def cumulative_accuracy(self, head: int, top_k: int) -> float:
        """How often one of the first top_k guesses is right (head from 0)."""
        ranks = self.ranks[:, head]
        right = int(((ranks >= 0) & (ranks < top_k)).sum())
        return right / max(1, self.samples(head))

    def path_probability(self) -> dict[tuple[int, ...], float]:
        """How often all guesses along a path are right together, of the checkable tokens."""
        result = {}
        for depth in range(1, self.num_heads + 1):
            checkable = self.ranks[self.ranks[:, depth - 1] > -2, :depth]
            right = checkable[(checkable >= 0).all(dim=1)]
            for path, count in Counter(map(tuple, right.tolist())).items():
                result[path] = count / len(checkable)
        # Deeper paths are checked at fewer tokens: keep none likelier than the path it extends.
        for path in sorted(result, key=len):
            result[path] = min(result[path], result.get(path[:-1], 1.0) if path[:-1] else 1.0)
        return result

    def tokens_per_step(self, paths: Sequence[Sequence[int]]) -> float:
        """What greedy generation with this tree yields, by replaying it over every text.

        A step at token j is given its root, tokens[j], and accepts guesses as far as a path of
        the tree goes; the next step's root is the token after them. As generation counts: the
        first root comes from the prompt, and what a step adds past the text's end is not counted.
        """
        tree = {tuple(path) for path in paths}
        steps = tokens = 0
        rows = self.ranks.tolist()
        bounds = self.starts.tolist()
        for start, end in itertools.pairwise(bounds):
            at = start
            while at < end - 1:
                depth = 0
                ranks = tuple(rows[at])
                while depth < len(ranks) and ranks[: depth + 1] in tree:
                    depth += 1
                steps += 1
                tokens += min(depth + 1, end - 1 - at)
                at += depth + 1
        return tokens / max(1, steps)


@torch.inference_mode()
def ranks(heads: MedusaHeads, texts: Texts, *, text: str, max_rank: int = MAX_RANK) -> Ranks:
    """The rank of the right guess of every head at every token of texts."""
    max_rank = min(max_rank, heads.num_proposable)
    wanted = targets(texts, heads.num_heads)
    parameter = heads.first.weight
    found = torch.full_like(wanted, -1)
    for start in range(0, len(wanted), _ROWS):
        rows = slice(start, start + _ROWS)
        hidden = texts.hidden[rows].to(parameter.device, parameter.dtype)
        guesses, _ = heads.top(hidden, max_rank, texts.tokens[rows].long().to(parameter.device))
        hits = guesses.permute(1, 0, 2).cpu() == wanted[rows, :, None]
        found[rows] = torch.where(hits.any(-1), hits.int().argmax(-1), -1)
    found[wanted == -1] = -2
    return Ranks(found, texts.starts, max_rank, text)


def write_accuracy(measured: Ranks, folder: Path, stem: str, *, model: str) -> None:
    """`{stem}.csv` (head, top_k, cumulative_accuracy) and `{stem}-paths.json` (joint), for `tree`.

    Heads are numbered from 1 there, as published files number them.
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["model", "head", "top_k", "cumulative_accuracy", "samples", "text"])
    for head in range(measured.num_heads):
        for top_k in range(1, measured.max_rank + 1):
            accuracy = measured.cumulative_accuracy(head, top_k)
            writer.writerow(
                [model, head + 1, top_k, f"{accuracy:.6f}", measured.samples(head), measured.text]
            )
    write_whole(folder / f"{stem}.csv", lines.getvalue())
    probable = sorted(measured.path_probability().items(), key=lambda item: (-item[1], item[0]))
    content = {
        "model": model,
        "text": measured.text,
        "samples": measured.samples(0),
        "path_probability": {",".join(map(str, path)): round(p, 8) for path, p in probable},
    }
    write_whole(folder / f"{stem}-paths.json", json.dumps(content, indent=1) + "\n")
