"""How the nodes that one pass verifies hang together: who is whose parent, as tensors."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from medusa_bench.compare.trees import CandidateTree


class TreeLayout:
    """A candidate tree as a pass verifies it: node 0 is the root, parents before their children.

    `paths` are those of the tree; one that stands twice is one. Raises ValueError where a path's
    parent is missing.
    """

    def __init__(self, paths: Sequence[Sequence[int]]) -> None:
        self.tree = CandidateTree(tuple(dict.fromkeys(tuple(path) for path in paths)))
        self.paths, self.parents = self.tree.paths, self.tree.parents
        self.num_nodes, self.max_depth = self.tree.num_candidates, self.tree.depth
        self.node_depths = self.tree.positions
        self.node_ranks = (0, *(path[-1] for path in self.paths))
        self.max_ranks = [
            1 + max(path[-1] for path in self.paths if len(path) == depth)
            for depth in range(1, self.max_depth + 1)
        ]
        self.is_chain = self.num_nodes == self.max_depth + 1

    @classmethod
    def chain(cls, draft_len: int) -> "TreeLayout":
        """The root and draft_len tokens, each the only child of the one before."""
        return cls([(0,) * depth for depth in range(1, draft_len + 1)])

    @cached_property
    def depths(self) -> Tensor:
        """(q,): edges between the root and each node."""
        return torch.tensor(self.node_depths)

    @cached_property
    def ranks(self) -> Tensor:
        """(q,): which guess of its head a node is, from 0; 0 for the root."""
        return torch.tensor(self.node_ranks)

    @cached_property
    def ancestors(self) -> Tensor:
        """(q, q) bool: whether column j is on the way from the root to row i, i included."""
        return torch.from_numpy(self.tree.mask())

    @cached_property
    def routes(self) -> Tensor:
        """(q, max_depth + 1): the nodes from the root to each node, the last one repeated."""
        rows = []
        for node, depth in enumerate(self.node_depths):
            route = [node]
            while route[0]:
                route.insert(0, self.parents[route[0]])
            rows.append(route + [node] * (self.max_depth - depth))
        return torch.tensor(rows)

    @cached_property
    def parent_nodes(self) -> Tensor:
        """(q - 1,): the parent of each node but the root."""
        return torch.tensor(self.parents[1:], dtype=torch.long)

    def to(self, device: torch.device) -> "TreeLayout":
        """The same layout with its tensors on a device."""
        for name in ("depths", "ranks", "ancestors", "routes", "parent_nodes"):
            self.__dict__[name] = getattr(self, name).to(device)
        return self
