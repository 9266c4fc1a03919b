"""Gradient boosting of symmetric trees, in NumPy: what a formula leaves over, learned from data.

A symmetric tree asks one question a level, the same in all of its branches, so a row's leaf is a
binary number and a forest predicts in a few array operations. Source: Prokhorenkova et al.,
"CatBoost: unbiased boosting with categorical features", NeurIPS 2018 (its tree, not its ordering).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medusa_bench.base import ranges
from medusa_bench.specs.columns import FloatArray

_BINS = 48
_SHRINKAGE = 3.0  # rows of value 0 that each leaf is thought to hold besides its own
_OUTLIER = 0.15  # a residual counts no more than this in one step (Huber)
_ROWS, _COLUMNS = 0.25, 0.3  # shares of all that each tree sees and asks


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees of equal depth. columns, thresholds: (trees, depth); leaves: (trees, 2 ** depth)."""

    columns: NDArray[np.int64]
    thresholds: FloatArray
    leaves: FloatArray

    def predict(self, features: FloatArray) -> FloatArray:
        """The sum of the trees for rows of features, shape (rows, columns) -> (rows,)."""
        total = np.zeros(len(features))
        for columns, thresholds, leaves in zip(
            self.columns, self.thresholds, self.leaves, strict=True
        ):
            total += leaves[_leaf(features, columns, thresholds)]
        return total

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": self.columns.tolist(),
            "thresholds": [[float(f"{x:.6g}") for x in row] for row in self.thresholds],
            "leaves": [[float(f"{x:.4g}") for x in row] for row in self.leaves],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Forest":
        """Raises ValueError or KeyError where value is no forest."""
        forest = cls(
            ranges.COUNT.all_of(value["columns"]).astype(np.int64),
            ranges.NUMBER.all_of(value["thresholds"]),
            ranges.NUMBER.all_of(value["leaves"]),
        )
        trees, depth = forest.columns.shape
        if forest.thresholds.shape != (trees, depth) or forest.leaves.shape != (trees, 1 << depth):
            raise ValueError("the trees have no common depth")
        return forest


def _leaf(
    features: FloatArray, columns: NDArray[np.int64], thresholds: FloatArray
) -> NDArray[np.int64]:
    leaf = np.zeros(len(features), dtype=np.int64)
    for column, threshold in zip(columns, thresholds, strict=True):
        leaf = 2 * leaf + (features[:, column] > threshold)
    return leaf


def fit(
    features: FloatArray,
    targets: FloatArray,
    *,
    num_trees: int = 300,
    depth: int = 6,
    learning_rate: float = 0.15,
    seed: int = 0,
) -> Forest:
    """Fit targets, shape (rows,), from features, shape (rows, columns), robustly (Huber)."""
    rng = np.random.default_rng(seed)
    num_rows, num_columns = features.shape
    edges = [_edges(column) for column in features.T]
    bins = np.stack(
        [np.searchsorted(edge, column) for edge, column in zip(edges, features.T, strict=True)]
    )
    remaining = targets.astype(float)
    columns = np.zeros((num_trees, depth), dtype=np.int64)
    thresholds = np.zeros((num_trees, depth))
    leaves = np.zeros((num_trees, 1 << depth))
    for tree in range(num_trees):
        rows = rng.choice(num_rows, max(1, int(_ROWS * num_rows)), replace=False)
        asked = rng.choice(num_columns, max(1, int(_COLUMNS * num_columns)), replace=False)
        gradient = np.clip(remaining[rows], -_OUTLIER, _OUTLIER)
        node = np.zeros(len(rows), dtype=np.int64)
        for level in range(depth):
            column, edge = _best_question(
                bins[:, rows], edges, asked, node=node, num_nodes=1 << level, gradient=gradient
            )
            columns[tree, level], thresholds[tree, level] = column, edges[column][edge]
            node = 2 * node + (bins[column, rows] > edge)
        sums = np.bincount(node, gradient, 1 << depth)
        counts = np.bincount(node, minlength=1 << depth)
        leaves[tree] = learning_rate * sums / (counts + _SHRINKAGE)
        remaining -= leaves[tree][_leaf(features, columns[tree], thresholds[tree])]
    return Forest(columns, thresholds, leaves)


def _edges(column: FloatArray) -> FloatArray:
    """At most _BINS - 1 thresholds, each midway between two values that occur, so that rounding
    puts no row on the other side."""
    values = np.unique(column)
    if len(values) == 1:
        return values
    after = np.searchsorted(values, np.quantile(column, np.linspace(0, 1, _BINS + 1)[1:-1]))
    after = np.unique(np.clip(after, 1, len(values) - 1))
    if len(values) <= _BINS:
        after = np.arange(1, len(values))
    midway: FloatArray = (values[after - 1] + values[after]) / 2
    return midway


def _best_question(
    bins: NDArray[np.int64],
    edges: list[FloatArray],
    asked: NDArray[np.int64],
    *,
    node: NDArray[np.int64],
    num_nodes: int,
    gradient: FloatArray,
) -> tuple[int, int]:
    """The column and the edge in it that part the rows of all nodes best, by squared sums."""
    best = (-1.0, int(asked[0]), 0)
    for column in asked:
        size = len(edges[column]) + 1
        cell = node * size + bins[column]
        sums = np.bincount(cell, gradient, num_nodes * size).reshape(num_nodes, size).cumsum(1)
        counts = np.bincount(cell, minlength=num_nodes * size).reshape(num_nodes, size).cumsum(1)
        left, right = sums[:, :-1], sums[:, -1:] - sums[:, :-1]
        left_count, right_count = counts[:, :-1], counts[:, -1:] - counts[:, :-1]
        gain = left**2 / (left_count + _SHRINKAGE) + right**2 / (right_count + _SHRINKAGE)
        total = gain.sum(0)
        edge = int(total.argmax())
        if total[edge] > best[0]:
            best = (float(total[edge]), int(column), edge)
    return best[1], best[2]
