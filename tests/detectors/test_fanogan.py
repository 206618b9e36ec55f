"""f-AnoGAN: its losses and scores by hand, which phase moves which network, any generator, and ALI."""

import copy
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from lockstep import means_over, trained, trained_with_a_break
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor, nn

from uadray.detectors import fanogan
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.bundle import load_detector, read_bundle, write_bundle
from uadray.detectors.inversion.ali import DrawingEncoder, PairDiscriminator, ali_discriminator_loss, ali_generator_loss
from uadray.detectors.inversion.critic_part import CriticPart
from uadray.detectors.inversion.encoder_training import EncoderLoss, EncoderTraining
from uadray.detectors.inversion.encoders import StyleEncoder
from uadray.detectors.inversion.generator_part import with_generator
from uadray.detectors.inversion.latent_space import LatentSpace
from uadray.detectors.trainee import alone
from uadray.errors import InputError
from uadray.generators import wgan_gp
from uadray.generators.bundle import GeneratorBundle, write_generator
from uadray.networks.outline import Networks
from uadray.tiles.spec import TileSpec

pytestmark = pytest.mark.usefixtures("torch_alone")

GAN = fanogan.Config(
    kind="fanogan", input_px=16, width=4, latent_dim=8, critic_steps=2, encoder_fraction=0.4,
    gan_learning_rate=1e-3, encoder_learning_rate=2e-3,
)  # fmt: skip
TILES = TileSpec(mpp=0.5, tile_px=24)


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures()


def _images(n: int, side_px: int) -> Tensor:
    return torch.rand(n, 3, side_px, side_px) * 2 - 1


@pytest.mark.parametrize("side_px", [15, 17, 48, 96, 8])
def test_fanogan_takes_powers_of_two(side_px: int) -> None:
    with pytest.raises(ValidationError):
        fanogan.Config(kind="fanogan", input_px=side_px)
    assert fanogan.Config(kind="fanogan", input_px=32).input_px == 32


def test_build_fanogan() -> None:
    networks = build_networks(fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=3))
    assert list(networks) == ["generator", "critic", "encoder"]
    assert networks["generator"](networks["encoder"](_images(2, 16))).shape == (2, 3, 16, 16)


