"""A density takes the encoder of a bundle by its URI, and is written with the encoder inside."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from uadray.commands.train import train
from uadray.config import parse_config
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import load_detector, read_bundle, write_bundle
from uadray.detectors.description import described_bundle
from uadray.detectors.features.encoders import EncoderFeatures
from uadray.detectors.features.frozen import EncoderConfig, build_features
from uadray.detectors.pixels import to_input
from uadray.detectors.self_supervised import Config
from uadray.errors import InputError
from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.identity import is_seen
from uadray.slides.manifest import SlideRow, write_manifest
from uadray.tiles.spec import TileSpec
from uadray.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("torch_alone")

RUN: dict[str, Any] = {
    "tiles": {"mpp": 1.0, "tile_px": 24, "min_tissue": 0.0, "quality": None}, "epochs": 1, "steps_per_epoch": 20,
    "batch_size": 8, "shuffle_tiles": 64, "threads": 1,
}  # fmt: skip
ENCODER: dict[str, Any] = {
    "kind": "self_supervised", "input_px": 16, "encoder": {"width": 4, "layers": ["stage1", "stage2"]},
    "views": {"view_px": 16}, "projector_width": 8, "projected": 8, "components": 2, "density_share": 0.4,
}  # fmt: skip
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def _train(folder: Path, name: str, detector: dict[str, Any], **fields: Any) -> Any:
    config = parse_config(TrainConfig, {"name": name, "detector": detector} | RUN | fields, source="test")
    return train(config, data=str(folder / f"{name}.csv"), out=str(folder / name), without_ray=True)


def _rows(folder: Path, name: str) -> list[SlideRow]:
    return [SlideRow(f"{name}{i}", str(folder / f"{name}{i}.tif"), patient_id=f"p-{name}{i}") for i in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder's bundle, and one of a density that takes it; each was trained on slides of its own."""
    folder = tmp_path_factory.mktemp("encoder")
    for number, name in enumerate(("encoder", "density")):
        for i, row in enumerate(_rows(folder, name)):
            rng = np.random.default_rng([number, i])
            image = np.array([210, 110, 180], np.uint8) - rng.integers(0, 80, (240, 240, 3), np.uint8)
            write_pyramid(Path(row.uri), image, mpp=1.0, tile_px=128)
        write_manifest(_rows(folder, name), str(folder / f"{name}.csv"))
    _train(folder, "encoder", ENCODER)
    features = {"kind": "encoder", "bundle": str(folder / "encoder")}
    _train(folder, "density", {"kind": "mahalanobis", "input_px": 16, "features": features})
    return folder


def test_the_features_are_those_of_the_encoder(folder: Path) -> None:
    theirs, ours = (load_detector(str(folder / name)) for name in ("encoder", "density"))
    x = to_input(PIXELS, 16)
    with torch.inference_mode():
        expected, found = theirs.mapping.features(x), ours.mapping.features(x)  # type: ignore[attr-defined]
    assert found.shape == (5, 12, 1, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert np.isfinite(ours(PIXELS).score).all()


def test_all_is_inside_and_no_place_is_named(folder: Path) -> None:
    bundle = read_bundle(str(folder / "density"))
    features = bundle.detector.features  # type: ignore[union-attr]
    assert isinstance(features, EncoderConfig)
    assert features.bundle is None
    assert features.mpp == 1.0
    assert bundle.training_data["encoder"] == read_bundle(str(folder / "encoder")).id
    assert str(folder) not in (folder / "density" / "bundle.json").read_text()


def test_slides_that_the_encoder_was_trained_on_count_as_seen(folder: Path) -> None:
    seen = read_bundle(str(folder / "density")).trained_on
    assert all(is_seen(row, seen) for name in ("encoder", "density") for row in _rows(folder, name))


def test_an_id_is_the_same_whoever_reads_it(folder: Path) -> None:
    """Fields within fields that are None count for neither."""
    for name in ("encoder", "density"):
        assert described_bundle(str(folder / name)).id == read_bundle(str(folder / name)).id


def test_a_given_encoder_stands_still(folder: Path) -> None:
    bundle = described_bundle(str(folder / "encoder"))
    sizes = Config.model_validate(ENCODER).encoder
    config = EncoderConfig(kind="encoder", encoder=sizes, bundle=str(folder / "encoder"), mpp=bundle.tiles.mpp)
    features = build_features(config, pretrained=True)
    assert isinstance(features, EncoderFeatures)
    features.train()
    assert not any(module.training for module in features.modules())
    assert not any(p.requires_grad for p in features.parameters())
    other = config.model_copy(update={"encoder": sizes.model_copy(update={"width": 8})})
    with pytest.raises(InputError, match="another encoder than when this training began"):
        build_features(other, pretrained=True)


def test_a_bundle_that_names_an_encoder_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    values = json.loads((folder / "density" / "bundle.json").read_text())
    values["detector"]["features"]["bundle"] = "s3://somewhere/else"
    (tmp_path / "bundle.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"names an encoder elsewhere, detector\.features\.bundle"):
        read_bundle(str(tmp_path))


def test_what_has_no_encoder_is_refused(folder: Path) -> None:
    for uri, message in ((None, "features.bundle is missing"), (str(folder / "density"), "is of kind 'mahalanobis'")):
        detector = {"kind": "mahalanobis", "input_px": 16, "features": {"kind": "encoder", "bundle": uri}}
        with pytest.raises(InputError, match=message):
            _train(folder, "density", detector)
    with pytest.raises(InputError, match="name the bundle of a trained encoder"):
        build_features(EncoderConfig(kind="encoder", encoder=Config.model_validate(ENCODER).encoder), pretrained=True)
    features = {"kind": "encoder", "bundle": str(folder / "encoder")}
    with pytest.raises(InputError, match="mpp"):
        _train(
            folder, "density", {"kind": "mahalanobis", "input_px": 16, "features": features},
            tiles={"mpp": 2.0, "tile_px": 24},
        )  # fmt: skip


def test_damaged_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    config = Config.model_validate(ENCODER)
    networks = build_networks(config)
    write_bundle(str(tmp_path), networks, detector=config, name="x", tiles=TileSpec(mpp=1.0, tile_px=24))
    data = bytearray((tmp_path / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(bytes(data))
    given = EncoderConfig(kind="encoder", encoder=config.encoder, bundle=str(tmp_path))
    with pytest.raises(InputError, match="SHA-256 differs"):
        build_features(given, pretrained=True)
