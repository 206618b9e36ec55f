"""The backbones against the libraries they come from."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision_trunks import images, torchvision_net, trunk_state

from uadray.errors import InputError
from uadray.networks import weights
from uadray.networks.backbones import ConvTrunk, EfficientNetLite0, build_backbone, layer_names
from uadray.networks.lpips import LPIPS_LAYERS, lpips_distance

LITE0_LAYERS = ("block0", "block2", "block4", "block7", "block10", "block14", "block15")
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for the whole file, so that nothing is pulled twice."""
    root = tmp_path_factory.getbasetemp() / "perceptual-cache"
    monkeypatch.setenv("UADRAY_CACHE", str(root))
    return root


# ---- feature maps ----------------------------------------------------------------------------------------------------


def test_efficientnet_gives_the_measured_shapes() -> None:
    backbone = build_backbone("efficientnet_lite0", LITE0_LAYERS)
    maps = backbone(images())
    expected = [(16, 32), (24, 16), (40, 8), (80, 4), (112, 4), (192, 2), (320, 2)]
    assert [tuple(f.shape) for f in maps] == [(2, c, side, side) for c, side in expected]
    assert backbone.channels == tuple(c for c, _ in expected)


def test_efficientnet_equals_the_library() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(weights.load("efficientnet_lite0"))
    x_255 = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(3)).float()
    taken: dict[int, Tensor] = {}
    for i, block in enumerate(network._blocks):
        block.register_forward_hook(lambda _m, _a, out, i=i: taken.update({i: out.detach()}))
    with torch.no_grad():
        head = network.extract_features((x_255 - 127) / 128)
        maps = build_backbone("efficientnet_lite0", layer_names("efficientnet_lite0"))(x_255 / 127.5 - 1)
    assert head.shape == (2, 1280, 2, 2)
    for i, f in enumerate(maps):
        torch.testing.assert_close(f, taken[i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["vgg16", "vgg19", "alexnet"])
def test_trunks_equal_torchvision(name: str) -> None:
    network = torchvision_net(name)
    layers = layer_names(name)
    backbone = build_backbone(name, layers, state=network.state_dict())
    x = images()
    expected = []
    with torch.no_grad():
        y = ((x + 1) / 2 - IMAGENET_MEAN) / IMAGENET_STD
        for module in network.features:
            y = module(y)
            if isinstance(module, nn.ReLU):
                expected.append(y.clone())
        maps = backbone(x)
    assert len(maps) == len(expected) == len(layers)
    for f, g in zip(maps, expected, strict=True):
        torch.testing.assert_close(f, g, atol=1e-5, rtol=1e-4)
    assert backbone.channels == tuple(f.shape[1] for f in maps)


def test_layer_names_match_torchvisions_positions() -> None:
    """FACTS: vgg16's taps for LPIPS are 3, 8, 15, 22 and 29; relu4_2 ends features[:21]."""
    trunk = build_backbone("vgg16", (*LPIPS_LAYERS["vgg16"], "relu4_2"), pretrained=False)
    assert isinstance(trunk, ConvTrunk)
    assert trunk.taps == (3, 8, 15, 22, 29, 20)
    assert layer_names("vgg19")[-1] == "relu5_4"


def test_maps_come_in_the_order_asked_for() -> None:
    state = trunk_state("alexnet")
    forward = build_backbone("alexnet", ("relu1", "relu3"), state=state)(images())
    backward = build_backbone("alexnet", ("relu3", "relu1"), state=state)(images())
    assert torch.equal(forward[0], backward[1])
    assert torch.equal(forward[1], backward[0])


def test_only_what_is_wanted_is_kept() -> None:
    backbone = build_backbone("vgg16", ("relu2_1",), state=trunk_state("vgg16"))
    assert list(backbone.state_dict()) == [f"features.{i}.{p}" for i in (0, 2, 5) for p in ("weight", "bias")]
    lite0 = build_backbone("efficientnet_lite0", ("block2",))
    assert {key.split(".")[1] for key in lite0.state_dict() if key.startswith("_blocks")} == {"0", "1", "2"}


def test_a_backbone_opens_from_its_own_state() -> None:
    for name, layers in (("alexnet", ("relu2",)), ("efficientnet_lite0", ("block1", "block3"))):
        state = trunk_state(name) if name == "alexnet" else None
        first = build_backbone(name, layers, state=state)
        again = build_backbone(name, layers, state=first.state_dict())
        later = build_backbone(name, layers, pretrained=False)
        assert all(f.isnan().any() for f in later(images()))
        later.load_state_dict(first.state_dict())
        for f, g, h in zip(first(images()), again(images()), later(images()), strict=True):
            assert torch.equal(f, g)
            assert torch.equal(f, h)


def test_building_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build_backbone("efficientnet_lite0", ("block0",))
    build_backbone("vgg19", ("relu1_1",), pretrained=False)
    assert torch.equal(before, torch.get_rng_state())


# ---- frozen ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layer"), [("alexnet", "relu2"), ("efficientnet_lite0", "block2")])
def test_frozen_whatever_the_parent_is_told(name: str, layer: str) -> None:
    state = trunk_state(name) if name == "alexnet" else None
    backbone = build_backbone(name, (layer,), state=state)
    parent = nn.Sequential(nn.Dropout(), backbone)
    parent.train()
    assert parent.training
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in parent.parameters())
    assert not any(buffer.is_meta for buffer in backbone.buffers())
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    assert torch.equal(backbone(images())[0], backbone(images())[0])
    assert all(torch.equal(before[key], tensor) for key, tensor in backbone.state_dict().items())


