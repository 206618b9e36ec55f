"""A tile's score is its own: no matter what else is in the call, and of the tile's centre alone."""

import copy
from typing import get_args

import numpy as np
import pytest
import torch

from uadray.detectors import (
    adversarial_autoencoder,
    alocc,
    anogan,
    autoencoder,
    context_vae,
    dagmm,
    deep_geo,
    deep_if,
    deep_svdd,
    diffusion,
    dpa,
    dsebm,
    enlarged_nuclei,
    fanogan,
    ganomaly,
    hybrid,
    mahalanobis,
    memory_autoencoder,
    neighbours,
    ocgan,
    piad,
    projection,
    restoration,
    self_supervised,
    synthetic_anomalies,
    tuned_nuclei,
    vae,
    vae_gan,
    vq_vae,
)
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.catalog import SingleConfig
from uadray.detectors.denoising.residuals import LevelScore
from uadray.detectors.detector import BATCH, Detector, assemble, no_picture, pooled
from uadray.detectors.features.frozen import BackboneConfig
from uadray.detectors.latents import Latent
from uadray.detectors.losses import izi_f, relative_perceptual_l1
from uadray.detectors.pixels import to_input
from uadray.networks.outline import Networks

pytestmark = pytest.mark.usefixtures("torch_alone")

DPA = dpa.Config(kind="dpa", input_px=16, width=4, halvings=2, layers=("block0", "block1"))
GAN = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=4, kappa=0.5)
NUCLEI = enlarged_nuclei.Config(kind="enlarged_nuclei", input_px=16, backbone_mpp=0.243, layers=("block2",))
TUNED = tuned_nuclei.Config(
    kind="tuned_nuclei", input_px=16, backbone_mpp=0.243, layers=("block2",), train_blocks=1
)  # fmt: skip

LOSS = DPA.model_copy(update={"score": "loss", "pixel_weight": 1.0, "layout": "published"})
RESIDUALS = DPA.model_copy(update={"score": "mahalanobis"})


