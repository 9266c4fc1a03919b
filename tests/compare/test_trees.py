"""Trees: growth is exact, masks and positions are right, files are read or refused."""

import itertools
import json
import random
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medusa_bench.base.errors import InvalidFileError, UnknownNameError
from medusa_bench.compare import trees
from medusa_bench.compare.trees import CandidateTree, HeadAccuracy, JointFrequency

ROOT_TO_LEAF = CandidateTree(((0,), (1,), (0, 0), (0, 1)))


def heads(*accuracy: tuple[float, ...]) -> HeadAccuracy:
    return HeadAccuracy(accuracy)


def random_heads(seed: int, num_heads: int = 3, ranks: int = 3) -> HeadAccuracy:
    rng = random.Random(seed)
    rows = [[rng.random() for _ in range(ranks + 1)] for _ in range(num_heads)]
    # Ranks are left unsorted on purpose: measured accuracies need not fall.
    return HeadAccuracy(tuple(tuple(x / sum(row) for x in row[:ranks]) for row in rows))


def exhaustive(rates: HeadAccuracy, num_nodes: int) -> float:
    """The most expected tokens of any tree of num_nodes below the root, by trying all of them."""

    @cache
    def best_forest(depth: int, rank: int, budget: int) -> float:
        """Children of one node from rank on, all of them at this depth."""
        if budget == 0 or depth >= len(rates.accuracy) or rank >= len(rates.accuracy[depth]):
            return 0.0
        without = best_forest(depth, rank + 1, budget)
        with_it = max(
            rates.accuracy[depth][rank] * (1 + best_forest(depth + 1, 0, below))
            + best_forest(depth, rank + 1, budget - 1 - below)
            for below in range(budget)
        )
        return max(without, with_it)

    return 1 + best_forest(0, 0, num_nodes)


def every_tree(ranks: tuple[int, ...], num_nodes: int) -> list[frozenset[trees.Path]]:
    """Every tree of exactly num_nodes below the root, node by node."""
    grown = {frozenset[trees.Path]()}
    for _ in range(num_nodes):
        grown = {
            tree | {(*parent, rank)}
            for tree in grown
            for parent in [(), *tree]
            if len(parent) < len(ranks)
            for rank in range(ranks[len(parent)])
            if (*parent, rank) not in tree
        }
    return list(grown)


def sequoia(rates: HeadAccuracy, num_candidates: int) -> float:
    """Sequoia's dynamic programme (Chen et al., 2024), rates differing by depth as well.

    T[n] at a depth: expected tokens of a tree of n nodes whose root is accepted, T[1] = 1.
    """
    below = [1.0] * (num_candidates + 1)  # past the last head a node is a leaf
    for head in reversed(rates.accuracy):
        children = [0.0] * num_candidates  # the best forest of exactly up to n nodes
        for accuracy in head:
            children = [
                max(
                    [children[n]] + [children[n - m] + accuracy * below[m] for m in range(1, n + 1)]
                )
                for n in range(num_candidates)
            ]
        below = [1.0] + [1.0 + children[n - 1] for n in range(1, num_candidates + 1)]
    return below[num_candidates]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_nodes", range(1, 11))
def test_best_first_equals_exhaustive_search_up_to_ten_nodes(seed: int, num_nodes: int) -> None:
    rates = random_heads(seed)
    grown = trees.grow(rates, num_nodes + 1)
    assert trees.expected_tokens(grown, rates) == pytest.approx(exhaustive(rates, num_nodes))


@pytest.mark.parametrize("num_nodes", range(1, 7))
def test_exhaustive_search_itself_equals_listing_every_tree(num_nodes: int) -> None:
    rates = random_heads(7, num_heads=3, ranks=2)
    listed = max(
        1 + sum(rates.probability(path) for path in tree)
        for tree in every_tree((2, 2, 2), num_nodes)
    )
    assert exhaustive(rates, num_nodes) == pytest.approx(listed)


@pytest.mark.parametrize("num_candidates", [2, 11, 16, 64, 128])
@pytest.mark.parametrize("model", ["vicuna-7b-v1.3", "vicuna-33b-v1.3"])
def test_best_first_equals_sequoias_dynamic_programme(model: str, num_candidates: int) -> None:
    rates = trees.load_accuracy(model)
    assert isinstance(rates, HeadAccuracy)
    grown = trees.grow(rates, num_candidates)
    assert trees.expected_tokens(grown, rates) == pytest.approx(
        sequoia(rates, num_candidates), rel=1e-12
    )