@pytest.mark.parametrize(("name", "layers"), [("alexnet", ("relu1", "relu5")), ("efficientnet_lite0", ("block7",))])
def test_gradients_reach_the_input(name: str, layers: tuple[str, ...]) -> None:
    backbone = build_backbone(name, layers, state=trunk_state(name) if name == "alexnet" else None)
    x = images().requires_grad_(True)
    sum(f.square().mean() for f in backbone(x)).backward()  # type: ignore[union-attr]
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad != 0).float().mean() > 0.9


def test_bfloat16_and_channels_last() -> None:
    backbone = build_backbone("alexnet", ("relu3",), state=trunk_state("alexnet"))
    full = backbone(images())[0]
    backbone.to(torch.bfloat16, memory_format=torch.channels_last)
    half = backbone(images().to(torch.bfloat16))[0]
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), full, atol=0.05 * float(full.abs().max()), rtol=0.1)


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("vgg-16", ("relu1_1",), "did you mean 'vgg16'"),
        ("vgg16", ("relu4_4",), "vgg16 has no layer 'relu4_4'; did you mean 'relu4_"),
        ("efficientnet_lite0", ("block16",), "no layer 'block16'; did you mean 'block"),
        ("alexnet", (), "at least one layer"),
        ("alexnet", ("relu1", "relu1"), "each only once"),
    ],
)
def test_unknown_names_are_refused(name: str, layers: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_backbone(name, layers)


def test_a_state_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"alexnet: the weights given lack features.0.bias \(2 of 2 are missing\)"):
        build_backbone("alexnet", ("relu1",), state={})
    with pytest.raises(InputError, match=r"alexnet: the weights given do not fit: .*features.0.weight"):
        build_backbone("alexnet", ("relu1",), state=trunk_state("vgg16"))
    with pytest.raises(InputError, match=r"LPIPS has no net 'alex'; did you mean 'alexnet'"):
        lpips_distance("alex")  # type: ignore[arg-type]


# ---- LPIPS -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_vgg16_features_with_the_published_weights() -> None:
    """relu4_2 of a real trunk is sparse and of order one, which random weights are not."""
    (f,) = build_backbone("vgg16", ("relu4_2",))(images())
    assert f.shape == (2, 512, 8, 8)
    assert 0.02 < float((f > 0).float().mean()) < 0.6
    assert 0.1 < float(f.max()) < 1000


def test_classes_are_what_is_built() -> None:
    assert isinstance(build_backbone("efficientnet_lite0", ("block0",)), EfficientNetLite0)
    assert isinstance(build_backbone("alexnet", ("relu1",), pretrained=False), ConvTrunk)
