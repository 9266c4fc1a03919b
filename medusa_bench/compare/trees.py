"""Candidate trees: what one parallel pass verifies, and how to grow the best one.

Knows no model and no GPU. A path [i, j] is the i-th guess of head 1 followed by the j-th of
head 2, as the published Medusa trees write it; the root (the token already decided) is the empty
path and is never listed, but counts as a candidate.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Protocol

from medusa_bench.base import limits, ranges
from medusa_bench.base.documents import JsonObject, parse_csv, parse_object
from medusa_bench.base.errors import InvalidFileError, UnknownNameError
from medusa_bench.base.files import read_bytes, shipped

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Path = tuple[int, ...]

PUBLISHED = "results/paper/medusa_heads.json"
MAX_CANDIDATES = 4096
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class CandidateTree:
    """Paths below the root, held in the order a model runs them: by depth, then by rank.

    Raises ValueError where a path's parent is missing, a path stands twice, or a rank is negative.
    """

    paths: tuple[Path, ...]

    def __post_init__(self) -> None:
        known = {(): None, **dict.fromkeys(self.paths)}
        if len(known) != len(self.paths) + 1:
            raise ValueError("a path stands twice, or the root is listed")
        for path in self.paths:
            if min(path) < 0:
                raise ValueError(f"{list(path)} has a negative rank")
            if path[:-1] not in known:
                raise ValueError(f"{list(path)} has no parent {list(path[:-1])} in the tree")
        object.__setattr__(
            self, "paths", tuple(sorted(self.paths, key=lambda path: (len(path), path)))
        )

    @property
    def num_candidates(self) -> int:
        """Tokens verified in one pass, the root included."""
        return len(self.paths) + 1

    @property
    def depth(self) -> int:
        """Heads used: the most tokens a step can accept besides the bonus token."""
        return max(map(len, self.paths), default=0)

    @property
    def parents(self) -> tuple[int, ...]:
        """The index of each candidate's parent, the root (index 0) its own."""
        index = {(): 0, **{path: i for i, path in enumerate(self.paths, start=1)}}
        return (0, *(index[path[:-1]] for path in self.paths))

    @property
    def positions(self) -> tuple[int, ...]:
        """Of each candidate: tokens after the root. Add the cached length for a position id."""
        return (0, *map(len, self.paths))

    def mask(self) -> "NDArray[np.bool_]":
        """Who attends to whom, (num_candidates, num_candidates): row i is true at i's ancestors
        and at i. Every candidate also attends to the whole cached prefix."""
        import numpy as np

        mask = np.eye(self.num_candidates, dtype=np.bool_)
        for node, parent in enumerate(self.parents):
            mask[node] |= mask[parent]  # a parent stands before its children
        return mask


class Rates(Protocol):
    """How likely each path of guesses is to be what the model goes on to say."""

    def children(self, path: Path) -> Iterable[tuple[Path, float]]:
        """Every path one guess longer, with the probability that all of it is right. None may be
        likelier than the path it extends."""
        ...


@dataclass(frozen=True, slots=True)
class HeadAccuracy:
    """accuracy[k][i]: how often exactly the i-th guess of head k + 1 is right.

    Heads are taken as independent of each other, so a path's probability is a product.
    """

    accuracy: tuple[tuple[float, ...], ...]
    name: str = "given accuracies"

    def __post_init__(self) -> None:
        for k, head in enumerate(self.accuracy, start=1):
            if not head or min(head) < 0 or sum(head) > 1 + 1e-9:
                raise ValueError(
                    f"head {k}: the accuracies of its guesses must be at least 0 and sum to at "
                    f"most 1, and are {list(head)[:8]}"
                )

    @classmethod
    def from_cumulative(
        cls, cumulative: Sequence[Sequence[float]], name: str = "given accuracies"
    ) -> "HeadAccuracy":
        """From top-k accuracies: [head][k - 1] is how often any of the first k guesses is right."""
        return cls(
            tuple(
                tuple(b - a for a, b in zip((0.0, *head), head, strict=False))
                for head in cumulative
            ),
            name,
        )

    def children(self, path: Path) -> Iterator[tuple[Path, float]]:
        if len(path) < len(self.accuracy):
            here = self.probability(path)
            for rank, accuracy in enumerate(self.accuracy[len(path)]):
                yield (*path, rank), here * accuracy

    def probability(self, path: Path) -> float:
        """That every guess along the path is right. 0 for a guess that no accuracy is known of."""
        if len(path) > len(self.accuracy):
            return 0.0
        return prod(
            head[rank] if rank < len(head) else 0.0
            for head, rank in zip(self.accuracy, path, strict=False)
        )


