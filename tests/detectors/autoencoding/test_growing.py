"""An autoencoder that grows: at alpha 0 and 1 it is the smaller and the larger network, and so is its loss."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from networks_watch import smooth_pictures
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.detectors import dpa
from uadray.detectors.autoencoding.growing import Place, Resolution, mixed
from uadray.detectors.building import build_networks, build_trainee
from uadray.detectors.losses import relative_perceptual_l1
from uadray.networks.autoencoder import Decoder, Encoder, Growth, Layout, grown
from uadray.networks.outline import Networks
from uadray.training.checkpoint import load_state, save_state

pytestmark = pytest.mark.usefixtures("torch_alone")

LAYOUTS = {
    "batch norm, doubling": Layout(width=3, halvings=3, latent_channels=2),
    "published": Layout(width=3, halvings=3, latent_channels=2, widest=3, blocks=2, batch_norm=False),
}
STEPS = [
    {"side_px": 16, "layers": ["block0"], "steady": 2},
    {"side_px": 32, "layers": ["block0", "block2"], "fading": 4, "steady": 2},
]
GROWING = dpa.Config.model_validate(
    {
        "kind": "dpa", "input_px": 32, "width": 4, "halvings": 2, "latent_channels": 3, "layers": ["block0", "block2"],
        "learning_rate": 5e-3, "growing": STEPS,
    }
)  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_faded_in_it_is_the_larger_network(layout: Layout) -> None:
    encoder, decoder, growth = _parts(layout)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(grown(encoder, decoder, growth, x, level=0, alpha=1.0), decoder(encoder(x)))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("level", [0, 1])
def test_before_a_resolution_fades_in_it_is_the_smaller_network(layout: Layout, level: int) -> None:
    encoder, decoder, growth = _parts(layout)
    x = torch.rand(2, 3, 32 >> level, 32 >> level)
    smaller = grown(encoder, decoder, growth, F.avg_pool2d(x, 2), level=level + 1, alpha=1.0)
    enlarged = F.interpolate(smaller, scale_factor=2, mode="nearest")
    torch.testing.assert_close(grown(encoder, decoder, growth, x, level=level, alpha=0.0), enlarged)


def test_half_faded_in_the_latent_is_half_of_each_way() -> None:
    """By hand, with the blocks below them taken from the encoder and decoder."""
    encoder, decoder, growth = _parts(LAYOUTS["published"])
    x = torch.rand(2, 3, 32, 32)
    new = encoder.layers[:4](x)  # a convolution, two blocks, a mean over 2 x 2
    h = 0.25 * new + 0.75 * growth.stems[0](F.avg_pool2d(x, 2))
    z = encoder.layers[4:](h)
    at_16 = decoder.layers[:9](z)  # a convolution, two blocks at 4 px, then twice an enlargement and two blocks
    x_hat = 0.25 * decoder.layers[9:](at_16) + 0.75 * F.interpolate(growth.heads[0](at_16), scale_factor=2)
    torch.testing.assert_close(grown(encoder, decoder, growth, x, level=0, alpha=0.25), x_hat)


def _parts(layout: Layout) -> tuple[Encoder, Decoder, Growth]:
    """In evaluation: batch normalisation would see other batches."""
    parts = Encoder(layout), Decoder(layout), Growth(layout, levels=2)
    for part in parts:
        part.eval()
    return parts


def test_an_image_that_fades_in_loses_its_enlarged_half_side() -> None:
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(mixed(x, 32, 1.0), x)
    torch.testing.assert_close(mixed(x, 8, 1.0), F.avg_pool2d(x, 4))
    coarse = F.interpolate(F.avg_pool2d(x, 4), scale_factor=2, mode="nearest")
    torch.testing.assert_close(mixed(x, 16, 0.25), 0.25 * F.avg_pool2d(x, 2) + 0.75 * coarse)


def _distance_by_hand(networks: Networks, x: Tensor, x_hat: Tensor, layers: Sequence[int]) -> Tensor:
    f, f_hat = (networks["features"](t, layers) for t in (x, x_hat))
    return relative_perceptual_l1(f, f_hat).mean()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.999999])
def test_the_loss_grows_from_that_of_the_smaller_network_to_that_of_the_larger(alpha: float) -> None:
    networks = build_networks(GROWING)
    trainee = build_trainee(GROWING, networks)
    x = smooth_pictures(side_px=32)
    trainee.prepare(x)
    growing = trainee.growing  # type: ignore[attr-defined]
    growing.place = Place(1, alpha)
    seen = growing.seen(x)
    x_hat = torch.rand_like(seen)
    views, views_hat = (growing.views(networks["features"], t) for t in (seen, x_hat))
    loss = growing.mean_distance(views, views_hat, relative_perceptual_l1)
    large = _distance_by_hand(networks, seen, x_hat, [0, 1])
    small = _distance_by_hand(networks, F.avg_pool2d(x, 2), F.avg_pool2d(x_hat, 2), [0])
    torch.testing.assert_close(loss, {0.0: small, 0.5: (small + large) / 2}.get(alpha, large), rtol=1e-4, atol=1e-5)
    assert abs(float(small - large)) > 1e-2


def test_a_growing_autoencoder_learns_and_is_whole_at_the_end() -> None:
    torch.manual_seed(0)
    networks = build_networks(GROWING)
    trainee = build_trainee(GROWING, networks)
    x = smooth_pictures(side_px=32)
    trainee.prepare(x)
    before = float(_distance_by_hand(networks, x, networks["decoder"](networks["encoder"](x)), [0, 1]).detach())
    losses, phases = [], []
    for i in range(64):
        phases.append(trainee.phase(i / 64))
        losses.append(float(trainee.step(x, i / 64)["perceptual"]))
        x_hat = trainee.reconstruct(x)
        assert x_hat is not None
        assert x_hat.shape == x.shape
    assert tuple(dict.fromkeys(phases)) == trainee.phases == ("16 px", "32 px fades in", "32 px")
    assert [phases.count(name) for name in trainee.phases] == [16, 32, 16]
    assert sum(losses[11:16]) < 0.8 * sum(losses[:5])
    assert losses[-1] < 0.75 * before
    for network in networks.values():
        network.eval()
    x_hat = trainee.reconstruct(x)
    torch.testing.assert_close(x_hat, networks["decoder"](networks["encoder"](x)))


def test_scores_are_told_from_the_last_resolutions_layers() -> None:
    config = GROWING.model_copy(update={"growing": tuple(Resolution(**step) for step in _other_layers())})
    networks = build_networks(config)
    x = smooth_pictures(side_px=32)
    assert [f.shape[1] for f in networks["features"](x)] == [16, 24]
    assert [f.shape[1] for f in networks["features"](x, [2])] == [24]


def _other_layers() -> list[dict[str, object]]:
    return [STEPS[0] | {"layers": ("block1",)}, STEPS[1] | {"layers": ("block0", "block2")}]


@pytest.mark.parametrize(
    ("growing", "problem"),
    [
        ([STEPS[0] | {"side_px": 8}, STEPS[1]], "must double up to input_px"),
        ([STEPS[0] | {"fading": 1}, STEPS[1]], "nothing fades in at the first"),
        ([STEPS[0], STEPS[1] | {"layers": ["block0"]}], "must have detector.layers"),
        ([STEPS[0] | {"side_px": 8}, STEPS[0] | {"fading": 1}, STEPS[1]], "still be halved once"),
        (STEPS[1:], "at least 2 items"),
        ([STEPS[0] | {"steady": 1e300}, STEPS[1]], "less than or equal"),
    ],
)
def test_resolutions_that_cannot_be_grown(growing: list[dict[str, object]], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        dpa.Config.model_validate(GROWING.model_dump() | {"growing": growing})


def test_a_training_resumed_while_a_resolution_fades_in_goes_on_as_it_would_have(tmp_path: Path) -> None:
    """Networks and moments are all that a growing autoencoder has to keep: the place follows from the progress."""
    x = smooth_pictures(side_px=32)
    torch.manual_seed(0)
    whole = build_trainee(GROWING, build_networks(GROWING))
    whole.prepare(x)
    for i in range(5):
        whole.step(x, i / 8)
    assert whole.phase(5 / 8) == "32 px fades in"
    torch.manual_seed(1)
    resumed = build_trainee(GROWING, build_networks(GROWING))
    save_state(tmp_path, whole.networks, whole.optimizers, {})
    load_state(tmp_path, resumed.networks, resumed.optimizers)
    for i in range(5, 8):
        for trainee in (whole, resumed):
            trainee.step(x, i / 8)
    assert _moved_apart(whole.networks, resumed.networks) == 0


def _moved_apart(networks: Networks, others: dict[str, nn.Module]) -> float:
    pairs = ((t, others[name].state_dict()[key]) for name, n in networks.items() for key, t in n.state_dict().items())
    return max(float((t - other).abs().max()) for t, other in pairs)