def test_the_encoder_learns(x: Tensor) -> None:
    networks = build_networks(GAN)
    trainee = build_trainee(GAN, networks)
    with torch.no_grad():
        x = networks["generator"].eval()(torch.randn(8, 8))  # what a generator can make, an encoder can find
    losses = [trainee.step(x, 0.9)["izi_f"] for _ in range(30)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_phases_switch_at_encoder_fraction(x: Tensor) -> None:
    trainee = build_trainee(GAN, build_networks(GAN))
    phases = ["izi_f" if "izi_f" in trainee.step(x, i / 10) else "gan" for i in range(10)]
    assert phases == ["gan"] * 6 + ["izi_f"] * 4


def test_generator_and_critic_are_frozen_in_the_encoder_phase(x: Tensor) -> None:
    """Weights and running statistics, also where an epoch has just put all networks into training mode."""
    networks = build_networks(GAN)
    trainee = build_trainee(GAN, networks)
    trainee.step(x, 0.0)
    before = state_of(networks)
    for _ in range(3):
        for network in networks.values():
            network.train()
        trainee.step(x, 0.99)
    assert moved(networks, before) == {"encoder"}


def test_phases_have_names_and_learning_rates() -> None:
    trainee = build_trainee(GAN, build_networks(GAN))
    assert trainee.phases == ("gan", "encoder")
    assert [trainee.phase(p) for p in (0.0, 0.59, 0.6, 1.0)] == ["gan", "gan", "encoder", "encoder"]
    rates = [trainee.learning_rate(progress) for progress in (0.0, 0.9)]
    assert rates == ["gan_learning_rate", "encoder_learning_rate"]


@pytest.fixture
def generator(tmp_path: Path) -> tuple[str, GeneratorBundle, Networks]:
    """A generator's bundle, and the networks in it."""
    config = wgan_gp.Config(kind="wgan_gp", input_px=16, width=4, latent_dim=8)
    torch.manual_seed(5)
    networks = wgan_gp.networks(config, pretrained=False)
    uri = str(tmp_path / "generator")
    return uri, write_generator(uri, networks, name="g", generator=config, tiles=TILES), networks


def _over(uri: str) -> fanogan.Config:
    """The configuration over a generator that is given."""
    return fanogan.Config.model_validate(with_generator(GAN, uri))


def test_a_given_generator_is_taken_and_only_the_encoder_is_trained(
    generator: tuple[str, GeneratorBundle, Networks], x: Tensor
) -> None:
    uri, _, given = generator
    config = _over(uri)
    networks = build_networks(config)
    assert moved({name: networks[name] for name in given}, state_of(given)) == set()
    trainee = build_trainee(config, networks)
    assert trainee.phases == ("encoder",)
    assert set(trainee.optimizers) == {"encoder"}
    before = state_of(networks)
    for progress in (0.0, 0.5, 0.99):
        assert set(trainee.step(x, progress)) == {"izi_f"}
        assert trainee.phase(progress) == "encoder"
        assert trainee.learning_rate(progress) == "encoder_learning_rate"
    assert moved(networks, before) == {"encoder"}


def test_a_bundle_has_the_given_generator_inside_and_does_not_say_where_it_lay(
    generator: tuple[str, GeneratorBundle, Networks], tmp_path: Path
) -> None:
    config = _over(generator[0])
    networks, uri = build_networks(config), str(tmp_path / "b")
    written = write_bundle(uri, networks, name="n", detector=config, tiles=TILES)
    assert written == read_bundle(uri)
    assert str(tmp_path) not in (Path(uri) / "bundle.json").read_text()
    pixels = torch.randint(0, 256, (3, 24, 24, 3), dtype=torch.uint8).numpy()
    expected = build_detector(GAN, networks)(pixels).score
    assert load_detector(uri)(pixels).score.tolist() == expected.tolist()


def test_a_bundle_that_points_at_a_generator_is_refused(tmp_path: Path) -> None:
    write_bundle(str(tmp_path), build_networks(GAN), name="n", detector=GAN, tiles=TILES)
    path = tmp_path / "bundle.json"
    path.write_text(path.read_text().replace('"generator": null', '"generator": "s3://other/g"'))
    with pytest.raises(InputError, match=r"names a generator elsewhere, detector\.generator"):
        read_bundle(str(tmp_path))


def test_the_sizes_are_those_of_the_given_generator(generator: tuple[str, GeneratorBundle, Networks]) -> None:
    asked = fanogan.Config(kind="fanogan", generator=generator[0], width=8, latent_dim=100)
    with pytest.raises(InputError, match="its architecture is not known"):
        build_networks(asked)
    config = fanogan.Config.model_validate(with_generator(asked, generator[0]))
    assert (config.input_px, config.generator_bundle) == (16, generator[0])
    networks = build_networks(config)
    assert networks["encoder"](_images(2, 16)).shape == (2, 8)
    assert next(networks["encoder"].parameters()).shape[0] == 8  # its own width


def test_a_detector_is_no_generator(tmp_path: Path) -> None:
    write_bundle(str(tmp_path), build_networks(GAN), name="n", detector=GAN, tiles=TILES)
    with pytest.raises(InputError, match="is a detector, not a generator"):
        _over(str(tmp_path))


GENERATORS: dict[str, dict[str, Any]] = {
    "dcgan": {"input_px": 16, "width": 4, "latent_dim": 6},
    "wgan_gp": {"input_px": 16, "width": 4, "latent_dim": 6, "critic_steps": 1},
    "pgan": {"input_px": 16, "latent_dim": 6, "channel_base": 64, "stage_images": 8, "fade_images": 8},
    "stylegan": {
        "input_px": 16, "latent_dim": 6, "w_dim": 5, "channel_base": 64, "stage_images": 8, "fade_images": 8,
    },
    "stylegan2": {"input_px": 16, "latent_dim": 6, "w_dim": 5, "channel_base": 64, "mapping_layers": 2},
}  # fmt: skip


def _of_kind(kind: str, **fields: Any) -> fanogan.Config:
    values = {"kind": "fanogan", "width": 4, "generator": {"kind": kind} | GENERATORS[kind]}
    return fanogan.Config.model_validate(values | fields)


@pytest.fixture(params=list(GENERATORS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_over_any_generator(kind: str, x: Tensor) -> None:
    """Trained first and then frozen, with the encoder in its own phase; scored the same alone and in a batch."""
    config = _of_kind(kind, encoder_fraction=0.5)
    networks = build_networks(config)
    trainee = build_trainee(config, networks)
    trainee.prepare(x)
    before = state_of(networks)
    for number in range(4):
        trainee.counts["images_shown"] = 8 * number * 4
        trainee.step(x, number / 8)
    learned = moved(networks, before)
    assert "generator" in learned
    assert "encoder" not in learned
    before = state_of(networks)
    assert set(trainee.step(x, 0.5)) == {"izi_f"}
    assert moved(networks, before) == {"encoder"}
    trainee.finish()
    assert trainee.phase(0.5) == "encoder"
    assert trainee.learning_rate(0.0) == "generator.learning_rate"
    pixels = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8).numpy()
    detector = build_detector(config, networks)
    together = detector(pixels)
    alone = [float(detector(pixels[i : i + 1]).score[0]) for i in range(5)]
    assert together.score.tolist() == pytest.approx(alone, rel=1e-4)
    assert together.maps([0, 3]).shape == (2, 16, 16)


def test_a_style_based_generator_is_searched_in_w_from_its_mean_on() -> None:
    config = _of_kind("stylegan2")
    networks = build_networks(config)
    encoder, space = networks["encoder"], LatentSpace(fanogan.gan_config(config), networks, "w")
    assert isinstance(encoder, StyleEncoder)
    networks["average"].get_buffer("mean_w").copy_(torch.arange(5.0))
    encoder.centre(space)
    nn.init.zeros_(encoder.to_latent.weight)
    nn.init.ones_(encoder.to_latent.bias)
    spread = space.drawn(4000, seed=3)[:, 0].var(0).mean().sqrt()
    expected = torch.arange(5.0) + spread
    assert torch.allclose(encoder(_images(2, 16)), expected.expand(2, 1, 5), atol=0.05 * float(spread))
    assert build_networks(_of_kind("stylegan2", space="z"))["encoder"](_images(2, 16)).shape == (2, 6)


def test_where_latents_are_uniform_the_encoder_is_bounded(x: Tensor) -> None:
    for prior, is_bounded in (("uniform", True), ("normal", False)):
        generator = {"kind": "dcgan", **GENERATORS["dcgan"], "prior": prior}
        encoder = build_networks(_of_kind("dcgan", generator=generator))["encoder"]
        encoder.get_parameter("to_latent.bias").data.fill_(5.0)
        z = encoder(x)
        assert bool((z.abs() <= 1).all()) is is_bounded


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"space": "w"}, "space w: the generator has z alone"),
        ({"encoder_training": "ali", "generator": "s3://a/b"}, "ali trains a generator of its own"),
        ({"encoder_draws": True}, "encoder_draws is for encoder_training ali"),
        ({"terms": [{"kind": "pixel_l1"}], "score": "image"}, "terms take the place of the score"),
        ({"normals_fraction": 0.1}, "normals_fraction is for terms"),
        ({"terms": [{"kind": "pixel_l1"}], "normals_fraction": 0.5}, "leaves no steps to the encoder"),
        ({"terms": [{"kind": "word"}], "encoder_training": "ali"}, "terms word: ali has no discriminator of tiles"),
        ({"input_px": 32}, "input_px 32 is not that of the generator, 16"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        _of_kind("wgan_gp", **fields)


def _tiny(loss: EncoderLoss, kappa: float = 0.7) -> tuple[EncoderTraining, Mapping[str, nn.Module]]:
    """A training of an encoder in float64, of networks that are not those of a first step."""
    config = wgan_gp.Config(kind="wgan_gp", input_px=16, width=4, latent_dim=3)
    torch.manual_seed(2)
    networks = {**wgan_gp.networks(config, pretrained=False), "encoder": fanogan.encoder_of(config, width=4, space="z")}
    for network in networks.values():
        network.double()
    training = EncoderTraining(
        config, networks, space="z", loss=loss, kappa=kappa, learning_rate=1e-3, average=alone
    )  # fmt: skip
    training.begin()
    return training, networks


def _reference(loss: EncoderLoss, networks: Mapping[str, nn.Module], x: Tensor, z: Tensor, kappa: float) -> float:
    """The losses of the paper, written out: sums over pixels, features and coordinates, image by image."""
    generator, critic, encoder = (networks[name] for name in ("generator", "critic", "encoder"))
    total = 0.0
    for one, latent in zip(x, z, strict=True):
        if loss == "ziz":
            found = encoder(generator(latent[None]))[0].tolist()
            total += sum((a - b) ** 2 for a, b in zip(latent.tolist(), found, strict=True)) / len(latent)
            continue
        drawn = generator(encoder(one[None]))
        total += float(((one - drawn[0]) ** 2).sum()) / one.numel()
        if loss == "izi_f":
            f, f_hat = (critic.get_submodule("trunk")(image) for image in (one[None], drawn))
            total += kappa * float(((f - f_hat) ** 2).sum()) / f.numel()
    return total / len(x)


@pytest.mark.parametrize("loss", ["ziz", "izi", "izi_f"])
def test_losses_by_hand_and_their_gradients(loss: EncoderLoss) -> None:
    training, networks = _tiny(loss)
    x, z = smooth_pictures(3).double(), torch.randn(3, 3, dtype=torch.float64)
    latents = z if loss == "ziz" else None
    value = training.loss_of(x, latents).mean()
    with torch.no_grad():
        assert value.item() == pytest.approx(_reference(loss, networks, x, z, 0.7), rel=1e-10)
    value.backward()
    weight = networks["encoder"].get_parameter("trunk.from_rgb.weight")
    assert weight.grad is not None
    ascent = weight.grad / weight.grad.norm()
    ends = []
    for end in (1e-5, -1e-5):
        with torch.no_grad():
            weight.add_(end * ascent)
            ends.append(float(training.loss_of(x, latents).mean()))
            weight.sub_(end * ascent)
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(weight.grad.norm()), rel=1e-5)
    assert all(p.grad is None for name in ("generator", "critic") for p in networks[name].parameters())


