"""Deep IF: its forest scores as scikit-learn's does, and its sample is one of all that was seen."""

from typing import Any

import numpy as np
import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from sklearn.ensemble import IsolationForest
from torch import Tensor, nn

from uadray.detectors import deep_if
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.deep_if import Forest, Trainee, path_lengths
from uadray.detectors.densities.reservoir import Reservoir
from uadray.detectors.features.frozen import BackboneConfig
from uadray.detectors.pixels import to_pixels
from uadray.detectors.trainee import UnsuitableTilesError
from uadray.errors import InputError

pytestmark = pytest.mark.usefixtures("torch_alone")

LITE = BackboneConfig(kind="backbone", layers=("block0", "block2"))
IF = deep_if.Config(kind="deep_if", input_px=32, features=LITE, trees=20, max_samples=32, kept=100)


def trainee_of(config: deep_if.Config) -> Trainee:
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    return trainee


def kept_of(vectors: Tensor) -> Reservoir:
    """All of them, in their order."""
    kept = Reservoir(*vectors.shape)
    kept.add(vectors)
    kept.rows.copy_(vectors)
    return kept


@pytest.mark.parametrize(("kept", "max_samples"), [(500, 256), (500, 60), (40, 256), (3, 4), (2, 2)])
def test_scores_are_scikit_learns(kept: int, max_samples: int) -> None:
    """Also of vectors that the forest was grown from, of many equal ones, and of fewer than a tree would take."""
    rng = np.random.default_rng(kept)
    vectors = rng.normal(size=(kept, 7)).astype(np.float32)
    vectors[: kept // 4] = np.round(vectors[: kept // 4])
    vectors[:, 3] = 0
    forest = Forest(7, trees=25, max_samples=max_samples)
    forest.fit(kept_of(torch.from_numpy(vectors)), seed=5)
    samples = min(max_samples, kept)
    theirs = IsolationForest(n_estimators=25, max_samples=samples, random_state=5).fit(vectors)
    asked = np.concatenate([vectors, 3 * rng.normal(size=(300, 7)).astype(np.float32)])
    found = forest(torch.from_numpy(asked)).numpy()
    np.testing.assert_allclose(found, -theirs.score_samples(asked), atol=1e-6)
    assert kept < 10 or found.std() > 0.01


def test_a_forest_of_many_kept_is_put_back_from_its_arrays() -> None:
    forest = Forest(4, trees=5, max_samples=16)
    forest.fit(kept_of(torch.randn(50, 4)), seed=1)
    other = Forest(4, trees=5, max_samples=16)
    other.load_state_dict(forest.state_dict())
    asked = torch.randn(30, 4)
    assert torch.equal(other(asked), forest(asked))


@pytest.mark.parametrize(("name", "number"), [("feature", 40), ("left", -1), ("right", 63)])
def test_a_forest_that_names_what_there_is_not_is_refused(name: str, number: int) -> None:
    networks = build_networks(IF)
    networks["forest"].get_buffer(name)[3, 2] = number  # of 40 channels and 63 nodes
    with pytest.raises(InputError, match=f"{name} has numbers outside"):
        build_detector(IF, networks)


def test_path_lengths_by_hand() -> None:
    """A root with a leaf of one sample, and a node with leaves of two and of one."""
    found = path_lengths([1, -1, 3, -1, -1], [2, -1, 4, -1, -1], [4, 1, 3, 2, 1])
    assert found[[1, 3, 4]].tolist() == [1, 2 + 1, 2]


def test_too_little_is_refused() -> None:
    with pytest.raises(UnsuitableTilesError, match="0 vectors of features were seen"):
        trainee_of(IF).finish()


@pytest.mark.parametrize("values", [{"trees": 5000}, {"max_samples": 1}, {"kept": 10**6}, {"features": {"kind": "x"}}])
def test_configurations_that_cannot_be_built(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        deep_if.Config.model_validate({"kind": "deep_if"} | values)


@pytest.mark.parametrize("pooling", ["tile", "cells"])
def test_trained_it_finds_what_is_rare(pooling: str) -> None:
    torch.manual_seed(0)
    config = IF.model_copy(update={"features": LITE.model_copy(update={"pooling": pooling})})
    trainee = trainee_of(config)
    x = smooth_pictures(64, 32) * 0.3
    before = state_of(trainee.networks)
    for part in x.split(16):
        assert trainee.step(part, 0.0)["deviation"] > 0
    trainee.finish()
    assert moved(trainee.networks, before) == {"forest", "kept"}
    assert trainee.reconstruct(x) is None
    detector = build_detector(config, trainee.networks)
    noise = torch.rand(64, 3, 32, 32) * 2 - 1
    normal, rare = detector(to_pixels(x)), detector(to_pixels(noise))
    assert np.median(rare.score) > np.median(normal.score) + 0.05
    side = {"tile": 1, "cells": 8}[pooling]
    maps = normal.maps([0, 5])
    assert maps.shape == (2, side, side)
    np.testing.assert_allclose(maps.mean((1, 2)), normal.score[[0, 5]], rtol=1e-5)


def test_another_forest_is_refused() -> None:
    with pytest.raises(TypeError, match="found Identity"):
        build_trainee(IF, build_networks(IF) | {"forest": nn.Identity()})
