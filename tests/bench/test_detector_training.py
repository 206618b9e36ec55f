"""Training of `bench detectors`: which tiles are read, at which pixel size, and how a budget shortens it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from uadray.bench.detector_data import SPEC
from uadray.bench.detector_training import Trained, pace, resampled, trained
from uadray.detectors import fanogan, self_supervised
from uadray.errors import WorkError
from uadray.training.array_source import ArraySource
from uadray.training.config import TrainConfig, detector_of


def _config(**fields: object) -> TrainConfig:
    values = {"width": 4, "latent_dim": 8, "critic_steps": 1, "input_px": 16} | fields
    return TrainConfig(
        name="tiny", detector=fanogan.Config(kind="fanogan", **values), tiles=SPEC.model_copy(update={"min_tissue": 0}),
        epochs=4, steps_per_epoch=5, batch_size=8, shuffle_tiles=64, threads=1,
    )  # fmt: skip


def test_a_pass_reads_each_tile_once() -> None:
    tiles = np.arange(70, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    source = ArraySource(tiles, seed=3)
    assert source.entry_tiles.tolist() == [24, 23, 23]
    crops = [
        c for job in source.jobs(0, np.array([2, 0, 1])) for part in job.read(lambda tile: tile) for c in part.crops
    ]
    order = [int(crop[0, 0, 0]) for crop in crops]
    assert sorted(order) == list(range(70))
    assert order != sorted(order)


def test_pixels_of_another_size_are_means() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    means = tiles.reshape(2, 48, 2, 48, 2, 3).mean((2, 4))
    assert np.abs(resampled(tiles, 1.944) - means).max() <= 0.5
    assert resampled(tiles, 0.972) is tiles
    assert resampled(tiles, 0.5).shape == (2, 187, 187, 3)


@pytest.mark.usefixtures("torch_alone")
def test_it_trains_as_configured_where_the_budget_allows(tmp_path: Path) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (40, 96, 96, 3), np.uint8)
    done = trained(_config(), tiles, minutes=5, device="cpu")
    assert (done.figures["steps"], done.figures["steps_configured"]) == (20, 20)
    assert done.figures["tiles_seen"] == 256 + 20 * 8
    scores = done.score(tiles)
    assert scores.shape == (40,)
    assert done.score(tiles[5:9]) == pytest.approx(scores[5:9])


@pytest.mark.usefixtures("torch_alone")
def test_the_trial_of_the_pace_has_the_steps_that_a_detector_needs() -> None:
    """Of ten steps none would be of its density."""
    detector = self_supervised.Config.model_validate({
        "kind": "self_supervised", "input_px": 16, "encoder": {"width": 4}, "views": {"view_px": 16}, "components": 4,
        "projector_width": 16, "projected": 8,
    })  # fmt: skip
    assert detector.least_steps > 10
    config = _config().model_copy(update={"detector": detector, "epochs": 1, "steps_per_epoch": detector.least_steps})
    tiles = np.random.default_rng(0).integers(0, 256, (40, 96, 96, 3), np.uint8)
    clock = iter(range(1000))
    assert pace(config, ArraySource(tiles, seed=0), lambda: next(clock)) == (1, 1)


def test_a_score_that_is_no_number_is_an_error() -> None:
    config = detector_of(_config())
    networks = fanogan.networks(config, pretrained=False)
    for network in networks.values():
        for weight in network.parameters():
            torch.nn.init.constant_(weight, torch.nan)
    broken = Trained(fanogan.detector(config, networks, device="cpu"), _config(), networks, {})
    with pytest.raises(WorkError, match="3 of 3 scores are no numbers"):
        broken.score(np.zeros((3, 96, 96, 3), np.uint8))
