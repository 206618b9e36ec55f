"""Generators judged: a validator that learns nothing and repeats itself, on tiles read once."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from uadray.errors import InputError
from uadray.evaluation.feature_spaces import feature_space
from uadray.evaluation.frechet import frechet_distance, kernel_distance, moments
from uadray.evaluation.generation import sampled, validator_for
from uadray.evaluation.manifolds import precision_and_recall
from uadray.evaluation.real_tiles import real_tiles
from uadray.generators import wgan_gp
from uadray.reports.pictures import encode_png
from uadray.tiles.spec import TileSpec
from uadray.training.config import TrainConfig
from uadray.training.subject import build_networks

pytestmark = pytest.mark.usefixtures("torch_alone")

N_TILES = 120
CONFIG = TrainConfig(
    name="g", generator=wgan_gp.Config(kind="wgan_gp", input_px=16, width=4, latent_dim=8),
    tiles=TileSpec(mpp=1.0, tile_px=20, min_tissue=0.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Tiles of 20 px with soft patterns; the first channel's mean tells which it is."""
    folder = tmp_path_factory.mktemp("tiles") / "normal"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(N_TILES):
        soft = cv2.resize(rng.integers(60, 200, size=(4, 4, 3)).astype(np.uint8), (20, 20))
        soft[..., 0] = n
        (folder / f"{n:03d}.png").write_bytes(encode_png(soft))
    return str(folder.parent)


def test_each_tile_comes_once(data: str) -> None:
    tiles = np.concatenate(list(real_tiles(CONFIG, data, most=1000, seed=1)))
    assert tiles.shape == (N_TILES, 16, 16, 3)
    assert sorted(tiles[:, 0, 0, 0].tolist()) == list(range(N_TILES))
    some = np.concatenate(list(real_tiles(CONFIG, data, most=50, seed=1)))
    np.testing.assert_array_equal(some, tiles[:50])
    other = np.concatenate(list(real_tiles(CONFIG, data, most=50, seed=2)))
    assert some[:, 0, 0, 0].tolist() != other[:, 0, 0, 0].tolist()


def test_too_few_tiles_are_refused(data: str) -> None:
    with pytest.raises(InputError, match="4 real tiles could be read"):
        list(real_tiles(CONFIG, data, most=4, seed=1))


def test_a_validator_repeats_itself_and_travels(data: str) -> None:
    config = CONFIG.model_copy(update={"seed": 3})
    validator = validator_for(config, data)
    networks = build_networks(config)
    state = torch.get_rng_state()
    figures = validator(config, networks, "cpu")
    assert list(figures) == [f"{name}_efficientnet_lite0" for name in ("frechet", "kid", "precision", "recall")]
    assert pickle.loads(pickle.dumps(validator))(config, networks, "cpu") == figures  # noqa: S301 - our own
    assert torch.equal(state, torch.get_rng_state())


def test_a_validators_figures_are_those_of_the_pictures(data: str) -> None:
    validator, networks = validator_for(CONFIG, data), build_networks(CONFIG)
    figures = validator(CONFIG, networks, "cpu")
    space = feature_space("efficientnet_lite0", "cpu")
    real = space.of_each(real_tiles(CONFIG, data, most=1000, seed=validator.seed))
    assert CONFIG.generator is not None
    fake = space.of(np.concatenate(list(sampled(CONFIG.generator, networks, N_TILES, seed=validator.seed))))
    np.testing.assert_allclose(validator.real, real, rtol=1e-5, atol=1e-5)
    assert figures["frechet_efficientnet_lite0"] == pytest.approx(frechet_distance(moments(real), moments(fake)))
    assert figures["kid_efficientnet_lite0"] == pytest.approx(kernel_distance(real, fake))
    shares = precision_and_recall(torch.from_numpy(real), torch.from_numpy(fake))
    assert (figures["precision_efficientnet_lite0"], figures["recall_efficientnet_lite0"]) == shares


def test_real_tiles_are_nearer_to_real_tiles_than_an_untrained_generators(data: str) -> None:
    space = feature_space("efficientnet_lite0", "cpu")
    validator = validator_for(CONFIG, data)
    again = space.of_each(real_tiles(CONFIG, data, most=1000, seed=99))
    figures = validator(CONFIG, build_networks(CONFIG), "cpu")
    assert frechet_distance(moments(validator.real), moments(again)) < figures["frechet_efficientnet_lite0"] / 3


def test_a_detectors_training_has_no_validator(data: str) -> None:
    gan = {"kind": "fanogan", "input_px": 16, "width": 4, "latent_dim": 8, "critic_steps": 2}
    config = TrainConfig.model_validate({"name": "d", "detector": gan, "tiles": {"mpp": 1.0, "tile_px": 16}})
    with pytest.raises(InputError, match="for generators"):
        validator_for(config, data)


def test_features_do_not_depend_on_the_batch() -> None:
    space = feature_space("efficientnet_lite0", "cpu")
    pictures = np.random.default_rng(0).integers(0, 256, size=(70, 64, 64, 3), dtype=np.uint8)
    alone = np.concatenate([space.of(pictures[i : i + 1]) for i in (0, 33, 69)])
    np.testing.assert_allclose(space.of(pictures)[[0, 33, 69]], alone, rtol=1e-4, atol=1e-4)


def test_noise_does_not_lie_among_tissue(data_dir: Path) -> None:
    """In the features that stand in for Inception's, real tiles lie among real ones, blurred ones less, noise not."""
    space = feature_space("efficientnet_lite0", "cpu")
    chosen = {"generator": wgan_gp.Config(kind="wgan_gp", input_px=64), "tiles": TileSpec(mpp=0.972, tile_px=96)}
    config = CONFIG.model_copy(update=chosen)
    tiles = np.concatenate(list(real_tiles(config, str(data_dir / "pcam" / "train.zip"), most=300, seed=0)))
    real = torch.from_numpy(space.of(tiles[150:]))
    blurred = np.stack([cv2.GaussianBlur(tile, (0, 0), 1.0) for tile in tiles[:150]])
    noise = np.random.default_rng(0).integers(0, 256, size=blurred.shape, dtype=np.uint8)
    sets = [torch.from_numpy(space.of(each)) for each in (tiles[:150], blurred, noise)]
    precision = [precision_and_recall(real, each)[0] for each in sets]
    distances = [frechet_distance(moments(real.numpy()), moments(each.numpy())) for each in sets]
    assert precision[0] > 0.6 > precision[1] > precision[2]
    assert precision[2] == 0
    assert distances == sorted(distances)
