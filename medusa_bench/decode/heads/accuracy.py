"""How often the heads are right: by rank, along paths, and replayed as generation would go.

Measured on text that the backbone wrote, with the hidden states it was written from. Greedy
decoding writes the same text with heads or without, so a step's gain can be read off afterwards.
"""

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

import torch
from torch import Tensor

from medusa_bench.base.files import write_whole
from medusa_bench.decode.heads.heads import MedusaHeads
from medusa_bench.decode.heads.texts import Texts

Path = tuple[int, ...]  # ranks from 0: the guess of head 1, then of head 2, ...

MAX_RANK = 10
_RESAMPLES = 2000
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
class RateInterval:
    """Tokens per step; low and high hold it for 90 % of draws of as many texts (bootstrap)."""

    tokens_per_step: float
    low: float
    high: float


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

    def path_probability(self, at: Sequence[int] | None = None) -> dict[Path, float]:
        """How often all guesses along a path are right together.

        Counted where the text goes on far enough, at the tokens `at` (default: all).
        """
        rows = self.ranks if at is None else self.ranks[list(at)]
        result: dict[Path, float] = {}
        for depth in range(1, self.num_heads + 1):
            checkable = rows[rows[:, depth - 1] > -2, :depth]
            right = checkable[(checkable >= 0).all(dim=1)]
            for path, count in sorted(Counter(map(tuple, right.tolist())).items()):
                # A longer path is checked at fewer tokens; it is no likelier than what it extends.
                result[path] = min(count / len(checkable), result.get(path[:-1], 1.0))
        return result

    def steps(self, paths: Iterable[Path]) -> tuple[list[int], float]:
        """Where greedy generation with this tree would begin its steps, and its tokens per step.

        Replayed over every text: a step at token j is given its root, tokens[j], and accepts
        guesses as far as a path of the tree goes; the token after them is the next step's root.
        As generation counts: the first root comes from the prompt, and what a step adds past the
        text's end is not counted.
        """
        replayed = self._replayed(paths)
        begins = [begin for own, _ in replayed for begin in own]
        return begins, sum(tokens for _, tokens in replayed) / max(1, len(begins))

    def _replayed(self, paths: Iterable[Path]) -> list[tuple[list[int], int]]:
        """Of every text where its steps begin, and the tokens that they yield."""
        tree, rows = set(paths), self.ranks.tolist()
        found = []
        for start, end in itertools.pairwise(self.starts.tolist()):
            begins, tokens, at = [], 0, start
            while at < end - 1:
                depth = 0
                ranks = tuple(rows[at])
                while depth < len(ranks) and ranks[: depth + 1] in tree:
                    depth += 1
                begins.append(at)
                tokens += min(depth + 1, end - 1 - at)
                at += depth + 1
            found.append((begins, tokens))
        return found

    def rate_interval(self, num_candidates: int) -> RateInterval:
        """Tokens per step with the tree that suits this text, and how far other texts may be."""
        paths = likeliest(self.step_path_probability(), num_candidates)
        counts = [(len(begins), tokens) for begins, tokens in self._replayed(paths)]
        steps, tokens = torch.tensor(counts, dtype=torch.float64).T
        drawn = torch.randint(
            len(counts), (_RESAMPLES, len(counts)), generator=torch.Generator().manual_seed(0)
        )
        rates = tokens[drawn].sum(dim=1) / steps[drawn].sum(dim=1).clamp(min=1)
        low, high = torch.quantile(rates, torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
        return RateInterval(float(tokens.sum() / steps.sum().clamp(min=1)), low, high)

    def step_path_probability(self, num_candidates: int = 16) -> dict[Path, float]:
        """Path probabilities at the tokens where steps begin: what to expect of generation.

        A step that accepts much jumps over what is easy to guess, so steps begin at harder tokens
        than the average one. Which tokens, depends a little on the tree: here the likeliest paths
        of num_candidates, root included.
        """
        begins, _ = self.steps(likeliest(self.path_probability(), num_candidates))
        return self.path_probability(begins)

    def replayed_rates(self, counts: Iterable[int]) -> dict[int, float]:
        """Tokens per step by num_candidates, each with the tree that suits this text best."""
        probability = self.step_path_probability()
        return {count: self.steps(likeliest(probability, count))[1] for count in counts}


def likeliest(path_probability: Mapping[Path, float], num_candidates: int) -> list[Path]:
    """The tree of num_candidates, root included, with the most expected tokens."""
    ordered = sorted(path_probability.items(), key=lambda item: (-item[1], len(item[0]), item[0]))
    return [path for path, _ in ordered[: num_candidates - 1]]


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


def write_accuracy(measured: Ranks, folder: FilePath, stem: str, *, model: str) -> None:
    """`{stem}.csv` and `{stem}-paths.json`, which `tree` reads.

    The first: head (from 1), top_k, cumulative_accuracy, at all tokens. The second: how often
    paths are right together, at the tokens where steps begin.
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
    write_whole(folder / f"{stem}.csv", lines.getvalue().encode())
    probability = measured.step_path_probability()
    content = {
        "model": model,
        "text": measured.text,
        "samples": measured.samples(0),
        "measured_at": "the tokens where steps begin",
        "path_probability": {
            ",".join(map(str, path)): round(probability[path], 8)
            for path in likeliest(probability, len(probability) + 1)
        },
    }
    write_whole(
        folder / f"{stem}-paths.json",
        (json.dumps(content, indent=1, allow_nan=False) + "\n").encode(),
    )
