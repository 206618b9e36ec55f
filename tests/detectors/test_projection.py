"""Projection: what it lowers, that it finds what the generator made, and that a tile's search is its own.

LPIPS has the published heads on a random AlexNet: nothing here depends on what it finds alike.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor
from torchvision_trunks import trunk_state

from uadray.detectors import projection
from uadray.detectors.building import build_detector, build_trainee
from uadray.detectors.bundle import load_detector, read_bundle, write_bundle
from uadray.detectors.inversion import descent, noise_maps
from uadray.detectors.inversion.picture_distance import PictureDistance, resized
from uadray.detectors.inversion.projection_loss import ProjectionLoss, noise_share, rate_share
from uadray.errors import InputError
from uadray.generators.catalog import file_of
from uadray.networks import weights
from uadray.networks.lpips import Lpips, lpips_distance
from uadray.networks.outline import Networks
from uadray.tiles.spec import TileSpec

pytestmark = pytest.mark.usefixtures("torch_alone")

STYLED = {"input_px": 16, "latent_dim": 8, "w_dim": 8, "channel_max": 8, "channel_base": 64}
STYLEGAN2 = {"kind": "stylegan2", "mapping_layers": 2} | STYLED
GENERATORS = {
    "stylegan2": STYLEGAN2,
    "stylegan": {"kind": "stylegan"} | STYLED,
    "pgan": {"kind": "pgan", "input_px": 16, "latent_dim": 8, "channel_max": 8, "channel_base": 64},
    "dcgan": {"kind": "dcgan", "input_px": 16, "latent_dim": 8, "width": 4},
}


def config_of(generator: str = "stylegan2", **fields: object) -> projection.Config:
    """A search of a few steps that goes far in them."""
    values = {
        "kind": "projection",
        "steps": 30,
        "learning_rate": 0.2,
        "lpips_px": 32,
        "generator": GENERATORS[generator],
    }
    return projection.Config.model_validate(values | fields)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles are computed four at a time, not sixteen, of which most would be filled up."""
    monkeypatch.setattr(descent, "GROUP", 4)


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    trunk = {f"trunk.{name}": tensor for name, tensor in trunk_state("alexnet").items()}
    return lpips_distance("alexnet", state=trunk | weights.load("lpips_alexnet"))


@pytest.fixture
def networks_of(lpips: Lpips) -> Callable[[projection.Config], Networks]:
    """Gives networks as they score: of generators the weights of no training, but noise that shows."""

    def networks(config: projection.Config) -> Networks:
        torch.manual_seed(0)
        made = projection.networks(config, pretrained=False) | {"lpips": lpips}
        for network in made.values():
            network.eval().requires_grad_(False)
            for name, parameter in network.named_parameters():
                if name.endswith(("strength", "noise_scale")):
                    parameter.fill_(0.2)
        return made

    return networks


def test_the_shares_are_those_of_1000_steps_of_the_paper() -> None:
    rates = [rate_share(step / 1000) for step in range(1000)]
    assert rates[25] == pytest.approx(0.5)
    assert rates[50:751] == [1.0] * 701
    assert rates[875] == pytest.approx(0.5)
    assert rates[999] < 1e-4
    assert [noise_share(step / 1000) for step in (0, 250, 750, 999)] == pytest.approx([1, 4 / 9, 0, 0])