def test_published_accuracies_give_the_expected_tokens_of_the_reference() -> None:
    rates = trees.load_accuracy("vicuna-7b-v1.3")
    tokens = {n: trees.expected_tokens(trees.grow(rates, n), rates) for n in (16, 64, 256)}
    assert {n: round(t, 2) for n, t in tokens.items()} == {16: 2.21, 64: 2.38, 256: 2.45}


def test_closed_form_is_within_two_percent_of_100000_simulated_draws() -> None:
    rates = trees.load_accuracy("vicuna-7b-v1.3")
    assert isinstance(rates, HeadAccuracy)
    tree = trees.grow(rates, 64)
    rng = np.random.default_rng(0)
    draws = 100_000
    alive, index = np.ones(draws, dtype=bool), np.zeros(draws, dtype=int)
    child = {path: i for i, path in enumerate([(), *tree.paths])}
    paths = [(), *tree.paths]
    accepted = np.zeros(draws)
    for head in rates.accuracy:
        # Which guess of this head is the right one; len(head): none of them.
        right = rng.choice(len(head) + 1, size=draws, p=[*head, 1 - sum(head)])
        follow = np.full((len(paths), len(head) + 1), -1)
        for node, path in enumerate(paths):
            for rank in range(len(head)):
                follow[node, rank] = child.get((*path, rank), -1)
        reached = follow[index, right]
        alive &= reached >= 0
        index = np.where(alive, reached, index)
        accepted += alive
    simulated = 1 + accepted.mean()
    assert trees.expected_tokens(tree, rates) == pytest.approx(simulated, rel=0.02)
    survival = [(accepted >= depth).mean() for depth in range(1, tree.depth + 1)]
    assert trees.survival(tree, rates) == pytest.approx(survival, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40))
def test_larger_best_trees_contain_the_smaller_ones(seed: int, num_candidates: int) -> None:
    rates = random_heads(seed)
    smaller, larger = trees.grow(rates, num_candidates - 1), trees.grow(rates, num_candidates)
    assert set(smaller.paths) <= set(larger.paths)


def test_mask_lets_each_candidate_see_its_ancestors_and_itself() -> None:
    assert ROOT_TO_LEAF.mask().astype(int).tolist() == [
        [1, 0, 0, 0, 0],  # root
        [1, 1, 0, 0, 0],  # 0
        [1, 0, 1, 0, 0],  # 1
        [1, 1, 0, 1, 0],  # 0 0
        [1, 1, 0, 0, 1],  # 0 1
    ]
    assert ROOT_TO_LEAF.positions == (0, 1, 1, 2, 2)
    assert ROOT_TO_LEAF.parents == (0, 0, 0, 1, 1)


@pytest.mark.parametrize("name", trees.published_trees())
def test_published_trees_have_63_nodes_and_masks_that_follow_their_paths(name: str) -> None:
    tree = trees.load_tree(name)
    assert tree.num_candidates == 64
    mask = tree.mask()
    assert mask.sum(axis=1).tolist() == [depth + 1 for depth in tree.positions]
    assert not np.triu(mask, 1).any()  # parents stand before children


def test_published_trees_are_those_of_the_reference(reference_dir: Path) -> None:
    reference = json.loads((reference_dir / "medusa" / "published_trees.json").read_text())
    assert {
        name: CandidateTree(tuple(map(tuple, paths))) for name, paths in reference.items()
    } == trees.published_trees()
    shipped = trees.load_accuracy("vicuna-13b-v1.3")
    csv = (reference_dir / "medusa" / "head_accuracy_topk_cumulative.csv").read_text()
    rows = [line.split(",") for line in csv.splitlines() if line.startswith("vicuna-13b")]
    assert isinstance(shipped, HeadAccuracy)
    for _, head, top_k, cumulative in rows:
        total = sum(shipped.accuracy[int(head) - 1][: int(top_k)])
        assert total == pytest.approx(float(cumulative))


def staircase(count: int, depth: int) -> float:
    """Flat up to 16 and 48 candidates, a leap after each, and a draft pass for each level."""
    return 1.0 + 0.4 * (count > 16) + 0.9 * (count > 48) + 0.001 * count + 0.02 * depth


@pytest.mark.parametrize("depth_cost", [0.0, 0.02, 0.3])
def test_hardware_aware_tree_is_never_slower_than_the_accuracy_tree_of_any_size(
    depth_cost: float,
) -> None:
    rates = trees.load_accuracy("vicuna-7b-v1.3")

    def latency_s(count: int, depth: int) -> float:
        return staircase(count, 0) + depth_cost * depth

    chosen = trees.grow_for_cost(rates, latency_s, max_candidates=128)
    for count in range(1, 129):
        tree = trees.grow(rates, count)
        speed = trees.expected_tokens(tree, rates) / latency_s(tree.num_candidates, tree.depth)
        assert chosen.tokens_per_s >= speed - 1e-12
    assert chosen.expected_tokens == pytest.approx(trees.expected_tokens(chosen.tree, rates))
    assert chosen.step_latency_s == latency_s(chosen.tree.num_candidates, chosen.tree.depth)


