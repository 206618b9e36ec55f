"""A bundle opens as what was written, from a folder and from S3; anything else is refused in one line."""

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from seaweed import SeaweedServer
from torch import nn

from uadray.detectors import dpa, fanogan
from uadray.detectors.building import build_detector, build_networks
from uadray.detectors.bundle import CALIBRATION, DESCRIPTION, WEIGHTS, Bundle, load_detector, read_bundle, write_bundle
from uadray.errors import InputError
from uadray.networks.outline import Networks
from uadray.storage import objects
from uadray.tiles.spec import TileSpec

pytestmark = pytest.mark.usefixtures("torch_alone")

DPA = dpa.Config(kind="dpa", input_px=16, width=4, halvings=2, layers=("block0", "block1"))
GAN = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=4)
TILES = TileSpec(mpp=0.5, tile_px=24)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)


def _write(uri: str, config: dpa.Config | fanogan.Config = GAN) -> tuple[Bundle, Networks]:
    networks = build_networks(config)
    return write_bundle(uri, networks, name="n", detector=config, tiles=TILES, metrics={"loss": 0.5}), networks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _write(str(tmp_path / "bundle"))
    return tmp_path / "bundle"


@pytest.mark.parametrize("config", [DPA, GAN], ids=["dpa", "fanogan"])
def test_round_trip_scores_the_same(config: dpa.Config | fanogan.Config, tmp_path: Path) -> None:
    """To the bit: the backbone and its statistics are inside."""
    uri = str(tmp_path / "b")
    networks = build_networks(config)
    if isinstance(config, dpa.Config):
        networks["features"].fit(torch.randn(8, 3, 16, 16))  # type: ignore[operator]
    written = write_bundle(uri, networks, name="n", detector=config, tiles=TILES, training_data={"slides": ["a"]})
    before = build_detector(config, networks)(PIXELS)
    read = read_bundle(uri)
    assert read == written
    after = load_detector(uri, read)(PIXELS)
    np.testing.assert_array_equal(before.score, after.score)
    np.testing.assert_array_equal(before.pictures([0, 4])[1], after.pictures([0, 4])[1])
    np.testing.assert_array_equal(before.maps([0, 4]), after.maps([0, 4]))
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


OLD = {
    "version": 1,
    "name": "fanogan",
    "detector": {
        "kind": "fanogan", "input_px": 16, "width": 4, "latent_dim": 4, "critic_steps": 5, "penalty": 10.0,
        "kappa": 1.0, "encoder_fraction": 0.4, "gan_learning_rate": 0.0001, "encoder_learning_rate": 0.0001,
    },
    "tiles": {
        "mpp": 0.5, "tile_px": 24, "stride_px": None, "min_tissue": 0.25, "quality": None, "stain": None,
    },
    "weights_sha256": "9475834e2f21fd5db3896f2a9022e6132909dc24762c4ac8f3b46fd805b20f8b",
    "training_data": {"fingerprint": "9b4e40c58bd35965", "label": "normal", "n_tiles": 2324},
    "metrics": {"epoch": 1.0, "izi_f": 0.66},
    "uadray_version": "0.1.0",
    "commit": None,
    "licences": {},
}  # fmt: skip
"""`bundle.json` as uadray 0.1.0 wrote it."""


def test_the_description_of_an_older_uadray_opens_and_keeps_its_id(tmp_path: Path) -> None:
    """Calibrations and screenings name it."""
    (tmp_path / DESCRIPTION).write_text(json.dumps(OLD))
    bundle = read_bundle(str(tmp_path))
    assert bundle.id == "4a8995023458"
    assert bundle.detector == GAN
    assert bundle.trained_on.marks == frozenset()


def test_weights_of_an_older_uadray_open(tmp_path: Path) -> None:
    """Keys are `<network>.<tensor>`; every value is 1/8, so that the score follows from the names alone."""
    shapes = {f"{n}.{key}": t for n, network in build_networks(GAN).items() for key, t in network.state_dict().items()}
    assert {"generator.start.weight", "critic.score.bias", "encoder.to_latent.weight"} < set(shapes)
    save_file(
        {key: torch.full_like(t, 0.125 if t.is_floating_point() else 1) for key, t in shapes.items()},
        tmp_path / WEIGHTS,
    )
    digest = hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest()
    (tmp_path / DESCRIPTION).write_text(json.dumps(OLD | {"weights_sha256": digest}))
    scores = load_detector(str(tmp_path))(np.full((2, 24, 24, 3), 128, np.uint8)).score
    np.testing.assert_allclose(scores, 3.38412428, rtol=1e-5)


def test_a_generator_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / DESCRIPTION).write_text(json.dumps({"version": 1, "kind": "generator"}))
    with pytest.raises(InputError, match="is a generator, which scores nothing; train a detector with it"):
        read_bundle(str(tmp_path))
    (tmp_path / DESCRIPTION).write_text(json.dumps({"version": 1, "kind": "atlas"}))
    with pytest.raises(InputError, match="has kind 'atlas', expected 'detector'"):
        read_bundle(str(tmp_path))


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