def test_the_gradient_of_the_loss_is_that_of_finite_differences(networks_of: Any) -> None:
    """Of latents and of noise maps, along random directions, in float64."""
    config = config_of(space="w+")
    networks = {name: copy.deepcopy(network).double() for name, network in networks_of(config).items()}
    space, distance = projection.space_of(config, networks), projection.distance_of(config, networks)
    loss = ProjectionLoss(space, distance, steps=10, latent_noise=0.0, noise_penalty=10.0)
    targets = loss.targets(smooth_pictures(1).double())
    rng = torch.Generator().manual_seed(1)
    start = [space.mean()[None], *(m.double() for m in noise_maps.start(space.fixed_noise(), 1))]
    variables = [(v + 0.1 * torch.randn(v.shape, generator=rng, dtype=v.dtype)).requires_grad_() for v in start]
    gradients = torch.autograd.grad(loss(tuple(variables), targets, 0).sum(), variables)
    for number, (value, gradient) in enumerate(zip(variables, gradients, strict=True)):
        way = torch.randn(value.shape, generator=rng, dtype=value.dtype)

        def at(t: float, number: int = number, way: Tensor = way) -> float:
            moved = [v + t * way if i == number else v for i, v in enumerate(variables)]
            return float(loss(tuple(moved), targets, 0).sum().detach())

        expected = (at(1e-6) - at(-1e-6)) / 2e-6
        assert float((gradient * way).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_the_loss_is_lpips_of_the_noisy_latent_and_the_penalty(networks_of: Any) -> None:
    config = config_of()
    networks = networks_of(config)
    space, lpips = projection.space_of(config, networks), networks["lpips"]
    loss = ProjectionLoss(space, PictureDistance(lpips, side_px=32), steps=8, latent_noise=0.05, noise_penalty=100.0)
    x, w, maps = smooth_pictures(3), space.drawn(3, seed=1), noise_maps.start(space.fixed_noise(), 3)
    added = torch.randn(6, 1, 1, 8, generator=torch.Generator().manual_seed(1912))[3] * 0.05 * space.deviation() / 4
    for step, latents in ((3, w + added), (6, w)):
        pictures = space.pictures(latents, maps)
        expected = lpips(resized(x, 32), resized(pictures, 32)) + 100 * noise_maps.penalty(maps)
        torch.testing.assert_close(loss((w, *maps), loss.targets(x), step), expected)


@pytest.mark.parametrize("side_px", [32, 64])
def test_features_that_are_computed_once_give_lpips_and_its_map(lpips: Lpips, side_px: int) -> None:
    distance = PictureDistance(lpips, side_px=side_px)
    x, y = smooth_pictures(2, 64), smooth_pictures(2, 64)
    features = distance.features(x), distance.features(y)
    expected = lpips(resized(x, side_px), resized(y, side_px))
    torch.testing.assert_close(distance(*features), expected, atol=1e-6, rtol=1e-5)
    score, residual = projection.LpipsScore(distance, residual="lpips")(x, y, x)
    torch.testing.assert_close(score, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(residual.mean((1, 2)), expected, rtol=0.2, atol=0)
    _, pixels = projection.LpipsScore(distance, residual="pixels")(x, y, x)
    torch.testing.assert_close(pixels, (x - y).abs().mean(1))


def test_pictures_are_resized_by_areas_or_smoothly() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert resized(x, 2)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert resized(x, 8).mean() == pytest.approx(7.5)
    assert resized(x, 4) is x


def test_a_tile_that_the_generator_made_is_found_again(networks_of: Any) -> None:
    """With other noise than the generator's own: the distance falls by 90 %, and without the maps it does not."""
    config = config_of(steps=100, noise_penalty=0)
    networks = networks_of(config)
    space, distance = projection.space_of(config, networks), projection.distance_of(config, networks)
    maps = [torch.randn(4, 1, *m.shape[-2:], generator=torch.Generator().manual_seed(1)) for m in space.fixed_noise()]
    x = space.pictures(space.drawn(4, seed=9), maps).clamp(-1, 1)
    features = distance.features(x)
    start = distance(features, distance.features(space.pictures(space.mean().expand(4, *space.shape)).clamp(-1, 1)))
    left = {}
    for optimise in (True, False):
        chosen = config.model_copy(update={"optimise_noise": optimise})
        x_hat = projection.Pictures(space)(projection.projection(chosen, networks)(x))
        left[optimise] = distance(features, distance.features(x_hat)).mean() / start.mean()
    assert left[True] < 0.1 < left[False]


def test_w_plus_comes_at_least_as_close_as_w(networks_of: Any) -> None:
    x = smooth_pictures(4)
    found = {}
    for space in ("w", "w+"):
        config = config_of(space=space, steps=40, optimise_noise=False)
        found[space] = projection.projection(config, networks_of(config)).search(x).loss.mean()
    assert found["w+"] <= found["w"]


@pytest.mark.parametrize("patience", [0, 3])
def test_a_batch_of_projections_is_that_of_each_tile_alone(networks_of: Any, patience: int) -> None:
    """With noise maps, and where tiles are done at different steps."""
    config = config_of(space="w+", steps=16, patience=patience, optimise_noise=not patience, latent_noise=0.01)
    mapping = projection.projection(config, networks_of(config))
    x = smooth_pictures(5)
    together = mapping.search(x)
    assert (patience > 0) == (len(together.steps.unique()) > 1)
    for i in (0, 2, 4):
        alone = mapping.search(x[i : i + 1])
        assert alone.steps[0] == together.steps[i]
        for one, many in zip(alone.variables, together.variables, strict=True):
            torch.testing.assert_close(one[0], many[i], atol=1e-4, rtol=1e-4)


def test_noise_maps_are_found_for_each_tile_and_normalised(networks_of: Any) -> None:
    config = config_of()
    networks = networks_of(config)
    with torch.inference_mode():
        latents, *maps = cast(tuple[Tensor, ...], projection.projection(config, networks)(smooth_pictures(2)))
    assert latents.shape == (2, 1, 8)
    assert [m.shape for m in maps] == [(2, 1, side, side) for side in (4, 8, 8, 16, 16)]
    for m in maps:
        torch.testing.assert_close(m.square().mean((1, 2, 3)), torch.ones(2))
        assert not torch.equal(m[0], m[1])


def test_the_penalty_keeps_pictures_out_of_noise_maps(networks_of: Any) -> None:
    x = smooth_pictures(2)
    found = {}
    for penalty in (0.0, 1e5):
        config = config_of(noise_penalty=penalty, steps=40)
        variables = projection.projection(config, networks_of(config)).search(x).variables
        found[penalty] = noise_maps.autocorrelation(variables[1:])
    assert found[1e5] < 0.01 < 0.05 < found[0.0]


@pytest.mark.parametrize(
    ("generator", "space"), [("stylegan2", "z"), ("stylegan", "w+"), ("stylegan", "w"), ("pgan", None), ("dcgan", None)]
)
def test_every_generator_is_projected_onto(networks_of: Any, generator: str, space: str | None) -> None:
    config = config_of(generator, space=space, steps=15)
    networks = networks_of(config)
    mapping, x = projection.projection(config, networks), smooth_pictures(3)
    loss, start = mapping.objective, mapping.start(x, 0)
    before = loss(start, loss.targets(x), config.steps)  # type: ignore[arg-type]  # a step without noise
    found = mapping.search(x)
    assert (found.loss < before).all()
    assert len(found.variables) == (1 if generator in ("pgan", "dcgan") else 1 + len(mapping.start(x, 0)[1:]))
    assert projection.Pictures(projection.space_of(config, networks))(found.variables).abs().max() <= 1


def test_bfloat16_comes_as_close(networks_of: Any) -> None:
    x = smooth_pictures(3)
    losses = []
    for is_lowered in (False, True):
        config = config_of(is_lowered=is_lowered, optimise_noise=False, steps=12)
        losses.append(float(projection.projection(config, networks_of(config)).search(x).loss.mean()))
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert losses[0] != losses[1]


def test_fields_that_do_not_go_together(networks_of: Any) -> None:
    config = config_of(terms=[{"kind": "pixel_l1"}])
    with pytest.raises(InputError, match=r"set detector\.generator_fraction below 1"):
        build_trainee(config, networks_of(config))
    assert config_of().input_px == 16
    with pytest.raises(ValidationError, match=r"a dcgan has no space w; it has z"):
        config_of("dcgan", space="w")
    with pytest.raises(ValidationError, match="input_px 32 is not that of the generator, 16"):
        config_of(input_px=32)


def test_a_given_generator_is_not_trained_and_terms_are_normalised(networks_of: Any, tmp_path: Path) -> None:
    """No more tiles are projected than asked for; the bundle scores as what was trained."""
    config = config_of(
        steps=4, generator_bundle="s3://somewhere", normal_tiles=10, terms=[{"kind": "lpips"}, {"kind": "critic"}]
    )
    networks = networks_of(config)
    before = state_of(networks)
    trainee = build_trainee(config, networks)
    assert trainee.optimizers == {}
    assert trainee.phases == ("normals",)
    seen = [trainee.step(smooth_pictures(8), progress) for progress in (0.0, 0.4, 0.8)]
    trainee.finish()
    assert [len(losses) for losses in seen] == [2, 2, 0]
    assert trainee.counts["normal_tiles"] == 10
    assert moved(networks, before) == {"normals"}
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    expected = build_detector(config, networks)(pixels)
    write_bundle(str(tmp_path), networks, detector=config, name="p", tiles=TileSpec(mpp=0.5, tile_px=20))
    found = load_detector(str(tmp_path), read_bundle(str(tmp_path)))(pixels)
    np.testing.assert_allclose(found.score, expected.score, atol=1e-6)
    assert np.isfinite(found.maps([0, 2])).all()


def test_without_terms_a_given_generator_leaves_nothing_to_learn(networks_of: Any) -> None:
    config = config_of(generator_bundle="s3://somewhere", space="w+")
    networks = networks_of(config)
    trainee, x = build_trainee(config, networks), smooth_pictures(4)
    before = state_of(networks)
    start = float(trainee.step(x, 0.5)["lpips_at_start"])
    assert trainee.phases == ("start",)
    assert moved(networks, before) == set()
    with torch.inference_mode():
        x_hat = cast(Tensor, trainee.reconstruct(x))
    distance = projection.distance_of(config, networks)
    assert float(distance(distance.features(x), distance.features(x_hat)).mean()) < start


def test_a_generator_is_trained_first_and_then_the_terms(networks_of: Any) -> None:
    config = config_of(steps=2, generator_fraction=0.5, terms=[{"kind": "pixel_l1"}])
    networks = networks_of(config)
    for network in networks.values():
        network.requires_grad_(True)
    trainee = build_trainee(config, networks)
    phases = []
    for progress in (0.0, 0.25, 0.5, 0.75):
        trainee.step(smooth_pictures(8), progress)
        phases.append((trainee.phase(progress), trainee.learning_rate(progress)))
    trainee.finish()
    assert phases == [("gan", "generator.learning_rate")] * 2 + [("normals", "")] * 2
    assert torch.isfinite(networks["normals"].get_buffer("mean")).all()


def test_latents_of_a_generator_are_searched_where_it_draws(networks_of: Any) -> None:
    """The default space: w of StyleGANs, z of the others; all start at the mean."""
    for generator, shape in (("stylegan2", (1, 8)), ("stylegan", (1, 8)), ("pgan", (8,)), ("dcgan", (8,))):
        config = config_of(generator)
        networks = networks_of(config)
        space = projection.space_of(config, networks)
        assert space.shape == shape
        start = projection.projection(config, networks).start(smooth_pictures(2), 0)
        assert torch.equal(start[0], space.mean().expand(2, *shape))
        assert len(start) == 1 + len(file_of(config.generator).noise_maps(config.generator, networks))  # type: ignore[arg-type]