@dataclass(frozen=True, slots=True)
class JointFrequency:
    """path_probability[path]: how often all guesses along it are right, counted together.

    Better than HeadAccuracy where known: the heads' errors are not independent of each other.
    """

    path_probability: Mapping[Path, float]
    name: str = "joint frequencies"
    _children: dict[Path, list[tuple[Path, float]]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        if len(self.path_probability) > limits.PATHS:
            raise ValueError(
                f"{len(self.path_probability):,} paths are more than the {limits.PATHS:,} that are "
                "read"
            )
        for path, probability in self.path_probability.items():
            if not 1 <= len(path) <= _MAX_DEPTH or min(path) < 0:
                raise ValueError(f"{list(path)} is no path of 1 to {_MAX_DEPTH} ranks from 0 on")
            above = self.probability(path[:-1])
            if not 0 <= probability <= above + 1e-9:
                raise ValueError(
                    f"{list(path)} has the probability {probability}, and the path it extends "
                    f"{above}"
                )
            self._children.setdefault(path[:-1], []).append((path, probability))

    def children(self, path: Path) -> Iterator[tuple[Path, float]]:
        return iter(self._children.get(path, ()))

    def probability(self, path: Path) -> float:
        return self.path_probability.get(path, 0.0) if path else 1.0


def best_first(
    rates: Rates, *, max_nodes: int = MAX_CANDIDATES, max_depth: int = _MAX_DEPTH
) -> list[tuple[Path, float]]:
    """Nodes below the root in falling order of probability, each after its parent.

    The first n of them are the tree of n nodes with the most expected tokens: no node is likelier
    than its parent, so the n likeliest nodes always form a tree. Nodes of probability 0 are left
    out. Ties go to the shorter path, then to the lower rank.
    """
    nodes: list[tuple[Path, float]] = []
    open_nodes: list[tuple[float, int, Path]] = []

    def open_children(path: Path) -> None:
        if len(path) < max_depth:
            for child, probability in rates.children(path):
                if probability > 0:
                    heapq.heappush(open_nodes, (-probability, len(child), child))

    open_children(())
    while open_nodes and len(nodes) < max_nodes:
        negative, _, path = heapq.heappop(open_nodes)
        nodes.append((path, -negative))
        open_children(path)
    return nodes


def grow(rates: Rates, num_candidates: int, *, max_depth: int = _MAX_DEPTH) -> CandidateTree:
    """The tree of at most num_candidates (root included) that yields the most tokens a step."""
    nodes = best_first(rates, max_nodes=num_candidates - 1, max_depth=max_depth)
    return CandidateTree(tuple(path for path, _ in nodes))


def survival(tree: CandidateTree, rates: "HeadAccuracy | JointFrequency") -> tuple[float, ...]:
    """[d - 1]: the probability that a step accepts at least d guesses. At most one guess of a
    depth is right, so a depth's nodes add up."""
    return tuple(
        sum(rates.probability(path) for path in tree.paths if len(path) == depth)
        for depth in range(1, tree.depth + 1)
    )


def expected_tokens(tree: CandidateTree, rates: "HeadAccuracy | JointFrequency") -> float:
    """Tokens a step yields on average, the bonus token included: 1 + every node's probability."""
    return 1.0 + sum(rates.probability(path) for path in tree.paths)


@dataclass(frozen=True, slots=True)
class ChosenTree:
    """A tree with what it was chosen for."""

    tree: CandidateTree
    expected_tokens: float  # a step
    step_latency_s: float

    @property
    def tokens_per_s(self) -> float:
        """Of one sequence."""
        return self.expected_tokens / self.step_latency_s


def grow_for_cost(
    rates: Rates,
    step_latency_s: Callable[[int, int], float],
    *,
    max_candidates: int,
    max_depth: int = _MAX_DEPTH,
) -> ChosenTree:
    """The tree with the most tokens per second where a step takes step_latency_s(candidates,
    depth), by any law: stairs, cliffs, a draft pass for each level.

    Exact: for a given size and a depth no larger than D, the best-first tree of depth D yields
    the most tokens; every size and every D is tried. Ties go to the smaller tree.
    """
    best = ChosenTree(CandidateTree(()), 1.0, step_latency_s(1, 0))
    for depth_limit in range(1, max_depth + 1):
        nodes = best_first(rates, max_nodes=max_candidates - 1, max_depth=depth_limit)
        depth, tokens = 0, 1.0
        for count, (path, probability) in enumerate(nodes, start=2):
            depth = max(depth, len(path))
            tokens += probability
            latency_s = step_latency_s(count, depth)
            if tokens / latency_s > best.tokens_per_s * (1 + 1e-12):
                tree = CandidateTree(tuple(path for path, _ in nodes[: count - 1]))
                best = ChosenTree(tree, tokens, latency_s)
        if depth < depth_limit:
            break
    return best


# --- files ----------------------------------------------------------------------------------------


def load_tree(name_or_path: str) -> CandidateTree:
    """A published tree by name, or one from a JSON file: a list of paths, alone or as "paths".

    Raises UnknownNameError, InvalidFileError.
    """
    published = published_trees()
    if name_or_path in published:
        return published[name_or_path]
    path = FilePath(name_or_path)
    if not path.is_file():
        raise UnknownNameError("tree", name_or_path, published)
    raw = read_bytes(path, limits.TREE_BYTES)
    if raw.lstrip().startswith(b"["):
        raw = b'{"paths": ' + raw + b"}"
    return tree_from_json(parse_object(raw, where=str(path)).get("paths"), where=str(path))


def tree_from_json(paths: Any, *, where: str) -> CandidateTree:
    """The tree of a list of lists of ranks. Raises InvalidFileError."""
    if not isinstance(paths, list) or len(paths) >= MAX_CANDIDATES:
        raise InvalidFileError(
            f"{where} holds no list of at most {MAX_CANDIDATES - 1} paths.",
            hint='a tree is written [[0], [0, 0], [1]]: "the second guess of head 1" is [1].',
        )
    for path in paths:
        if (
            not isinstance(path, list)
            or not 1 <= len(path) <= _MAX_DEPTH
            or not all(type(rank) is int and 0 <= rank < MAX_CANDIDATES for rank in path)
        ):
            raise InvalidFileError(f"{where}: {str(path)[:60]} is no path of whole-number ranks.")
    try:
        return CandidateTree(tuple(map(tuple, paths)))
    except ValueError as error:
        raise InvalidFileError(f"{where}: {error}.") from None


@cache
def published_trees() -> Mapping[str, CandidateTree]:
    """The trees of the Medusa repository (Apache-2.0), by their names there."""
    return {
        name: tree_from_json(paths, where=PUBLISHED)
        for name, paths in _published()["trees"].items()
    }


def load_accuracy(name_or_path: str) -> HeadAccuracy | JointFrequency:
    """Published head accuracies by model, or a file's.

    A JSON file holds "cumulative_accuracy" (per head, top-1, top-2, ...), "accuracy" (per head,
    of exactly each guess) or "path_probability" ({"0,1": 0.2}); a CSV file has the columns head,
    top_k, cumulative_accuracy. Raises UnknownNameError, InvalidFileError.
    """
    published = _published()["cumulative_accuracy"]
    if name_or_path in published:
        return HeadAccuracy.from_cumulative(published[name_or_path], name_or_path)
    path = FilePath(name_or_path)
    if not path.is_file():
        raise UnknownNameError("head accuracies", name_or_path, published)
    where, raw = str(path), read_bytes(path, limits.TREE_BYTES)
    try:
        if path.suffix == ".csv":
            return HeadAccuracy.from_cumulative(_from_csv(raw.decode(), where=where), path.stem)
        return accuracy_from_json(parse_object(raw, where=where), name=path.stem, where=where)
    except (ValueError, TypeError) as error:
        raise InvalidFileError(f"{where}: {error}.") from None


def accuracy_from_json(
    content: JsonObject, *, name: str, where: str
) -> HeadAccuracy | JointFrequency:
    """Head accuracies from a JSON object; see load_accuracy. Raises InvalidFileError."""
    try:
        if "path_probability" in content:
            return JointFrequency(
                {
                    tuple(map(int, key.split(","))): ranges.SHARE.of(value)
                    for key, value in sorted(
                        content["path_probability"].items(), key=lambda item: item[0].count(",")
                    )
                },
                name,
            )
        for key, build in (
            ("cumulative_accuracy", HeadAccuracy.from_cumulative),
            ("accuracy", HeadAccuracy),
        ):
            if key in content:
                heads = tuple(tuple(ranges.SHARE.all_of(head).tolist()) for head in content[key])
                if len(heads) > _MAX_DEPTH:
                    raise ValueError(f"{len(heads)} heads are more than {_MAX_DEPTH}")
                return build(heads, name)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidFileError(f"{where}: {error}.") from None
    raise InvalidFileError(
        f"{where} holds no head accuracies.",
        hint="it needs cumulative_accuracy, accuracy or path_probability.",
    )


def accuracy_names() -> tuple[str, ...]:
    """Models whose head accuracies are published."""
    return tuple(_published()["cumulative_accuracy"])


def _from_csv(text: str, *, where: str) -> list[list[float]]:
    heads: dict[int, dict[int, float]] = {}
    for row in parse_csv(text, where=where)[1]:
        try:
            head, top_k = int(row["head"]), int(row["top_k"])
            heads.setdefault(head, {})[top_k] = ranges.SHARE.of_text(row["cumulative_accuracy"])
        except KeyError as error:
            raise ValueError(f"no column {error}") from None
    if sorted(heads) != list(range(1, len(heads) + 1)):
        raise ValueError("the heads must be numbered 1, 2, 3, ...")
    for head, by_rank in heads.items():
        if sorted(by_rank) != list(range(1, len(by_rank) + 1)):
            raise ValueError(f"head {head}: top_k must run 1, 2, 3, ...")
    return [[heads[k][i] for i in sorted(heads[k])] for k in sorted(heads)]


@cache
def _published() -> JsonObject:
    path = shipped(PUBLISHED)
    return parse_object(read_bytes(path, limits.TREE_BYTES), where=str(path))