def _edited(folder: Path, path: str, value: object) -> None:
    """Set a field of `bundle.json`, by its dotted name."""
    values = json.loads((folder / DESCRIPTION).read_text())
    *parents, last = path.split(".")
    node = values
    for name in parents:
        node = node[name]
    node[last] = value
    (folder / DESCRIPTION).write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("detector.width", 10**9, "detector.width: Input should be less than"),
        ("detector.latent_dim", 2**40, "detector.latent_dim: Input should be less than"),
        ("detector.latent_dim", 10**30, "detector.latent_dim: "),
        ("detector.input_px", 2**20, "detector.input_px: Input should be less than"),
        ("detector.critic_steps", 10**9, "detector.critic_steps: "),
        ("detector.kappa", float("inf"), "detector.kappa: "),
        ("detector.kappa", float("nan"), "detector.kappa: "),
        ("detector.penalty", float("nan"), "detector.penalty: "),
        ("detector.gan_learning_rate", float("inf"), "detector.gan_learning_rate: "),
        ("detector", {"kind": "dpa", "layers": ["block0"] * 10**5}, "detector.layers: "),
        ("detector", {"kind": "dpa", "layers": ["b" * 10**6]}, "detector.layers.0: "),
        ("detector", {"kind": "dpa", "latent_channels": 10**7, "input_px": 16}, "detector.latent_channels: "),
        ("detector.input_px", 64, "detector.input_px 64 is larger than tiles.tile_px 24"),
        ("tiles.mask_dir", "s3://other/masks", "names a folder of masks, tiles.mask_dir"),
        ("tiles.mask_dir", None, "names a folder of masks, tiles.mask_dir"),
        ("name", "n" * 10**6, "name: "),
    ],
)
def test_what_no_bundle_says_is_refused(folder: Path, field: str, value: object, words: str) -> None:
    _edited(folder, field, value)
    with pytest.raises(InputError) as caught:
        read_bundle(str(folder))
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_networks_that_are_large_together_are_refused_before_they_are_built(folder: Path) -> None:
    """Each size is within its bounds; the three networks would have six gigabytes."""
    _edited(folder, "tiles.tile_px", 1024)
    _edited(folder, "detector", {"kind": "fanogan", "width": 256, "input_px": 1024, "latent_dim": 4096})
    began = time.perf_counter()
    with pytest.raises(InputError, match=r"detector fanogan: [0-9,]+ parameters, at most 500,000,000 are built"):
        load_detector(str(folder))
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
def test_files_larger_than_they_can_be_are_not_read(folder: Path, name: str) -> None:
    os.truncate(folder / name, 2**40)  # a terabyte of holes
    with pytest.raises(InputError, match=f"{name}.* 1099511627776 bytes"):
        load_detector(str(folder))


def test_json_that_is_nested_without_end(folder: Path) -> None:
    (folder / DESCRIPTION).write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"bundle\.json is not JSON"):
        read_bundle(str(folder))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"critic.score.weight": torch.zeros(32 * 16, 1)}, r"size mismatch for score.weight: F32 \(512, 1\)"),
        ({"critic.score.weight": torch.zeros(1, 32 * 16, dtype=torch.float64)}, "size mismatch for score.weight: F64"),
        ({"critic.score.bias": torch.zeros(1, dtype=torch.int32)}, "size mismatch for score.bias: I32"),
        ({"critic.more": torch.zeros(1)}, "it has no more"),
        ({"other.weight": torch.zeros(1)}, "other.weight belongs to none of the networks"),
    ],
)
def test_weights_of_other_shapes_and_types_are_refused_at_their_header(
    folder: Path, change: dict[str, torch.Tensor], words: str
) -> None:
    save_file(load_file(folder / WEIGHTS) | change, folder / WEIGHTS)
    _edited(folder, "weights_sha256", hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest())
    for stages in (("map",), ("map", "reconstruct", "score")):
        with pytest.raises(InputError, match=words) as caught:
            load_detector(str(folder), stages=stages)  # type: ignore[arg-type]
        assert str(caught.value).startswith(f"bundle {folder}: {WEIGHTS}: ")


@pytest.mark.parametrize("config", [DPA, GAN], ids=["dpa", "fanogan"])
def test_loading_leaves_nothing_without_memory(config: dpa.Config | fanogan.Config, tmp_path: Path) -> None:
    """And takes no random numbers: what a seed gave before, it gives after."""
    _write(str(tmp_path / "b"), config)
    state = torch.get_rng_state()
    detector = load_detector(str(tmp_path / "b"))
    assert torch.equal(state, torch.get_rng_state())
    drawing = detector.reconstruct
    drawn_by = vars(drawing.space).values() if isinstance(drawing, fanogan.Pictures) else (drawing,)
    holders = (detector.mapping.encoder, *drawn_by, getattr(detector.score, "features", None))  # type: ignore[attr-defined]
    networks = [each for each in holders if isinstance(each, nn.Module)]
    assert len(networks) >= 2
    for network in networks:
        tensors = [*network.parameters(), *network.buffers()]
        assert {t.device.type for t in tensors} == {"cpu"}
        assert not any(p.requires_grad for p in network.parameters())


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
    objects.write_bytes(objects.join(uri, CALIBRATION), b"{}")
    written, networks = _write(uri)
    assert read_bundle(uri) == written
    assert not objects.exists(objects.join(uri, CALIBRATION))
    np.testing.assert_array_equal(load_detector(uri)(PIXELS).score, build_detector(GAN, networks)(PIXELS).score)
    with pytest.raises(InputError, match="is no bundle"):
        read_bundle(f"s3://{s3.bucket}/models/none")