def test_ziz_takes_other_latents_at_each_step_and_no_tiles() -> None:
    config = GAN.model_copy(update={"encoder_training": "ziz"})
    trainee = build_trainee(config, build_networks(config))
    torch.manual_seed(0)
    losses = [float(trainee.step(_images(8, 16) * scale, 0.9)["ziz"]) for scale in (0.0, torch.nan)]
    assert losses[0] != losses[1]
    assert all(0.5 < loss < 3 for loss in losses)


def test_ziz_learns() -> None:
    config = GAN.model_copy(update={"encoder_training": "ziz", "latent_dim": 2, "encoder_learning_rate": 5e-3})
    networks = build_networks(config)
    for name, weight in networks["generator"].named_parameters():
        if name.startswith("start"):
            weight.data.mul_(3)
    trainee = build_trainee(config, networks)
    losses = [float(trainee.step(torch.zeros(16, 3, 16, 16), 0.9)["ziz"]) for _ in range(40)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_the_scores_of_the_paper_by_hand(x: Tensor) -> None:
    networks = build_networks(GAN)
    generator, critic, encoder = (networks[name].eval() for name in ("generator", "critic", "encoder"))
    pixels = ((x.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    with torch.no_grad():
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        x_hat = generator(encoder(x))
        f, f_hat = (CriticPart(fanogan.gan_config(GAN), networks).features(each) for each in (x, x_hat))
        a_r, a_d = (x - x_hat).pow(2).mean((1, 2, 3)), (f - f_hat).pow(2).mean((1, 2, 3))
        word = critic(x)
    for score, expected in (("image", a_r), ("features", a_d), ("word", -word), (None, a_r + 0.5 * a_d)):
        config = GAN.model_copy(update={"score": score, "kappa": 0.5})
        scored = build_detector(config, networks)(pixels)
        assert scored.score.tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-6)
        assert torch.allclose(torch.from_numpy(scored.maps(range(8))), (x - x_hat).abs().mean(1), atol=1e-5)


def test_terms_are_normalised_in_the_last_phase(x: Tensor) -> None:
    terms = [{"kind": "pixel_l2", "by_contrast": True}, {"kind": "critic_l2", "weight": 2.0}]
    config = _of_kind("wgan_gp", terms=terms, encoder_fraction=0.5, normals_fraction=0.2)
    networks = build_networks(config)
    trainee = build_trainee(config, networks)
    trainee.prepare(x)
    assert trainee.phases == ("gan", "encoder", "normals")
    assert [trainee.phase(p) for p in (0.0, 0.5, 0.79, 0.8, 1.0)] == ["gan", "encoder", "encoder", "normals", "normals"]
    assert [trainee.learning_rate(p) for p in (0.6, 0.9)] == ["encoder_learning_rate", ""]
    trainee.step(x, 0.6)
    before = state_of(networks)
    tiles = smooth_pictures(16)
    assert set(trainee.step(tiles, 0.9)) == {"0_pixel_l2", "1_critic_l2"}
    trainee.finish()
    assert moved(networks, before) == {"normals"}
    pixels = ((tiles.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    scored = build_detector(config, networks)(pixels)
    assert abs(float(scored.score.mean())) < 0.5
    assert 1 < float(scored.score.std()) < 4


def test_ali_learns_encoder_and_generator_against_pairs(kind: str, x: Tensor) -> None:
    config = _of_kind(kind, encoder_training="ali", encoder_learning_rate=2e-3)
    networks = build_networks(config)
    assert not {"critic", "discriminator"} & set(networks)
    trainee = build_trainee(config, networks)
    assert (trainee.phases, trainee.phase(0.1), trainee.learning_rate(0.1)) == (
        ("ali",), "ali", "encoder_learning_rate",
    )  # fmt: skip
    before = state_of(networks)
    losses = trainee.step(x, 0.0)
    assert set(losses) == {"pair_discriminator", "pair_accuracy", "ali"}
    assert moved(networks, before) == set(networks)
    scored = build_detector(config, networks)(torch.zeros(2, 16, 16, 3, dtype=torch.uint8).numpy())
    assert scored.score.shape == (2,)


def test_the_encoder_of_ali_may_draw(x: Tensor) -> None:
    """Pairs have draws of a Gaussian, a tile is mapped to its mean; both ends of the Gaussian learn."""
    config = GAN.model_copy(update={"encoder_training": "ali", "encoder_draws": True})
    networks = build_networks(config)
    encoder = networks["encoder"]
    assert isinstance(encoder, DrawingEncoder)
    mean, log_variance = encoder.to_gaussian(x).chunk(2, 1)
    assert torch.equal(encoder(x), mean)
    assert torch.equal(encoder(x), encoder(x))
    torch.manual_seed(1)
    draws = encoder.drawn(x[:1].expand(2000, -1, -1, -1))
    torch.testing.assert_close(draws.mean(0), mean[0], rtol=0, atol=0.12)
    torch.testing.assert_close(draws.std(0), (log_variance[0] / 2).exp(), rtol=0.1, atol=0)
    trainee = build_trainee(config, networks)
    before = encoder.to_gaussian.to_latent.bias.detach().clone()
    trainee.step(x, 0.0)
    changed = encoder.to_gaussian.to_latent.bias.detach() != before
    assert bool(changed.all()), "of mean and variance"


def test_an_encoder_that_draws_wants_a_normal_prior() -> None:
    for prior in ("uniform", "normal"):
        generator = {"kind": "dcgan", "input_px": 16, "width": 4, "latent_dim": 8, "prior": prior}
        values = {"kind": "fanogan", "generator": generator, "encoder_training": "ali", "encoder_draws": True}
        if prior == "normal":
            assert fanogan.Config.model_validate(values).encoder_draws
        else:
            with pytest.raises(ValidationError, match="uniform prior"):
                fanogan.Config.model_validate(values)


def test_the_losses_of_ali_by_hand() -> None:
    encoded, drawn = torch.tensor([0.5, -2.0]), torch.tensor([1.0, 0.25])
    real, fake = (1 / (1 + torch.exp(-each)) for each in (encoded, drawn))
    discriminator = -(real.log().mean() + (1 - fake).log().mean())
    generator = -((1 - real).log().mean() + fake.log().mean())
    assert float(ali_discriminator_loss(encoded, drawn)) == pytest.approx(float(discriminator), rel=1e-5)
    assert float(ali_generator_loss(encoded, drawn)) == pytest.approx(float(generator), rel=1e-5)


def test_a_discriminator_of_pairs_looks_at_both() -> None:
    torch.manual_seed(0)
    pairs = PairDiscriminator(width=4, input_px=16, latent_dim=3)
    x, z = _images(2, 16), torch.randn(2, 3)
    of_pair = pairs(x, z)
    assert bool((of_pair != pairs(x.flip(0), z)).all() and (of_pair != pairs(x, z.flip(0))).all())
    assert torch.allclose(of_pair[:1], pairs(x[:1], z[:1]), atol=1e-6)


@pytest.mark.parametrize("training", ["izi_f", "ziz", "ali"])
def test_two_workers_end_alike(training: str, x: Tensor) -> None:
    """Each with its own tiles and latents, from the same start."""
    config = GAN.model_copy(update={"encoder_training": training})
    first = build_networks(config)
    both = [first, {name: copy.deepcopy(network) for name, network in first.items()}]
    means = means_over(2)
    trainees = [build_trainee(config, networks, average=means(i)) for i, networks in enumerate(both)]
    before = state_of(first)
    with ThreadPoolExecutor(2) as workers:
        list(workers.map(lambda trainee, tiles: trainee.step(tiles, 0.9), trainees, x.chunk(2)))
    learned = {"encoder"} if training != "ali" else {"encoder", "generator", "pair_discriminator"}
    for name in learned:
        pairs = zip(both[0][name].parameters(), both[1][name].parameters(), strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    assert learned <= moved(first, before)


@pytest.mark.parametrize("fields", [{"encoder_training": "ali"}, {"generator": "stylegan2"}])
def test_a_training_goes_on_where_it_was_broken_off(fields: dict[str, str], x: Tensor) -> None:
    """Also within the phase of an encoder into w, which is pointed to the mean w but once."""
    config = _of_kind("stylegan2", encoder_fraction=0.7) if "generator" in fields else GAN.model_copy(update=fields)
    torch.manual_seed(1)
    whole = trained(config, [x] * 4)
    torch.manual_seed(1)
    in_two = trained_with_a_break(config, [x] * 4, at=3)
    assert moved(whole, state_of(in_two)) == set()
