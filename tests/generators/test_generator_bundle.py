"""A generator's bundle opens as what was written; detectors, damage and what is too large are refused in a line."""

import json
import os
from pathlib import Path

import pytest
import torch
from networks_watch import moved, state_of

from uadray.errors import InputError
from uadray.generators import wgan_gp
from uadray.generators.bundle import load_generator, read_generator, write_generator
from uadray.networks.bundle_description import DESCRIPTION, WEIGHTS
from uadray.tiles.spec import TileSpec

pytestmark = pytest.mark.usefixtures("torch_alone")

GAN = wgan_gp.Config(kind="wgan_gp", input_px=16, width=4, latent_dim=8)
TILES = TileSpec(mpp=0.5, tile_px=24)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_generator(
        str(tmp_path), wgan_gp.networks(GAN, pretrained=False), name="g", generator=GAN, tiles=TILES,
        metrics={"wasserstein": 0.5},
    )  # fmt: skip
    return tmp_path


def test_round_trip(tmp_path: Path) -> None:
    networks = wgan_gp.networks(GAN, pretrained=False)
    written = write_generator(str(tmp_path), networks, name="g", generator=GAN, tiles=TILES)
    assert read_generator(str(tmp_path)) == written
    assert json.loads((tmp_path / DESCRIPTION).read_text())["kind"] == "generator"
    loaded = load_generator(str(tmp_path))
    assert set(loaded) == {"generator", "critic"}
    assert moved(loaded, state_of(networks)) == set()


def test_id_changes_with_weights_architecture_and_tiles(folder: Path) -> None:
    bundle = read_generator(str(folder))
    others = [
        bundle.model_copy(update={"weights_sha256": "0" * 64}),
        bundle.model_copy(update={"generator": GAN.model_copy(update={"penalty": 5.0})}),
        bundle.model_copy(update={"tiles": TileSpec(mpp=0.5, tile_px=32)}),
    ]
    assert len({b.id for b in (bundle, *others)}) == 4
    assert bundle.model_copy(update={"name": "other"}).id == bundle.id


def test_a_detector_is_refused(folder: Path) -> None:
    values = json.loads((folder / DESCRIPTION).read_text())
    values.pop("kind")
    (folder / DESCRIPTION).write_text(json.dumps(values))
    with pytest.raises(InputError, match="is a detector, not a generator"):
        read_generator(str(folder))


def test_damaged_weights_are_refused(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(InputError, match="its SHA-256 differs"):
        load_generator(str(folder))


def test_a_file_larger_than_the_networks_is_not_read(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 2**40)
    with pytest.raises(InputError, match="1099511627776 bytes"):
        load_generator(str(folder))


def test_networks_that_are_large_together_are_refused(folder: Path) -> None:
    values = json.loads((folder / DESCRIPTION).read_text())
    values["generator"] |= {"width": 256, "input_px": 1024, "latent_dim": 4096}
    (folder / DESCRIPTION).write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"generator wgan_gp: [0-9,]+ parameters"):
        load_generator(str(folder))


def test_loading_takes_no_random_numbers(folder: Path) -> None:
    state = torch.get_rng_state()
    networks = load_generator(str(folder))
    assert torch.equal(state, torch.get_rng_state())
    assert not any(t.is_meta for network in networks.values() for t in network.state_dict().values())
