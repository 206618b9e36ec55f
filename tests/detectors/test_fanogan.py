"""f-AnoGAN: which phase moves which network, that the encoder learns, and that a given generator stands still."""

from pathlib import Path

import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor

from uadray.detectors import fanogan
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.bundle import load_detector, read_bundle, write_bundle
from uadray.errors import InputError
from uadray.generators import dcgan, wgan_gp
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
    losses = [trainee.step(x, 0.9)["izi_f"] for _ in range(40)]
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


def test_a_given_generator_is_taken_and_only_the_encoder_is_trained(
    generator: tuple[str, GeneratorBundle, Networks], x: Tensor
) -> None:
    uri, _, given = generator
    config = GAN.model_copy(update={"generator": uri})
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


def test_another_kind_of_generator_is_refused(tmp_path: Path) -> None:
    config, uri = dcgan.Config(kind="dcgan", input_px=16, width=4, latent_dim=8), str(tmp_path)
    write_generator(uri, dcgan.networks(config, pretrained=False), name="g", generator=config, tiles=TILES)
    with pytest.raises(InputError, match="is a dcgan; f-AnoGAN takes a wgan_gp"):
        build_networks(GAN.model_copy(update={"generator": uri}))


def test_a_bundle_has_the_given_generator_inside_and_does_not_say_where_it_lay(
    generator: tuple[str, GeneratorBundle, Networks], tmp_path: Path
) -> None:
    config = GAN.model_copy(update={"generator": generator[0]})
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


@pytest.mark.parametrize(("name", "value"), [("width", 8), ("latent_dim", 4), ("input_px", 32)])
def test_a_generator_of_other_sizes_is_refused(
    generator: tuple[str, GeneratorBundle, Networks], name: str, value: int
) -> None:
    config = GAN.model_copy(update={"generator": generator[0], name: value})
    with pytest.raises(InputError, match=rf"has {name} \d+; set detector\.{name} to it \(it is {value}\)"):
        build_networks(config)


def test_a_detector_is_no_generator(tmp_path: Path) -> None:
    write_bundle(str(tmp_path), build_networks(GAN), name="n", detector=GAN, tiles=TILES)
    with pytest.raises(InputError, match="is a detector, not a generator"):
        build_networks(GAN.model_copy(update={"generator": str(tmp_path)}))
