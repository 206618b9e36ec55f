"""A tile's score is its own: no matter what else is in the call, and of the tile's centre alone."""

import numpy as np
import pytest
import torch

from uadray.detector import BATCH, Detector, build_detector
from uadray.models.build import DpaConfig, FanoganConfig, build_networks
from uadray.models.pixels import to_input
from uadray.training.losses import izi_f, relative_perceptual_l1

pytestmark = pytest.mark.usefixtures("torch_alone")

DPA = DpaConfig(kind="dpa", input_px=16, width=4, halvings=2, layers=("block0", "block1"))
GAN = FanoganConfig(kind="fanogan", input_px=16, width=4, latent_dim=4, kappa=0.5)
PIXELS = np.random.default_rng(0).integers(0, 256, (BATCH + 6, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(params=[DPA, GAN], ids=["dpa", "fanogan"])
def detector(request: pytest.FixtureRequest) -> Detector:
    """With running statistics that training has moved, or a mix-up of modes would not show."""
    torch.manual_seed(0)
    networks = build_networks(request.param)
    for name in ("encoder", "decoder", "generator"):
        for module in networks.get(name, torch.nn.Identity()).modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return build_detector(request.param, networks)


def test_shapes_and_types(detector: Detector) -> None:
    scored = detector(PIXELS)
    assert scored.score.shape == (len(PIXELS),)
    assert scored.score.dtype == np.float64
    assert np.isfinite(scored.score).all()
    assert scored.x_hat.shape == scored.x.shape == PIXELS.shape
    assert scored.x_hat.dtype == np.uint8
    assert scored.residual.shape[0] == len(PIXELS)
    assert scored.residual.dtype == np.float32
    assert scored.residual.min() >= 0
    np.testing.assert_array_equal(scored.x, PIXELS)


def test_a_score_does_not_depend_on_the_others(detector: Detector) -> None:
    """Alone, in another order, among others, and on both sides of an inner batch's edge."""
    together = detector(PIXELS).score
    assert together.std() > 1e-4
    for index in (0, 1, BATCH - 1, BATCH, len(PIXELS) - 1):
        np.testing.assert_allclose(detector(PIXELS[index : index + 1]).score, together[index], atol=1e-5)
    order = np.random.default_rng(1).permutation(len(PIXELS))
    np.testing.assert_allclose(detector(PIXELS[order]).score, together[order], atol=1e-5)
    flat = np.concatenate([np.zeros_like(PIXELS[:10]), PIXELS[:3], np.full_like(PIXELS[:10], 255)])
    np.testing.assert_allclose(detector(flat).score[10:13], together[:3], atol=1e-5)


def test_the_same_twice_is_the_same_to_the_bit(detector: Detector) -> None:
    np.testing.assert_array_equal(detector(PIXELS).score, detector(PIXELS).score)


def test_larger_tiles_are_cropped_to_their_centre(detector: Detector) -> None:
    framed = np.random.default_rng(2).integers(0, 256, (4, 24, 24, 3), dtype=np.uint8)
    framed[:, 4:20, 4:20] = PIXELS[:4]
    scored = detector(framed)
    np.testing.assert_array_equal(scored.x, PIXELS[:4])
    np.testing.assert_allclose(scored.score, detector(PIXELS[:4]).score, atol=1e-6)


def test_smaller_tiles_are_refused(detector: Detector) -> None:
    with pytest.raises(ValueError, match="tiles of 12 x 12 px, the detector needs 16 px"):
        detector(PIXELS[:, :12, :12])


def test_networks_are_frozen_and_in_evaluation_mode() -> None:
    networks = build_networks(GAN)
    build_detector(GAN, networks)
    assert not any(network.training for network in networks.values())
    assert not any(p.requires_grad for network in networks.values() for p in network.parameters())


def test_the_score_is_the_papers() -> None:
    networks = build_networks(GAN)
    score = build_detector(GAN, networks)(PIXELS[:4]).score
    x = to_input(PIXELS[:4], 16)
    with torch.no_grad():
        x_hat = networks["generator"](networks["encoder"](x))
        f, f_hat = networks["critic"].features(x), networks["critic"].features(x_hat)  # type: ignore[operator]
        expected = izi_f(x, x_hat, f, f_hat, kappa=0.5)
    np.testing.assert_allclose(score, expected.numpy(), rtol=1e-5)


def test_the_perceptual_score_is_the_training_loss() -> None:
    networks = build_networks(DPA)
    score = build_detector(DPA, networks)(PIXELS[:4]).score
    x = to_input(PIXELS[:4], 16)
    with torch.no_grad():
        features = networks["features"]
        expected = relative_perceptual_l1(features(x), features(networks["decoder"](networks["encoder"](x))))
    np.testing.assert_allclose(score, expected.numpy(), rtol=1e-5)