LITE = BackboneConfig(kind="backbone", layers=("block1",))
GEO = deep_geo.Config(kind="deep_geo", input_px=16, transformations=("flip", "rotation"))
FOREST = deep_if.Config(kind="deep_if", input_px=16, features=LITE, trees=10, max_samples=16, kept=64)
PIAD = piad.Config(kind="piad", input_px=16, width=4, latent_dim=4, latent_width=8, layers=("block0", "block1"))
STYLES = {
    "kind": "stylegan2", "input_px": 16, "latent_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_max": 8,
    "channel_base": 64,
}  # fmt: skip
PROJECTION = projection.Config.model_validate(
    {"kind": "projection", "steps": 2, "lpips_px": 32, "learning_rate": 0.5, "generator": STYLES}
)
HYBRID = hybrid.Config.model_validate(
    {"kind": "hybrid", "steps": 2, "lpips_px": 32, "width": 4, "channel_max": 8, "generator": STYLES}
)
ANOGAN = anogan.Config.model_validate({
    "kind": "anogan", "descent": {"steps": 2},
    "generator": {"kind": "dcgan", "input_px": 16, "width": 4, "latent_dim": 4},
})  # fmt: skip
CELLS = BackboneConfig(kind="backbone", layers=("block1", "block3"), pooling="cells")
LOF = neighbours.Config(
    kind="neighbours", input_px=16, features=CELLS, components=6, measure="lof", neighbours=8, candidates=100
)  # fmt: skip
GAUSSIAN = mahalanobis.Config(kind="mahalanobis", input_px=16, features=CELLS)
FITTED = (
    diffusion.Config, mahalanobis.Config, neighbours.Config, restoration.Config, self_supervised.Config, vae.Config,
    vq_vae.Config,
)  # fmt: skip
SELF_SUPERVISED = self_supervised.Config.model_validate(
    {"kind": "self_supervised", "input_px": 16, "encoder": {"width": 4}, "views": {"view_px": 16}, "components": 4}
)
ADVERSARIAL = adversarial_autoencoder.Config(kind="adversarial_autoencoder", input_px=16, width=4, latent_dim=4)
AUTOENCODER = autoencoder.Config(kind="autoencoder", input_px=16, width=4, latent_dim=4)
VAE_GAN = vae_gan.Config(kind="vae_gan", input_px=16, width=4, latent_dim=4, halvings=2)
DAGMM = dagmm.Config(kind="dagmm", input_px=16, width=4, latent_dim=2, gaussians=2)
ENERGY = dsebm.Config(kind="dsebm", input_px=16, width=4, units=8)
OCGAN = ocgan.Config(kind="ocgan", input_px=16, width=4, critic_width=4, latent_dim=4)
SVDD = deep_svdd.Config(kind="deep_svdd", input_px=16, width=4, latent_dim=6)
ALOCC = alocc.Config(kind="alocc", input_px=16, width=4, halvings=2, latent_channels=4)
CONTEXT_VAE = context_vae.Config(kind="context_vae", input_px=16, width=4, latent_dim=4)
DIFFUSION = diffusion.Config(
    kind="diffusion", input_px=16, width=4, halvings=2, timesteps=100, levels=(10, 40), steps=2
)  # fmt: skip
GANOMALY = ganomaly.Config(kind="ganomaly", input_px=16, width=4, latent_dim=4)
MEMORY = memory_autoencoder.Config(
    kind="memory_autoencoder", input_px=16, width=4, halvings=2, latent_channels=8, items=12
)  # fmt: skip
RESTORATION = restoration.Config(kind="restoration", input_px=16, width=4, latent_dim=4, steps=4)
SYNTHETIC = synthetic_anomalies.Config(kind="synthetic_anomalies", input_px=16, width=4, halvings=2)
VAE = vae.Config(
    kind="vae", input_px=16, width=4, latent_dim=4, reconstruction="categorical", colours=4, score="importance",
    draws=3, gradient_draws=2,
)  # fmt: skip
VQ_VAE = vq_vae.Config(
    kind="vq_vae", input_px=16, width=4, halvings=2, codes=8, code_dim=4, prior_width=8, prior_layers=1, prior_heads=2,
    sample_threshold=None, maps="restoration", pixel_threshold=2.1, restorations=3,
)  # fmt: skip
CONFIGS = [
    ALOCC,
    CONTEXT_VAE,
    DIFFUSION,
    GANOMALY,
    MEMORY,
    RESTORATION,
    SYNTHETIC,
    VAE,
    VQ_VAE,
    DAGMM,
    ENERGY,
    OCGAN,
    SVDD,
    ADVERSARIAL,
    AUTOENCODER,
    VAE_GAN,
    ANOGAN,
    DPA,
    GAN,
    NUCLEI,
    TUNED,
    LOSS,
    RESIDUALS,
    GEO,
    FOREST,
    PIAD,
    PROJECTION,
    HYBRID,
    LOF,
    GAUSSIAN,
    SELF_SUPERVISED,
]
PIXELS = np.random.default_rng(0).integers(0, 256, (BATCH + 6, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(params=CONFIGS, ids=lambda config: config.kind)
def detector(request: pytest.FixtureRequest) -> Detector:
    """With running statistics that training has moved, or a mix-up of modes would not show."""
    torch.manual_seed(0)
    networks = build_networks(request.param)
    for name in ("encoder", "decoder", "generator"):
        for module in networks.get(name, torch.nn.Identity()).modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    if "head" in networks:
        networks["head"].get_buffer("weight").normal_()
    if isinstance(request.param, tuned_nuclei.Config):
        networks["classifier"].get_parameter("linear.weight").data.normal_()
    if isinstance(request.param, deep_if.Config):
        trainee = build_trainee(request.param, networks)
        trainee.step(to_input(PIXELS, 16), 0.0)
        trainee.finish()
    if isinstance(request.param, FITTED):
        fit(request.param, networks)
    if isinstance(request.param, dagmm.Config):
        fit(request.param, networks)
    if "sphere" in networks:
        networks["sphere"].get_buffer("centre").normal_()
    if "outputs" in networks:
        networks["outputs"].get_buffer("alpha").uniform_(0.1, 3)
    return build_detector(request.param, networks)


def fit(config: SingleConfig, networks: Networks) -> None:
    """Fit what is fitted to features of the tiles."""
    trainee, x = build_trainee(config, networks), to_input(PIXELS, 16)
    trainee.prepare(x)
    for progress in (0.0, 0.9, 0.99):
        trainee.step(x, progress)
    trainee.finish()


def test_shapes_and_types(detector: Detector) -> None:
    scored = detector(PIXELS)
    assert scored.score.shape == (len(PIXELS),)
    assert scored.score.dtype == np.float64
    assert np.isfinite(scored.score).all()
    maps = scored.maps(range(len(PIXELS)))
    assert maps.shape[0] == len(PIXELS)
    assert maps.dtype == np.float32
    x, x_hat = scored.pictures(range(len(PIXELS)))
    np.testing.assert_array_equal(x, PIXELS)
    assert (x_hat is not None) == detector.has_picture
    if x_hat is not None:
        has_sign = isinstance(detector.score, alocc.WordScore | LevelScore)  # shares of a word; deviations from normals
        assert has_sign or maps.min() >= 0, "what differs between picture and tile has no sign"
        assert x_hat.shape == PIXELS.shape
        assert x_hat.dtype == np.uint8


def test_pictures_are_of_the_tiles_asked_for_in_that_order(detector: Detector) -> None:
    _, every = detector.pictures(PIXELS)
    rows = [BATCH + 1, 0, 7, 7]
    x, x_hat = detector(PIXELS).pictures(rows)
    np.testing.assert_array_equal(x, PIXELS[rows])
    if every is None or x_hat is None:
        assert every is x_hat is None
        assert not detector.has_picture
        return
    assert every.std() > 0
    np.testing.assert_allclose(x_hat.astype(int), every[rows], atol=1)  # a value half-way between two may go either way
    assert [len(part) for part in detector(PIXELS).pictures([]) if part is not None] == [0, 0]


def test_maps_are_of_the_tiles_asked_for_in_that_order(detector: Detector) -> None:
    every = detector.maps(PIXELS)
    assert every.std() > 0
    rows = [BATCH + 1, 0, 7, 7]
    np.testing.assert_allclose(detector(PIXELS).maps(rows), every[rows], atol=1e-5, rtol=1e-5)


def test_a_batch_size_changes_nothing_but_the_batches(detector: Detector) -> None:
    tiles = PIXELS[:24] if detector.searches else PIXELS  # a lone tile takes as long as a group of them
    expected, rows = detector(tiles), range(len(tiles))
    for batch_tiles in (1, 7, 1000):
        detector.batch_tiles = batch_tiles
        assert max(len(x) for x in detector.inputs(tiles)) == min(batch_tiles, len(tiles))
        found = detector(tiles)
        np.testing.assert_allclose(found.score, expected.score, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(found.maps(rows), expected.maps(rows), atol=1e-5, rtol=1e-5)


def test_read_only_tiles_are_scored_as_they_are(detector: Detector) -> None:
    fixed = PIXELS.copy()
    fixed.setflags(write=False)  # as arrays from the object store are
    np.testing.assert_array_equal(detector(fixed).score, detector(PIXELS).score)


@pytest.mark.parametrize("config", [DPA, GAN, PIAD], ids=lambda config: config.kind)
def test_a_detector_may_have_one_of_its_stages(config: SingleConfig) -> None:
    """Those without a picture are tested where a Serve chains their stages."""
    networks = build_networks(config)
    names = {"map": "encoder", "reconstruct": "decoder" if config is DPA else "generator"}
    whole = build_detector(config, networks)
    x = next(whole.inputs(PIXELS[:2]))
    expected = {"map": whole.mapping(x)}
    expected["reconstruct"] = whole.reconstruct(expected["map"])
    for stage in ("map", "reconstruct"):
        part = build_detector(config, {names[stage]: networks[names[stage]]}, stages=[stage])  # type: ignore[list-item]
        call = part.mapping if stage == "map" else part.reconstruct
        given = x if stage == "map" else expected["map"]
        torch.testing.assert_close(call(given), expected[stage])
        with pytest.raises(RuntimeError, match="this stage of the detector was not loaded"):
            part.score(x, x, part)  # type: ignore[arg-type]


def test_every_detector_of_the_catalog_is_tested_here() -> None:
    union, *_ = get_args(SingleConfig)
    assert {type(config) for config in CONFIGS} == set(get_args(union))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: what runs on one was not tested")
@pytest.mark.parametrize("batch_tiles", [None, 16])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_gpu_gives_the_scores_of_a_cpu(config: SingleConfig, batch_tiles: int | None) -> None:
    """In one batch, and in several whose bytes travel while others are scored."""
    torch.manual_seed(0)
    networks = build_networks(config)
    if isinstance(config, FITTED):
        fit(config, networks)
    expected = build_detector(config, copy.deepcopy(networks))(PIXELS)
    shown, maps = expected.pictures([3, 0]), expected.maps([3, 0])
    found = build_detector(config, networks, device="cuda", batch_tiles=batch_tiles)(PIXELS)
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.maps([3, 0]), maps, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(found.pictures([3, 0]), shown, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours.astype(int), theirs, atol=1)


def test_a_score_does_not_depend_on_the_others(detector: Detector) -> None:
    """Alone, in another order, among others, and on both sides of an inner batch's edge."""
    together = detector(PIXELS).score
    assert together.std() > 1e-4
    for index in (0, 1, BATCH - 1, BATCH, len(PIXELS) - 1):
        np.testing.assert_allclose(detector(PIXELS[index : index + 1]).score, together[index], atol=1e-5, rtol=1e-5)
    order = np.random.default_rng(1).permutation(len(PIXELS))
    np.testing.assert_allclose(detector(PIXELS[order]).score, together[order], atol=1e-5, rtol=1e-5)
    flat = np.concatenate([np.zeros_like(PIXELS[:10]), PIXELS[:3], np.full_like(PIXELS[:10], 255)])
    np.testing.assert_allclose(detector(flat).score[10:13], together[:3], atol=1e-5, rtol=1e-5)


def test_the_same_twice_is_the_same_to_the_bit(detector: Detector) -> None:
    np.testing.assert_array_equal(detector(PIXELS).score, detector(PIXELS).score)


def test_larger_tiles_are_cropped_to_their_centre(detector: Detector) -> None:
    framed = np.random.default_rng(2).integers(0, 256, (4, 24, 24, 3), dtype=np.uint8)
    framed[:, 4:20, 4:20] = PIXELS[:4]
    scored = detector(framed)
    np.testing.assert_array_equal(scored.pictures(range(4))[0], PIXELS[:4])
    np.testing.assert_allclose(scored.score, detector(PIXELS[:4]).score, atol=1e-6)


def test_cells_are_means_over_areas_of_the_map() -> None:
    maps = torch.arange(2 * 12 * 12).float().reshape(2, 12, 12)
    assert torch.equal(pooled(maps), maps.reshape(2, 6, 2, 6, 2).mean((2, 4)))
    assert torch.equal(pooled(maps[:, :3, :3]), maps[:, :3, :3])
    # 9 x 7 in six by six: each cell covers 1.5 x 7/6 numbers.
    odd = maps[:, :9, :7].double()
    fine = odd.repeat_interleave(6, 1).repeat_interleave(6, 2).reshape(2, 6, 9, 6, 7).mean((2, 4))
    torch.testing.assert_close(pooled(odd), fine.float())
    assert pooled(maps.bfloat16()).dtype == torch.float32


class CountedMap:
    """The tile itself as its latent; counts its calls."""

    calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Of x [N, 3, h, w]."""
        self.calls += 1
        return x


def without_picture(mapping: CountedMap, *, has_cells: bool) -> Detector:
    """A detector of brightness, with a map of every pixel."""

    def brightness(x: torch.Tensor, x_hat: torch.Tensor | None, z: Latent) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mean((1, 2, 3)), x.mean(1)

    return assemble(
        {}, mapping=lambda _: mapping, reconstruct=no_picture, score=lambda _: brightness, input_px=16, device="cpu",
        has_cells=has_cells,
    )  # fmt: skip


def test_a_detector_with_cells_gives_them_with_the_scores() -> None:
    mapping = CountedMap()
    scored = without_picture(mapping, has_cells=True)(PIXELS)
    assert mapping.calls == 2  # batches
    assert scored.cells is not None
    assert scored.cells.shape == (len(PIXELS), 6, 6)
    np.testing.assert_allclose(scored.cells, pooled(torch.from_numpy(scored.maps(range(len(PIXELS))))), atol=1e-6)
    assert without_picture(mapping, has_cells=False)(PIXELS).cells is None


def test_pictures_of_a_detector_without_any_take_no_stage() -> None:
    mapping = CountedMap()
    scored = without_picture(mapping, has_cells=False)(PIXELS)
    calls = mapping.calls
    seen, picture = scored.pictures([3, 1])
    np.testing.assert_array_equal(seen, PIXELS[[3, 1]])
    assert picture is None
    assert scored.pictures([])[1] is None
    assert mapping.calls == calls


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
        f, f_hat = (networks["critic"].get_submodule("trunk")(t) for t in (x, x_hat))
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


class Distances:
    """A score of z alone: the sum of its two parts."""

    def __call__(self, x: torch.Tensor, x_hat: torch.Tensor | None, z: Latent) -> tuple[torch.Tensor, torch.Tensor]:
        assert x_hat is None
        first, second = z
        return first + second, x.mean(1)


def test_a_latent_may_have_parts_and_a_detector_no_picture() -> None:
    detector = assemble(
        {}, mapping=lambda _: lambda x: (x.amax((1, 2, 3)), x.amin((1, 2, 3))), reconstruct=no_picture,
        score=lambda _: Distances(), input_px=16, device="cpu",
    )  # fmt: skip
    scored = detector(PIXELS)
    x = to_input(PIXELS, 16)
    np.testing.assert_allclose(scored.score, (x.amax((1, 2, 3)) + x.amin((1, 2, 3))).numpy(), atol=1e-6)
    seen, picture = scored.pictures([3, 1])
    assert picture is None
    np.testing.assert_array_equal(seen, PIXELS[[3, 1]])


def test_a_score_that_needs_a_picture_says_so() -> None:
    score = build_detector(GAN, build_networks(GAN)).score
    with pytest.raises(ValueError, match="compares a tile with its reconstruction, and got none"):
        score(to_input(PIXELS[:1], 16), None, torch.zeros(1, 4))
