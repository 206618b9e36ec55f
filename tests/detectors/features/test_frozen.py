"""Features of tiles and cells: one grid for all layers, and a network that stands still."""

import numpy as np
import pytest
import torch
from networks_watch import smooth_pictures
from pydantic import TypeAdapter, ValidationError
from torch.nn import functional as F

from uadray.detectors.features.frozen import (
    BackboneConfig,
    FeatureConfig,
    NucleiConfig,
    borrowed,
    build_features,
    mpp_of,
)
from uadray.detectors.pixels import to_pixels
from uadray.networks.backbones import build_backbone
from uadray.tiles.nuclei import MEASURES, measured

pytestmark = pytest.mark.usefixtures("torch_alone")

LAYERS = ("block2", "block4")


def of_kind(**values: object) -> FeatureConfig:
    config: FeatureConfig = TypeAdapter(FeatureConfig).validate_python(values)
    return config


@torch.no_grad()
def test_layers_lie_on_the_grid_of_the_coarsest() -> None:
    x = smooth_pictures(3, 64)
    features = build_features(BackboneConfig(kind="backbone", layers=LAYERS, pooling="cells"), pretrained=True)
    fine, coarse = build_backbone("efficientnet_lite0", LAYERS)(x)
    found = features(x)
    assert found.shape == (3, features.channels, 8, 8)
    assert fine.shape[2:] == (16, 16)
    torch.testing.assert_close(found, torch.cat([F.avg_pool2d(fine, 2), coarse], 1))
    of_tiles = build_features(BackboneConfig(kind="backbone", layers=LAYERS), pretrained=True)(x)
    torch.testing.assert_close(of_tiles[:, :, 0, 0], found.mean((2, 3)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tiles_are_brought_to_the_side_that_the_network_sees() -> None:
    config = BackboneConfig(kind="backbone", layers=("block4",), side_px=64, pooling="cells")
    features = build_features(config, pretrained=True)
    for side in (32, 64, 96):
        assert features(smooth_pictures(2, side)).shape[2:] == (8, 8)
    x = smooth_pictures(2, 64)
    as_they_are = build_features(config.model_copy(update={"side_px": None}), pretrained=True)
    assert torch.equal(features(x), as_they_are(x))


def test_they_stand_still() -> None:
    features = build_features(BackboneConfig(kind="backbone", layers=LAYERS), pretrained=True).train()
    assert not any(module.training for module in features.modules())
    assert not any(p.requires_grad for p in features.parameters())


def test_shapes_are_known_before_any_memory_is_taken() -> None:
    with torch.device("meta"):
        for config in (BackboneConfig(kind="backbone", layers=LAYERS), NucleiConfig(kind="nuclei")):
            assert build_features(config, pretrained=False).channels == {"backbone": 64, "nuclei": 11}[config.kind]


def test_measures_of_nuclei_are_each_tiles_own() -> None:
    x = smooth_pictures(4, 48)
    features = build_features(NucleiConfig(kind="nuclei", mpp=0.5), pretrained=True)
    found = features(x)
    assert found.shape == (4, len(MEASURES), 1, 1)
    assert torch.equal(features(x[2:3]), found[2:3])
    np.testing.assert_array_equal(found[1, :, 0, 0].numpy(), measured(to_pixels(x)[1], 0.5))


def test_what_they_need_and_which_tiles() -> None:
    backbone, nuclei = of_kind(kind="backbone", name="alexnet", layers=["relu2"]), of_kind(kind="nuclei", mpp=0.5)
    assert (borrowed(backbone), borrowed(nuclei)) == (("alexnet",), ())
    assert (mpp_of(backbone), mpp_of(nuclei)) == (None, 0.5)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "backbone", "side_px": 100},
        {"kind": "backbone", "side_px": 2048},
        {"kind": "backbone", "layers": []},
        {"kind": "backbone", "layers": ["x" * 41]},
        {"kind": "backbone", "pooling": "rows"},
        {"kind": "nuclei", "mpp": 1e-6},
        {"kind": "other"},
    ],
)
def test_sizes_from_outside_are_bounded(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        of_kind(**values)
