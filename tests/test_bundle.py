"""A bundle opens as what was written, from a folder and from S3; anything else is refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from seaweed import SeaweedServer

from uadray import storage
from uadray.bundle import CALIBRATION, DESCRIPTION, WEIGHTS, Bundle, load_detector, read_bundle, write_bundle
from uadray.detector import build_detector
from uadray.errors import InputError
from uadray.models.build import DpaConfig, FanoganConfig, Networks, build_networks
from uadray.tiling import TileSpec

pytestmark = pytest.mark.usefixtures("torch_alone")

DPA = DpaConfig(kind="dpa", input_px=16, width=4, halvings=2, layers=("block0", "block1"))
GAN = FanoganConfig(kind="fanogan", input_px=16, width=4, latent_dim=4)
TILES = TileSpec(mpp=0.5, tile_px=24)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)


def _write(uri: str, config: DpaConfig | FanoganConfig = GAN) -> tuple[Bundle, Networks]:
    networks = build_networks(config)
    return write_bundle(uri, networks, name="n", detector=config, tiles=TILES, metrics={"loss": 0.5}), networks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _write(str(tmp_path / "bundle"))
    return tmp_path / "bundle"


@pytest.mark.parametrize("config", [DPA, GAN], ids=["dpa", "fanogan"])
def test_round_trip_scores_the_same(config: DpaConfig | FanoganConfig, tmp_path: Path) -> None:
    """To the bit: the backbone and its statistics are inside."""
    uri = str(tmp_path / "b")
    networks = build_networks(config)
    if isinstance(config, DpaConfig):
        networks["features"].fit(torch.randn(8, 3, 16, 16))  # type: ignore[operator]
    written = write_bundle(uri, networks, name="n", detector=config, tiles=TILES, training_data={"slides": ["a"]})
    before = build_detector(config, networks)(PIXELS)
    read = read_bundle(uri)
    assert read == written
    after = load_detector(uri, read)(PIXELS)
    np.testing.assert_array_equal(before.score, after.score)
    np.testing.assert_array_equal(before.x_hat, after.x_hat)
    np.testing.assert_array_equal(before.residual, after.residual)
    assert np.isfinite(after.score).all()
    assert sorted(p.name for p in Path(uri).iterdir()) == [DESCRIPTION, WEIGHTS]


def test_id_changes_with_weights_architecture_and_tiles(folder: Path) -> None:
    bundle = read_bundle(str(folder))
    others = [
        bundle.model_copy(update={"weights_sha256": "0" * 64}),
        bundle.model_copy(update={"detector": GAN.model_copy(update={"kappa": 0.5})}),
        bundle.model_copy(update={"tiles": TileSpec(mpp=0.5, tile_px=32)}),
    ]
    assert len({b.id for b in (bundle, *others)}) == 4
    assert bundle.model_copy(update={"name": "other", "metrics": {}}).id == bundle.id
    assert len(bundle.id) == 12


def test_a_bundle_is_frozen(folder: Path) -> None:
    with pytest.raises(ValidationError):
        read_bundle(str(folder)).name = "x"  # type: ignore[misc]


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no bundle: it has no bundle\.json; `uadray train"):
        read_bundle(str(tmp_path))


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_version_is_refused(folder: Path, version: object) -> None:
    values = json.loads((folder / DESCRIPTION).read_text()) | {"version": version}
    (folder / DESCRIPTION).write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"has version {version}, uadray .* reads version 1; train it again"):
        read_bundle(str(folder))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"weights"])
def test_not_json(folder: Path, content: bytes) -> None:
    (folder / DESCRIPTION).write_bytes(content)
    with pytest.raises(InputError, match=r"bundle\.json is not JSON"):
        read_bundle(str(folder))


@pytest.mark.parametrize("content", ["[]", "3", "null"])
def test_json_of_something_else(folder: Path, content: str) -> None:
    (folder / DESCRIPTION).write_text(content)
    with pytest.raises(InputError, match="has version None"):
        read_bundle(str(folder))


def test_an_unknown_field_is_refused(folder: Path) -> None:
    values = json.loads((folder / DESCRIPTION).read_text()) | {"wieghts_sha256": "x"}
    (folder / DESCRIPTION).write_text(json.dumps(values))
    with pytest.raises(InputError, match="wieghts_sha256: no such field; did you mean weights_sha256"):
        read_bundle(str(folder))


@pytest.mark.parametrize("damage", ["flip", "truncate", "append", "other"])
def test_damaged_weights_are_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    match damage:
        case "flip":
            data[-1] ^= 1
        case "truncate":
            del data[-10:]
        case "append":
            data += b"\0"
        case "other":
            torch.manual_seed(5)
            _write(str(tmp_path / "other"))
            data = bytearray((tmp_path / "other" / WEIGHTS).read_bytes())
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(InputError, match="its SHA-256 differs"):
        load_detector(str(folder))


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"weights\.safetensors"):
        load_detector(str(folder))


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    values = json.loads((folder / DESCRIPTION).read_text())
    values["detector"]["latent_dim"] = 5
    (folder / DESCRIPTION).write_text(json.dumps(values))
    with pytest.raises(InputError, match="weights do not fit the generator"):
        load_detector(str(folder))


def test_rewriting_removes_the_calibration_of_the_old_weights(folder: Path) -> None:
    (folder / CALIBRATION).write_text("{}")
    _write(str(folder))
    assert not (folder / CALIBRATION).exists()
    assert load_detector(str(folder))(PIXELS).score.shape == (5,)


@pytest.mark.s3
def test_s3_round_trip(s3: SeaweedServer) -> None:
    uri = f"s3://{s3.bucket}/models/bundle-test"
    storage.write_bytes(storage.join(uri, CALIBRATION), b"{}")
    written, networks = _write(uri)
    assert read_bundle(uri) == written
    assert not storage.exists(storage.join(uri, CALIBRATION))
    np.testing.assert_array_equal(load_detector(uri)(PIXELS).score, build_detector(GAN, networks)(PIXELS).score)
    with pytest.raises(InputError, match="is no bundle"):
        read_bundle(f"s3://{s3.bucket}/models/none")
