"""How the nodes that one pass verifies hang together: who is whose parent, as tensors."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class TreeLayout:
    """The nodes of one verification: node 0 is the root, parents stand before their children.

    `paths` holds the ranks along the way to each node but the root, as in the published trees:
    (0, 2) is the third guess of the second head after the first guess of the first. A path's
    prefixes must be among the paths; ValueError otherwise.
    """

    def __init__(self, paths: Sequence[Sequence[int]]) -> None:
        ordered = [(), *sorted({tuple(path) for path in paths}, key=lambda path: (len(path), path))]
        index = {path: node for node, path in enumerate(ordered)}
        try:
            self.parents = [-1, *(index[path[:-1]] for path in ordered[1:])]
        except KeyError as missing:
            raise ValueError(f"the tree lacks the path {missing.args[0]}") from None
        self.paths = ordered[1:]
        self.num_nodes = len(ordered)
        self.node_depths = [len(path) for path in ordered]
        self.node_ranks = [path[-1] if path else 0 for path in ordered]
        self.max_depth = self.node_depths[-1]
        self.max_ranks = [
            1 + max(path[-1] for path in self.paths if len(path) == depth)
            for depth in range(1, self.max_depth + 1)
        ]
        self.is_chain = self.parents == list(range(-1, self.num_nodes - 1))

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
        matrix = torch.eye(self.num_nodes, dtype=torch.bool)
        for node, parent in enumerate(self.parents[1:], start=1):
            matrix[node] |= matrix[parent]
        return matrix

    @cached_property
    def routes(self) -> Tensor:
        """(q, max_depth + 1): the nodes from the root to each node, the last one repeated."""
        rows = []
        for node, depth in enumerate(self.node_depths):
            route = [node]
            while self.parents[route[0]] >= 0:
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