def test_hardware_aware_tree_stops_at_the_cliff() -> None:
    rates = trees.load_accuracy("vicuna-7b-v1.3")
    chosen = trees.grow_for_cost(rates, lambda n, d: 1 + 0.5 * (n > 16), max_candidates=128)
    assert chosen.tree.num_candidates == 16


def test_depth_cost_makes_the_tree_shallower_and_matches_trying_every_tree() -> None:
    rates = random_heads(3, num_heads=3, ranks=2)

    def latency_s(count: int, depth: int) -> float:
        return 1 + 0.05 * count + 0.2 * depth

    chosen = trees.grow_for_cost(rates, latency_s, max_candidates=7)
    best = max(
        (1 + sum(rates.probability(path) for path in tree))
        / latency_s(len(tree) + 1, max(map(len, tree), default=0))
        for count in range(7)
        for tree in every_tree((2, 2, 2), count)
    )
    assert chosen.tokens_per_s == pytest.approx(best)
    free = trees.grow_for_cost(rates, lambda n, d: 1 + 0.05 * n, max_candidates=7)
    assert chosen.tree.depth <= free.tree.depth


def test_joint_frequencies_grow_a_tree_of_their_own() -> None:
    joint = JointFrequency({(0,): 0.5, (1,): 0.3, (0, 0): 0.1, (1, 0): 0.29})
    assert trees.grow(joint, 4).paths == ((0,), (1,), (1, 0))


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        ([[0, 0]], "no parent"),
        ([[0], [0]], "twice"),
        ([[-1]], "whole-number ranks"),
        ([[True]], "whole-number ranks"),
        ([[]], "whole-number ranks"),
        (["0"], "whole-number ranks"),
        ({}, "list"),
    ],
)
def test_damaged_trees_are_refused_with_what_is_wrong(
    tmp_path: Path, paths: object, says: str
) -> None:
    file = tmp_path / "tree.json"
    file.write_text(json.dumps({"paths": paths}))
    with pytest.raises(InvalidFileError, match=says):
        trees.load_tree(str(file))


def test_a_tree_file_may_be_a_bare_list_of_paths(tmp_path: Path) -> None:
    file = tmp_path / "tree.json"
    file.write_text(json.dumps([[1], [0], [0, 1], [0, 0]]))
    assert trees.load_tree(str(file)) == ROOT_TO_LEAF


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"cumulative_accuracy": [[0.6, 0.5]]}', "at least 0"),
        ('{"accuracy": [[0.6, 0.5]]}', "sum to at most 1"),
        ('{"accuracy": [["x"]]}', "is not a share"),
        ('{"accuracy": 3}', "not iterable"),
        ('{"path_probability": {"0": 0.5, "0,1": 0.6}}', "path it extends"),
        ("{}", "no head accuracies"),
    ],
)
def test_damaged_accuracies_are_refused(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "heads.json"
    file.write_text(content)
    with pytest.raises(InvalidFileError, match=says):
        trees.load_accuracy(str(file))


def test_unknown_names_are_errors_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError):
        trees.load_tree("vicuna_7b_stage9")
    with pytest.raises(UnknownNameError):
        trees.load_accuracy("vicuna-70b")


def test_csv_of_accuracies_is_read(tmp_path: Path) -> None:
    file = tmp_path / "heads.csv"
    file.write_text("head,top_k,cumulative_accuracy\n1,1,0.5\n1,2,0.7\n2,1,0.3\n")
    rates = trees.load_accuracy(str(file))
    assert isinstance(rates, HeadAccuracy)
    assert list(itertools.chain(*rates.accuracy)) == pytest.approx([0.5, 0.2, 0.3])


def test_probability_of_a_path_is_the_product_along_it() -> None:
    rates = heads((0.5, 0.2), (0.4,))
    assert rates.probability((1, 0)) == pytest.approx(prod((0.2, 0.4)))
    assert rates.probability((0, 1)) == 0.0  # a rank that no accuracy is known of
    assert rates.probability((0, 0, 0)) == 0.0


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ({(0,): 0.5, (0, -1): 0.1}, "is no path"),
        ({(): 1.0}, "is no path"),
        ({(0,) * (depth + 1): 0.5 for depth in range(65)}, "is no path"),
        ({(rank,): 0.0 for rank in range(70_000)}, "70,000 paths are more than"),
    ],
)
def test_tables_of_paths_that_no_tree_has_are_refused(
    paths: dict[tuple[int, ...], float], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        JointFrequency(paths)
