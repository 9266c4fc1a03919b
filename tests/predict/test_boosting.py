"""Symmetric trees."""

import json

import numpy as np
import pytest

from medusa_bench.predict import boosting


@pytest.fixture(scope="module")
def staircase() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 1, (2000, 3))
    targets = np.where(features[:, 0] > 0.5, 0.1, -0.1) + np.where(features[:, 1] > 0.25, 0.05, 0)
    return features, targets


def test_trees_learn_a_staircase_and_predict_it_elsewhere(
    staircase: tuple[np.ndarray, np.ndarray],
) -> None:
    features, targets = staircase
    forest = boosting.fit(features[:1500], targets[:1500], num_trees=100)
    error = np.abs(forest.predict(features[1500:]) - targets[1500:])
    assert np.median(error) < 0.02


def test_the_same_seed_gives_the_same_forest(staircase: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (boosting.fit(*staircase, num_trees=5, seed=3) for _ in range(2))
    assert (first.leaves == second.leaves).all()


def test_outliers_move_predictions_little() -> None:
    features = np.linspace(0, 1, 500)[:, None]
    targets = np.zeros(500)
    targets[::50] = 20.0
    assert np.abs(boosting.fit(features, targets, num_trees=50).predict(features)).max() < 0.5


def test_a_constant_column_is_harmless() -> None:
    features = np.stack([np.ones(100), np.arange(100.0)], axis=1)
    forest = boosting.fit(features, features[:, 1] / 1000, num_trees=5)
    assert np.isfinite(forest.predict(features)).all()


def test_a_forest_read_back_predicts_the_same(staircase: tuple[np.ndarray, np.ndarray]) -> None:
    features, _ = staircase
    forest = boosting.fit(*staircase, num_trees=20)
    back = boosting.Forest.from_json(json.loads(json.dumps(forest.to_json())))
    assert back.predict(features) == pytest.approx(forest.predict(features), abs=1e-3)


def test_trees_of_unlike_depth_are_refused() -> None:
    with pytest.raises(ValueError, match="common depth"):
        boosting.Forest.from_json({"columns": [[0, 1]], "thresholds": [[0, 1]], "leaves": [[0, 1]]})
